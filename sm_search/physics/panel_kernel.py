"""Compiled: the exact periodic steady state of dM/dt = −r(ξ)·(M − M_eq(ξ)) along the trajectory of one voxel.

On a panel of time the solution is an affine map of its initial value: M(t) = E(t)·M(0) + F(t) with
E = exp(−∫r) and F = E·∫ r·M_eq/E. Both integrals are spectral (`quadrature`). Composing the maps of a whole period
gives one affine map whose fixed point is the steady state: no warm-up periods. For the equilibrium E = 0, F = M_eq.

The field-dependent rate contains |ξ|^1.72, which is not smooth where the trajectory passes ξ = 0, and the Langevin
kernel is sharp there. So panels are halved towards ξ = 0 until they are well away from it or negligibly short, and
merged again: whoever reads the result sees equal panels only.

Everything of a few lines of one voxel stays in the processor's cache; loops run over the panels of a batch.

Shapes: Q nodes of a panel, B panels in a line, P = N_d+1 lines (x drive periods) in one Lissajous period, C = 2 or 3
receive channels, W panels of a batch, n nodes of the tree of halved panels (its first are the panels themselves),
T cells of a table.
"""

import math

import numpy as np

from sm_search.physics.compiled import DEGREE, compiled, exp, fma, inlined, log, polynomial
from sm_search.physics.projection_kernel import project

NODES = 16
"""Q, nodes of a panel: a constant of the compiled code."""

BATCH = 64
"""Most panels solved at once."""

ROOM = (NODES + 1) * BATCH
"""Numbers of one quantity at the nodes and the ends of a batch of panels."""

BLOCK_PANELS = 240
"""About so many panels are worked on at once."""

FORGOTTEN = 1e-19
"""What is left of the initial value where it no longer counts."""

CELL, POWERS = 0.4, 12
"""Cells of the table of `anisotropic`, in asinh h, and the powers in each."""

EQUILIBRIUM, BROWNIAN, NEEL_BROWN, ANISOTROPIC = 0, 1, 2, 3
"""Kinds of kinetics."""

# What a voxel's solution depends on besides its field, as arrays for the compiled code: whole numbers …
N_LINES, N_ND, N_PANELS, N_CHANNELS, N_MIXED, N_KIND, N_STIFF = range(7)
# … and numbers.
X_FX_HZ, X_TAU_S, X_SLOPE, X_SMALLEST_XI, X_CLEARANCE, X_RELAXATIONS, X_GROWTH, X_TABLE_STEP, X_TABLE_HZ = range(9)


@inlined
def _langevin_over_xi(xi2):
    """(coth ξ − 1/ξ)/ξ; digits are lost below ξ = ½."""
    xi = math.sqrt(xi2)
    q = exp(-2.0 * xi)
    return (fma(xi, q, xi) - (1.0 - q)) / (xi2 - xi2 * q)


def _langevin_series() -> tuple[float, ...]:
    """Of L(ξ)/ξ the powers of ξ², for ξ < ½: from L' = 1 − L² − 2L/ξ."""
    c: list[float] = []
    for n in range(DEGREE + 1):
        square = sum(c[k] * c[n - 1 - k] for k in range(n))
        c.append(((n == 0) - square) / (2 * n + 3))
    return tuple(c)


LANGEVIN = _langevin_series()


@inlined
def _brownian_rate(xi2, rate_hz, slope):
    """√(1 + slope·ξ^1.72)/τ_B."""
    return math.sqrt(fma(slope, exp(0.86 * log(xi2)), 1.0)) * rate_hz


@compiled
def _table_rate(xi2, table_4T, step, scale_hz):
    """The tabulated rate at ξ²: exp of a cubic in asinh ξ."""
    position = math.asinh(math.sqrt(xi2)) / step
    cell = min(int(position), table_4T.shape[1] - 1)
    offset = min(position - cell, 1.0) * step
    cubic = (table_4T[0, cell] * offset + table_4T[1, cell]) * offset + table_4T[2, cell]
    return scale_hz * math.exp(cubic * offset + table_4T[3, cell])


