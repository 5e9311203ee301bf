"""Compiled: the wanted Fourier coefficients of one voxel's moment along a Lissajous trajectory.

c_k = (1/T_R)∫ M exp(−iω_k t) dt at k = (m_x+m_y)P − m_y, P = N_d+1. With t = (p + u)/f_x the phase is
−2π·u·(m_x + m_y·N_d/P) + 2π·m_y·p/P: the sum over the lines p depends on m_y alone, and what is left of a line
separates m_x from m_y. Both sums are folded: p with P−p, and u with 1−u.

Shapes: P lines; C components; L samples of a line, symmetric about its middle; H = L/2; X, Y = m_max + 1 orders of an
axis; J = Y·C.
"""

import numpy as np

from sm_search.physics.compiled import compiled, fma


@compiled
def _add_four(one, two, three, four, turn_Y4, sums_YI):
    """Four rows times their factors, to the sums of two orders at a time: each number that is read serves twice."""
    orders, samples = sums_YI.shape
    for m in range(0, orders, 2):
        here, there = sums_YI[m], sums_YI[min(m + 1, orders - 1)]
        a, b, c, d = turn_Y4[m, 0], turn_Y4[m, 1], turn_Y4[m, 2], turn_Y4[m, 3]
        if m + 1 == orders:
            for i in range(samples):
                here[i] = fma(a, one[i], fma(b, two[i], fma(c, three[i], fma(d, four[i], here[i]))))
            return
        e, f, g, h = turn_Y4[m + 1, 0], turn_Y4[m + 1, 1], turn_Y4[m + 1, 2], turn_Y4[m + 1, 3]
        for i in range(samples):
            w, x, y, z = one[i], two[i], three[i], four[i]
            here[i] = fma(a, w, fma(b, x, fma(c, y, fma(d, z, here[i]))))
            there[i] = fma(e, w, fma(f, x, fma(g, y, fma(h, z, there[i]))))


@compiled
def _sum_over_lines(moment_PI, turn_2YP, sums_2YI):
    """Σ_p M·cos and Σ_p M·sin of 2π·m_y·p/P into `sums_2YI`. Changes `moment_PI`, whose pairs p, P−p are folded."""
    lines, samples = moment_PI.shape
    orders = turn_2YP.shape[1]
    folded = (lines - 1) // 2
    for p in range(1, folded + 1):
        here, there = moment_PI[p], moment_PI[lines - p]
        for i in range(samples):
            one, other = here[i], there[i]
            here[i] = one + other
            there[i] = one - other
    for m in range(orders):
        cosine, sine, first, middle = sums_2YI[0, m], sums_2YI[1, m], moment_PI[0], moment_PI[lines // 2]
        sign = turn_2YP[0, m, lines // 2] if lines % 2 == 0 else 0.0
        for i in range(samples):
            cosine[i] = fma(sign, middle[i], first[i])
            sine[i] = 0.0
    turn_2Y4 = np.empty((2, orders, 4))
    for begin in range(1, folded + 1, 4):
        for m in range(orders):
            for n in range(4):
                p = min(begin + n, folded)  # what is too many does not count
                turn_2Y4[0, m, n] = turn_2YP[0, m, p] if p == begin + n else 0.0
                turn_2Y4[1, m, n] = turn_2YP[1, m, p] if p == begin + n else 0.0
        p, q, r, s = begin, min(begin + 1, folded), min(begin + 2, folded), min(begin + 3, folded)
        _add_four(moment_PI[p], moment_PI[q], moment_PI[r], moment_PI[s], turn_2Y4[0], sums_2YI[0])
        p, q, r, s = lines - p, lines - q, lines - r, lines - s
        _add_four(moment_PI[p], moment_PI[q], moment_PI[r], moment_PI[s], turn_2Y4[1], sums_2YI[1])


@compiled
def project(moment_PCL, turn_2YP, weight_2YL, turn_2XH, values_2CXY):
    """Real and imaginary parts of the coefficients of all m_x, m_y into `values_2CXY`. Changes `moment_PCL`.

    Args:
        turn_2YP: cos and sin of 2π·m_y·p/P.
        weight_2YL: real and imaginary part of exp(−2πi·u·m_y·N_d/P) times the sample's weight in the mean over time.
        turn_2XH: cos and sin of 2π·m_x·u for the first half of the samples.
    """
    lines, components, samples = moment_PCL.shape
    orders_y, orders_x, half = turn_2YP.shape[1], turn_2XH.shape[1], samples // 2
    sums_2YI = np.empty((2, orders_y, components * samples))
    _sum_over_lines(moment_PCL.reshape(lines, components * samples), turn_2YP, sums_2YI)
    width = (orders_y * components + 3) // 4 * 4
    even_re, odd_re = np.zeros((half, width)), np.zeros((half, width))
    even_im, odd_im = np.zeros((half, width)), np.zeros((half, width))
    for m in range(orders_y):
        for c in range(components):
            j = m * components + c
            cosine, sine = sums_2YI[0, m], sums_2YI[1, m]
            for i in range(half):
                a, z = c * samples + i, c * samples + samples - 1 - i
                re_a = cosine[a] * weight_2YL[0, m, i] - sine[a] * weight_2YL[1, m, i]
                im_a = cosine[a] * weight_2YL[1, m, i] + sine[a] * weight_2YL[0, m, i]
                re_z = cosine[z] * weight_2YL[0, m, samples - 1 - i] - sine[z] * weight_2YL[1, m, samples - 1 - i]
                im_z = cosine[z] * weight_2YL[1, m, samples - 1 - i] + sine[z] * weight_2YL[0, m, samples - 1 - i]
                even_re[i, j], odd_re[i, j] = re_a + re_z, re_a - re_z
                even_im[i, j], odd_im[i, j] = im_a + im_z, im_a - im_z
    total_re, total_im = np.empty(width), np.empty(width)
    for m_x in range(orders_x):
        for j in range(width):
            total_re[j] = 0.0
            total_im[j] = 0.0
        for i in range(half):
            cos, sin = turn_2XH[0, m_x, i], turn_2XH[1, m_x, i]
            e_re, o_re, e_im, o_im = even_re[i], odd_re[i], even_im[i], odd_im[i]
            for j in range(width):
                total_re[j] = fma(cos, e_re[j], fma(sin, o_im[j], total_re[j]))
                total_im[j] = fma(cos, e_im[j], fma(-sin, o_re[j], total_im[j]))
        for m in range(orders_y):
            for c in range(components):
                values_2CXY[0, c, m_x, m] = total_re[m * components + c]
                values_2CXY[1, c, m_x, m] = total_im[m * components + c]
