"""Accuracy, log loss and calibration of logits, with their uncertainty. NumPy only."""

from .evaluation import ClassReport, Metrics, confused, confusion_matrix, evaluate_logits, metrics_overview
from .intervals import Z_95, Difference, Interval, paired_loss, wilson
from .probabilities import (
    ECE_BINS,
    calibration_error,
    hits,
    inverse_temperature,
    is_correct,
    log_loss,
    log_softmax,
    scaled_log_loss,
    softmax,
)

__all__ = [
    "ECE_BINS",
    "Z_95",
    "ClassReport",
    "Difference",
    "Interval",
    "Metrics",
    "calibration_error",
    "confused",
    "confusion_matrix",
    "evaluate_logits",
    "hits",
    "inverse_temperature",
    "is_correct",
    "log_loss",
    "log_softmax",
    "metrics_overview",
    "paired_loss",
    "scaled_log_loss",
    "softmax",
    "wilson",
]
