"""The scans of a dataset, their splits, and the presets that ship with the package."""

import difflib
import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from sm_search.config.base import Settings, content_hash
from sm_search.config.errors import SettingsError
from sm_search.config.loading import load_settings
from sm_search.config.receive_settings import ReceiveSettings
from sm_search.config.scanner_settings import ScannerSettings, ScannerSpread
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
    PlaneHeight,
    Positive,
    Scan,
    SizeSpread,
    TrajectoryNumber,
    agree,
)
from sm_search.config.streams import stream

PRESETS = Path(__file__).parent / "presets"
MAX_SCANS = 100_000
DIGITS = 4
"""Significant digits of a quasi-random value: they are the scan's name."""
GOLDEN = (math.sqrt(5) - 1) / 2
FITTED_ANISOTROPY = 1.0
"""K in kJ/m³ of the presets `…-anisotropic`: fits to measurements gave 0.5 to 5. With that of `neel-brown`, magnetite's
11, no core of theirs would be in equilibrium within a drive period."""


class Design(Settings):
    """All combinations of the listed values."""

    added: ClassVar[frozenset[str]] = frozenset({"height_mm"})

    design: Literal["grid"] = "grid"
    core_diameter_nm: Annotated[tuple[CoreDiameter, ...], Field(min_length=1)]
    fx_khz: Annotated[tuple[DriveFrequency, ...], Field(min_length=1)]
    nd: Annotated[tuple[TrajectoryNumber, ...], Field(min_length=1)]
    height_mm: Annotated[tuple[PlaneHeight, ...], Field(min_length=1)] = (0.0,)

    @model_validator(mode="after")
    def _bounded(self) -> "Design":
        count = len(self.core_diameter_nm) * len(self.fx_khz) * len(self.nd) * len(self.height_mm)
        if count > MAX_SCANS:
            raise ValueError(f"{count} combinations; a design may have {MAX_SCANS}")
        return self

    def scans(self) -> tuple[Scan, ...]:
        combinations = itertools.product(self.core_diameter_nm, self.fx_khz, self.nd, self.height_mm)
        return tuple(Scan(core_diameter_nm=d, fx_khz=f, nd=n, height_mm=z) for d, f, n, z in combinations)

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
        return _logarithmic(limits, u) if name in _LOGARITHMIC else float(f"{low + (high - low) * u:.{DIGITS}g}")


class ScannersDesign(Settings):
    """Scans that each have a scanner of their own, and a particle and a trajectory drawn for it.

    Scanner number n of the dataset's `scanners`, its particle and its trajectory depend on n alone: a larger design
    contains the smaller, and two designs with the same numbers have the same scanners and, unless `draw` differs, scans
    that agree in all that the design does not set otherwise.

    Attributes:
        first, count: numbers of the scanners.
        draw: number of the particle and trajectory that are drawn for a scanner.
        seed: of these draws.
        core_diameter_nm, fx_khz: ranges; values are spread evenly in their logarithm.
        nd: the trajectories to choose from.
        deviation, magnetisation, noise_db, size_spread, height_mm: of each scan (`Scan`).
    """

    added: ClassVar[frozenset[str]] = frozenset({"height_mm"})

    design: Literal["scanners"]
    first: Annotated[int, Field(ge=0, le=900_000)] = 0
    count: Annotated[int, Field(ge=1, le=MAX_SCANS)]
    draw: Annotated[int, Field(ge=0)] = 0
    seed: Annotated[int, Field(ge=0)] = 0
    core_diameter_nm: tuple[CoreDiameter, CoreDiameter]
    fx_khz: tuple[DriveFrequency, DriveFrequency]
    nd: Annotated[tuple[TrajectoryNumber, ...], Field(min_length=1)]
    deviation: Annotated[float, Field(gt=0, le=10)] = 1.0
    magnetisation: Magnetisation | None = None
    noise_db: Annotated[float, Field(ge=0, le=200)] | None = None
    size_spread: SizeSpread | None = None
    height_mm: PlaneHeight = 0.0

    @model_validator(mode="after")
    def _ordered(self) -> "ScannersDesign":
        for name in ("core_diameter_nm", "fx_khz"):
            limits = getattr(self, name)
            if limits[0] > limits[1]:
                raise ValueError(f"{name}: the range {list(limits)} must go upwards")
        return self

    def scans(self) -> tuple[Scan, ...]:
        return tuple(self._scan(number) for number in range(self.first, self.first + self.count))

    def spread(self) -> tuple[Scan, ...]:
        """As `scans`: every draw is independent of the others."""
        return self.scans()

    def _scan(self, number: int) -> Scan:
        u_diameter, u_frequency, u_nd = stream(self.seed, "scan", number, self.draw).random(3).tolist()
        return Scan(
            core_diameter_nm=_logarithmic(self.core_diameter_nm, u_diameter),
            fx_khz=_logarithmic(self.fx_khz, u_frequency),
            nd=self.nd[int(u_nd * len(self.nd))],
            size_spread=self.size_spread,
            magnetisation=self.magnetisation,
            scanner=number,
            deviation=self.deviation,
            noise_db=self.noise_db,
            height_mm=self.height_mm,
        )


