"""Compiled: the Kaczmarz sweeps of `reconstruction.kaczmarz`, row by row.

Shapes: R equations, N voxels.
"""

import math

from sm_search.physics.compiled import compiled, fma


@compiled
def swept(rows_RN, u_R, energy_R, lam, sweeps, non_negative, c_N, v_R):
    """Solve the extended system [S, √λ·I][c; v] = u by so many sweeps from c_N and v_R, which are changed."""
    root = math.sqrt(lam)
    voxels = len(c_N)
    for _ in range(sweeps):
        for r in range(len(u_R)):
            if energy_R[r] > 0.0:
                row_N = rows_RN[r]
                even = odd = 0.0
                for n in range(0, voxels - 1, 2):  # two sums: an addition waits for the one before
                    even = fma(row_N[n], c_N[n], even)
                    odd = fma(row_N[n + 1], c_N[n + 1], odd)
                if voxels % 2:
                    even = fma(row_N[voxels - 1], c_N[voxels - 1], even)
                step = (u_R[r] - (even + odd) - root * v_R[r]) / (energy_R[r] + lam)
                for n in range(voxels):
                    c_N[n] = fma(step, row_N[n], c_N[n])
                v_R[r] += step * root
        if non_negative:
            for n in range(voxels):
                c_N[n] = max(c_N[n], 0.0)
