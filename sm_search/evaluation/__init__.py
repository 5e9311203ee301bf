"""Metrics, baselines, and the reconstruction check."""