@compiled
def rate(xi2, whole, number, table_4T):
    """r in 1/s of any kind of kinetics."""
    brownian = _brownian_rate(xi2, 1.0 / number[X_TAU_S], number[X_SLOPE])
    if whole[N_KIND] == NEEL_BROWN:
        return brownian + _table_rate(xi2, table_4T, number[X_TABLE_STEP], number[X_TABLE_HZ])
    return brownian


@compiled
def _turns_stiff(distance2, reach, duration_s, whole, number, table_4T):
    """Whether a rate that counts may grow too much for a polynomial in a panel of this length."""
    distance = math.sqrt(distance2)
    largest = rate((distance + reach) ** 2, whole, number, table_4T)
    smallest = rate(max(distance - reach, 0.0) ** 2, whole, number, table_4T)
    return largest > number[X_GROWTH] * smallest and largest * duration_s > 1.0


@compiled
def _product(matrix_RQ, rows, values, width, result):
    """result[r, w] = Σ_q matrix[r, q]·values[q, w], flat arrays of `width` columns."""
    for r in range(rows):
        m0, m1, m2, m3 = matrix_RQ[r, 0], matrix_RQ[r, 1], matrix_RQ[r, 2], matrix_RQ[r, 3]
        m4, m5, m6, m7 = matrix_RQ[r, 4], matrix_RQ[r, 5], matrix_RQ[r, 6], matrix_RQ[r, 7]
        m8, m9, m10, m11 = matrix_RQ[r, 8], matrix_RQ[r, 9], matrix_RQ[r, 10], matrix_RQ[r, 11]
        m12, m13, m14, m15 = matrix_RQ[r, 12], matrix_RQ[r, 13], matrix_RQ[r, 14], matrix_RQ[r, 15]
        for w in range(width):
            first = m0 * values[w]
            first = fma(m1, values[w + width], first)
            first = fma(m2, values[w + 2 * width], first)
            first = fma(m3, values[w + 3 * width], first)
            first = fma(m4, values[w + 4 * width], first)
            first = fma(m5, values[w + 5 * width], first)
            first = fma(m6, values[w + 6 * width], first)
            first = fma(m7, values[w + 7 * width], first)
            last = m8 * values[w + 8 * width]
            last = fma(m9, values[w + 9 * width], last)
            last = fma(m10, values[w + 10 * width], last)
            last = fma(m11, values[w + 11 * width], last)
            last = fma(m12, values[w + 12 * width], last)
            last = fma(m13, values[w + 13 * width], last)
            last = fma(m14, values[w + 14 * width], last)
            last = fma(m15, values[w + 15 * width], last)
            result[r * width + w] = first + last


@compiled
def _collocated(w, width, rate, equilibrium_C, channels, running_RQ, end_Q, result_4R):
    """E, F_x, F_y, F_z of panel w, which may span many relaxation times, into `result_4R`.

    M is the polynomial of degree Q−1 that fulfils M = M(0) + ∫ r·(M_eq − M) at the nodes, and its value at the end is
    M's there: what is left of M(0) vanishes for r → ∞ (unlike that of the Gauss rule's own end value).
    """
    matrix = np.empty((NODES, NODES))
    right = np.zeros((NODES, 4))
    for i in range(NODES):
        right[i, 0] = 1.0
        for q in range(NODES):
            weighted = running_RQ[i, q] * rate[q * width + w]
            matrix[i, q] = weighted + (1.0 if i == q else 0.0)
            for c in range(channels):
                right[i, 1 + c] += weighted * equilibrium_C[c, q * width + w]
    for column in range(NODES):
        pivot = column
        for i in range(column + 1, NODES):
            if abs(matrix[i, column]) > abs(matrix[pivot, column]):
                pivot = i
        if pivot != column:
            for q in range(column, NODES):
                matrix[column, q], matrix[pivot, q] = matrix[pivot, q], matrix[column, q]
            for c in range(4):
                right[column, c], right[pivot, c] = right[pivot, c], right[column, c]
        for i in range(column + 1, NODES):
            factor = matrix[i, column] / matrix[column, column]
            for q in range(column + 1, NODES):
                matrix[i, q] -= factor * matrix[column, q]
            for c in range(4):
                right[i, c] -= factor * right[column, c]
    for i in range(NODES - 1, -1, -1):
        for c in range(4):
            for q in range(i + 1, NODES):
                right[i, c] -= matrix[i, q] * right[q, c]
            right[i, c] /= matrix[i, i]
    for c in range(4):
        result_4R[c, NODES] = 0.0
        for q in range(NODES):
            result_4R[c, q] = right[q, c]
            result_4R[c, NODES] += end_Q[q] * right[q, c]


