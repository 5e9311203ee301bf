"""A study: trials under Ray Tune, Optuna and ASHA, recorded in MLflow, resumable after any death.

In: a `Space` and a dataset. Out: a `SweepResult`, and runs and models in MLflow.
Open `sweep.py` first: it names the stages in order, `study.py` opens, `search.py` builds and runs, `confirmation.py`
confirms, `result.py` keeps. What one trial does is in `trial.py`.
"""
