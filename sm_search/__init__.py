"""System matrices of magnetic particle imaging (MPI): their simulation, the synthesis of high-gradient ones from
low-gradient ones by conditional diffusion, and the distributed hyperparameter search around it.

What the verbs of `sm-search` do, these functions do in Python:

    dataset_settings, simulate, simulate_dataset, open_dataset,
    import_measured, read_mdf, validate                                                  matrices and datasets
    train, leave_one_out, load_model, synthesize, synthesize_file                        models
    evaluate, evaluation_methods, model_intervals                                        scores
    reconstruct, reconstruct_images, image_deviation                                     images
    sweep, study_models, promote, tune_schedule                                          studies
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from sm_search.api import *  # noqa: F403
    from sm_search.api import __all__ as __all__
else:

    def __getattr__(name: str) -> Any:
        # On first use, so that importing the package costs next to nothing. `api` itself is asked for on its way in.
        if name != "__all__" and (name.startswith("__") or name == "api"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        api = import_module("sm_search.api")
        if name != "__all__" and name not in api.__all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(api, name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__getattr__("__all__")})
