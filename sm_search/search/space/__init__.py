"""Search spaces: what may vary, in which range.

In: a YAML file. Out: a checked `Space`, and settings for a point of it.
Open `space.py` first.
"""
