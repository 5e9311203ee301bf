"""Conditional diffusion of system-matrix components: denoisers, noise schedule, objective, samplers."""
