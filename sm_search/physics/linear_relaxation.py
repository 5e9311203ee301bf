"""Spectra of a magnetisation that relaxes linearly towards equilibrium, dM/dt = −r(ξ)·(M − M_eq(ξ)), or follows it.

The work is done voxel by voxel in `panel_kernel` and `projection_kernel`; here are their parameters.

Shapes: N voxels, C receive channels, D = 3 components of M, K mixing orders; P = N_d+1 lines (x drive periods) in a
Lissajous period, B panels in a line, Q nodes in a panel, L = B·Q, H = L/2; X, Y = m_max + 1 orders of an axis.
"""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sm_search.config.simulation_settings import MixingOrders
from sm_search.physics import panel_kernel
from sm_search.physics.anisotropic_equilibrium import easy_axes
from sm_search.physics.lissajous_field import LissajousField
from sm_search.physics.moment_spectrum import along_axes
from sm_search.physics.neel import STEP
from sm_search.physics.panel_kernel import BROWNIAN, NEEL_BROWN, NODES, POWERS
from sm_search.physics.quadrature import gauss_panel

Floats = NDArray[np.float64]

CLEARANCE = 1.5
"""A panel is halved if a singularity lies nearer to its centre than this many half lengths."""

RELAXATIONS = 5.0
"""Most relaxation times that one panel may span: F is found from exp(+∫r), which must stay resolved. Beyond, the
panel is solved by collocation, which costs some times as much."""

GROWTH = 4.0
"""A rate that counts may grow by this factor within a panel, where rates get so fast."""

SMALLEST_XI = 0.02
"""|ξ|^1.72 is taken as smooth over panels of this half length, and of `SMALLEST_SHARE` of the drive amplitude: where
the drive is weak the high orders are faint, and feel it first."""

SMALLEST_SHARE = 0.006

YOSHIDA_ENPUKU = 0.126
"""τ = τ_B/√(1 + 0.126 ξ^1.72) (Yoshida and Enpuku, Jpn. J. Appl. Phys. 48, 127002 (2009))."""


@dataclass(frozen=True)
class Kinetics:
    """How the magnetisation follows its equilibrium.

    Attributes:
        kind: `EQUILIBRIUM` at once, `BROWNIAN` or `NEEL_BROWN` rate.
        tau_s: Brownian time without field.
        slope: of the Brownian rate √(1 + slope·ξ^1.72)/τ_B.
        smallest_xi: the panel half length (in ξ) below which it does not matter that the rate is not smooth at ξ = 0.
        table_4T, table_hz: of the Néel rate.
        moments: table of an anisotropic equilibrium.
    """

    kind: int
    tau_s: float = 1.0
    slope: float = YOSHIDA_ENPUKU
    smallest_xi: float = 0.0
    table_4T: Floats = dataclasses.field(default_factory=lambda: np.zeros((4, 1)))
    table_hz: float = 0.0
    moments: Floats = dataclasses.field(default_factory=lambda: np.zeros((1, 1, 2, POWERS, POWERS)))

    @property
    def stiff(self) -> bool:
        """Whether rates are reached at which panels of a few relaxation times each would be too many."""
        return self.kind == NEEL_BROWN

    def rate(self, xi: float) -> float:
        """1/τ in 1/s."""
        whole, number = self.parameters(1.0, 1, 2, 3)
        return float(panel_kernel.rate(xi**2, whole, number, self.table_4T))

    def parameters(
        self, fx_hz: float, nd: int, panels: int, channels: int, mixed: bool = False
    ) -> tuple[NDArray[np.int64], Floats]:
        """As the compiled code reads them: `panel_kernel.N_…` and `X_…`."""
        whole = np.array([nd + 1, nd, panels, channels, mixed, self.kind, self.stiff], dtype=np.int64)
        number = np.array([fx_hz, self.tau_s, self.slope, self.smallest_xi, CLEARANCE, RELAXATIONS, GROWTH, STEP])
        return whole, np.append(number, self.table_hz)


def smallest_xi(xi_drive: float) -> float:
    """`Kinetics.smallest_xi` of the Brownian rate, for the weaker drive's amplitude in ξ."""
    return min(SMALLEST_XI, SMALLEST_SHARE * xi_drive)


