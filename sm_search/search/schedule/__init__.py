"""The inner level: sampling schedules, searched on frozen weights.

In: a denoiser, its validation images and a space of schedules. Out: the best schedule, and the front by evaluations.
Open `inner_search.py` first.
"""
