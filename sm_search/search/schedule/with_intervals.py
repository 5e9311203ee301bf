"""A trained model with its schedule, and how far its values may be off."""

from dataclasses import replace

from sm_search.data.dataset import Dataset
from sm_search.diffusion.checkpoint import Checkpoint
from sm_search.evaluation.interval_fitting import fitted_intervals
from sm_search.synthesis import Synthesiser


def with_intervals(checkpoint: Checkpoint, dataset: Dataset, device: str = "cpu") -> Checkpoint:
    """The model with intervals fitted to the validation scans, for its own schedule; without where it does not draw.

    Raises:
        DivergenceError: sampling left the finite numbers.
    """
    model, training = Synthesiser(checkpoint, device=device), checkpoint.info.training
    intervals = None
    if model.draws > 1:
        intervals = fitted_intervals(model, dataset, model.draws, training.measurement_noise_db)
    return replace(checkpoint, info=checkpoint.info.model_copy(update={"intervals": intervals}))
