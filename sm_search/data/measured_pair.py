"""Two measured files that are read as the low and the high gradient of one scan: what was done, what does not fit."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sm_search.config.errors import DataError
from sm_search.config.simulation_settings import AGREEMENT, agree
from sm_search.data.hdf5 import Hdf5File
from sm_search.data.mdf_parts import flag
from sm_search.data.mdf_provenance import Provenance, different_induction, read_provenance
from sm_search.data.mdf_reading import read_mdf
from sm_search.physics.background import Subtraction
from sm_search.physics.scanner_axes import along_scanner, scanner_order
from sm_search.physics.system_matrix import SystemMatrix


@dataclass
class Imported:
    """One file: what was done to it, or why it was refused.

    Attributes:
        matrix: as read, but for its values, which are 0 and take no memory; None if it was refused.
        plane: which plane of the file it is, of a volume; else 0.
    """

    path: Path
    matrix: SystemMatrix | None = None
    provenance: Provenance | None = None
    done: list[str] = field(default_factory=list)
    refused: str = ""
    plane: int = 0


@dataclass
class MeasuredPair:
    """Two files of one scan, or a plane of both; `refused` says why they are none.

    Attributes:
        source: the name of the files, which the planes of a volume share.
    """

    name: str
    low: Imported
    high: Imported
    refused: str = ""
    source: str = ""

    @property
    def reasons(self) -> list[str]:
        return [reason for reason in (self.low.refused, self.high.refused, self.refused) if reason]


def read_pairs(name: str, low: Path, high: Path, background: Subtraction) -> list[MeasuredPair]:
    """Both files as they are read, or why they are no pair; of two volumes a pair for each plane."""
    pair = _checked(MeasuredPair(name, _read(low, background), _read(high, background), source=name))
    if pair.reasons or pair.low.matrix is None or len(pair.low.matrix.heights_m) == 1:
        return [pair]
    return [
        dataclasses.replace(
            pair, name=f"{name[:48]}-z{1e3 * height_m:.4g}mm", low=_plane(pair.low, at), high=_plane(pair.high, at)
        )
        for at, height_m in enumerate(pair.low.matrix.heights_m)
    ]


def _plane(file: Imported, at: int) -> Imported:
    assert file.matrix is not None
    matrix = file.matrix.planes()[at]
    done = [*file.done, f"plane {at + 1} of {len(file.matrix.heights_m)}, z = {1e3 * matrix.heights_m[0]:.4g} mm"]
    return dataclasses.replace(file, matrix=matrix, plane=at, done=done)


def _checked(pair: MeasuredPair) -> MeasuredPair:
    """The pair, refused where its files do not belong together; exchanged where the first has the higher gradient."""
    low, high = pair.low.matrix, pair.high.matrix
    if low is None or high is None:
        return pair
    if low.field.gradients_t_per_m > high.field.gradients_t_per_m:
        pair = dataclasses.replace(pair, low=pair.high, high=pair.low)
        pair.low.done.append("given as high, has the lower gradient")
        low, high = high, low
    problems = []
    if low.axes != high.axes:
        problems.append(f"faster drive {low.axes[0]} and {high.axes[0]}")
    if not low.grid.agrees(high.grid):
        grids = [along_scanner(sm.axes, sm.grid) for sm in (low, high)]
        problems.append(f"grids {' and '.join(f'{grid.size} over {grid.fov_mm} mm' for grid in grids)}")
    if not _same_planes(low, high):
        problems.append(f"planes {_planes(low)} and {_planes(high)}")
    if not agree((low.fx_hz, low.nd), (high.fx_hz, high.nd)) or low.nd != high.nd:
        problems.append(f"f_{low.axes[0]}, N_d {low.fx_hz:g} Hz, {low.nd} and {high.fx_hz:g} Hz, {high.nd}")
    if not agree(low.field.reach_mm, high.field.reach_mm) or agree(
        low.field.gradients_t_per_m, high.field.gradients_t_per_m
    ):
        fields = [along_scanner(sm.axes, sm.field) for sm in (low, high)]
        problems.append(
            f"gradients {fields[0].gradients_t_per_m} and {fields[1].gradients_t_per_m} T/m with drives "
            f"{fields[0].drives_t} and {fields[1].drives_t} T: must differ, by one factor"
        )
    for what, values in (
        ("unit", (low.unit, high.unit)),
        ("receive channels", (len(low.values_CKN), len(high.values_CKN))),
        ("transfer function divided out", tuple("isTransferFunctionCorrected" in sm.corrections for sm in (low, high))),
    ):
        if values[0] != values[1]:
            problems.append(f"{what}: {values[0]} and {values[1]}")
    first, second = pair.low.provenance, pair.high.provenance
    if first and second and (factors := different_induction(first, second)):
        problems.append(f"induction factor: {factors}")
    if low.unit not in ("V", "A/m"):
        problems.append(f"unit {low.unit!r}: must be V or A/m")
    pair.refused = f"low and high differ: {'; '.join(problems)}" if problems else ""
    return pair


def _same_planes(low: SystemMatrix, high: SystemMatrix) -> bool:
    """Heights and field-free point, to `AGREEMENT` of the field of view."""
    slack_m = AGREEMENT * max(low.grid.fov_m)
    if len(low.heights_m) != len(high.heights_m):
        return False
    pairs = zip((*low.heights_m, *low.origin_m), (*high.heights_m, *high.origin_m), strict=True)
    return all(abs(first - second) <= slack_m for first, second in pairs)


def _planes(sm: SystemMatrix) -> str:
    lowest, highest = 1e3 * sm.heights_m[0], 1e3 * sm.heights_m[-1]
    x, y, z = (1e3 * value for value in scanner_order(sm.axes, sm.origin_m))
    return f"{len(sm.heights_m)} from z = {lowest:.4g} to {highest:.4g} mm around ({x:.4g}, {y:.4g}, {z:.4g}) mm"


def unlike(pair: MeasuredPair, first: MeasuredPair) -> str:
    """What a pair has otherwise than the first, whose dataset it is to join; "" for nothing."""
    problems = []
    for role, mine, other in (
        ("low", pair.low.matrix, first.low.matrix),
        ("high", pair.high.matrix, first.high.matrix),
    ):
        assert mine is not None
        assert other is not None
        if not mine.field.agrees(other.field):
            problems.append(f"{role}: field {mine.field} and {other.field}")
        if not mine.grid.agrees(other.grid):
            problems.append(f"{role}: grid {mine.grid} and {other.grid}")
        if (mine.unit, len(mine.values_CKN)) != (other.unit, len(other.values_CKN)):
            problems.append(
                f"{role}: unit and channels {mine.unit}, {len(mine.values_CKN)} and {other.unit}, "
                f"{len(other.values_CKN)}"
            )
    return f"differs from pair {first.name}: {'; '.join(problems)}" if problems else ""


def _read(path: Path, background: Subtraction) -> Imported:
    found = Imported(path)
    try:
        sm, found.provenance = read_mdf(path, background=background), read_provenance(path)
        found.done = _done(path, sm, found.provenance, background)
        nothing = np.broadcast_to(np.complex128(0), sm.values_CKN.shape)
        found.matrix = dataclasses.replace(sm, values_CKN=nothing, background_CKE=None)
    except DataError as error:
        found.matrix, found.refused = None, str(error).removeprefix(f"{path}: ")
    return found


def _done(path: Path, sm: SystemMatrix, provenance: Provenance, background: Subtraction) -> list[str]:
    """What the reading did to a file, in words."""
    with Hdf5File(path) as file:
        present = {name for name in ("positions", "isMeanderingGrid", "snr") if file.find(f"/calibration/{name}")}
        receiver = "/acquisition/receiver"
        converted = file.find(f"{receiver}/dataConversionFactor") is not None
        transfer = any(file.find(f"{receiver}/{n}") is not None for n in ("transferFunction", "transferfunction"))
        flags = {n: flag(file, f"is{n}Corrected", default=False) for n in ("Background", "TransferFunction")}
        spectra, permuted = flag(file, "isFourierTransformed"), flag(file, "isFramePermutation", default=False)
    gradient = " × ".join(f"{value:g}" for value in dict.fromkeys(along_scanner(sm.axes, sm.field).gradients_t_per_m))
    drive = f"f_{sm.axes[0]} {sm.fx_hz / 1e3:g} kHz"
    done = [f"{gradient} T/m, {drive}, N_d {sm.nd}, {len(sm.values_CKN)} receive channels"]
    if sm.axes == "yxz":
        done.append("faster drive along y, x for a model")
    if not spectra:
        done.append("time signals Fourier transformed")
    if converted:
        done.append("receiver's numbers converted")
    if flags["TransferFunction"] or transfer:
        done.append(
            "transfer function was divided out" if flags["TransferFunction"] else "transfer function divided out"
        )
    frames = 0 if sm.background_CKE is None else sm.background_CKE.shape[-1]
    if flags["Background"]:
        done.append("background was subtracted")
    elif frames:
        done.append(f"background subtracted, {background} of {frames} frames")
    else:
        done.append("no background to subtract")
    if "positions" in present:
        done.append("voxels in the order of the positions")
    elif "isMeanderingGrid" in present and not permuted:
        done.append("meandering grid permuted back")
    snr = "stored" if "snr" in present else "of the background frames" if sm.snr_CK is not None else "none"
    done.append(f"SNR {snr}, {provenance.averages} averages")
    return done
