"""The exact periodic steady state of linear relaxation, dM/dt = −r(t)·(M − M_eq(t)).

Over one sampling interval h the solution is an affine map M ↦ a·M + b with a = exp(−∫r) and
b = ∫ exp(−∫_s r) r M_eq ds. Both integrals use one interpolation polynomial through the neighbouring samples, so the
only error is of order h^4; more points gain nothing, since |ξ|^1.72 in the Brownian rate is not smooth at ξ = 0. Composing the maps of a whole period gives one affine map whose fixed point is the steady
state: no warm-up periods.

Shapes: L samples in a block, H halo samples on either side, P blocks (drive periods) in one Lissajous period,
C components of M, V voxels. Time index t = p·L + l.
"""

from fractions import Fraction

import torch
from torch import Tensor

HALO = 1
"""Samples needed on either side of an interval; the interpolation uses 2·HALO + 2 points."""


def interval_weights() -> list[float]:
    """Weights of the samples −HALO … HALO+1 in the integral over [0, 1] of their interpolation polynomial."""
    nodes = range(-HALO, HALO + 2)
    weights = []
    for node in nodes:
        polynomial = [Fraction(1)]  # ascending powers
        for other in nodes:
            if other == node:
                continue
            scale = Fraction(1, node - other)
            shifted = [Fraction(0), *polynomial]
            polynomial = [scale * (up - other * low) for up, low in zip(shifted, [*polynomial, 0], strict=True)]
        weights.append(float(sum(c / (power + 1) for power, c in enumerate(polynomial))))
    return weights


def periodic_steady_state(rate_LPV: Tensor, equilibrium_LPCV: Tensor, step_s: float) -> Tensor:
    """M at the L inner samples of each block, shape (L, P, C, V).

    Args:
        rate_LPV: relaxation rate r in 1/s at the samples −2·HALO … L+2·HALO of each block, shape (L+4·HALO+1, P, V).
        equilibrium_LPCV: M_eq at the samples −HALO … L+HALO, shape (L+2·HALO+1, P, C, V).
        step_s: sampling interval h.
    """
    weights = interval_weights()
    samples = equilibrium_LPCV.shape[0] - 2 * HALO - 1
    intervals = samples + 2 * HALO  # those that begin at the samples −HALO … L+HALO−1
    exponent = rate_LPV[:intervals] * (weights[0] * step_s)
    for shift, weight in enumerate(weights[1:], start=1):
        exponent.add_(rate_LPV[shift : shift + intervals], alpha=weight * step_s)
    decay_LPV = torch.exp(-exponent)
    gain_LPV = torch.exp(exponent)
    source_LPCV = rate_LPV[HALO:-HALO, :, None] * equilibrium_LPCV

    def at(values: Tensor, shift: int) -> Tensor:
        return values[HALO + shift : HALO + shift + samples]

    # Horner from both ends: samples behind the interval's end decay towards it, samples beyond it grow back.
    behind = at(source_LPCV, -HALO) * weights[0]
    for shift in range(-HALO + 1, 1):
        behind.mul_(at(decay_LPV, shift - 1)[:, :, None])
        behind.add_(at(source_LPCV, shift), alpha=weights[HALO + shift])
    behind.mul_(at(decay_LPV, 0)[:, :, None])
    beyond = at(source_LPCV, HALO + 1) * weights[-1]
    for shift in range(HALO, 0, -1):
        beyond.mul_(at(gain_LPV, shift)[:, :, None])
        beyond.add_(at(source_LPCV, shift), alpha=weights[HALO + shift])
    offset_LPCV = behind.add_(beyond).mul_(step_s)
    return _fixed_point(at(decay_LPV, 0)[:, :, None], offset_LPCV)


def _fixed_point(decay_LP1V: Tensor, offset_LPCV: Tensor) -> Tensor:
    """Periodic solution of M[t+1] = decay[t]·M[t] + offset[t], all blocks stepping side by side."""
    blocks = offset_LPCV.shape[1]
    from_zero = torch.empty_like(offset_LPCV)  # each block as if it began at M = 0
    carried = torch.empty_like(decay_LP1V)  # what is left of the block's initial M
    end = torch.zeros_like(offset_LPCV[0])
    left = torch.ones_like(decay_LP1V[0])
    steps = zip(from_zero.unbind(), carried.unbind(), decay_LP1V.unbind(), offset_LPCV.unbind(), strict=True)
    for from_zero_here, carried_here, decay, offset in steps:
        from_zero_here.copy_(end)
        carried_here.copy_(left)
        end.mul_(decay).add_(offset)
        left.mul_(decay)
    ends, lefts = end.unbind(), left.unbind()
    start = torch.zeros_like(end[0])
    total_decay = torch.ones_like(left[0])
    for end_here, left_here in zip(ends, lefts, strict=True):
        start.mul_(left_here).add_(end_here)
        total_decay.mul_(left_here)
    start.div_(1 - total_decay)
    start_PCV = torch.empty_like(end)
    for start_here, end_here, left_here in zip(start_PCV.unbind(), ends, lefts, strict=True):
        start_here.copy_(start)
        start.mul_(left_here).add_(end_here)
    return from_zero.addcmul_(carried, start_PCV)
