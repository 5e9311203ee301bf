"""A checkpoint comes back exactly, or not at all."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sm_search.config.errors import CheckpointError
from sm_search.config.model_settings import LinearBasisSettings, Mean, ScheduleSettings, TrainingSettings, UNetSettings
from sm_search.config.simulation_settings import FieldSettings, Grid
from sm_search.diffusion.backbones import build_denoiser
from sm_search.diffusion.checkpoint import (
    SETTINGS_FILE,
    WEIGHTS_FILE,
    Checkpoint,
    CheckpointInfo,
    load_checkpoint,
    read_info,
)
from sm_search.diffusion.condition import Condition
from sm_search.regression.scan_features import feature_count
from sm_search.regression.scan_models import ScanData, ScanModels
from sm_search.regression.training_domain import sketch

ORDERS = ((0, 1), (1, 0), (1, 1))
BACKBONES = [LinearBasisSettings(coefficients=8, width=16, blocks=1, context=2), UNetSettings(channels=(8, 8))]


def condition(batch: int) -> Condition:
    features = torch.randn(batch, feature_count(3))
    nothing, one = torch.zeros(batch), torch.ones(batch)
    return Condition(torch.randn(batch, 2, 4, 6), torch.ones(batch, 2), nothing, features, nothing, one)


def checkpoint(
    backbone: LinearBasisSettings | UNetSettings = BACKBONES[0],  # type: ignore[assignment]
    mean: Mean = "kernel-ridge",
) -> Checkpoint:
    torch.manual_seed(0)
    denoiser = build_denoiser(backbone, (4, 6), "x0", feature_count(3))
    denoiser.fit_constants(torch.randn(50, 2, 4, 6), condition(50))
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter)
    scans = [
        ScanData(
            torch.randn(feature_count(3)),
            torch.rand(3) + 0.1,
            torch.rand(3) + 0.1,
            torch.randn(3, 2, 4, 6),
            sketch(np.random.default_rng(0).normal(size=(3, 2, 4, 6))),
        )
        for _ in range(2)
    ]
    models, _ = ScanModels.fitted(scans, mean)
    info = CheckpointInfo(
        training=TrainingSettings(backbone=backbone),
        schedule=ScheduleSettings(eta_max=0.1),
        grid=Grid(size=(6, 4)),
        low=FieldSettings(gradient_t_per_m=0.1, drive_mt=2.0),
        high=FieldSettings(gradient_t_per_m=1.0, drive_mt=20.0),
        orders=ORDERS,
        dataset="tiny µ",
        dataset_hash="0" * 64,
        training_scans=2,
        gain_rank=models.gain.rank,
        mean_rank=models.mean.rank if models.mean else None,
        domain_rank=models.domain.rank if models.domain else None,
        metrics={"psnr_db_mean": 1 / 3},
    )
    return Checkpoint(info, denoiser, models)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    checkpoint().save(tmp_path / "model")
    return tmp_path / "model"


def edit_settings(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    tree = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
    change(tree)
    (folder / SETTINGS_FILE).write_text(json.dumps(tree), encoding="utf-8")


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{folder}/")
    return str(caught.value)


@pytest.mark.parametrize("mean", ["none", "kernel-ridge"])
@pytest.mark.parametrize("backbone", BACKBONES, ids=["linear-basis", "unet"])
def test_the_round_trip_is_exact(tmp_path: Path, backbone: LinearBasisSettings | UNetSettings, mean: Mean) -> None:
    saved = checkpoint(backbone, mean)
    saved.save(tmp_path)
    generator = torch.get_rng_state()
    loaded = load_checkpoint(tmp_path)
    assert torch.equal(torch.get_rng_state(), generator)
    assert loaded.info == saved.info == read_info(tmp_path)
    modules = [(each.denoiser, each.scan_models.gain, each.scan_models.mean) for each in (saved, loaded)]
    assert (modules[1][2] is None) == (mean == "none")
    for saved_module, loaded_module in zip(*modules, strict=True):
        if saved_module is None or loaded_module is None:
            continue
        before, after = saved_module.state_dict(), loaded_module.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert {name: value.dtype for name, value in before.items()} == {n: v.dtype for n, v in after.items()}
    assert not loaded.denoiser.training
    assert not any(parameter.requires_grad for parameter in loaded.denoiser.parameters())
    x = saved.denoiser.encode(torch.randn(2, 2, 4, 6))
    seen = condition(2)
    with torch.no_grad():
        outputs = [each.denoiser.eval()(x, torch.tensor([0.2, 0.7]), seen) for each in (saved, loaded)]
    assert torch.equal(*outputs)


def test_two_files_and_no_pickle(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [SETTINGS_FILE, WEIGHTS_FILE]

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a pickle was loaded")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    load_checkpoint(folder)
    # A pickle in the place of the weights is not a safetensors file, and is not tried.
    (folder / WEIGHTS_FILE).write_bytes(pickle.dumps({"a": 1}) * 100)
    assert "is not a readable safetensors file" in refusal(folder)


@pytest.mark.parametrize("length", [0, 4, 8, 100, -1])
def test_truncated_weights_are_refused(folder: Path, length: int) -> None:
    content = (folder / WEIGHTS_FILE).read_bytes()
    (folder / WEIGHTS_FILE).write_bytes(content[:length])
    assert f"{WEIGHTS_FILE}: is not a readable safetensors file" in refusal(folder)


def test_missing_files_are_named(folder: Path, tmp_path: Path) -> None:
    (folder / WEIGHTS_FILE).unlink()
    assert f"{WEIGHTS_FILE}: is not a readable safetensors file: No such file" in refusal(folder)
    assert "does not exist; a checkpoint folder holds checkpoint.json and model.safetensors" in refusal(tmp_path / "no")
    (folder / SETTINGS_FILE).unlink()
    (folder / SETTINGS_FILE).mkdir()
    assert "cannot be read: Is a directory" in refusal(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"format": NaN}'])
def test_settings_that_are_no_json_are_refused(folder: Path, content: bytes) -> None:
    (folder / SETTINGS_FILE).write_bytes(content)
    assert refusal(folder).startswith(f"{folder / SETTINGS_FILE}: ")


CHANGES: list[tuple[Callable[[dict[str, Any]], None], str]] = [
    (lambda tree: tree.pop("grid"), "checkpoint.json: grid: Field required"),
    (lambda tree: tree.update(format=2), "checkpoint.json: format: "),
    (lambda tree: tree.update(extra=0), "checkpoint.json: extra: "),
    (lambda tree: tree["training"]["backbone"].update(width="16"), r"width: Input should be a valid integer"),
    (
        lambda tree: tree["training"]["backbone"].update(width=32),
        r"denoiser\.\S+: is \S+ \[.*\], but by checkpoint.json \S+ \[",
    ),
    (lambda tree: tree["training"]["backbone"].update(blocks=2), r"denoiser.blocks.1\.\S+: is absent, but by"),
    (
        lambda tree: tree["grid"].update(size=[4, 4]),
        r"denoiser.condition_basis.vectors_PD: is torch.float32 \[48, 8\], but",
    ),
    (
        lambda tree: tree.update(training_scans=3),
        r"domain.regression.features_SF: is torch.float64 \[2, 11\], but .* \[3, 11\]",
    ),
    (lambda tree: tree.update(mean_rank=None), r"mean.regression.\S+: is \S+ \[.*\], but by checkpoint.json absent"),
    (
        lambda tree: tree.update(mean_rank=2),
        r"mean.regression.directions_RP: is torch.float32 \[1, 144\], but .* \[2, 144\]",
    ),
    (lambda tree: tree.update(training_scans=0), "training_scans: "),
    # Refused by comparison: 10¹⁸ numbers are never allocated.
    (lambda tree: tree.update(training_scans=10**9), "domain.regression.features_SF: is"),
    (lambda tree: tree["grid"].update(size=[1024, 1024]), "denoiser.condition_basis.vectors_PD: is"),
    (lambda tree: tree["training"].update(backbone={"backbone": "unet", "channels": [8, 8, 8, 8]}), "cannot be halved"),
    (
        lambda tree: tree["training"].update(backbone={"backbone": "unet", "channels": [8, 8]}),
        "is absent|but by .* absent",
    ),
]


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_settings_that_do_not_fit_the_weights_are_refused(
    folder: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    edit_settings(folder, change)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)
    refusal(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["denoiser.inlet.weight", "gain.regression.mean_P"])
def test_weights_that_are_not_finite_are_refused(folder: Path, name: str, value: float) -> None:
    tensors = load_file(folder / WEIGHTS_FILE)
    tensors[name].view(-1)[0] = value
    save_file(tensors, folder / WEIGHTS_FILE)
    assert refusal(folder) == f"{folder / WEIGHTS_FILE}: {name}: holds NaN or infinite values"


def test_weights_of_another_type_or_name_are_refused(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS_FILE)
    save_file(tensors | {"denoiser.inlet.weight": tensors["denoiser.inlet.weight"].half()}, folder / WEIGHTS_FILE)
    assert "denoiser.inlet.weight: is torch.float16" in refusal(folder)
    save_file(tensors | {"other": torch.zeros(1)}, folder / WEIGHTS_FILE)
    assert "other: is torch.float32 [1], but by checkpoint.json absent" in refusal(folder)


def test_saving_again_replaces_and_an_interrupted_save_is_no_checkpoint(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = checkpoint(BACKBONES[1])
    second.save(folder)
    assert load_checkpoint(folder).info == second.info

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sm_search.diffusion.checkpoint.os.replace", stop)
    with pytest.raises(KeyboardInterrupt):
        checkpoint().save(folder)
    # New weights with old settings would be worse than nothing.
    assert "does not exist" in refusal(folder)
    assert [path.name for path in folder.iterdir()] == [WEIGHTS_FILE]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="the checkpoint cannot be written"):
        checkpoint().save(tmp_path / "file" / "model")
