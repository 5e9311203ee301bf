"""Where work runs: the Ray session, its nodes and tasks, jobs on a cluster, parallel simulation and synthesis.

In: functions of small values and paths. Out: their results as they come. It knows nothing of studies.
Open `session.py` first; `tasks.py` is how many small pieces of work are kept under way at once.
"""
