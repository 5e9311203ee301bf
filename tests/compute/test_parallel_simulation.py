"""A dataset simulated on a real Ray session, and repaired there."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sm_search.compute.parallel_simulation import simulate_dataset, turn
from sm_search.compute.session import ray_session, require_cluster
from sm_search.config.dataset_settings import DatasetSettings, preset
from sm_search.config.errors import DataError, InputError
from sm_search.data.atomic import sha256
from sm_search.data.dataset import FIELDS, Dataset

pytestmark = pytest.mark.usefixtures("two_cpus")


@pytest.fixture(scope="module")
def simulated(two_cpus: None, tiny_settings: DatasetSettings, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return simulate_dataset(tmp_path_factory.mktemp("simulated") / "data", tiny_settings)


def test_every_file_is_there_and_as_without_ray(simulated: Dataset, tiny_dataset: Dataset) -> None:
    names = [name for _, name in simulated.expected()]
    assert sorted(simulated.manifest.files) == sorted(names)
    for name in names:
        assert sha256(simulated.folder / name) == simulated.manifest.files[name]
    assert [path for path in simulated.folder.rglob(".*") if path.is_file()] == []
    for split in simulated.settings.splits:
        for scan in simulated.settings.scans(split):
            for which in FIELDS:
                here, there = simulated.read(scan, which), tiny_dataset.read(scan, which)
                np.testing.assert_array_equal(here.values_CKN, there.values_CKN)


def test_what_a_sweep_waits_for_comes_first(tmp_path: Path) -> None:
    settings = preset("paper-54")
    files = sorted(Dataset.create(tmp_path / "data", settings).unfinished(), key=turn(settings))
    validation, training = settings.scans("validation"), settings.spread("train")
    assert [which for _, which in files[:6]] == ["high"] * 3 + ["low"] * 3
    assert {scan for scan, _ in files[:6]} == set(validation)
    assert files[6 : 6 + 2 * 54] == [(scan, which) for scan in training for which in ("high", "low")]
    rest = [(which != "high", -scan.core_diameter_nm) for scan, which in files[6 + 2 * 54 :]]
    assert rest == sorted(rest)
    assert len(files) == len(set(files)) == 124


def test_what_is_missing_or_damaged_is_made_again_to_the_same_bytes(simulated: Dataset) -> None:
    hashes = dict(simulated.manifest.files)
    scans = [scan for scan, _ in simulated.expected()][::2]
    deleted, damaged = f"{scans[0].id}/low.mdf", f"{scans[1].id}/high.mdf"
    (simulated.folder / deleted).unlink()
    with (simulated.folder / damaged).open("r+b") as file:
        file.seek(-8, 2)
        file.write(b"\xff" * 8)
    untouched = {name: (simulated.folder / name).stat().st_mtime_ns for name in hashes if scans[2].id in name}

    told: list[tuple[int, int, str]] = []
    repaired = simulate_dataset(simulated.folder, simulated.settings, lambda *record: told.append(record))
    assert repaired.manifest.files == hashes
    assert sha256(simulated.folder / deleted) == hashes[deleted]
    assert sha256(simulated.folder / damaged) == hashes[damaged]
    assert {deleted, damaged} <= {name for _, _, name in told}
    assert [done for done, _, _ in told] == list(range(1, told[0][1] + 1))
    assert {name: (simulated.folder / name).stat().st_mtime_ns for name in untouched} == untouched

    told.clear()
    simulate_dataset(simulated.folder, simulated.settings, lambda *record: told.append(record))
    assert told == []


def test_another_dataset_does_not_go_into_the_same_folder(simulated: Dataset) -> None:
    other = simulated.settings.model_copy(update={"name": "other"})
    with pytest.raises(DataError, match="other settings"):
        simulate_dataset(simulated.folder, other)


def test_what_a_task_cannot_write_is_the_users_error(
    two_cpus: None, tiny_settings: DatasetSettings, tmp_path: Path
) -> None:
    dataset = Dataset.create(tmp_path / "data", tiny_settings)
    scan = dataset.expected()[0][0]
    (dataset.folder / scan.id).write_text("a file where a folder has to be")
    with pytest.raises(DataError, match=scan.id):
        simulate_dataset(dataset.folder, tiny_settings)


def test_where_home_cannot_be_written_the_session_brings_a_token(tmp_path: Path) -> None:
    home = tmp_path / "none"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    code = "from sm_search.compute.session import ray_session\nwith ray_session(cpus=1): print('open')"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env={**environment, "HOME": str(home)}, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "open\n"), done.stderr
    assert not home.exists()


def test_an_open_session_is_used_and_left_open(simulated: Dataset) -> None:
    import ray

    with ray_session():
        pass
    assert ray.is_initialized()


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:none", "127.0.0.1:99999", "127.0.0.1:1"])
def test_an_address_without_a_cluster_is_refused_at_once(address: str) -> None:
    with pytest.raises(InputError, match=f"--ray-address {address}: "):
        require_cluster(address)