class MeasuredDesign(Settings):
    """Scans that were measured, each with its name; `import` writes them."""

    design: Literal["measured"]
    measured: Annotated[tuple[Scan, ...], Field(min_length=1, max_length=MAX_SCANS)]

    @model_validator(mode="after")
    def _named(self) -> "MeasuredDesign":
        if any(scan.measured is None for scan in self.measured):
            raise ValueError("measured: every scan needs the name `measured`")
        return self

    def scans(self) -> tuple[Scan, ...]:
        return self.measured

    def spread(self) -> tuple[Scan, ...]:
        """As `scans`: nothing is known of how they are spread."""
        return self.measured


def _logarithmic(limits: tuple[float, float], u: float) -> float:
    low, high = limits
    return float(f"{low * (high / low) ** u:.{DIGITS}g}")


_DIMENSIONS = ("core_diameter_nm", "fx_khz", "nd", "shell_thickness_nm", "size_spread", "noise_nv")
_LOGARITHMIC = ("core_diameter_nm", "fx_khz", "noise_nv")


def _kind(value: Any) -> str:
    kind = value.get("design", "grid") if isinstance(value, dict) else getattr(value, "design", "grid")
    return kind if isinstance(kind, str) else "grid"


AnyDesign = Annotated[
    Annotated[Design, Tag("grid")]
    | Annotated[SobolDesign, Tag("sobol")]
    | Annotated[ScannersDesign, Tag("scanners")]
    | Annotated[MeasuredDesign, Tag("measured")],
    Discriminator(
        _kind, custom_error_type="design", custom_error_message="design must be grid, sobol, scanners or measured"
    ),
]


