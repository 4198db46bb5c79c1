"""Gradient steps: optimizers, losses, one step, one epoch, the learning-rate finder."""
