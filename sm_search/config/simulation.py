"""What is simulated: grid, particle, fields, mixing orders, and the scans of a dataset with their splits.

Values carry the unit that a person types in their name; the `…_m`, `…_t` properties are SI.
"""

import itertools
import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from sm_search.config.base import Settings, content_hash
from sm_search.config.errors import SettingsError
from sm_search.config.loading import load_settings

PRESETS = Path(__file__).parent / "presets"
MAX_SCANS = 100_000

Positive = Annotated[float, Field(gt=0)]
TrajectoryNumber = Annotated[int, Field(ge=2, le=100_000)]
Magnetisation = Literal["equilibrium", "debye", "brownian"]
FieldName = Literal["low", "high"]


class Grid(Settings):
    """Cell-centred voxels of the x-y plane; the centre of the field of view is the origin."""

    size: tuple[Annotated[int, Field(ge=1, le=1024)], Annotated[int, Field(ge=1, le=1024)]] = (32, 32)
    fov_mm: tuple[Positive, Positive] = (40.0, 40.0)

    @property
    def fov_m(self) -> tuple[float, float]:
        return self.fov_mm[0] * 1e-3, self.fov_mm[1] * 1e-3

    @property
    def voxels(self) -> int:
        return self.size[0] * self.size[1]


class Particle(Settings):
    """The tracer but for its core diameter, which belongs to the scan."""

    saturation_magnetisation_ka_per_m: Positive = 474.0
    temperature_k: Positive = 293.0
    viscosity_mpa_s: Positive = 1.0
    shell_thickness_nm: Annotated[float, Field(ge=0)] = 5.0


class FieldSettings(Settings):
    """Selection-field gradient (T/m, along x and y; 2G along z) and drive amplitude (mT, both channels)."""

    gradient_t_per_m: Positive
    drive_mt: Positive

    @property
    def drive_t(self) -> float:
        return self.drive_mt * 1e-3


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
    """One particle in one Lissajous trajectory."""

    core_diameter_nm: Positive
    fx_khz: Positive
    nd: TrajectoryNumber

    @property
    def core_diameter_m(self) -> float:
        return self.core_diameter_nm * 1e-9

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
        return f"d{self.core_diameter_nm:.10g}nm-fx{self.fx_khz:.10g}kHz-nd{self.nd}"


class Design(Settings):
    """All combinations of the listed values."""

    core_diameter_nm: Annotated[tuple[Positive, ...], Field(min_length=1)]
    fx_khz: Annotated[tuple[Positive, ...], Field(min_length=1)]
    nd: Annotated[tuple[TrajectoryNumber, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _bounded(self) -> "Design":
        count = len(self.core_diameter_nm) * len(self.fx_khz) * len(self.nd)
        if count > MAX_SCANS:
            raise ValueError(f"{count} combinations; a design may have {MAX_SCANS}")
        return self

    def scans(self) -> tuple[Scan, ...]:
        combinations = itertools.product(self.core_diameter_nm, self.fx_khz, self.nd)
        return tuple(Scan(core_diameter_nm=d, fx_khz=f, nd=n) for d, f, n in combinations)


class DatasetSettings(Settings):
    """A dataset: common physics, the low and the high field, and the scans of each split.

    Attributes:
        splits: split name to designs. `train`, `validation` and `test` are required; any other name is a further
            test split. No scan may be in two splits.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    magnetisation: Magnetisation = "brownian"
    grid: Grid = Grid()
    particle: Particle = Particle()
    orders: MixingOrders = MixingOrders()
    low: FieldSettings = FieldSettings(gradient_t_per_m=0.1, drive_mt=2.0)
    high: FieldSettings = FieldSettings(gradient_t_per_m=1.0, drive_mt=20.0)
    splits: dict[str, tuple[Design, ...]]

    @model_validator(mode="after")
    def _consistent(self) -> "DatasetSettings":
        for required in ("train", "validation", "test"):
            if not self.splits.get(required):
                raise ValueError(f"splits: needs a non-empty {required!r} (has: {', '.join(self.splits) or 'none'})")
        owner: dict[str, str] = {}
        for split in self.splits:
            for scan in self.scans(split):
                other = owner.get(scan.id)
                if other is not None:
                    where = f"twice in {split!r}" if other == split else f"in {other!r} and in {split!r}: a leak"
                    raise ValueError(f"splits: scan {scan.id} is {where}")
                owner[scan.id] = split
                if scan.nd < max(self.orders.max_x, self.orders.max_y) * 2:
                    raise ValueError(
                        f"splits: scan {scan.id}: nd must be at least twice the largest mixing order "
                        f"({max(self.orders.max_x, self.orders.max_y)}), or components share a frequency"
                    )
        low, high = self.low, self.high
        if not math.isclose(low.drive_mt / low.gradient_t_per_m, high.drive_mt / high.gradient_t_per_m, rel_tol=1e-9):
            raise ValueError(
                "low and high: drive_mt / gradient_t_per_m must agree, so that both cover one field of view "
                f"(low: {low.drive_mt / low.gradient_t_per_m:g} mm, high: {high.drive_mt / high.gradient_t_per_m:g} mm)"
            )
        return self

    def scans(self, split: str) -> tuple[Scan, ...]:
        """The scans of one split, in the order of its designs.

        Raises:
            SettingsError: no such split.
        """
        if split not in self.splits:
            raise SettingsError(f"dataset {self.name!r}: no split {split!r}; it has {', '.join(self.splits)}")
        return tuple(scan for design in self.splits[split] for scan in design.scans())

    def field(self, which: FieldName) -> FieldSettings:
        return self.low if which == "low" else self.high

    def physics_hash(self) -> str:
        """Hash of all that changes the numbers of a simulated file, the scan itself excepted."""
        values = self.model_dump(mode="json", exclude={"name", "splits"})
        return content_hash(values)


def preset_names() -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in PRESETS.glob("*.yaml")))


def preset(name: str) -> DatasetSettings:
    """A dataset that ships with the package: `paper-54`, `paper-90` or `demo`.

    Raises:
        SettingsError: no such preset.
    """
    if name not in preset_names():
        raise SettingsError(f"preset {name!r}: does not exist; there are {', '.join(preset_names())}")
    return load_settings(PRESETS / f"{name}.yaml", DatasetSettings)
