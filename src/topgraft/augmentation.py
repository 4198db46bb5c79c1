"""What is drawn at random for a view of an image. No torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What is drawn at random for a view of an image, instead of the central crop of its `ImageSpec`.

    Attributes:
        scale: lowest and highest share of the image's area that a crop has, above 0 and at most 1.
        ratio: lowest and highest width of a crop divided by its height.
        flip: whether every second view is mirrored, left to right.
        colour: brightness, contrast and saturation are each multiplied by 1 - colour … 1 + colour; 0 keeps them.
    """

    scale: tuple[float, float]
    ratio: tuple[float, float]
    flip: bool
    colour: float


@dataclass(frozen=True, slots=True)
class View:
    """One way to see every image. What is drawn follows from `seed`, `number` and an image's digest alone.

    `seed` and `number` are 0 or more; `number` is that of the epoch, or of a view that is cached.
    """

    augmentation: Augmentation
    seed: int
    number: int

    @property
    def key(self) -> str:
        """All of it in one line; equal where, and only where, the views are."""
        drawn = self.augmentation
        low, high, narrow, wide, colour = (float(x) for x in (*drawn.scale, *drawn.ratio, drawn.colour))
        return (
            f"scale {low!r} {high!r} ratio {narrow!r} {wide!r} flip {int(drawn.flip)} colour {colour!r} "
            f"seed {self.seed} number {self.number}"
        )