def converged_spectrum(
    field: LissajousField,
    beta: float,
    kinetics: Kinetics,
    orders: MixingOrders,
    sensitivity_CDN: Floats,
    samples: int | None,
) -> tuple[NDArray[np.complex128], dict[str, float]]:
    """`spectrum` with enough panels, or with so many samples in a line, rounded up to an even number of panels; and how
    many these were."""
    if samples is None:
        panels = panels_per_line(field.fx_hz, beta * field.largest_t, kinetics, orders)
    else:
        panels = 2 * math.ceil(samples / (2 * NODES))
    values_CKN = spectrum(field, beta, kinetics, panels, orders, sensitivity_CDN)
    return values_CKN, {"samplesPerPeriod": float(panels * NODES), "samplesPerPanel": float(NODES)}


def panels_per_line(fx_hz: float, largest_xi: float, kinetics: Kinetics, orders: MixingOrders) -> int:
    """Panels in one x drive period: enough for the highest frequency wanted and for the fastest relaxation.

    A panel spans at most one period of the highest frequency. The kernel's width does not enter: panels are refined
    where it matters. An even number keeps the trajectory's half-period symmetry exact. `tests/physics` holds the
    accuracy reached.
    """
    wanted = max(4.0, (orders.max_x + orders.max_y) / 2)
    if kinetics.kind == BROWNIAN:
        wanted = max(wanted, kinetics.rate(largest_xi) / (fx_hz * RELAXATIONS))
    return 2 * math.ceil(wanted / 2)


def spectrum(
    field: LissajousField, beta: float, kinetics: Kinetics, panels: int, orders: MixingOrders, sensitivity_CDN: Floats
) -> NDArray[np.complex128]:
    """SM_k/M_s as channels of these sensitivities receive it, shape (C, K, N).

    Args:
        beta: ξ/B in 1/T.
    """
    lines, (channels, _, voxels) = field.nd + 1, sensitivity_CDN.shape
    seen_N33 = np.zeros((voxels, 3, 3))
    seen_N33[:, :channels] = sensitivity_CDN.transpose(2, 0, 1)
    mixed = not np.array_equal(sensitivity_CDN, along_axes(channels, voxels))
    panel = gauss_panel(NODES)
    u_B = (np.arange(panels) + 0.5) / panels
    u_L = ((np.arange(panels)[:, None] + panel.nodes_Q) / panels).ravel()
    turns_y_PB = (field.nd * (np.arange(lines)[:, None] + u_B) / lines) % 1.0  # whole turns dropped first, for digits
    whole, number = kinetics.parameters(field.fx_hz, field.nd, panels, channels, mixed)
    values_N2CXY = np.empty((voxels, 2, channels, orders.max_x + 1, orders.max_y + 1))
    panel_kernel.spectra(
        *field.voxel_vectors(beta),
        seen_N33,
        (cos_sin(u_B), cos_sin(turns_y_PB)),
        whole,
        number,
        kinetics.table_4T,
        easy_axes(field.static_3N),
        kinetics.moments,
        (panel.nodes_Q, panel.running_RQ, panel.end_Q),
        np.stack((panel.merge_RS[:-1, :NODES], panel.merge_RS[:-1, NODES + 1 : -1])),
        projection_tables(orders, field.nd, u_L, np.tile(panel.weights_Q / panels, panels)),
        values_N2CXY,
    )
    values_N2CK = values_N2CXY.reshape(voxels, 2, channels, -1)[..., 1:]
    return np.ascontiguousarray((values_N2CK[:, 0] + 1j * values_N2CK[:, 1]).transpose(1, 2, 0))


def projection_tables(orders: MixingOrders, nd: int, u_L: Floats, share_L: Floats) -> tuple[Floats, Floats, Floats]:
    """The tables of `projection_kernel.project` for samples at `u_L` of each line that count `share_L` (sum 1)."""
    lines = nd + 1
    x_X1, y_Y1 = np.arange(orders.max_x + 1)[:, None], np.arange(orders.max_y + 1)[:, None]
    turn_2YP = cos_sin((y_Y1 * np.arange(lines) % lines) / lines)
    weight_2YL = cos_sin(-u_L * (y_Y1 * nd / lines)) * (share_L / lines)
    return turn_2YP, weight_2YL, cos_sin(x_X1 * u_L[: len(u_L) // 2])


def cos_sin(turns: Floats) -> Floats:
    return np.stack((np.cos(2 * math.pi * turns), np.sin(2 * math.pi * turns)))
