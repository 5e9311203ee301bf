"""The exact periodic steady state of dM/dt = −r(ξ)·(M − M_eq(ξ)) along a Lissajous trajectory.

On a panel of time the solution is an affine map of its initial value: M(t) = E(t)·M(0) + F(t) with
E = exp(−∫r) and F = E·∫ r·M_eq/E. Both integrals are spectral (`quadrature`). Composing the maps of a whole period
gives one affine map whose fixed point is the steady state: no warm-up periods.

The field-dependent rate contains |ξ|^1.72, which is not smooth where the trajectory passes ξ = 0, and the Langevin
kernel is sharp there. So panels are halved towards ξ = 0 until they are well away from it or negligibly short, and
merged again: whoever reads the result sees equal panels only.

Shapes: Q nodes of a panel, R = Q+1 rows (nodes, then end), B panels in a line, P = N_d+1 lines (x drive periods) in
one Lissajous period, C = 2 components of M, V voxels, n panels in a list.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sm_search.physics.particles import langevin_over_xi
from sm_search.physics.quadrature import gauss_panel

NODES = 16
"""Nodes of a panel."""

CLEARANCE = 1.5
"""A panel is halved if a singularity lies nearer to its centre than this many half lengths."""

RELAXATIONS = 5.0
"""Most relaxation times that one panel may span: F is found from exp(+∫r), which must stay resolved. Beyond, the
panel is solved by collocation, which costs some times as much."""

GROWTH = 4.0
"""A rate that counts may grow by this factor within a panel, where rates get so fast."""

STIFF_PANELS = 20_000
"""Panels that are solved at once so."""


@dataclass(frozen=True)
class Kinetics:
    """How the magnetisation follows its equilibrium.

    Attributes:
        rate: 1/τ in 1/s from ξ².
        smallest_xi: where `rate` is not smooth at ξ = 0: the panel half length (in ξ) below which that no longer
            matters; None if it is smooth.
        stiff: the rate reaches values at which panels of a few relaxation times each would be too many.
    """

    rate: Callable[[Tensor], Tensor]
    smallest_xi: float | None
    stiff: bool = False


@dataclass(frozen=True)
class Trajectory:
    """The field that one set of voxels sees, in units of ξ.

    Attributes:
        drive: ξ amplitude of the drive, x and y.
        static_2V: ξ of the selection field at the voxels.
        fx_hz: x drive frequency.
        nd: f_y = N_d/(N_d+1)·f_x.
    """

    drive: tuple[float, float]
    static_2V: Tensor
    fx_hz: float
    nd: int

    @property
    def lines(self) -> int:
        return self.nd + 1

    @property
    def device(self) -> torch.device:
        return self.static_2V.device

    def angles(self, turns: Tensor, line: Tensor) -> tuple[Tensor, Tensor]:
        """φ_x, φ_y at `turns` x drive periods after the start of `line`; whole turns are dropped first, for digits."""
        turns_y = (self.nd * (turns + line) / self.lines) % 1.0
        return 2 * math.pi * turns, 2 * math.pi * turns_y


def steady_state(path: Trajectory, kinetics: Kinetics, panels: int) -> Tensor:
    """M/M_s at the nodes of equal panels, shape (B, Q, C, P, V), on the device of `path`.

    Where a panel was refined these are not M itself but the values whose quadrature gives its integrals.
    """
    order = NODES
    panel = gauss_panel(order)
    shape_PV = path.lines, path.static_2V.shape[1]
    decay_BRPV = path.static_2V.new_empty(panels, order + 1, *shape_PV)
    offset_BRCPV = path.static_2V.new_empty(panels, order + 1, 2, *shape_PV)
    nodes_Q1 = torch.from_numpy(panel.nodes_Q)[:, None].to(path.device)
    line_P = torch.arange(path.lines, device=path.device)
    static_x, static_y = path.static_2V
    for b in range(panels):
        angle_x, angle_y = path.angles((b + nodes_Q1) / panels, line_P)
        b_x = (path.drive[0] * angle_x.cos())[:, :, None] + static_x
        b_y = (path.drive[1] * angle_y.cos())[:, :, None] + static_y
        _solve(b_x, b_y, 1 / (path.fx_hz * panels), kinetics, decay_BRPV[b], offset_BRCPV[b])
    _Refinement(path, kinetics, panels).into(decay_BRPV, offset_BRCPV)
    inner_BQCPV = offset_BRCPV[:, :order]
    start_BCPV = _panel_starts(decay_BRPV[:, order], offset_BRCPV[:, order])
    for inner, decay, start in zip(inner_BQCPV, decay_BRPV[:, :order], start_BCPV, strict=True):
        inner.addcmul_(decay[:, None], start)
    return inner_BQCPV


def _solve(b_x: Tensor, b_y: Tensor, duration_s: float, kinetics: Kinetics, decay_R: Tensor, offset_RC: Tensor) -> None:
    """E and F of panels of one duration into `decay_R`, `offset_RC` from ξ at their nodes (first dimension Q)."""
    xi2 = b_y.square().add_(b_x.square())
    ratio = langevin_over_xi(xi2)
    order = len(xi2)
    running_RQ = gauss_panel(order).running_RQ.to(xi2.device) * duration_s
    rate = kinetics.rate(xi2)
    exponent_R = running_RQ @ rate.reshape(order, -1)
    stiff = (exponent_R[-1] > RELAXATIONS).nonzero()[:, 0]
    torch.exp(exponent_R.neg_().view(decay_R.shape), out=decay_R)
    source = (rate * ratio).div_(decay_R[:-1])
    source_QC = torch.empty_like(offset_RC[:-1])
    torch.mul(source, b_x, out=source_QC[:, 0])
    torch.mul(source, b_y, out=source_QC[:, 1])
    torch.mm(running_RQ, source_QC.view(order, -1), out=offset_RC.view(order + 1, -1))
    offset_RC.mul_(decay_R[:, None])
    for part in stiff.split(STIFF_PANELS):
        own_Qn, ratio_Qn, b_x_Qn, b_y_Qn = (
            values.expand_as(rate).reshape(order, -1)[:, part] for values in (rate, ratio, b_x, b_y)
        )
        maps = _collocated(own_Qn * duration_s, torch.stack((b_x_Qn, b_y_Qn)) * ratio_Qn)
        decay_R.view(order + 1, -1)[:, part] = maps[:, 0]
        offset_RC.view(order + 1, 2, -1)[:, :, part] = maps[:, 1:]


def _collocated(rate_Qn: Tensor, equilibrium_CQn: Tensor) -> Tensor:
    """E, F_x and F_y, shape (R, 3, n), of panels of unit length that may span many relaxation times.

    M is the polynomial of degree Q−1 that fulfils M = M(0) + ∫ r·(M_eq − M) at the nodes, and its value at the end is
    M's there: what is left of M(0) vanishes for r → ∞ (unlike that of the Gauss rule's own end value).
    """
    panel = gauss_panel(len(rate_Qn))
    weighted_nQQ = panel.running_RQ[:-1].to(rate_Qn.device) * rate_Qn.T[:, None, :]
    right_nQ3 = torch.cat((torch.ones_like(rate_Qn)[None], equilibrium_CQn)).permute(2, 1, 0)
    right_nQ3 = torch.cat((right_nQ3[..., :1], weighted_nQQ @ right_nQ3[..., 1:]), dim=-1)
    weighted_nQQ.diagonal(dim1=-2, dim2=-1).add_(1.0)
    inner_nQ3 = torch.linalg.solve(weighted_nQQ, right_nQ3)
    end_n13 = (panel.end_Q.to(rate_Qn.device) @ inner_nQ3)[:, None]
    return torch.cat((inner_nQ3, end_n13), dim=1).permute(1, 2, 0)


class _Refinement:
    """Halves the panels that come too near to ξ = 0, solves the parts, and merges them again."""

    def __init__(self, path: Trajectory, kinetics: Kinetics, panels: int) -> None:
        self.path = path
        self.kinetics = kinetics
        self.panels = panels

    def into(self, decay_BRPV: Tensor, offset_BRCPV: Tensor) -> None:
        """Overwrite the maps of the panels that need it."""
        lines = decay_BRPV.shape[2]
        device = self.path.device
        b_B11 = torch.arange(self.panels, dtype=torch.float64, device=device)[:, None, None]
        centre = (b_B11 + 0.5) / self.panels
        angle_x, angle_y = self.path.angles(centre, torch.arange(lines, device=device)[:, None])
        near = self._near(angle_x, angle_y, self.path.static_2V[0], self.path.static_2V[1], 0)
        b, line, voxel = near.nonzero(as_tuple=True)
        if len(b):
            decay_Rn, offset_RCn = self._halved(b, line, voxel, 0)
            decay_BRPV[b, :, line, voxel] = decay_Rn.T
            offset_BRCPV[b, :, :, line, voxel] = offset_RCn.permute(2, 0, 1)

    def _near(self, angle_x: Tensor, angle_y: Tensor, static_x: Tensor, static_y: Tensor, level: int) -> Tensor:
        """Whether panels of this level with the given centres must be halved.

        With ξ(t) ≈ d + v·s the complex roots of ξ² = −q² lie at |s|² = (d² + q²)/v²: q = 0 for |ξ|^1.72, q = π
        for the first pole of the Langevin function.
        """
        drive_x, drive_y = self.path.drive
        half = math.pi / self.panels * 0.5**level
        bend = half * max(drive_x, drive_y)
        speed = ((drive_x * angle_x.sin()).square() + (drive_y * angle_y.sin()).square()).sqrt_()
        reach2 = speed.add_(bend).mul_(half).square_()
        distance2 = (drive_x * angle_x.cos() + static_x).square() + (drive_y * angle_y.cos() + static_y).square()
        reach2_wide = reach2 * CLEARANCE**2
        near = distance2 + math.pi**2 < reach2_wide
        if self.kinetics.smallest_xi is not None:
            near |= (distance2 < reach2_wide) & (reach2 > self.kinetics.smallest_xi**2)
        if self.kinetics.stiff:
            near |= self._turns_stiff(distance2.sqrt(), reach2.sqrt(), half)
        return near

    def _turns_stiff(self, distance: Tensor, reach: Tensor, half: float) -> Tensor:
        """Whether a rate that counts may grow too much for a polynomial in panels of this half length (an angle)."""
        largest = self.kinetics.rate((distance + reach).square_())
        smallest = self.kinetics.rate((distance - reach).clamp_(min=0.0).square_())
        duration_s = half / (math.pi * self.path.fx_hz)
        return (largest > GROWTH * smallest) & (largest * duration_s > 1.0)

    def _halved(self, part: Tensor, line: Tensor, voxel: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """E and F, shapes (R, n) and (R, C, n), of panels from their two halves; `part` counts panels of `level`."""
        level += 1
        part = torch.cat((2 * part, 2 * part + 1))
        line, voxel = line.repeat(2), voxel.repeat(2)
        angle_x, angle_y = self.path.angles((part.double() + 0.5) / (self.panels * 2**level), line)
        static_x, static_y = self.path.static_2V[:, voxel]
        near = self._near(angle_x, angle_y, static_x, static_y, level)
        far = (~near).nonzero()[:, 0]
        near = near.nonzero()[:, 0]
        far_maps = self._leaves(angle_x[far], angle_y[far], static_x[far], static_y[far], level)
        if len(near) == 0:
            decay_Rn, offset_RCn = far_maps
        else:
            near_maps = self._halved(part[near], line[near], voxel[near], level)
            decay_Rn, offset_RCn = (
                far_map.new_empty(*far_map.shape[:-1], len(part))
                .index_copy_(-1, far, far_map)
                .index_copy_(-1, near, other)
                for far_map, other in zip(far_maps, near_maps, strict=True)
            )
        return _merge(decay_Rn, offset_RCn)

    def _leaves(
        self, angle_x: Tensor, angle_y: Tensor, static_x: Tensor, static_y: Tensor, level: int
    ) -> tuple[Tensor, Tensor]:
        order = NODES
        nodes_Q = torch.from_numpy(gauss_panel(order).nodes_Q).to(angle_x.device)
        turns_Q1 = (nodes_Q - 0.5)[:, None] / (self.panels * 2**level)
        shift_x = 2 * math.pi * turns_Q1
        shift_y = shift_x * (self.path.nd / self.path.lines)
        b_x = _shifted_cosine(self.path.drive[0], angle_x, shift_x).add_(static_x)
        b_y = _shifted_cosine(self.path.drive[1], angle_y, shift_y).add_(static_y)
        decay_Rn = angle_x.new_empty(order + 1, len(angle_x))
        offset_RCn = angle_x.new_empty(order + 1, 2, len(angle_x))
        duration_s = 1 / (self.path.fx_hz * self.panels * 2**level)
        _solve(b_x, b_y, duration_s, self.kinetics, decay_Rn, offset_RCn)
        return decay_Rn, offset_RCn


def _shifted_cosine(amplitude: float, angle_n: Tensor, shift_Q1: Tensor) -> Tensor:
    """A·cos(φ + δ) for all pairs, shape (Q, n), without a cosine for each."""
    cosine_Qn = shift_Q1.cos() * (amplitude * angle_n.cos())
    return cosine_Qn.addcmul_(shift_Q1.sin(), amplitude * angle_n.sin(), value=-1.0)


def _merge(decay_Rn: Tensor, offset_RCn: Tensor) -> tuple[Tensor, Tensor]:
    """Maps of whole panels from those of their halves: the first half of the list is left, the second right."""
    merge_RS = gauss_panel(len(decay_Rn) - 1).merge_RS.to(decay_Rn.device)
    left_R, right_R = decay_Rn.chunk(2, dim=-1)
    left_RC, right_RC = offset_RCn.chunk(2, dim=-1)
    after_RC = torch.addcmul(right_RC, right_R[:, None], left_RC[-1])
    decay = merge_RS @ torch.cat((left_R, right_R * left_R[-1]))
    offset = torch.tensordot(merge_RS, torch.cat((left_RC, after_RC)), dims=1)
    return decay, offset


def _panel_starts(decay_BPV: Tensor, offset_BCPV: Tensor) -> Tensor:
    """M at the start of every panel, shape (B, C, P, V), from the maps over the panels."""
    from_zero_BCPV = torch.empty_like(offset_BCPV)  # each line as if it began at M = 0
    left_BPV = torch.empty_like(decay_BPV)  # what is left of the line's initial M
    end = torch.zeros_like(offset_BCPV[0])
    left = torch.ones_like(decay_BPV[0])
    for b, (decay, offset) in enumerate(zip(decay_BPV, offset_BCPV, strict=True)):
        from_zero_BCPV[b] = end
        left_BPV[b] = left
        end.mul_(decay).add_(offset)
        left.mul_(decay)
    start_CPV = _cyclic_fixed_point(left, end)
    return from_zero_BCPV.addcmul_(left_BPV[:, None], start_CPV)


def _cyclic_fixed_point(decay_PV: Tensor, offset_CPV: Tensor) -> Tensor:
    """Solution of M[p+1] = decay[p]·M[p] + offset[p] with M[p+P] = M[p], by binary powers of the step."""
    lines = len(decay_PV)
    total_decay, total_offset, covered = torch.ones_like(decay_PV), torch.zeros_like(offset_CPV), 0
    stride = 1
    while True:
        if lines & stride:
            ahead_decay, ahead_offset = decay_PV.roll(-covered, -2), offset_CPV.roll(-covered, -2)
            total_offset = torch.addcmul(ahead_offset, ahead_decay, total_offset)
            total_decay = total_decay * ahead_decay
            covered += stride
        if covered == lines:
            return total_offset.div_(1 - total_decay)
        ahead_decay, ahead_offset = decay_PV.roll(-stride, -2), offset_CPV.roll(-stride, -2)
        offset_CPV = torch.addcmul(ahead_offset, ahead_decay, offset_CPV)
        decay_PV = decay_PV * ahead_decay
        stride *= 2
