"""A callback of Ray Tune that belongs to the process that drives a study."""

from ray import tune


class DriverCallback(tune.Callback):
    """Ray pickles callbacks with the experiment. Of these nothing is kept: a restored experiment gets new ones."""

    def __reduce__(self) -> tuple[type[tune.Callback], tuple[()]]:
        return tune.Callback, ()
