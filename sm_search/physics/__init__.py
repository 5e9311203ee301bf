"""Particles, fields, relaxation and the system matrix; SI units, float64."""
