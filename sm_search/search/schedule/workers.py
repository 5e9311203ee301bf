"""Scoring schedules on Ray: a task per batch, bounded in flight; the batch of a lost worker is scored again."""

import math
from collections.abc import Sequence
from functools import partial

import ray
import torch

from sm_search.compute.tasks import bounded
from sm_search.config.errors import SmSearchError
from sm_search.config.model_settings import ScheduleSettings
from sm_search.evaluation.validation import BATCH, ScheduleScorer, Scores, assembled, pieces
from sm_search.search.space.space import Resources

BATCHES_PER_WORKER = 2
"""Of each call, so that a worker with short schedules finds more to do."""
SMALLEST_BATCH = 64
RETRIES = 3


@ray.remote(max_retries=RETRIES)
def _score(scorer: ScheduleScorer, threads: int, schedules: list[ScheduleSettings], begin: int, end: int) -> Scores:
    torch.set_num_threads(threads)
    return scorer.on("cuda" if torch.cuda.is_available() else "cpu").piece(schedules, begin, end)


class WorkerScorer:
    """A scorer whose batches are tasks of the running Ray session; the weights and images are sent once."""

    def __init__(self, scorer: ScheduleScorer, workers: int, resources: Resources) -> None:
        self.workers = workers
        self.threads = resources.threads
        self.batch = scorer.batch
        self._scorer = ray.put(scorer)
        self._task = _score.options(num_cpus=resources.cpus, num_gpus=_gpus(resources))

    def __call__(self, schedules: Sequence[ScheduleSettings], begin: int, end: int) -> Scores:
        """Scores on the images from `begin` to `end`.

        Raises:
            SmSearchError: a batch lost its worker again and again.
        """
        share = math.ceil(len(schedules) * (end - begin) / (self.workers * BATCHES_PER_WORKER))
        smallest = max(1, SMALLEST_BATCH * self.batch // BATCH)
        work = list(pieces(schedules, begin, end, min(self.batch, max(smallest, share))))
        calls = [
            partial(self._task.remote, self._scorer, self.threads, [schedules[s] for s in chosen], first, last)
            for chosen, first, last in work
        ]
        try:
            with bounded(calls, self.workers) as results:
                scores: dict[int, Scores] = dict(results)
        except ray.exceptions.WorkerCrashedError as error:
            why = " ".join(str(error).split())
            raise SmSearchError(f"a batch of schedules lost its worker {1 + RETRIES} times: {why}") from None
        return assembled(work, [scores[number] for number in range(len(work))])


def worker_count(workers: int | None, resources: Resources) -> int:
    """Tasks that run at once: what is asked for, else what the running session has capacity for."""
    if workers is not None:
        return workers
    available = ray.cluster_resources()
    fits = [available.get("CPU", 0) / resources.cpus]
    if gpus := _gpus(resources):
        fits.append(available.get("GPU", 0) / gpus)
    return max(1, int(min(fits)))


def _gpus(resources: Resources) -> float:
    """GPUs of one task; under `auto`, which only a study measures, a whole one where there is one."""
    if resources.gpus == "auto":
        return min(1.0, ray.cluster_resources().get("GPU", 0.0))
    return resources.gpu_share
