"""Train a classifier: head solvers, gradient steps, state, checkpoints, the fit."""
