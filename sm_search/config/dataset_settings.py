"""The scans of a dataset, their splits, and the presets that ship with the package."""

import itertools
import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from sm_search.config.base import Settings, content_hash
from sm_search.config.errors import SettingsError
from sm_search.config.loading import load_settings
from sm_search.config.simulation_settings import (
    CoreDiameter,
    DriveFrequency,
    FieldName,
    FieldSettings,
    Grid,
    Magnetisation,
    MixingOrders,
    NotNegative,
    Particle,
    Positive,
    ReceiveSettings,
    Scan,
    SizeSpread,
    TrajectoryNumber,
)

PRESETS = Path(__file__).parent / "presets"
MAX_SCANS = 100_000
DIGITS = 4
"""Significant digits of a quasi-random value: they are the scan's name."""
GOLDEN = (math.sqrt(5) - 1) / 2


class Design(Settings):
    """All combinations of the listed values."""

    design: Literal["grid"] = "grid"
    core_diameter_nm: Annotated[tuple[CoreDiameter, ...], Field(min_length=1)]
    fx_khz: Annotated[tuple[DriveFrequency, ...], Field(min_length=1)]
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

    def spread(self) -> tuple[Scan, ...]:
        """The same scans in an order of which every beginning is spread over the grid.

        Number i comes by the fractional part of i/golden ratio: even in the list, and in step with no axis of the grid.
        """
        scans = self.scans()
        return tuple(scans[i] for i in sorted(range(len(scans)), key=lambda i: i * GOLDEN % 1))


class SobolDesign(Settings):
    """Quasi-random scans over continuous ranges (Sobol' 1967, unscrambled): a larger design contains the smaller.

    Diameter, frequency and noise are spread evenly in their logarithm. A range that is left out costs no dimension to
    the others: their values stay.

    Attributes:
        count: how many scans; a power of two covers the ranges most evenly.
    """

    design: Literal["sobol"]
    count: Annotated[int, Field(ge=1, le=MAX_SCANS)]
    core_diameter_nm: tuple[CoreDiameter, CoreDiameter]
    fx_khz: tuple[DriveFrequency, DriveFrequency]
    nd: tuple[TrajectoryNumber, TrajectoryNumber]
    shell_thickness_nm: tuple[NotNegative, NotNegative] | None = None
    size_spread: tuple[SizeSpread, SizeSpread] | None = None
    noise_nv: tuple[Positive, Positive] | None = None

    @model_validator(mode="after")
    def _ordered(self) -> "SobolDesign":
        for name in _DIMENSIONS:
            limits = getattr(self, name)
            if limits is not None and limits[0] >= limits[1]:
                raise ValueError(f"{name}: the range {list(limits)} must go upwards")
        return self

    def scans(self) -> tuple[Scan, ...]:
        from scipy.stats import qmc  # a second of every process that needs none

        unit_SD = qmc.Sobol(len(_DIMENSIONS), scramble=False).random_base2(math.ceil(math.log2(max(2, self.count))))
        return tuple(
            Scan.model_validate({name: self._value(name, u) for name, u in zip(_DIMENSIONS, unit_D, strict=True)})
            for unit_D in unit_SD[: self.count].tolist()
        )

    def spread(self) -> tuple[Scan, ...]:
        """As `scans`: every beginning of the sequence is spread over the ranges."""
        return self.scans()

    def _value(self, name: str, u: float) -> float | int | None:
        limits = getattr(self, name)
        if limits is None:
            return None
        low, high = limits
        if name == "nd":
            return low + math.floor(u * (high - low + 1))
        value = low * (high / low) ** u if name in _LOGARITHMIC else low + (high - low) * u
        return float(f"{value:.{DIGITS}g}")


_DIMENSIONS = ("core_diameter_nm", "fx_khz", "nd", "shell_thickness_nm", "size_spread", "noise_nv")
_LOGARITHMIC = ("core_diameter_nm", "fx_khz", "noise_nv")


def _kind(value: Any) -> str:
    kind = value.get("design", "grid") if isinstance(value, dict) else getattr(value, "design", "grid")
    return kind if isinstance(kind, str) else "grid"


AnyDesign = Annotated[
    Annotated[Design, Tag("grid")] | Annotated[SobolDesign, Tag("sobol")],
    Discriminator(_kind, custom_error_type="design", custom_error_message="design must be grid or sobol"),
]


