"""What is fitted to whole scans and not trained by gradient: the gain, and the mean that a diffusion starts from.

In: features of low-gradient matrices. Out: amplitudes and patterns of the high-gradient ones, with expected errors.
Open `scan_models.py` first.
"""
