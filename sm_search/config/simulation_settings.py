"""What is simulated in one file: grid, particle, fields, mixing orders, receive chain, and the scan.

Values carry the unit that a person types in their name; the `…_m`, `…_t` properties are SI.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from sm_search.config.base import Settings
from sm_search.config.errors import SettingsError
from sm_search.config.receive_settings import NotNegative, Positive

CoreDiameter = Annotated[float, Field(ge=1, le=1000)]
DriveFrequency = Annotated[float, Field(ge=1e-3, le=1000)]
SizeSpread = Annotated[float, Field(ge=0, le=0.5)]
TrajectoryNumber = Annotated[int, Field(ge=2, le=100_000)]
PlaneHeight = Annotated[float, Field(ge=-1000, le=1000)]
Magnetisation = Literal["equilibrium", "debye", "brownian", "neel-brown", "effective-field", "anisotropic"]
FieldName = Literal["low", "high"]
SCAN_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""Of a measured scan, which is the name of a folder."""

AGREEMENT = 1e-3
"""Two numbers of a file, a setting or a model are the same within this share of their value: a field of view in
float32, a phase of 1.5707, a drive of 2.0013 mT for 2. No scanner knows its fields better."""


def agree(left: Sequence[float], right: Sequence[float]) -> bool:
    """Whether each of these numbers is the same as its partner, within `AGREEMENT`."""
    return all(math.isclose(a, b, rel_tol=AGREEMENT) for a, b in zip(left, right, strict=True))


class Grid(Settings):
    """Cell-centred voxels of the x-y plane; the centre of the field of view is the origin."""

    size: tuple[Annotated[int, Field(ge=1, le=1024)], Annotated[int, Field(ge=1, le=1024)]] = (32, 32)
    fov_mm: tuple[Positive, Positive] = (40.0, 40.0)

    @property
    def fov_m(self) -> tuple[float, float]:
        return self.fov_mm[0] * 1e-3, self.fov_mm[1] * 1e-3

    @property
    def voxel_m(self) -> tuple[float, float]:
        """Sides of a voxel along x and y."""
        return self.fov_m[0] / self.size[0], self.fov_m[1] / self.size[1]

    @property
    def voxels(self) -> int:
        return self.size[0] * self.size[1]

    def agrees(self, other: "Grid") -> bool:
        """Equal numbers of voxels over fields of view that `agree`."""
        return self.size == other.size and agree(self.fov_mm, other.fov_mm)


EasyAxes = Literal["selection-field", "random"]


class Particle(Settings):
    """The tracer but for its core diameter, which belongs to the scan.

    Attributes:
        size_spread: standard deviation of ln(core diameter) of a log-normal number distribution whose median is the
            scan's core diameter; 0 is monodisperse.
        anisotropy_kj_per_m3: K, uniaxial, of `neel-brown` and `anisotropic`; fits to measurements gave 0.5–5.
        easy_axes: of `anisotropic`: along the selection field at their place, or of random direction, which makes every
            voxel's response isotropic.
        damping: α of the Landau–Lifshitz–Gilbert equation, for Néel relaxation.
    """

    added: ClassVar[frozenset[str]] = frozenset({"easy_axes"})

    saturation_magnetisation_ka_per_m: Positive = 474.0
    temperature_k: Positive = 293.0
    viscosity_mpa_s: Positive = 1.0
    shell_thickness_nm: NotNegative = 5.0
    size_spread: SizeSpread = 0.0
    anisotropy_kj_per_m3: Positive = 11.0
    easy_axes: EasyAxes = "selection-field"
    damping: Positive = 0.1


class FieldSettings(Settings):
    """Selection-field gradient (T/m) and drive amplitude (mT): one number for x and y, or a pair (x, y).

    The field is trace-free: along z the gradient is the negative sum of those along x and y.
    """

    gradient_t_per_m: Positive | tuple[Positive, Positive]
    drive_mt: Positive | tuple[Positive, Positive]

    @property
    def gradients_t_per_m(self) -> tuple[float, float]:
        """Along x and y."""
        return _pair(self.gradient_t_per_m)

    @property
    def drives_t(self) -> tuple[float, float]:
        """Amplitudes of the x and the y channel."""
        x, y = _pair(self.drive_mt)
        return x * 1e-3, y * 1e-3

    @property
    def reach_mm(self) -> tuple[float, float]:
        """A/G along x and y: how far from the centre the field-free point gets."""
        (drive_x, drive_y), (gradient_x, gradient_y) = _pair(self.drive_mt), self.gradients_t_per_m
        return drive_x / gradient_x, drive_y / gradient_y

    def agrees(self, other: "FieldSettings") -> bool:
        """Gradients and drives that `agree`."""
        return agree(self.gradients_t_per_m, other.gradients_t_per_m) and agree(self.drives_t, other.drives_t)