class DatasetSettings(Settings):
    """A dataset: common physics, the low and the high field, and the scans of each split.

    Attributes:
        voxel: `point` is the response at the voxel's centre, `mean` the average over the voxel.
        scanner: how the scanner deviates from the ideal one.
        scanners: by how much the numbered scanners of a design `scanners` deviate from `scanner`.
        splits: split name to designs. `train`, `validation` and `test` are required; any other name is a further
            test split. No scan may be in two splits.
    """

    added: ClassVar[frozenset[str]] = frozenset({"scanner", "scanners"})

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    magnetisation: Magnetisation = "effective-field"
    voxel: Literal["point", "mean"] = "point"
    grid: Grid = Grid()
    particle: Particle = Particle()
    orders: MixingOrders = MixingOrders()
    low: FieldSettings = FieldSettings(gradient_t_per_m=0.1, drive_mt=2.0)
    high: FieldSettings = FieldSettings(gradient_t_per_m=1.0, drive_mt=20.0)
    receive: ReceiveSettings = ReceiveSettings()
    scanner: ScannerSettings = ScannerSettings()
    scanners: ScannerSpread | None = None
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
                if scan.scanner is not None and self.scanners is None:
                    raise ValueError(f"splits: scan {scan.id} has scanner {scan.scanner}, and scanners is not set")
                if scan.nd < max(self.orders.max_x, self.orders.max_y) * 2:
                    raise ValueError(
                        f"splits: scan {scan.id}: nd must be at least twice the largest mixing order "
                        f"({max(self.orders.max_x, self.orders.max_y)}), or components share a frequency"
                    )
        if self.scanners is not None:
            self.scanner.plus(ScannerSettings(reference_radius_mm=self.scanners.reference_radius_mm))
        for low, high in zip(self.low.gradients_t_per_m, self.high.gradients_t_per_m, strict=True):
            if low >= high:
                raise ValueError(f"low.gradient_t_per_m {low:g} must be below high.gradient_t_per_m {high:g}")
        for low_mm, high_mm in zip(self.low.reach_mm, self.high.reach_mm, strict=True):
            if not agree((low_mm,), (high_mm,)):
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

    def require_used(self) -> None:
        """Refuse a spread of scanners that no scan has, and one that draws what no scanner can be.

        Raises:
            SettingsError: one line that says which.
        """
        scans = [scan for split in self.splits for scan in self.scans(split) if scan.scanner is not None]
        if self.scanners is not None and not scans:
            raise SettingsError(f"dataset {self.name!r}: scanners: no split has scans of the design `scanners`")
        for scan in scans:
            self.scanner_of(scan)

    def field(self, which: FieldName) -> FieldSettings:
        return self.low if which == "low" else self.high

    def particle_of(self, scan: Scan) -> Particle:
        """The particle with what the scan says differently."""
        own = {name: getattr(scan, name) for name in ("shell_thickness_nm", "size_spread")}
        return self.particle.model_copy(update={name: value for name, value in own.items() if value is not None})

    @property
    def channels(self) -> tuple[int, ...]:
        """The receive channels that a model of the x-channel serves: y too, where it is x with exchanged axes.

        It is not on a grid or with fields that differ between the axes, and not where all scans share one imperfect
        scanner. Scanners that each scan draws anew are as likely as their mirror images: they may be exchanged. That
        the exchanged scan has f_y above f_x the condition tells (docs/simulator.md, "Both channels").
        """
        size, fov_mm = self.grid.size, self.grid.fov_mm
        square = size[0] == size[1] and fov_mm[0] == fov_mm[1] and self.orders.max_x == self.orders.max_y
        pairs = [each for field in (self.low, self.high) for each in (field.gradients_t_per_m, field.drives_t)]
        return (0, 1) if square and self.scanner.ideal and all(x == y for x, y in pairs) else (0,)

    @property
    def channel_note(self) -> str | None:
        """What to say at once where the y-channel is not served."""
        if self.channels == (0, 1):
            return None
        return (
            f"dataset {self.name!r}: its y-channel is no x-channel with exchanged axes: only the x-channel is learnt, "
            "synthesised and rated"
        )

    def require_channels(self, asked: Sequence[int]) -> None:
        """Refuse training on a channel that a model of the x-channel cannot serve.

        Raises:
            SettingsError: one line that says why.
        """
        if not set(asked) <= set(self.channels):
            raise SettingsError(f"training.receive_channels = {list(asked)}: {self.channel_note}")

    def require_mirrors(self, augmentation: str) -> None:
        """Refuse mirrored pairs where a mirror image is of another scanner than all scans have.

        Raises:
            SettingsError: one line that says why.
        """
        if augmentation == "parity" and not self.scanner.ideal:
            raise SettingsError(
                f"training.augmentation = parity: dataset {self.name!r}: all scans share one imperfect scanner, and a "
                "mirrored pair would be of another"
            )

    def magnetisation_of(self, scan: Scan) -> Magnetisation:
        """The model of the magnetisation: the scan's own, or the dataset's."""
        return scan.magnetisation or self.magnetisation

    def scanner_of(self, scan: Scan) -> ScannerSettings:
        """The dataset's scanner, with what the scan's own numbered one deviates from it.

        Raises:
            SettingsError: it was drawn beyond what a scanner can be; one line that says where and how.
        """
        if scan.scanner is None or self.scanners is None:
            return self.scanner
        try:
            return self.scanner.plus(self.scanners.scanner(scan.scanner, scan.deviation))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name, rule = first["loc"][0], first["msg"].replace("Input should be", "must be")
            drawn = f"{first['input']:.3g} was drawn for scanner {scan.scanner} with deviation {scan.deviation:g}"
            where = f"dataset {self.name!r}: scan {scan.id}: scanners.{name}"
            raise SettingsError(f"{where}: {drawn}: {rule}") from None

    def receive_of(self, scan: Scan) -> ReceiveSettings:
        """The receive chain with what the scan says differently."""
        return self.receive if scan.noise_nv is None else self.receive.model_copy(update={"noise_nv": scan.noise_nv})

    def physics_hash(self) -> str:
        """Hash of all that changes the numbers of a simulated file, the scan itself excepted."""
        values = self.model_dump(mode="json", exclude={"name", "splits"})
        return content_hash(values)


