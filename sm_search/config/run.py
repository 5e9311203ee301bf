"""The YAML file of `sm-search train`: one model without a search."""

from sm_search.config.base import Settings
from sm_search.config.model import ScheduleSettings, TrainingSettings


class RunSettings(Settings):
    """Training settings and the schedule that the checkpoint will carry."""

    training: TrainingSettings = TrainingSettings()
    schedule: ScheduleSettings = ScheduleSettings()