@compiled
def langevin_over_xi(xi2, size, ratio):
    """L(ξ)/ξ from ξ² into `ratio`, relative error below 1e-14 at every ξ; 1/3 at ξ = 0."""
    near = 0
    for i in range(size):
        ratio[i] = _langevin_over_xi(xi2[i])
        near += 1 if xi2[i] < 0.25 else 0
    if near > 0:
        for i in range(size):
            far, here = ratio[i], xi2[i]
            ratio[i] = polynomial(min(here, 0.25), LANGEVIN) if here < 0.25 else far


@compiled
def _anisotropic(field_3, size, axis_3, moments):
    """M/M_s in place of h, from the table of `anisotropic_equilibrium.moment_table`."""
    cells = len(moments)
    n0, n1, n2 = axis_3[0], axis_3[1], axis_3[2]
    for i in range(size):
        h0, h1, h2 = field_3[0, i], field_3[1, i], field_3[2, i]
        along = h0 * n0 + h1 * n1 + h2 * n2
        p0, p1, p2 = h0 - along * n0, h1 - along * n1, h2 - along * n2
        first = math.asinh(abs(along)) / CELL
        second = math.asinh(math.sqrt(p0 * p0 + p1 * p1 + p2 * p2)) / CELL
        row, column = min(int(first), cells - 1), min(int(second), cells - 1)
        t, u = 2.0 * (first - row) - 1.0, 2.0 * (second - column) - 1.0
        g_along = g_across = 0.0
        for a in range(POWERS - 1, -1, -1):
            one = other = 0.0
            for b in range(POWERS - 1, -1, -1):
                one = fma(one, u, moments[row, column, 0, a, b])
                other = fma(other, u, moments[row, column, 1, a, b])
            g_along = g_along * t + one
            g_across = g_across * t + other
        g_along *= along
        field_3[0, i] = g_along * n0 + g_across * p0
        field_3[1, i] = g_along * n1 + g_across * p1
        field_3[2, i] = g_along * n2 + g_across * p2


@compiled
def rates(xi2, whole, number, table_4T, size, rate):
    """r in 1/s at many ξ²."""
    rate_hz, slope = 1.0 / number[X_TAU_S], number[X_SLOPE]
    for i in range(size):
        rate[i] = _brownian_rate(xi2[i], rate_hz, slope)
    if whole[N_KIND] == NEEL_BROWN:
        for i in range(size):
            rate[i] += _table_rate(xi2[i], table_4T, number[X_TABLE_STEP], number[X_TABLE_HZ])


@compiled
def _seen(field_3, size, seen_33):
    """What the channels see of a vector, in its place: Σ_d p_cd·v_d, one after another in a flat array."""
    flat = field_3.reshape(3 * ROOM)  # the compiler sees that no two of its parts overlap
    p00, p01, p02 = seen_33[0, 0], seen_33[0, 1], seen_33[0, 2]
    p10, p11, p12 = seen_33[1, 0], seen_33[1, 1], seen_33[1, 2]
    p20, p21, p22 = seen_33[2, 0], seen_33[2, 1], seen_33[2, 2]
    for i in range(size):
        v_x, v_y, v_z = flat[i], flat[i + ROOM], flat[i + 2 * ROOM]
        flat[i] = fma(p00, v_x, fma(p01, v_y, p02 * v_z))
        flat[i + ROOM] = fma(p10, v_x, fma(p11, v_y, p12 * v_z))
        flat[i + 2 * ROOM] = fma(p20, v_x, fma(p21, v_y, p22 * v_z))


