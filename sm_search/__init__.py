"""Distributed hyperparameter search for system-matrix synthesis in magnetic particle imaging (MPI)."""

__version__ = "0.1.0"
