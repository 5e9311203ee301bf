"""System matrices of magnetic particle imaging (MPI): their simulation, the synthesis of high-gradient ones from
low-gradient ones by conditional diffusion, and the distributed hyperparameter search around it.

What the verbs of `sm-search` do, these functions do in Python:

    dataset_settings, simulate, simulate_dataset, open_dataset,
    import_measured, read_mdf, validate                                                  matrices and datasets
    train, load_model, synthesize, synthesize_file                                       models
    evaluate, evaluation_methods, reconstruct, reconstruct_images                        scores and images
    sweep, study_models, promote, tune_schedule                                          studies
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "Evaluation",
    "InputError",
    "SmSearchError",
    "dataset_settings",
    "evaluate",
    "evaluation_methods",
    "import_measured",
    "load_model",
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

if TYPE_CHECKING:
    from sm_search.api import (
        Evaluation,
        InputError,
        SmSearchError,
        dataset_settings,
        evaluate,
        evaluation_methods,
        import_measured,
        load_model,
        open_dataset,
        promote,
        read_mdf,
        reconstruct,
        reconstruct_images,
        simulate,
        simulate_dataset,
        study_models,
        sweep,
        synthesize,
        synthesize_file,
        train,
        tune_schedule,
        validate,
    )
else:

    def __getattr__(name: str) -> Any:
        # On first use, so that importing the package costs next to nothing.
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from sm_search import api

        return getattr(api, name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
