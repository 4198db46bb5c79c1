"""Artifacts: one folder with weights, config, history and results."""
