"""The fits whose results are kept here, as `topgraft fit` takes them today.

When an option is renamed, rename it here: the fits stay the same, and so must what they ended in.
"""

from __future__ import annotations

from dataclasses import dataclass

ENGINE = ("--engine", "torch", "--precision", "fp32", "--device", "cpu")
"""For every verb: nothing is left to the machine."""

_FIT = (*ENGINE, "--input-size", "32", "--seed", "0")
_SMALL = ("--backbone", "squeezenet1_1", "--weights", "weights/squeezenet1_1.safetensors", *_FIT)
_LITE0 = ("--backbone", "efficientnet_lite0", "--weights", "weights/lite0.safetensors", *_FIT)
_TIMM = ("--backbone", "timm:test_efficientnet", "--weights", "weights/timm.safetensors", *_FIT)
_CACHED = ("--boundary-cache", "on", "--views", "1", "--stalled", "ignore")


@dataclass(frozen=True)
class GoldenFit:
    """One fit.

    Attributes:
        options: what follows ``topgraft fit photos``.
        needs: the module without which it cannot run.
        trains: whether the base that it ends in is not the published one.
    """

    options: tuple[str, ...]
    needs: str = ""
    trains: bool = True


RULES = (*_SMALL, "--rules", "rules.toml", "--batch-size", "3", *_CACHED)
"""Its epochs have 36 steps, and a state within an epoch is written after 25."""

AUTO = (*_SMALL, "--strategy", "auto", "--batch-size", "3", "--lr", "1e-3", *_CACHED)

FITS = {
    "head": GoldenFit((*_SMALL, "--strategy", "head"), trains=False),
    "svm": GoldenFit(("--backbone", "descriptor_coding", *_FIT, "--strategy", "head"), needs="cv2"),
    "partial": GoldenFit(
        (*_SMALL, "--strategy", "partial", "--unfreeze-from", "stage1", "--batch-size", "4", "--epochs", "8",
         "--lr", "1e-3", *_CACHED)
    ),
    "rules": GoldenFit(RULES),
    "auto": GoldenFit((*AUTO, "--budget", "4m", "--epochs", "6")),
    "forget_at_most": GoldenFit(
        (*_LITE0, "--strategy", "partial", "--unfreeze-from", "stage6", "--batch-size", "4", "--epochs", "8",
         "--lr", "1e-3", *_CACHED, "--forget-at-most", "20", "--source", "source")
    ),
    "timm": GoldenFit((*_TIMM, "--strategy", "head"), needs="timm", trains=False),
}  # fmt: skip

UNFINISHED = {
    "mid_epoch": RULES,
    "mid_fold": (*AUTO, "--budget", "4m", "--epochs", "1"),
}

RULES_FILE = """\
[[phase]]
name = "head"
rules = { head = 1.0, "*" = "frozen" }

[[phase]]
name = "low"
epochs = 8
lr = 1e-3
rules = { head = 1.0, "stage[23]" = 1.0, stage1 = 0.5, "*" = "frozen" }
"""
