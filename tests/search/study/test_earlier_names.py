"""What studies of earlier versions left in Ray Tune's snapshots is found and continued."""

import functools
import pickle
from pathlib import Path

import pytest
from optuna.trial import TrialState
from ray import tune

from sm_search.data.dataset import Dataset
from sm_search.search.schedule.good_schedules import GoodSchedules
from sm_search.search.space.space import Space
from sm_search.search.space.tree import suggest
from sm_search.search.study.confirmation import ConfirmationCallback
from sm_search.search.study.earlier_names import MODULES, NAMES, know_earlier_names
from sm_search.search.study.optuna_searcher import EARLIER_ATTRIBUTES, OptunaSearcher
from sm_search.search.study.recording import Recorder
from sm_search.search.study.while_simulating import StallWatch

SPACE = Space(study="s", training={"steps": 9, "learning_rate": {"float": [1e-3, 1e-2]}}, budget={"first_rung": 3})


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in NAMES.items() for name in names])
def test_a_pickle_finds_an_earlier_name(module: str, name: str) -> None:
    know_earlier_names()
    assert pickle.loads(f"c{module}\n{name}\n.".encode()) is NAMES[module][name]


@pytest.mark.parametrize("module", MODULES)
def test_a_pickle_finds_an_earlier_module(module: str) -> None:
    know_earlier_names()
    name = "DatasetSettings" if module.endswith("dataset") else "Grid"
    assert pickle.loads(f"c{module}\n{name}\n.".encode()).__module__ == MODULES[module]


def test_a_searcher_that_an_earlier_version_saved_goes_on(tmp_path: Path) -> None:
    searcher = OptunaSearcher(SPACE)
    for number in range(8):
        searcher.suggest(str(number))
        searcher.on_trial_complete(str(number), {"val_psnr_db": 10.0 + number, "training_step": 9})
    searcher.suggest("running")
    earlier = {today: name for name, today in EARLIER_ATTRIBUTES.items()}
    state = {earlier.get(name, name): value for name, value in vars(searcher).items()}
    state["_space"] = functools.partial(suggest, state.pop("_tree"))
    (tmp_path / "searcher").write_bytes(pickle.dumps(state))
    restored = OptunaSearcher(SPACE)
    restored.restore(str(tmp_path / "searcher"))
    assert [restored.suggest(name) for name in "xy"] == [searcher.suggest(name) for name in "xy"]
    restored.on_trial_complete("running", {"val_psnr_db": 1.0, "training_step": 9})
    assert [trial.state for trial in restored.trials()].count(TrialState.COMPLETE) == 9


def test_callbacks_leave_nothing_of_themselves_in_a_snapshot(tmp_path: Path, tiny_dataset: Dataset) -> None:
    recorder = Recorder(None, SPACE, print, None, resumed=False)
    confirmation, schedules = ConfirmationCallback("val_psnr_db", 3, print), GoodSchedules(str(tmp_path), "val_psnr_db")
    for callback in (recorder, confirmation, schedules, StallWatch(tiny_dataset)):
        assert type(pickle.loads(pickle.dumps(callback))) is tune.Callback
