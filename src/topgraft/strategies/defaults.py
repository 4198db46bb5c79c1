"""Defaults as pure rules. No torch."""

from __future__ import annotations

STRENGTHS: tuple[float, ...] = tuple(10.0 ** (k / 2) for k in range(-10, 1))
"""Inverse regularization C of the head, 1e-5 to 1 in half decades, on standardized features with summed losses.

The span holds the best C of a base's 1,280 features from some hundred images up to 50,000, with room at both ends.
"""


SELECTION_MINIMUM = 200
"""Validation images below which out-of-fold predictions choose the strength: at 200 the standard error of an
accuracy of 90 % is two points, and a choice among fewer would follow chance."""


FOLDS = 5
"""Folds of out-of-fold predictions (Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, 7.10)."""


LEARNING_RATES: dict[str, float] = {"adam": 1e-3, "adamw": 1e-3, "sgd": 0.1}
"""Of random weights. Adam's is the one of its paper (https://arxiv.org/abs/1412.6980, section 2) and of Keras; SGD's is
that of ResNet (https://arxiv.org/abs/1512.03385, section 3.4)."""


PRETRAINED_RATES: dict[str, float] = {"adam": 3e-4, "adamw": 3e-4, "sgd": 0.01}
"""Of published weights, for the head and the last group; those below have less (`FALL`). Lower than of random weights,
as the network knows something that it should not forget. EfficientNet-Lite0, the whole network, five passes: on
sign-digits, far from ImageNet, 3e-4 and 1e-3 come to 99.5 and 100 % of 413 images, from 95.6 % of the head alone; on
ants and bees, near to it, the first pass takes it from 94.8 to 89.5 % of 153 at 3e-4, and to 62.7 % at 1e-3."""


FAR_ABOVE = 10
"""How many times the default a learning rate may be before a user is warned: the factor by which the range test stays
below the first rate that spoils the loss (`topgraft.training.sgd.lr_finder.MARGIN`). From published weights a little
over 3 times is
already too much for some images, and right for others (`PRETRAINED_RATES`)."""


def learning_rate(optimizer: str, pretrained: bool) -> float:
    """The default rate of phases that step."""
    return PRETRAINED_RATES[optimizer] if pretrained else LEARNING_RATES[optimizer]


def epochs(images: int, classes: int, pretrained: bool) -> int:
    """Passes over the training images where the base trains.

    From published weights the steps count, as in Big Transfer's rule (https://arxiv.org/abs/1912.11370, section 3.3:
    more images, more steps, but fewer passes): 5 passes, more for few images so that there are about 200 steps of
    32, up to 20 passes, and 3 from 20,000 images. Random weights need more passes.

    Args:
        images: to train on.
        classes: how many; each adds to what has to be learned, so that a hundred classes take one pass more, within
            those bounds.
        pretrained: whether the weights are published ones.
    """
    if not pretrained:
        return 10
    wanted = round(6400 / max(images, 1)) + (1 if classes >= 100 else 0)
    return max(3 if images >= 20_000 else 5, min(20, wanted))


BUDGET = 300.0
"""Seconds of wall time that ``auto`` takes unless told otherwise: what one waits for with a cup of coffee."""


FALL = 0.7
"""Rate of a group, as a share of that of the group above it: layers near the image know what holds for most pictures,
and should move least. ULMFiT divides by 2.6 for each layer of a language model (https://arxiv.org/abs/1801.06146,
section 3.2); a group is a stage of many layers, and networks of four and of eight groups should end alike."""


PATIENCE = 5
"""Epochs in a row without a better one after which a phase ends."""


VIEWS = 3
"""Augmented views of each image that are kept at the boundary; the plain one is kept as well."""


STALL_STEPS = 200
"""Steps after which a loss that is still at chance is looked into. Where the notebook's networks learn at all, the
loss is well below chance by then (benchmarks/notes.py)."""
