"""Print evaluations and predictions."""

from __future__ import annotations

import csv
import sys

from rich.markup import escape

from topgraft.evaluation.chance import judged, warned
from topgraft.evaluation.headline import headline
from topgraft.evaluation.results import Evaluation, Predictions
from topgraft.metrics import confused
from topgraft.system.formatting import share

from .table import lines, make_console, make_table, share_cell


def evaluated(result: Evaluation) -> None:
    """Metrics by class where they fit on a screen, then the headline numbers."""
    console = make_console()
    if len(result.classes) <= 40:
        shown = make_table("class", "precision", "recall", "F1", "images")
        for row in result.metrics.classes:
            shown.add_row(
                escape(row.name), share_cell(row.precision), share_cell(row.recall), share_cell(row.f1), f"{row.n:,}"
            )
        console.print(shown)
    worst = confused(result.metrics)
    if worst:
        console.print("most often confused: " + "; ".join(worst), highlight=False, markup=False)
    metrics = result.metrics
    calibration = (
        f"log loss {metrics.log_loss:.3f}, expected calibration error {metrics.ece:.3f} "
        f"({metrics.ece_bins} bins), n = {metrics.n:,}, without interval"
    )
    lines([calibration, *warned(judged(result).message), *headline(result)])


def predicted(answers: Predictions) -> None:
    """One row per image: the best class and the runners-up."""
    shown = make_table("image", "class", "probability", "then")
    for answer in answers:
        rest = ", ".join(
            f"{name} {share(p)}" for name, p in zip(answer.classes[1:4], answer.probabilities[1:4], strict=True)
        )
        shown.add_row(escape(answer.name), escape(answer.classes[0]), share(answer.probabilities[0]), escape(rest))
    make_console().print(shown)


def predicted_csv(answers: Predictions) -> None:
    """CSV: one line for each image and answer, best first."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["image", "rank", "class", "probability"])
    for answer in answers:
        for rank, (name, probability) in enumerate(zip(answer.classes, answer.probabilities, strict=True), start=1):
            writer.writerow([answer.name, rank, name, f"{probability:.6f}"])
