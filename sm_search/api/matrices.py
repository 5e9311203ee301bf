"""System matrices and datasets: simulated, opened, checked."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sm_search.api.defaults import Announce, Progress, silent
from sm_search.config.errors import DataError

if TYPE_CHECKING:
    from sm_search.config.dataset_settings import DatasetSettings
    from sm_search.config.simulation_settings import FieldName, Scan
    from sm_search.data.dataset import Dataset
    from sm_search.data.mdf_validation import Fault
    from sm_search.physics.system_matrix import SystemMatrix


def dataset_settings(source: str | Path | Mapping[str, Any], **changes: Any) -> "DatasetSettings":
    """What to simulate: the name of a preset, a YAML file, or what such a file says as a mapping.

    Args:
        changes: top-level settings that replace those of the source, as a YAML file would say them.

    Raises:
        SettingsError: no such preset or file, or a setting breaks a rule.
    """
    from sm_search.config.dataset_settings import DatasetSettings, preset
    from sm_search.config.loading import load_settings, parse_settings
    from sm_search.data.transfer_file import with_tables_read

    beside = Path()
    if isinstance(source, Mapping):
        settings = parse_settings({**source, **changes}, DatasetSettings, "dataset settings")
    else:
        is_file = isinstance(source, Path) or source.endswith((".yaml", ".yml"))
        settings = load_settings(source, DatasetSettings) if is_file else preset(str(source))
        if changes:
            settings = parse_settings({**settings.model_dump(mode="json"), **changes}, DatasetSettings, str(source))
        beside = Path(source).parent
    settings.require_used()
    return with_tables_read(settings, beside)


def simulate(settings: "DatasetSettings", scan: "Scan", which: "FieldName" = "high") -> "SystemMatrix":
    """One system matrix as a dataset holds it, noise and all: `values_CKN` is complex128, receive channels ×
    components × voxels, in A/m or V.

    Args:
        scan: core diameter, f_x and N_d, such as one of `settings.scans("test")`.
        which: the `low` or the `high` gradient.
    """
    from sm_search.physics.receive import received
    from sm_search.physics.system_matrix import simulate

    return received(settings, scan, which, simulate(settings, scan, which))[0]


def simulate_dataset(
    settings: "DatasetSettings",
    out: str | Path,
    *,
    ray_address: str | None = None,
    labels: Mapping[str, str] | None = None,
    announce: Announce = silent,
    progress: Progress | None = None,
) -> "Dataset":
    """Simulate a dataset in parallel on Ray; what is there already is kept, and an interrupted call resumes.

    Args:
        out: folder or s3:// URI.
        ray_address: a cluster; by default this machine.
        labels: only nodes of the cluster with these Ray labels simulate.
    """
    from sm_search.compute.nodes import has_label
    from sm_search.compute.parallel_simulation import simulate_dataset
    from sm_search.compute.session import ray_session, require_cluster
    from sm_search.data.dataset import Dataset

    # What cannot be used is told before Ray is started, which takes a while.
    if ray_address:
        require_cluster(ray_address)
    Dataset.create(out, settings)
    with ray_session(ray_address):
        for label, value in (labels or {}).items():
            if not has_label(label, value):
                announce(f"no node that is up has {label}={value}: waiting for one; nodes without labels need no --on")
        return simulate_dataset(out, settings, progress, labels)


def import_measured(
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    name: str = "measured",
    orders: tuple[int, int] | None = None,
    background: Literal["mean", "interpolated"] = "mean",
    validation: Sequence[str] = (),
    test: Sequence[str] = (),
) -> "Dataset":
    """Measured calibration files as a dataset for `train`, `sweep` and `evaluate`; the files themselves stay as they
    are.

    Args:
        sources: LOW HIGH LOW HIGH … files, lists of pairs (.txt, .csv), or folders of pairs.
        out: folder of the dataset; its `import.md` tells what was done to each file.
        orders: largest mixing orders; by default as many as all files have.
        background: subtract the `mean` of the background frames, or what lies `interpolated` between them.
        validation, test: names of pairs; by default the last but one, and the last.

    Raises:
        DataError: a file or a pair is refused; the message names all, with the reasons.
    """
    from sm_search.data import measured_import

    plan = measured_import.plan_import(
        sources, name=name, orders=orders, background=background, validation=validation, test=test
    )
    if plan.refused:
        raise DataError("; ".join(f"{pair.name}: {reason}" for pair in plan.refused for reason in pair.reasons))
    return measured_import.import_measured(plan, out)


def open_dataset(location: str | Path) -> "Dataset":
    """A simulated or imported dataset: `pairs(split)` gives its scans with their low- and high-gradient matrices.

    Args:
        location: folder or s3:// URI.
    """
    from sm_search.data.dataset import Dataset

    return Dataset.open(location)


def read_mdf(file: str | Path) -> "SystemMatrix":
    """The system matrix of an MDF calibration file; its values are a memory map where nothing had to be done to them.

    The faster drive is along x: where the scanner has it along y, x and y are exchanged, and `axes` is "yxz".
    """
    from sm_search.data.mdf_reading import read_mdf

    return read_mdf(file)


def validate(file: str | Path) -> "list[Fault]":
    """Where an MDF file breaks the standard, errors and warnings, and which of its fields are set to what is not served
    here; empty for neither."""
    from sm_search.data.mdf_served import unserved
    from sm_search.data.mdf_validation import validate_mdf

    if not Path(file).is_file():
        raise DataError(f"{file}: does not exist or is not a file")
    faults = validate_mdf(file)
    wrong = {fault.field for fault in faults if fault.severity == "error"}
    return faults + [fault for fault in unserved(file) if fault.field not in wrong]
