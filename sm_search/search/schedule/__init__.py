"""The inner level: sampling schedules, searched on frozen weights.

In: a denoiser, its validation images and a tree of schedules. Out: the best schedule, and the front by evaluations.
Open `inner_search.py` first; `race.py` is how schedules are measured against each other.
"""
