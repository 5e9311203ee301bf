"""What a few pairs add to a model: each in turn is left out, and rated with the model gone on from on the others."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from sm_search.config.dataset_settings import MeasuredDesign
from sm_search.config.errors import SettingsError
from sm_search.config.run_settings import RunSettings
from sm_search.config.simulation_settings import Scan
from sm_search.data.dataset import Dataset
from sm_search.diffusion.checkpoint import Checkpoint
from sm_search.evaluation.comparison import pair_quality
from sm_search.evaluation.metrics import Quality
from sm_search.search.single_training import require_extendable
from sm_search.synthesis import Synthesiser
from sm_search.training import Trainer, make_checkpoint, training_images

PAIRS = (1, 3, 10)
"""How many of the others are trained on, beside all of them."""


@dataclass(frozen=True)
class LeftOut:
    """A pair that a model did not see, and how many others it was gone on from on; 0 is the model as it was."""

    pair: str
    trained_on: int
    quality: Quality
    distance: float | None


def leave_one_out(
    settings: RunSettings, dataset: Dataset, base: Checkpoint, announce: Callable[[str], None]
) -> Iterator[LeftOut]:
    """Of each pair of training and validation in turn: the model, and what it becomes by 1, 3, 10 and all others.

    Raises:
        SettingsError: there are fewer than two pairs, or the settings ask for another network than the base has.
        DataError: the data are not like the base's.
    """
    require_extendable(base, settings.training, dataset)
    scans = (*dataset.settings.scans("train"), *dataset.settings.scans("validation"))
    if len(scans) < 2:
        raise SettingsError("--leave-one-out: must have two pairs at least, of training and validation together")
    others = len(scans) - 1
    for number, scan in enumerate(scans):
        turned = (*scans[number + 1 :], *scans[:number])
        yield _rated(base, dataset, scan, 0)
        for count in [*(count for count in PAIRS if count < others), others]:
            announce(f"{scan.id} left out, training on {count} of {others} others")
            yield _rated(_gone_on(settings, _with_training(dataset, turned[:count]), base), dataset, scan, count)


def _rated(checkpoint: Checkpoint, dataset: Dataset, scan: Scan, count: int) -> LeftOut:
    pair, model = dataset.pair(scan), Synthesiser(checkpoint)
    made = model.synthesise(pair.low)
    channels = tuple(range(len(made.matrix.values_CKN)))
    return LeftOut(scan.id, count, pair_quality(made.matrix, pair, channels), made.distance)


def _with_training(dataset: Dataset, scans: Sequence[Scan]) -> Dataset:
    """The dataset with these training scans, in memory."""
    listed = MeasuredDesign.model_construct(design="measured", measured=tuple(scans))
    settings = dataset.settings.model_copy(update={"splits": {**dataset.settings.splits, "train": (listed,)}})
    return replace(dataset, manifest=dataset.manifest.model_copy(update={"settings": settings}))


def _gone_on(settings: RunSettings, dataset: Dataset, base: Checkpoint) -> Checkpoint:
    training = settings.training
    images, models = training_images(
        dataset,
        "train",
        training.receive_channels,
        training.mean,
        diffuse=training.diffuse,
        base=base.scan_models,
        told_noise=training.told_noise,
    )
    trainer = Trainer(training, images, "cuda" if torch.cuda.is_available() else "cpu", start=base.denoiser)
    for _ in trainer.train(training.steps):
        pass
    return make_checkpoint(trainer, dataset, models, settings.schedule, {}, base.info)
