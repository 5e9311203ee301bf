"""The YAML file of `sm-search train`: one model without a search."""

from pydantic import model_validator

from sm_search.config.base import Settings
from sm_search.config.model_settings import ScheduleSettings, TrainingSettings


class RunSettings(Settings):
    """Training settings and the schedule that the checkpoint will carry."""

    training: TrainingSettings = TrainingSettings()
    schedule: ScheduleSettings = ScheduleSettings()

    @model_validator(mode="after")
    def _something_is_drawn(self) -> "RunSettings":
        if self.schedule.steps == 0 and self.training.mean == "none":
            raise ValueError("schedule.steps: 0 gives the mean alone, which a model with mean: none does not have")
        return self
