"""YAML to settings: what is accepted, and one line for what is not."""

from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field, ValidationError

from sm_search.config.base import Settings
from sm_search.config.dataset_settings import DatasetSettings
from sm_search.config.errors import SettingsError
from sm_search.config.loading import MAX_BYTES, allowed_keys, load_settings, read_yaml
from sm_search.config.model_settings import ScheduleSettings, TrainingSettings
from sm_search.config.simulation_settings import FieldSettings


class Inner(Settings):
    rate: Annotated[float, Field(gt=0)] = 1.0
    word: str = ""


class Outer(Settings):
    count: int = 1
    switch: bool = False
    inner: Inner = Inner()
    many: tuple[Inner, ...] = ()
    named: dict[str, tuple[Inner, ...]] = {}  # noqa: RUF012


def load(tmp_path: Path, text: str, cls: type[Settings] = Outer) -> Settings:
    path = tmp_path / "file.yaml"
    path.write_text(text, encoding="utf-8")
    return load_settings(path, cls)


def refusal(tmp_path: Path, text: str, cls: type[Settings] = Outer) -> str:
    """The message after `file.yaml:`."""
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, text, cls)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{tmp_path / 'file.yaml'}:")
    return message.removeprefix(f"{tmp_path / 'file.yaml'}:")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("count: 2\ninner:\n  rat: 2.0\n", "3: inner.rat: unknown key 'rat'; did you mean 'rate'?"),
        ("many:\n- rate: 1\n- wrod: x\n", "3: many.1.wrod: unknown key 'wrod'; did you mean 'word'?"),
        ("named:\n  a:\n  - rates: 1\n", "3: named.a.0.rates: unknown key 'rates'; did you mean 'rate'?"),
        ("inner: {zzz: 1}\n", "1: inner.zzz: unknown key 'zzz'; allowed: rate, word"),
        # The unknown key is reported rather than the other faults beside it.
        ("count: x\ninner: {rate: -1}\nswich: true\n", "3: swich: unknown key 'swich'; did you mean 'switch'?"),
    ],
)
def test_an_unknown_key_names_its_line_and_its_nearest_neighbour(tmp_path: Path, text: str, message: str) -> None:
    assert refusal(tmp_path, text) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: 5\nbackbone:\n  backbone: unet\n  chanels: [8, 8]\n", "did you mean 'channels'?"),
        (
            "steps: 5\nbackbone:\n  backbone: unet\n  width: 64\n",
            "allowed: backbone, channels, context, layers, order_embedding, patch",
        ),
        ("steps: 5\nbackbone:\n  backbone: linear-basis\n  channels: [8]\n", "whitening, width, wiener_input"),
    ],
)
def test_inside_a_union_the_line_and_the_keys_are_those_of_the_chosen_member(
    tmp_path: Path, text: str, message: str
) -> None:
    found = refusal(tmp_path, text, TrainingSettings)
    assert found.startswith("4: backbone.")
    assert found.endswith(message)


def test_the_tag_of_a_union_is_required_and_checked(tmp_path: Path) -> None:
    assert (
        refusal(tmp_path, "backbone: {width: 64}\n", TrainingSettings) == "1: backbone: key 'backbone' is required here"
    )
    assert "'linear-basis', 'unet'" in refusal(tmp_path, "backbone: {backbone: vit}\n", TrainingSettings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("inner: {rate: .nan}\n", "1: inner.rate: nan: must be a finite number"),
        ("inner:\n  rate: -.inf\n", "2: inner.rate: -inf: must be"),
        ("inner: {rate: 1e999}\n", "1: inner.rate: inf: must be a finite number"),
        ("inner: {rate: 0}\n", "1: inner.rate: 0: must be greater than 0"),
        ("inner: {rate: '1'}\n", "1: inner.rate: '1': must be a number"),
        ("inner: {rate: true}\n", "1: inner.rate: True: must be a number"),
        ("count: 1.0\n", "1: count: 1.0: must be a whole number"),
        ("count: 1e3\n", "1: count: 1000.0: must be a whole number"),
        ("count: null\n", "1: count: None: must be a whole number"),
        ("switch: 1\n", "1: switch: 1: must be a valid boolean"),
        ("inner: {word: 3}\n", "1: inner.word: 3: must be a valid string"),
        ("many: 3\n", "1: many: 3: must be a list"),
        ("many:\n- rate: a\n", "2: many.0.rate: 'a': must be a number"),
        ("count: [1\n", " is not valid YAML: "),
        ("", " is empty"),
        ("- 1\n", " must hold a mapping of keys to values, not list"),
        ("count: 1\n---\ncount: 2\n", " is not valid YAML: expected a single document"),
        ("count: !!python/object/apply:os.getcwd []\n", " is not valid YAML: could not determine a constructor"),
        ("count: !!binary aGVsbG8=\n", "1: Object of type bytes"),
    ],
)
def test_a_wrong_value_is_named_with_its_rule(tmp_path: Path, text: str, message: str) -> None:
    assert refusal(tmp_path, text).startswith(message)