@compiled
def _solve(
    turn_4W, width, level, static_3, x_3, y_3, seen_33, whole, number, table_4T, rule, work, decay, offset_C, easy
):
    """E into `decay` and F into `offset_C` (3, ·), flat over R = Q+1 rows and `width` panels of one level.

    `rule` is (nodes_Q, running_RQ, end_Q) of a panel of unit length; `work` are four flat arrays.
    """
    nodes_Q, running_RQ, end_Q = rule
    xi2, r, exponent, source = work
    channels, mixed, kind = whole[N_CHANNELS], whole[N_MIXED], whole[N_KIND]
    kept = 3 if mixed or kind == ANISOTROPIC else channels  # components of M
    half = math.pi / whole[N_PANELS] * 0.5**level
    cos_x, sin_x, cos_y, sin_y = turn_4W[0], turn_4W[1], turn_4W[2], turn_4W[3]
    for q in range(NODES):
        shift = (2.0 * nodes_Q[q] - 1.0) * half
        shift_y = shift * (whole[N_ND] / whole[N_LINES])
        c_x, s_x, c_y, s_y = math.cos(shift), math.sin(shift), math.cos(shift_y), math.sin(shift_y)
        here = slice(q * width, (q + 1) * width)
        square = xi2[here]
        for w in range(width):
            square[w] = 0.0
        turned_x, turned_y = exponent[here], source[here]  # their own use comes later
        for w in range(width):
            turned_x[w] = fma(cos_x[w], c_x, -sin_x[w] * s_x)
            turned_y[w] = fma(cos_y[w], c_y, -sin_y[w] * s_y)
        for c in range(3):
            static, drive_x, drive_y, field = static_3[c], x_3[c], y_3[c], offset_C[c, here]
            if c < kept:
                for w in range(width):
                    b = fma(drive_x, turned_x[w], fma(drive_y, turned_y[w], static))
                    field[w] = b
                    square[w] = fma(b, b, square[w])
            elif static != 0.0 or drive_x != 0.0 or drive_y != 0.0:
                for w in range(width):
                    b = fma(drive_x, turned_x[w], fma(drive_y, turned_y[w], static))
                    square[w] = fma(b, b, square[w])
    size = NODES * width
    if kind == ANISOTROPIC:
        _anisotropic(offset_C, size, easy[0], easy[1])
    else:
        langevin_over_xi(xi2, size, source)
        for c in range(kept):
            field = offset_C[c]
            for i in range(size):
                field[i] *= source[i]
    if mixed:
        _seen(offset_C, size, seen_33)
    if kind in (EQUILIBRIUM, ANISOTROPIC):
        for i in range(size + width):
            decay[i] = 0.0
        for c in range(channels):
            for w in range(width):
                offset_C[c, size + w] = 0.0
        return
    duration_s = half / (math.pi * number[X_FX_HZ])
    rates(xi2, whole, number, table_4T, size, r)
    for i in range(size):
        r[i] *= duration_s
    _product(running_RQ, NODES + 1, r, width, exponent)
    for i in range(size + width):
        decay[i] = exp(-exponent[i])
    for i in range(size):
        xi2[i] = r[i] / decay[i]
    stiff = 0
    for w in range(width):
        if exponent[size + w] > number[X_RELAXATIONS]:
            stiff += 1
    stiff_W, stiff_4WR = np.empty(stiff, np.int64), np.empty((stiff, 4, NODES + 1))
    if stiff:
        found = 0
        for w in range(width):
            if exponent[size + w] > number[X_RELAXATIONS]:
                stiff_W[found] = w
                _collocated(w, width, r, offset_C, channels, running_RQ, end_Q, stiff_4WR[found])
                found += 1
    for c in range(channels):
        offset = offset_C[c]
        for i in range(size):
            source[i] = xi2[i] * offset[i]
        _product(running_RQ, NODES + 1, source, width, exponent)
        for i in range(size + width):
            offset[i] = decay[i] * exponent[i]
    for found in range(stiff):
        for r in range(NODES + 1):
            decay[r * width + stiff_W[found]] = stiff_4WR[found, 0, r]
            for c in range(channels):
                offset_C[c, r * width + stiff_W[found]] = stiff_4WR[found, 1 + c, r]