class DatasetSettings(Settings):
    """A dataset: common physics, the low and the high field, and the scans of each split.

    Attributes:
        voxel: `point` is the response at the voxel's centre, `mean` the average over the voxel.
        splits: split name to designs. `train`, `validation` and `test` are required; any other name is a further
            test split. No scan may be in two splits.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    magnetisation: Magnetisation = "brownian"
    voxel: Literal["point", "mean"] = "point"
    grid: Grid = Grid()
    particle: Particle = Particle()
    orders: MixingOrders = MixingOrders()
    low: FieldSettings = FieldSettings(gradient_t_per_m=0.1, drive_mt=2.0)
    high: FieldSettings = FieldSettings(gradient_t_per_m=1.0, drive_mt=20.0)
    receive: ReceiveSettings = ReceiveSettings()
    splits: dict[str, tuple[AnyDesign, ...]]

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
        for low, high in zip(self.low.gradients_t_per_m, self.high.gradients_t_per_m, strict=True):
            if low >= high:
                raise ValueError(f"low.gradient_t_per_m {low:g} must be below high.gradient_t_per_m {high:g}")
        for low_mm, high_mm in zip(self.low.reach_mm, self.high.reach_mm, strict=True):
            if not math.isclose(low_mm, high_mm, rel_tol=1e-9):
                raise ValueError(
                    "low and high: drive_mt / gradient_t_per_m must agree, so that both cover one field of view "
                    f"(low: {low_mm:g} mm, high: {high_mm:g} mm)"
                )
        return self

    def scans(self, split: str, count: int | None = None) -> tuple[Scan, ...]:
        """The scans of one split, in the order of its designs; with a `count` the first so many of `spread`.

        Raises:
            SettingsError: no such split, or it has fewer scans than `count`.
        """
        if split not in self.splits:
            raise SettingsError(f"dataset {self.name!r}: no split {split!r}; it has {', '.join(self.splits)}")
        scans = tuple(scan for design in self.splits[split] for scan in design.scans())
        if count is None:
            return scans
        if count > len(scans):
            raise SettingsError(
                f"training.scans = {count}: must be at most {len(scans)}, the scans of split {split!r} of dataset "
                f"{self.name!r}"
            )
        chosen = {scan.id for scan in self.spread(split)[:count]}
        return tuple(scan for scan in scans if scan.id in chosen)

    def spread(self, split: str) -> tuple[Scan, ...]:
        """The scans of one split in an order of which every beginning is spread over its designs, each by its share."""
        ranked = [
            ((number + 0.5) / len(scans), which, scan)
            for which, scans in enumerate(design.spread() for design in self.splits[split])
            for number, scan in enumerate(scans)
        ]
        return tuple(scan for _, _, scan in sorted(ranked, key=lambda each: each[:2]))

    def field(self, which: FieldName) -> FieldSettings:
        return self.low if which == "low" else self.high

    def particle_of(self, scan: Scan) -> Particle:
        """The particle with what the scan says differently."""
        own = {name: getattr(scan, name) for name in ("shell_thickness_nm", "size_spread")}
        return self.particle.model_copy(update={name: value for name, value in own.items() if value is not None})

    def receive_of(self, scan: Scan) -> ReceiveSettings:
        """The receive chain with what the scan says differently."""
        return self.receive if scan.noise_nv is None else self.receive.model_copy(update={"noise_nv": scan.noise_nv})

    def physics_hash(self) -> str:
        """Hash of all that changes the numbers of a simulated file, the scan itself excepted."""
        values = self.model_dump(mode="json", exclude={"name", "splits"})
        return content_hash(values)


def preset_names() -> tuple[str, ...]:
    """The names of all presets; `sobol-N` stands for any number N of training scans."""
    return tuple(sorted("sobol-N" if path.stem == "sobol" else path.stem for path in PRESETS.glob("*.yaml")))


def preset(name: str) -> DatasetSettings:
    """A dataset that ships with the package, such as `paper-54` or `sobol-256`.

    Raises:
        SettingsError: no such preset.
    """
    sobol = re.fullmatch(r"sobol-([1-9]\d{0,5})", name)
    if sobol:
        return _sobol(name, int(sobol[1]))
    if name not in preset_names() or name == "sobol-N":
        raise SettingsError(f"preset {name!r}: does not exist; there are {', '.join(preset_names())}")
    return load_settings(PRESETS / f"{name}.yaml", DatasetSettings)


def _sobol(name: str, count: int) -> DatasetSettings:
    if count > MAX_SCANS:
        raise SettingsError(f"preset {name!r}: at most {MAX_SCANS} scans")
    settings = load_settings(PRESETS / "sobol.yaml", DatasetSettings)
    train = tuple(design.model_copy(update={"count": count}) for design in settings.splits["train"])
    return settings.model_copy(update={"name": name, "splits": {**settings.splits, "train": train}})