def _pair(value: float | tuple[float, float]) -> tuple[float, float]:
    return value if isinstance(value, tuple) else (value, value)


class MixingOrders(Settings):
    """The box m_x in 0…max_x, m_y in 0…max_y without (0, 0): 13² − 1 = 168 components by default."""

    max_x: Annotated[int, Field(ge=0, le=200)] = 12
    max_y: Annotated[int, Field(ge=0, le=200)] = 12

    @model_validator(mode="after")
    def _not_empty(self) -> "MixingOrders":
        if self.max_x == self.max_y == 0:
            raise ValueError("max_x and max_y are both 0, which leaves no component")
        return self

    def pairs(self) -> tuple[tuple[int, int], ...]:
        """The K mixing orders (m_x, m_y), m_y fastest."""
        box = itertools.product(range(self.max_x + 1), range(self.max_y + 1))
        return tuple(pair for pair in box if pair != (0, 0))


class Scan(Settings):
    """One particle in one Lissajous trajectory.

    Attributes:
        shell_thickness_nm, size_spread, noise_nv, magnetisation: of this scan, where it differs from the dataset's
            particle, receive chain and model.
        scanner: number of the scanner among those that the dataset's `scanners` spread; None for its `scanner`.
        deviation: factor on how far that scanner deviates from the dataset's.
        noise_db: the noise of both files, by the strongest component of the low-gradient voltage over it, in dB.
        measured: name of a scan that was measured, not simulated; its core diameter may be unknown.
        height_mm: of the imaged plane above the field-free point, along z.
    """

    added: ClassVar[frozenset[str]] = frozenset(
        {"magnetisation", "scanner", "deviation", "noise_db", "measured", "height_mm"}
    )

    core_diameter_nm: CoreDiameter | None = None
    fx_khz: DriveFrequency
    nd: TrajectoryNumber
    shell_thickness_nm: NotNegative | None = None
    size_spread: SizeSpread | None = None
    noise_nv: NotNegative | None = None
    magnetisation: Magnetisation | None = None
    scanner: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    deviation: Annotated[float, Field(gt=0, le=10)] = 1.0
    noise_db: Annotated[float, Field(ge=0, le=200)] | None = None
    measured: Annotated[str, Field(pattern=SCAN_NAME)] | None = None
    height_mm: PlaneHeight = 0.0

    @model_validator(mode="after")
    def _consistent(self) -> "Scan":
        if self.core_diameter_nm is None and self.measured is None:
            raise ValueError("core_diameter_nm: only a measured scan can do without")
        if self.deviation != 1.0 and self.scanner is None:
            raise ValueError("deviation is a factor on a scanner's deviations: it needs scanner")
        if self.noise_db is not None and self.noise_nv is not None:
            raise ValueError("noise_db and noise_nv: only one of them says how large the noise is")
        return self

    @property
    def core_diameter_m(self) -> float:
        if self.core_diameter_nm is None:
            raise SettingsError(f"scan {self.id}: was measured with an unknown core diameter: it cannot be simulated")
        return self.core_diameter_nm * 1e-9

    @property
    def height_m(self) -> float:
        return self.height_mm * 1e-3

    @property
    def fx_hz(self) -> float:
        return self.fx_khz * 1e3

    @property
    def fy_hz(self) -> float:
        """f_y = N_d/(N_d+1)·f_x."""
        return self.fx_hz * self.nd / (self.nd + 1)

    @property
    def period_s(self) -> float:
        """The Lissajous period T_R = (N_d+1)/f_x."""
        return (self.nd + 1) / self.fx_hz

    @property
    def id(self) -> str:
        if self.measured is not None:
            return self.measured
        own = {
            "shell{:.10g}nm": self.shell_thickness_nm,
            "spread{:.10g}": self.size_spread,
            "noise{:.10g}nV": self.noise_nv,
            "s{}": self.scanner,
            "x{:.10g}": None if self.deviation == 1.0 else self.deviation,
            "{}": self.magnetisation,
            "noise{:.10g}dB": self.noise_db,
            "z{:.10g}mm": self.height_mm or None,
        }
        parts = [form.format(value) for form, value in own.items() if value is not None]
        return "-".join([f"d{self.core_diameter_nm:.10g}nm", f"fx{self.fx_khz:.10g}kHz", f"nd{self.nd}", *parts])