def test_a_missing_key_and_a_broken_rule_between_keys_are_named(tmp_path: Path) -> None:
    assert refusal(tmp_path, "drive_mt: 2\n", FieldSettings) == "1: gradient_t_per_m: this key is required"
    message = refusal(tmp_path, "w_max: 1\nw_min: 2.0\n", ScheduleSettings)
    assert message == "2: w_min: w_min = 2.0 must not exceed w_max = 1.0"
    fields = "drive_mt: 2\ngradient_t_per_m: {}\n"
    message = refusal(tmp_path, fields.format("[0.1, 0.1, 0.2]"), FieldSettings)
    assert message == "2: gradient_t_per_m: [0.1, 0.1, 0.2]: needs at most 2 values, not 3"
    message = refusal(tmp_path, fields.format("[0.1, x]"), FieldSettings)
    assert message == "2: gradient_t_per_m.1: 'x': must be a number"


@pytest.mark.parametrize(
    ("text", "line"), [("count: 1\ncount: 2\n", 2), ("inner:\n  rate: 1\n  word: a\n  rate: 2\n", 4)]
)
def test_a_duplicate_key_is_refused(tmp_path: Path, text: str, line: int) -> None:
    assert refusal(tmp_path, text).startswith(f"{line}: key ")
    assert refusal(tmp_path, text).endswith("appears twice")


def test_an_alias_bomb_is_refused_before_it_grows(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    assert refusal(tmp_path, "\n".join(lines)) == "1: anchors and aliases (&, *) are not allowed here"
    assert "anchors and aliases" in refusal(tmp_path, "inner: &loop\n  rate: *loop\n")


@pytest.mark.parametrize("depth", [21, 3000])
def test_too_deep_a_file_is_refused(tmp_path: Path, depth: int) -> None:
    message = refusal(tmp_path, "count: " + "[" * depth + "]" * depth)
    assert "nested deeper than 20 levels" in message or "recursion" in message


def test_too_large_a_file_is_refused_unread(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=f"larger than {MAX_BYTES}"):
        load(tmp_path, "count: 1\n" + "#" * MAX_BYTES)
    assert load(tmp_path, "count: 1\n" + "#" * 1000).count == 1  # type: ignore[attr-defined]


def test_a_long_value_is_shown_in_part(tmp_path: Path) -> None:
    assert len(refusal(tmp_path, f"count: {'x' * 100_000}\n")) < 250


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "no.yaml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(SettingsError, match=f"{path}: cannot be read: {reason}"):
            load_settings(path, Outer)
    (tmp_path / "latin.yaml").write_bytes("inner: {word: é}".encode("latin-1"))
    with pytest.raises(SettingsError, match="is not UTF-8 text"):
        load_settings(tmp_path / "latin.yaml", Outer)


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 1e-3), ("2E5", 2e5), ("1.5e+2", 150.0), ("-1e3", None), ("1_0e-1", 1.0), ("7", 7.0)]
)
def test_numbers_as_people_write_them(tmp_path: Path, text: str, value: float | None) -> None:
    if value is None:
        assert "-1000.0: must be greater than 0" in refusal(tmp_path, f"inner: {{rate: {text}}}")
    else:
        found = load(tmp_path, f"inner: {{rate: {text}}}").inner.rate  # type: ignore[attr-defined]
        assert found == value
        assert type(found) is float


@pytest.mark.parametrize("word", ["e3", "1e", "2025-01-31", "1e-3x", "ümlaut"])
def test_words_stay_words(tmp_path: Path, word: str) -> None:
    assert load(tmp_path, f"inner: {{word: {word}}}").inner.word == word  # type: ignore[attr-defined]


def test_settings_are_frozen_and_defaults_are_checked() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Inner().rate = 2.0  # type: ignore[misc]

    class WrongDefault(Settings):
        rate: Annotated[float, Field(gt=0)] = 0.0

    with pytest.raises(ValidationError, match="greater than 0"):
        WrongDefault()


def test_allowed_keys_follow_lists_mappings_and_unions() -> None:
    assert allowed_keys(Outer, ("named", "any", 3)) == ["rate", "word"]
    unet = ["backbone", "channels", "layers", "patch", "order_embedding", "context"]
    assert allowed_keys(TrainingSettings, ("backbone", "unet")) == unet
    grid = ["design", "core_diameter_nm", "fx_khz", "nd", "height_mm"]
    assert allowed_keys(DatasetSettings, ("splits", "train", 0, "grid")) == grid
    assert "count" in allowed_keys(DatasetSettings, ("splits", "train", 0, "sobol"))


def test_a_character_that_yaml_forbids_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("name: x\x00\n")
    with pytest.raises(SettingsError, match=r"a.yaml: is not valid YAML: unacceptable character #x0000"):
        read_yaml(path)