@compiled
def _grown(values, size):
    """A longer array with the same beginning."""
    longer = np.empty((size, *values.shape[1:]), values.dtype)
    longer[: len(values)] = values
    return longer


@compiled
def _halve(turn_n4, level_n, child_n, count, static_3, x_3, y_3, whole, number, table_4T, axis_3):
    """Grow the tree of panels, breadth first: the two halves of node i are nodes child_n[i] and child_n[i] + 1.

    With ξ(t) ≈ d + v·s the complex roots of ξ² = −q² lie at |s|² = (d² + q²)/v²: q = 0 for |ξ|^1.72, q = π
    for the first pole of the Langevin function.

    Returns the arrays, which may have had to grow, and the number of nodes.
    """
    s0, s1, s2 = static_3[0], static_3[1], static_3[2]
    x0, x1, x2 = x_3[0], x_3[1], x_3[2]
    y0, y1, y2 = y_3[0], y_3[1], y_3[2]
    bend = math.sqrt(max(x0 * x0 + x1 * x1 + x2 * x2, y0 * y0 + y1 * y1 + y2 * y2))
    clearance2, kind = number[X_CLEARANCE] ** 2, whole[N_KIND]
    rough = kind in (BROWNIAN, NEEL_BROWN)
    whole_half, ratio_y = math.pi / whole[N_PANELS], whole[N_ND] / whole[N_LINES]
    level, half, i = -1, 0.0, 0
    c_x = s_x = c_y = s_y = 0.0
    while i < count:
        if level_n[i] != level:
            level = level_n[i]
            half = whole_half * 0.5**level
            c_x, s_x = math.cos(half / 2), math.sin(half / 2)
            c_y, s_y = math.cos(half / 2 * ratio_y), math.sin(half / 2 * ratio_y)
        cos_x, sin_x, cos_y, sin_y = turn_n4[i, 0], turn_n4[i, 1], turn_n4[i, 2], turn_n4[i, 3]
        b0, v0 = s0 + x0 * cos_x + y0 * cos_y, x0 * sin_x + y0 * sin_y
        b1, v1 = s1 + x1 * cos_x + y1 * cos_y, x1 * sin_x + y1 * sin_y
        b2, v2 = s2 + x2 * cos_x + y2 * cos_y, x2 * sin_x + y2 * sin_y
        distance2 = b0 * b0 + b1 * b1 + b2 * b2
        reach = half * (math.sqrt(v0 * v0 + v1 * v1 + v2 * v2) + half * bend)
        wide2 = reach * reach * clearance2
        near = distance2 + math.pi**2 < wide2 or (rough and distance2 < wide2 and reach > number[X_SMALLEST_XI])
        if not near and kind == ANISOTROPIC:
            # Where σ is large, M turns over at h_∥ = 0 whatever h_⊥ is: the poles are at ±iπ/2.
            along = b0 * axis_3[0] + b1 * axis_3[1] + b2 * axis_3[2]
            reach = half * (abs(v0 * axis_3[0] + v1 * axis_3[1] + v2 * axis_3[2]) + half * bend)
            near = along * along + math.pi**2 / 4 < reach * reach * clearance2
        if not near and whole[N_STIFF]:
            duration_s = half / (math.pi * number[X_FX_HZ])
            near = _turns_stiff(distance2, reach, duration_s, whole, number, table_4T)
        child_n[i] = -1
        if near:
            if count + 2 > len(level_n):
                turn_n4 = _grown(turn_n4, 2 * count + 2)
                level_n = _grown(level_n, 2 * count + 2)
                child_n = _grown(child_n, 2 * count + 2)
            child_n[i] = count
            for side in (-1.0, 1.0):
                turn_n4[count, 0] = cos_x * c_x - side * sin_x * s_x
                turn_n4[count, 1] = sin_x * c_x + side * cos_x * s_x
                turn_n4[count, 2] = cos_y * c_y - side * sin_y * s_y
                turn_n4[count, 3] = sin_y * c_y + side * cos_y * s_y
                level_n[count] = level + 1
                count += 1
        i += 1
    return turn_n4, level_n, child_n, count