_OF_ANY_SIZE = ("scanner", "sobol")


def preset_names() -> tuple[str, ...]:
    """The names of all presets; `sobol-N` and `scanner-N` stand for any number N of training scans."""
    stems = (path.stem for path in PRESETS.glob("*.yaml"))
    return tuple(sorted(f"{stem}-N" if stem in _OF_ANY_SIZE else stem for stem in stems))


def preset(name: str) -> DatasetSettings:
    """A dataset that ships with the package, such as `paper-54` or `sobol-256`; with the name of a model of the
    magnetisation behind it (`paper-54-brownian`), the same with that model.

    Raises:
        SettingsError: no such preset.
    """
    for model in get_args(Magnetisation):
        if name.endswith(f"-{model}"):
            return _exchanged(_shipped(name.removesuffix(f"-{model}")), name, model)
    return _shipped(name)


def _exchanged(settings: DatasetSettings, name: str, model: Magnetisation) -> DatasetSettings:
    """The dataset with another model; scans that had this one for a change have the dataset's then."""
    own = settings.magnetisation
    splits = {
        split: tuple(
            design.model_copy(update={"magnetisation": own})
            if isinstance(design, ScannersDesign) and design.magnetisation == model
            else design
            for design in designs
        )
        for split, designs in settings.splits.items()
    }
    changed: dict[str, Any] = {"name": name, "magnetisation": model, "splits": splits}
    if model == "anisotropic":
        changed["particle"] = settings.particle.model_copy(update={"anisotropy_kj_per_m3": FITTED_ANISOTROPY})
    return settings.model_copy(update=changed)


def _shipped(name: str) -> DatasetSettings:
    """The preset as it is in its file."""
    sized = re.fullmatch(rf"({'|'.join(_OF_ANY_SIZE)})-([1-9]\d{{0,5}})", name)
    if sized:
        return _of_size(name, sized[1], int(sized[2]))
    if name not in preset_names() or name.endswith("-N"):
        models = [f"-{model}" for model in get_args(Magnetisation)]
        number = re.search(r"-[1-9]\d*", name)
        stems = [stem.replace("-N", number[0] if number else "-N") for stem in preset_names()]
        known = [f"{stem}{model}" for stem in stems for model in ("", *models)]
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
        meant = f"did you mean {nearest[0]!r}? " if nearest else ""
        raise SettingsError(
            f"preset {name!r}: does not exist; {meant}there are {', '.join(preset_names())}, each also with a model "
            f"behind its name: {', '.join(models)}"
        )
    return load_settings(PRESETS / f"{name}.yaml", DatasetSettings)


def _of_size(name: str, stem: str, count: int) -> DatasetSettings:
    """The preset file `stem` with so many training scans."""
    if count > MAX_SCANS:
        raise SettingsError(f"preset {name!r}: at most {MAX_SCANS} scans")
    settings = load_settings(PRESETS / f"{stem}.yaml", DatasetSettings)
    train = tuple(design.model_copy(update={"count": count}) for design in settings.splits["train"])
    return settings.model_copy(update={"name": name, "splits": {**settings.splits, "train": train}})
