"""What the verbs do, as functions that take and return objects with NumPy arrays. `import sm_search` offers them all.

Every function raises what its verb answers with status 2: an `InputError`, one line that says which file, field, value
and rule. `home` holds the local state, as `--home` does; `tracking_uri` names an MLflow server in its place. What a
function needs is imported when it is called: Ray, MLflow and torch take seconds.
"""

from sm_search.api.matrices import (
    dataset_settings,
    import_measured,
    open_dataset,
    read_mdf,
    simulate,
    simulate_dataset,
    validate,
)
from sm_search.api.modelling import leave_one_out, load_model, synthesize, synthesize_file, train
from sm_search.api.scoring import (
    Evaluation,
    evaluate,
    evaluation_methods,
    image_deviation,
    model_intervals,
    reconstruct,
    reconstruct_images,
)
from sm_search.api.searching import promote, study_models, sweep, tune_schedule
from sm_search.config.errors import InputError, SmSearchError

__all__ = [
    "Evaluation",
    "InputError",
    "SmSearchError",
    "dataset_settings",
    "evaluate",
    "evaluation_methods",
    "image_deviation",
    "import_measured",
    "leave_one_out",
    "load_model",
    "model_intervals",
    "open_dataset",
    "promote",
    "read_mdf",
    "reconstruct",
    "reconstruct_images",
    "simulate",
    "simulate_dataset",
    "study_models",
    "sweep",
    "synthesize",
    "synthesize_file",
    "train",
    "tune_schedule",
    "validate",
]
