"""Weights: where they come from, how files are read, and how their names match a network's."""