@compiled
def _merge(node_W, width, child_n, decay_nR, offset_nCR, channels, merge_2RS, work):
    """The maps of panels from those of their halves: see `quadrature.Panel.merge_RS`."""
    left, right, total, _ = work
    for w in range(width):
        first = child_n[node_W[w]]
        between = decay_nR[first, NODES]
        for s in range(NODES):
            left[s * width + w] = decay_nR[first, s]
            right[s * width + w] = decay_nR[first + 1, s] * between
    _product(merge_2RS[0], NODES, left, width, total)
    _product(merge_2RS[1], NODES, right, width, left)
    for w in range(width):
        node, first = node_W[w], child_n[node_W[w]]
        for r in range(NODES):
            decay_nR[node, r] = total[r * width + w] + left[r * width + w]
        decay_nR[node, NODES] = decay_nR[first + 1, NODES] * decay_nR[first, NODES]
    for c in range(channels):
        for w in range(width):
            first = child_n[node_W[w]]
            reached = offset_nCR[first, c, NODES]
            for s in range(NODES):
                left[s * width + w] = offset_nCR[first, c, s]
                right[s * width + w] = offset_nCR[first + 1, c, s] + decay_nR[first + 1, s] * reached
        _product(merge_2RS[0], NODES, left, width, total)
        _product(merge_2RS[1], NODES, right, width, left)
        for w in range(width):
            node, first = node_W[w], child_n[node_W[w]]
            for r in range(NODES):
                offset_nCR[node, c, r] = total[r * width + w] + left[r * width + w]
            offset_nCR[node, c, NODES] = (
                offset_nCR[first + 1, c, NODES] + decay_nR[first + 1, NODES] * offset_nCR[first, c, NODES]
            )


@compiled
def _maps(
    turn_n4, level_n, child_n, count, static_3, x_3, y_3, seen_33, whole, number, table_4T, rule, merge_2RS, maps,
    batch, easy,
):  # fmt: skip
    """E and F of all nodes of the tree into `maps`: leaves are solved in batches of one level, then merged."""
    decay_nR, offset_nCR = maps
    turn_4W, work, decay, offset_C = batch
    channels = whole[N_CHANNELS]
    node_W = np.empty(BATCH, np.int64)
    i = 0
    while i < count:
        width, level = 0, level_n[i]
        while i < count and level_n[i] == level and width < BATCH:
            if child_n[i] < 0:
                node_W[width] = i
                for part in range(4):
                    turn_4W[part, width] = turn_n4[i, part]
                width += 1
            i += 1
        if width == 0:
            continue
        padded = (width + 3) // 4 * 4  # whole vectors: what is too many repeats the last
        for w in range(width, padded):
            for part in range(4):
                turn_4W[part, w] = turn_4W[part, width - 1]
        _solve(
            turn_4W, padded, level, static_3, x_3, y_3, seen_33, whole, number, table_4T, rule, work, decay, offset_C,
            easy,
        )  # fmt: skip
        for w in range(width):
            node = node_W[w]
            for r in range(NODES + 1):
                decay_nR[node, r] = decay[r * padded + w]
            for c in range(channels):
                for r in range(NODES + 1):
                    offset_nCR[node, c, r] = offset_C[c, r * padded + w]
    i = count - 1
    while i >= 0:
        width, level = 0, level_n[i]
        while i >= 0 and level_n[i] == level and width < BATCH:
            if child_n[i] >= 0:
                node_W[width] = i
                width += 1
            i -= 1
        if width:
            _merge(node_W, width, child_n, decay_nR, offset_nCR, channels, merge_2RS, work)


