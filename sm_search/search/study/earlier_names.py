"""The names by which a study of an earlier version knows our parts, so that it is continued as well.

Ray Tune's snapshot of a study is pickled, and a pickle names classes and functions by the modules that they were in.
"""

import importlib
import sys
from types import ModuleType
from typing import Any

from ray import tune

from sm_search.compute.nodes import capacity
from sm_search.search.space.space import Budget, Confirm, Resources, Space
from sm_search.search.space.tree import suggest
from sm_search.search.study.asha import RememberingASHA
from sm_search.search.study.optuna_searcher import OptunaSearcher
from sm_search.search.study.replacing_files import ReplacingFiles


def trial_id(trial: Any) -> str:
    """The name of a trial and of its folder."""
    return str(trial.trial_id)


class Replaced(tune.Callback):
    """Stands for a callback of the dead driver: a restored study gets new ones."""

    def __setstate__(self, state: Any) -> None:
        pass


NAMES: dict[str, dict[str, Any]] = {
    "sm_search.search.searcher": {
        "TruthfulOptunaSearch": OptunaSearcher,
        "RememberingASHA": RememberingASHA,
        "_define_by_run": suggest,
    },
    "sm_search.search.study.search_algorithm": {"OptunaSearcher": OptunaSearcher},
    "sm_search.search.sweep": {"_trial_id": trial_id},
    "sm_search.search.nodes": {"room": capacity},
    "sm_search.search.replacing_files": {"ReplacingFiles": ReplacingFiles},
    "sm_search.search.space": {"Space": Space, "Budget": Budget, "Confirm": Confirm, "Resources": Resources},
    "sm_search.search.recording": {"Recorder": Replaced},
    "sm_search.search.good_schedules": {"GoodSchedules": Replaced},
    "sm_search.search.confirmation": {"ConfirmationCallback": Replaced},
    "sm_search.search.overlap": {"StallWatch": Replaced},
}
MODULES = {
    "sm_search.config.dataset": "sm_search.config.dataset_settings",
    "sm_search.config.simulation": "sm_search.config.simulation_settings",
}


def know_earlier_names() -> None:
    """From now on this process finds them in a pickle."""
    for name, parts in NAMES.items():
        module = sys.modules.setdefault(name, ModuleType(name))
        for part, value in parts.items():
            setattr(module, part, value)
    for name, today in MODULES.items():
        sys.modules.setdefault(name, importlib.import_module(today))
