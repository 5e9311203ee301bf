"""The search: `space` says what is searched, `study` trains and compares models, `schedule` tunes their sampling.

Who trains or tunes:

- `study/sweep.py`: a study of many trials; `study/trial.py` is one of them, `study/confirmation.py` trains the best
  again with other seeds.
- `single_training.py`: one model without a search.
- `schedule/inner_search.py`: the sampling schedule on frozen weights, inside each trial;
  `schedule/tune_schedule.py`: the same alone, on a finished model.
"""
