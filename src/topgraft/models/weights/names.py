"""Names of weights that are not published: random ones, and those learned from the images."""

from __future__ import annotations

RANDOM = "random"
IMAGENET = "imagenet"  # the best published ones, as where none are named: all that are published were trained on it
LEARNED = "learnt"  # from the training images, during a fit
