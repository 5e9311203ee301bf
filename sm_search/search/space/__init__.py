"""Search spaces: what may vary, in which range.

In: a YAML file. Out: a checked `Space`, and the settings at a point of it.
Open `space.py` first; `tree.py` tells how its trees of settings read, `space_file.py` what a file may say.
"""
