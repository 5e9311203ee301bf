"""Parallel simulation, search spaces, trials, the sweep and the schedule search."""
