"""The search: `space` says what is searched, `study` trains and compares models, `schedule` tunes their sampling.

In: a search space and a dataset. Out: the best models with their best sampling schedules.
Open `study/sweep.py` first. Who trains, and who tunes:

| file | verb | what it makes |
|---|---|---|
| `study/sweep.py` | `sweep` | a study: many trials, compared |
| `study/trial.py` | | one trial of a study: one model, trained rung by rung, as a function on a worker |
| `study/confirmation.py` | | the best trials of a study trained again with other seeds |
| `single_training.py` | `train` | one model without a study |
| `schedule/inner_search.py` | | the best schedule on frozen weights, at the end of each trial |
| `schedule/tune_schedule.py` | `tune-schedule` | the same for a finished model, with many workers if wanted |
"""
