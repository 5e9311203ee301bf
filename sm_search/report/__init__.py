"""Figures, the HTML report, and what a finished study publishes."""