@compiled
def steady_state(
    static_3, x_3, y_3, seen_33, turns, whole, number, table_4T, easy, rule, merge_2RS, moment_PCL, left_PL
):
    """M/M_s, as the channels see it, at the nodes of equal panels into `moment_PCL`, L = B·Q nodes of a line.

    Where a panel was refined these are not M itself but the values whose quadrature gives its integrals.

    Args:
        static_3, x_3, y_3: the voxel's field and what the two drives add to it, in units of ξ.
        seen_33: what a channel sees of each component, unless it is its own one; rows that are no channel do not count.
        turns: cos and sin of φ_x at the centres of the panels, (2, B), and of φ_y, (2, P, B).
        whole, number: the parameters (`N_…`, `X_…`).
        table_4T: cubics of a tabulated rate.
        easy: easy axis, (3), and table of an anisotropic equilibrium.
        rule, merge_2RS: nodes, running integrals and end values of a panel; merging (`quadrature`).
        left_PL: room for what is left of the initial value.
    """
    turn_x_2B, turn_y_2PB = turns
    lines, panels, channels = whole[N_LINES], whole[N_PANELS], whole[N_CHANNELS]
    block = max(1, BLOCK_PANELS // panels)
    nodes = 2 * block * panels
    turn_n4, level_n, child_n = np.empty((nodes, 4)), np.empty(nodes, np.int64), np.empty(nodes, np.int64)
    decay_nR, offset_nCR = np.empty((nodes, NODES + 1)), np.empty((nodes, channels, NODES + 1))
    batch = (
        np.empty((4, BATCH)),
        (np.empty(ROOM), np.empty(ROOM), np.empty(ROOM), np.empty(ROOM)),
        np.empty(ROOM),
        np.empty((3, ROOM)),
    )
    axis_3 = easy[0]
    now_C, left = np.zeros(channels), 1.0
    remembered = 0  # lines in which the initial value counts
    for begin in range(0, lines, block):
        end = min(begin + block, lines)
        count = 0
        for line in range(begin, end):
            for b in range(panels):
                turn_n4[count, 0], turn_n4[count, 1] = turn_x_2B[0, b], turn_x_2B[1, b]
                turn_n4[count, 2], turn_n4[count, 3] = turn_y_2PB[0, line, b], turn_y_2PB[1, line, b]
                level_n[count] = 0
                count += 1
        turn_n4, level_n, child_n, count = _halve(
            turn_n4, level_n, child_n, count, static_3, x_3, y_3, whole, number, table_4T, axis_3
        )
        if count > len(decay_nR):
            decay_nR, offset_nCR = (
                np.empty((len(level_n), NODES + 1)),
                np.empty((len(level_n), channels, NODES + 1)),
            )
        _maps(
            turn_n4, level_n, child_n, count, static_3, x_3, y_3, seen_33, whole, number, table_4T, rule, merge_2RS,
            (decay_nR, offset_nCR), batch, easy,
        )  # fmt: skip
        node = 0
        for line in range(begin, end):
            counts = left > FORGOTTEN
            if counts:
                remembered = line + 1
            for b in range(panels):
                for c in range(channels):
                    start = now_C[c]
                    for q in range(NODES):
                        moment_PCL[line, c, b * NODES + q] = fma(decay_nR[node, q], start, offset_nCR[node, c, q])
                    now_C[c] = offset_nCR[node, c, NODES] + decay_nR[node, NODES] * start
                if counts:
                    for q in range(NODES):
                        left_PL[line, b * NODES + q] = left * decay_nR[node, q]
                    left *= decay_nR[node, NODES]
                node += 1
    # The steady state repeats: M(0) = left·M(0) + now.
    for line in range(remembered):
        for c in range(channels):
            start = now_C[c] / (1.0 - left)
            for i in range(panels * NODES):
                moment_PCL[line, c, i] += left_PL[line, i] * start


@compiled
def spectra(
    static_N3, x_N3, y_N3, seen_N33, turns, whole, number, table_4T, axis_N3, moments, rule, merge_2RS, tables,
    values_N2CXY,
):  # fmt: skip
    """`steady_state` and its projection for every voxel."""
    lines, samples = whole[N_LINES], whole[N_PANELS] * NODES
    moment_PCL = np.empty((lines, whole[N_CHANNELS], samples))
    left_PL = np.empty((lines, samples))
    turn_2YP, weight_2YL, turn_2XH = tables
    for n in range(len(static_N3)):
        easy = (axis_N3[n], moments)
        steady_state(
            static_N3[n], x_N3[n], y_N3[n], seen_N33[n], turns, whole, number, table_4T, easy, rule, merge_2RS,
            moment_PCL, left_PL,
        )  # fmt: skip
        project(moment_PCL, turn_2YP, weight_2YL, turn_2XH, values_N2CXY[n])
