"""Schedules scored by tasks on a real Ray session, a killed worker process included."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from sm_search.config.model_settings import ScheduleSettings
from sm_search.diffusion.condition import Condition
from sm_search.evaluation.validation import ScheduleScorer, Validation
from sm_search.search.schedule.race import search_images
from sm_search.search.space.space import Resources
from sm_search.training import Trainer

SCHEDULES = [
    ScheduleSettings(sampler=sampler, steps=steps, eta_max=0.2)  # type: ignore[arg-type]
    for sampler in ("ddim", "ddpm", "paper", "dpmpp")
    for steps in range(1, 6)
]


def test_workers_score_as_this_process_and_a_killed_one_is_replaced(
    two_cpus: None, trainer: Trainer, validation: Validation, tmp_path: Path
) -> None:
    from sm_search.search.schedule.workers import WorkerScorer, worker_count

    class Fatal(type(trainer.ema)):  # type: ignore[misc]
        """The model, but its first evaluation in any process but this one kills that process."""

        def forward(self, x_t: Tensor, alpha_bar: Tensor, condition: Condition, z: Tensor | None = None) -> Tensor:
            try:
                (tmp_path / str(os.getpid())).touch()
                os.link(tmp_path / str(os.getpid()), tmp_path / "killed")
            except FileExistsError:
                return super().forward(x_t, alpha_bar, condition)
            os.kill(os.getpid(), signal.SIGKILL)
            raise AssertionError

    images = search_images(validation, 8)
    here = ScheduleScorer(trainer.ema, trainer.settings.diffusion, images)(SCHEDULES, 2, 8)
    fatal: Any = Fatal.__new__(Fatal)
    fatal.__dict__ = dict(trainer.ema.__dict__)
    scorer = WorkerScorer(ScheduleScorer(fatal, trainer.settings.diffusion, images), 2, Resources())
    there = scorer(SCHEDULES, 2, 8)
    for name, values in here.items():
        np.testing.assert_allclose(there[name], values, rtol=1e-5)
    killed = (tmp_path / "killed").stat().st_ino
    (pid,) = [int(path.name) for path in tmp_path.iterdir() if path.name != "killed" and path.stat().st_ino == killed]
    assert pid != os.getpid()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert len(list(tmp_path.iterdir())) > 2, "another process finished its work"
    assert worker_count(None, Resources()) == 2
    assert worker_count(5, Resources()) == 5
