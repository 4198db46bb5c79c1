"""What Topgraft raises. Every message says what is wrong, where, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class TopgraftError(Exception):
    """Base of all errors that Topgraft raises on purpose; the command line exits with 1."""


class UsageError(TopgraftError):
    """A choice that cannot work: an unknown name, a value out of range; the command line exits with 2."""


class DataError(TopgraftError):
    """Images or labels that cannot be used: none found, one class, unreadable under ``--strict``."""


class WeightsError(TopgraftError):
    """Weights that are not here, are damaged, or do not fit the network."""


class ArtifactError(TopgraftError):
    """An artifact that is damaged, is from a newer version, or is not an artifact."""


class CheckpointError(TopgraftError):
    """The state of an unfinished fit that is damaged, or does not fit what is to continue from it."""


class DownloadError(TopgraftError):
    """A download that could not be finished: no network, offline asked for, wrong checksum, full disk."""


class CacheError(TopgraftError):
    """Features that cannot be kept: they do not fit the stored precision, or the disk does not take them."""


class ImageError(TopgraftError):
    """One image that cannot be read; the message is the reason in one line, without the name."""


class NotANumberError(TopgraftError):
    """Training has come to weights whose answers are not numbers."""


class OutOfTimeError(TopgraftError):
    """The time of a phase was up before its first step."""


class TrainingStalledError(TopgraftError):
    """Training does not get away from chance, or loses what the network knew; and whether a lower rate does better.

    Attributes:
        lr: the rate that was used.
        rate: a lower one that was seen to learn on the same images; None if none was.
        curves: rate → pairs of step and mean loss of the steps before it, in nats.
    """

    def __init__(
        self,
        lr: float,
        steps: int,
        loss: float,
        chance: float,
        rate: float | None,
        curves: Mapping[float, Sequence[tuple[int, float]]],
        known: bool = False,
    ) -> None:
        self.lr, self.rate, self.curves = lr, rate, curves
        does = "loses what it knew" if known else "does not learn"
        better = "holds" if known else "learns"
        advice = f"no lower rate was seen that {better}"
        if rate is not None:
            advice = f"use --lr {rate:g} (with --rules: as the lr of the phase), which {better}"
        lines = [
            f"  {name:g}: " + ", ".join(f"{value:.3f} at {step}" for step, value in curve[-1:] if value == value)
            for name, curve in curves.items()
        ]
        super().__init__(
            f"the network {does} at the learning rate {lr:g}: after {steps} steps the loss is {loss:.3f}, and "
            f"chance is {chance:.3f}; {advice}. Loss by rate and step:\n" + "\n".join(lines)
        )


def shortened(text: str, length: int) -> str:
    """At most `length` characters of a text, for a message; what is longer ends after a word, with ``…``.

    Words end at blanks, commas and semicolons; only a text of one long word is cut within it.
    """
    if len(text) <= length:
        return text
    start = text[:length]
    end = max(start.rfind(mark) for mark in " \t,;")
    return start[: end if end > 0 else length - 1].rstrip() + "…"
