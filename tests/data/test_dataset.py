"""A dataset folder: made, interrupted, resumed, damaged."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sm_search.config.base import content_hash
from sm_search.config.dataset_settings import DatasetSettings
from sm_search.config.errors import DataError, SettingsError
from sm_search.config.receive_settings import ReceiveSettings
from sm_search.config.simulation_settings import FieldName
from sm_search.data.dataset import FIELDS, MANIFEST, Dataset, FileHashes, file_name, write_scan
from sm_search.data.mdf import read_field, read_mdf
from sm_search.data.mdf_validation import validate_mdf
from sm_search.physics.receive import receive
from sm_search.physics.system_matrix import simulate

TIME = "2025-01-31T12:00:00.000"


@pytest.fixture
def copy(tiny_dataset: Dataset, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_dataset.folder, tmp_path / "copy"))


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    tree = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    change(tree)
    (folder / MANIFEST).write_text(json.dumps(tree), encoding="utf-8")


def test_a_finished_dataset_opens_and_holds_what_was_simulated(tiny_dataset: Dataset) -> None:
    dataset = Dataset.open(tiny_dataset.folder)
    assert dataset.settings == tiny_dataset.settings
    assert dataset.unfinished() == []
    (pair,) = dataset.pairs("test")
    for which in FIELDS:
        simulated, stored = simulate(dataset.settings, pair.scan, which), getattr(pair, which)
        assert np.array_equal(stored.values_CKN, simulated.values_CKN)
        assert dataclasses.replace(stored, values_CKN=simulated.values_CKN) == simulated


def test_expected_files_are_all_scans_low_before_high(tiny_dataset: Dataset) -> None:
    names = [name for _, name in tiny_dataset.expected()]
    assert names[:2] == ["d20nm-fx10kHz-nd9/low.mdf", "d20nm-fx10kHz-nd9/high.mdf"]
    assert len(names) == len(set(names)) == 2 * 4
    assert sorted(names) == sorted(tiny_dataset.manifest.files)
    assert validate_mdf(tiny_dataset.folder / names[0]) == []


def test_a_new_dataset_is_unfinished_and_resumes_where_it_stopped(
    tiny_settings: DatasetSettings, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    folder = tmp_path / "new"
    first = Dataset.create(folder, tiny_settings)
    scans = [scan for split in tiny_settings.splits for scan in tiny_settings.scans(split)]
    files = [(scan, which) for scan in scans for which in FIELDS]
    assert first.unfinished() == files
    with pytest.raises(DataError, match=r"8 files are not simulated yet, first d20nm-fx10kHz-nd9/low\.mdf"):
        Dataset.open(folder)
    done = scans[0]
    hashes = {}
    for which in FIELDS:
        sm = tiny_dataset.read(done, which)
        hashes[file_name(done, which)] = write_scan(folder, tiny_settings, first.manifest.created, done, which, sm)
    first.record(hashes)

    resumed = Dataset.create(folder, tiny_settings)
    assert resumed.manifest == first.manifest
    assert resumed.unfinished() == files[2:]
    (folder / file_name(done, "high")).unlink()
    assert resumed.unfinished() == [(done, "high"), *files[2:]]
    with pytest.raises(DataError, match="cannot be read"):
        resumed.read(done, "high")


def test_a_rewrite_gives_the_same_bytes(tiny_dataset: Dataset, tmp_path: Path) -> None:
    scan = tiny_dataset.settings.scans("train")[0]
    sm = simulate(tiny_dataset.settings, scan, "high")
    hashes = write_scan(tmp_path, tiny_dataset.settings, tiny_dataset.manifest.created, scan, "high", sm)
    name = file_name(scan, "high")
    assert hashes.file == tiny_dataset.manifest.files[name]
    assert (tmp_path / name).read_bytes() == (tiny_dataset.folder / name).read_bytes()


NOISY = ReceiveSettings(signal="voltage", noise_nv=3.0, averages=9, background_frames=6, low_pass_khz=300.0)


def test_files_go_through_the_receive_chain(tiny_settings: DatasetSettings, tmp_path: Path) -> None:
    noisy = tiny_settings.model_copy(update={"receive": NOISY})
    scan = noisy.scans("train")[0].model_copy(update={"noise_nv": 30.0})
    sm = simulate(noisy, scan, "low")
    write_scan(tmp_path, noisy, TIME, scan, "low", sm)
    path = tmp_path / file_name(scan, "low")
    assert validate_mdf(path) == []
    wanted = receive(sm, noisy.receive_of(scan), scan.id, "low")
    found = read_mdf(path)
    assert wanted.transfer_function_CK is not None
    assert wanted.background_CKE is not None
    received, background = (
        v / wanted.transfer_function_CK[..., None] for v in (wanted.values_CKN, wanted.background_CKE)
    )
    np.testing.assert_array_equal(found.values_CKN, received - background.mean(axis=-1, keepdims=True))
    np.testing.assert_array_equal(found.snr_CK, wanted.snr_CK)
    assert found.unit == "V"
    stored = {name: read_field(path, f"/acquisition/receiver/_{name}") for name in ("noise", "noiseSeed", "lowPass")}
    assert stored == {"noise": pytest.approx(30e-9), "noiseSeed": 0, "lowPass": 300e3}
    assert read_field(path, "/acquisition/numAverages") == 9


def test_noise_is_that_of_scan_field_and_seed_in_any_order(tiny_settings: DatasetSettings, tmp_path: Path) -> None:
    noisy = tiny_settings.model_copy(update={"receive": NOISY})
    reseeded = noisy.model_copy(update={"receive": NOISY.model_copy(update={"seed": 1})})
    work = [(scan, which) for scan in noisy.scans("train") for which in FIELDS]

    def hashes(settings: DatasetSettings, order: list[Any], folder: str) -> dict[str, FileHashes]:
        (tmp_path / folder).mkdir()
        return {
            file_name(scan, which): write_scan(
                tmp_path / folder, settings, TIME, scan, which, simulate(settings, scan, which)
            )
            for scan, which in order
        }

    first, backwards, other = (
        hashes(noisy, work, "a"),
        hashes(noisy, work[::-1], "b"),
        hashes(reseeded, work, "c"),
    )
    assert first == backwards
    assert len({*first.values(), *other.values()}) == 2 * len(work)


def test_without_noise_nothing_is_said_of_the_receive_chain(tiny_dataset: Dataset) -> None:
    path = tiny_dataset.folder / tiny_dataset.expected()[0][1]
    with pytest.raises(DataError, match="_noise: is missing"):
        read_field(path, "/acquisition/receiver/_noise")
    assert read_field(path, "/acquisition/receiver/unit") == "A/m"


def test_one_flipped_bit_is_found_named_and_simulated_again(copy: Path) -> None:
    dataset = Dataset.open(copy)
    scan = dataset.settings.scans("validation")[0]
    path = copy / file_name(scan, "low")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert dataset.unfinished() == [(scan, "low")]
    for _ in range(2):  # not only at the first attempt
        with pytest.raises(DataError) as caught:
            dataset.read(scan, "low")
        assert str(caught.value) == f"{path}: its SHA-256 is not the one in manifest.json; simulate again to repair it"
    assert dataset.read(scan, "high").nd == scan.nd


def test_other_settings_in_the_folder_are_refused(copy: Path, tiny_settings: DatasetSettings) -> None:
    before = (copy / MANIFEST).read_bytes()
    other = tiny_settings.model_copy(update={"magnetisation": "equilibrium"})
    with pytest.raises(DataError, match=f"{copy}: holds dataset 'tiny' with other settings"):
        Dataset.create(copy, other)
    assert (copy / MANIFEST).read_bytes() == before


DAMAGE: list[tuple[Callable[[dict[str, Any]], None], str]] = [
    (lambda tree: tree.pop("settings_hash"), "settings_hash: Field required"),
    (lambda tree: tree.update(settings_hash="0" * 64), "settings_hash: does not match"),
    (lambda tree: tree.update(format=2), "format: Input should be less than or equal to 1"),
    (lambda tree: tree.update(extra=1), "extra: Extra inputs are not permitted"),
    (lambda tree: tree["settings"]["grid"].update(size=[12, 13]), "settings_hash: does not match"),
    (lambda tree: tree["settings"]["grid"].update(size=[0, 12]), r"settings\.grid\.size\.0: "),
    (lambda tree: tree.update(files=[]), "files: "),
    (lambda tree: tree["files"].clear(), "8 files are not simulated yet"),
]


@pytest.mark.parametrize(("change", "message"), DAMAGE)
def test_a_damaged_manifest_is_a_data_error(copy: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    edit_manifest(copy, change)
    with pytest.raises(DataError, match=message) as caught:
        Dataset.open(copy)
    assert str(caught.value).startswith(f"{copy / MANIFEST}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"[]", b"null", b'{"format": NaN}'])
def test_a_manifest_that_is_no_json_is_a_data_error(copy: Path, content: bytes) -> None:
    (copy / MANIFEST).write_bytes(content)
    for open_it in (Dataset.open, lambda folder: Dataset.create(folder, None)):  # type: ignore[arg-type]
        with pytest.raises(DataError, match=MANIFEST) as caught:
            open_it(copy)
        assert "\n" not in str(caught.value)


def test_what_does_not_exist_is_named(tiny_dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"manifest\.json: does not exist"):
        Dataset.open(tmp_path)
    with pytest.raises(SettingsError, match="no split 'tset'; it has train, validation, test"):
        tiny_dataset.pairs("tset")
    elsewhere = tiny_dataset.settings.scans("test")[0].model_copy(update={"nd": 11})
    with pytest.raises(DataError, match=r"files: does not name d25nm-fx20kHz-nd11/low\.mdf"):
        tiny_dataset.read(elsewhere, "low")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be created"):
        Dataset.create(tmp_path / "file" / "data", tiny_dataset.settings)


def test_the_content_hash_changes_with_any_file(tiny_dataset: Dataset, copy: Path) -> None:
    dataset = Dataset.open(copy)
    assert dataset.content_hash() == tiny_dataset.content_hash()
    edit_manifest(copy, lambda tree: tree["contents"].update({"d25nm-fx20kHz-nd9/low.mdf": "0" * 64}))
    assert Dataset.open(copy).content_hash() != tiny_dataset.content_hash()


def test_a_pair_gives_memory_maps_and_torch_tensors_of_their_own(tiny_dataset: Dataset) -> None:
    pair = next(iter(tiny_dataset.pairs("train")))
    low, high = pair.tensors()
    for tensor, sm in ((low, pair.low), (high, pair.high)):
        assert isinstance(sm.values_CKN.base, np.memmap) or isinstance(sm.values_CKN, np.memmap)
        np.testing.assert_array_equal(tensor.numpy(), sm.values_CKN)
    low.zero_()
    assert np.abs(pair.low.values_CKN).max() > 0


def test_a_reader_sees_what_a_simulation_adds_and_no_hash_before_all_is_there(
    tiny_dataset: Dataset, copy: Path
) -> None:
    files = dict(tiny_dataset.manifest.files)
    last = next(reversed(files))
    (scan,) = (scan for scan, name in tiny_dataset.expected() if name == last)
    writer = Dataset.open(copy)
    writer.manifest = writer.manifest.model_copy(update={"files": {k: v for k, v in files.items() if k != last}})
    writer.record({})
    with pytest.raises(DataError, match=r"1 files are not simulated yet, first .*`sweep --while-simulating` begins"):
        Dataset.open(copy)
    reader = Dataset.open(copy, complete=False)
    origin = reader.origin_hash()
    assert (reader.missing(), reader.content_hash()) == ([last], "")
    assert reader.missing([scan]) == [last]
    assert reader.missing(scan for scan, name in reader.expected() if scan.id not in last) == []
    (copy / MANIFEST).rename(copy / "away")
    reader.refresh()
    assert reader.missing() == [last]
    (copy / "away").rename(copy / MANIFEST)
    writer.record({last: FileHashes(files[last], tiny_dataset.manifest.contents[last])})
    assert reader.missing() == [last]
    reader.refresh()
    assert (reader.missing(), reader.content_hash()) == ([], tiny_dataset.content_hash())
    assert reader.origin_hash() == origin == tiny_dataset.origin_hash()


def test_a_reader_refuses_what_became_another_dataset(copy: Path) -> None:
    reader, writer = Dataset.open(copy), Dataset.open(copy)
    name = next(iter(reader.manifest.files))
    writer.record({name: FileHashes("0" * 64, "0" * 64)})
    with pytest.raises(DataError, match=rf"{name}: was made again, with other content$"):
        reader.refresh()
    writer.manifest = writer.manifest.model_copy(update={"created": "2020-01-01T00:00:00.000"})
    writer.record({})
    with pytest.raises(DataError, match=r"was replaced by another dataset$"):
        reader.refresh()


def _made_again(source: Dataset, folder: Path, created: str) -> Dataset:
    """The same dataset, made at another time."""
    again = Dataset.create(folder, source.settings)
    again.manifest = again.manifest.model_copy(update={"created": created})
    for scan, name in source.expected():
        which: FieldName = "low" if name.endswith("low.mdf") else "high"
        sm = simulate(source.settings, scan, which)
        again.record({name: write_scan(folder, source.settings, created, scan, which, sm)})
    return Dataset.open(folder)


def test_a_dataset_that_is_made_again_is_the_same_dataset(tiny_dataset: Dataset, tmp_path: Path) -> None:
    again = _made_again(tiny_dataset, tmp_path / "again", "2020-01-01T00:00:00.000")
    assert set(again.manifest.files.values()).isdisjoint(tiny_dataset.manifest.files.values())  # they tell their time
    assert again.content_hash() == tiny_dataset.content_hash()
    assert again.origin_hash() != tiny_dataset.origin_hash()

    scan, name = tiny_dataset.expected()[0]
    other = tiny_dataset.read(scan, "low")
    changed = write_scan(again.folder, again.settings, again.manifest.created, scan, "high", other)
    again.record({name: changed})
    assert again.content_hash() != tiny_dataset.content_hash()


def test_what_an_older_version_recorded_is_recognised(tiny_dataset: Dataset, copy: Path) -> None:
    """It hashed the files themselves, and noted nothing else of them."""
    manifest = tiny_dataset.manifest
    recorded = content_hash([manifest.settings_hash, manifest.files])
    assert recorded != tiny_dataset.content_hash()
    assert recorded in tiny_dataset.known_hashes()

    written = json.loads((copy / MANIFEST).read_text())
    del written["contents"]
    (copy / MANIFEST).write_text(json.dumps(written))
    old = Dataset.open(copy)
    assert (old.content_hash(), old.known_hashes()) == (recorded, (recorded,))
