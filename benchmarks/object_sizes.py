"""Size of what a notebook shows for each object that a user holds, and of the traceback of usual mistakes.

    TOPGRAFT_DATA=… python -m benchmarks.object_sizes

The limits: at most 10 lines of text and 20,000 bytes of HTML for each object.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common, fit

LINES, HTML = 10, 20_000
"""The limits; see the module's docstring."""


def objects(photos: Path, cache: Path) -> dict[str, Any]:
    """One object of each kind that the verbs return, of the photos in a folder."""
    import topgraft as tg

    images = tg.open_images(photos)
    model = tg.fit(images, strategy="head", cache_dir=cache)
    some = [str(sample.path) for sample in images.val[:40]]
    answers = tg.predict(model, some, cache_dir=cache)
    digits = tg.open_images("digits")
    inspection = tg.inspect(photos, strategy="partial", unfreeze_from="stage5", cache_dir=cache)
    return {
        "model": model,
        "images": images,
        "images of arrays": digits,
        "sample": images.train[0],
        "sample with an array": digits.train[0],
        "evaluation": tg.evaluate(model, images.val, split="val", include_seen=True, cache_dir=cache),
        "metrics": model.validation.metrics,
        "predictions": answers,
        "prediction": next(iter(answers)),
        "history": model.history,
        "epoch record": model.history[0],
        "summary": tg.summary("efficientnet_lite0"),
        "inspection": inspection,
        "phase": inspection.phases[-1],
        "survey": tg.survey(images),
        "forgetting": tg.forgetting(model, images, cache_dir=cache),
        "features": tg.extract_features(images, cache_dir=cache),
    }


def mistakes(folder: Path) -> dict[str, Callable[[], Any]]:
    """Mistakes that users make, by what is wrong. The first asks an address that refuses every connection."""
    import topgraft as tg
    from topgraft.data.sources import cifar
    from topgraft.system import download

    def unconnected() -> None:
        os.environ.pop("TOPGRAFT_OFFLINE")
        cifar.BASE_URL, download._PAUSES = "http://127.0.0.1:9/", (0.0,)  # the port of discard, where nothing listens
        try:
            tg.open_images("cifar10", data_dir=folder)
        finally:
            os.environ["TOPGRAFT_OFFLINE"] = "1"

    images = (np.zeros((6, 8, 8), np.uint8), np.arange(6) % 2)
    return {
        "archive, no network": unconnected,
        "archive, offline asked": lambda: tg.open_images("cifar10", data_dir=folder),
        "weights, offline asked": lambda: tg.create_network("vgg16"),
        "folder not there": lambda: tg.open_images(folder / "photos"),
        "too few images": lambda: tg.open_images(images),
        "unknown backbone": lambda: tg.summary("resnet51"),
        "unknown option": lambda: tg.fit("digits", stategy="head"),
        "bad value": lambda: tg.fit("digits", budget="soon"),
        "no artifact": lambda: tg.load(folder),
    }


def main(arguments: list[str] | None = None) -> None:
    """Print characters, lines and bytes of each, and how they stand to the limits."""
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args(arguments)
    if "TOPGRAFT_DATA" not in os.environ:
        print("skipped: set TOPGRAFT_DATA to a folder that holds data/*.zip")
        return
    os.environ["TOPGRAFT_OFFLINE"] = "1"
    print(common.machine())
    with tempfile.TemporaryDirectory() as scratch:
        found = objects(fit.unpack(Path(scratch), "hymenoptera"), Path(scratch, "cache"))
        print(f"{'object':<24} {'characters':>10} {'lines':>7} {'columns':>8} {'HTML bytes':>11} {'of the limits':>18}")
        for name, value in found.items():
            text = repr(value)
            lines = text.splitlines()
            size = len(value._repr_html_().encode()) if hasattr(value, "_repr_html_") else None
            html, share = ("–", "–") if size is None else (f"{size:,}", f"{size / HTML:.0%}")
            limits = f"{len(lines) / LINES:,.0%} and {share}"
            print(f"{name:<24} {len(text):>10,} {len(lines):>7,} {max(map(len, lines)):>8,} {html:>11} {limits:>18}")
        os.environ["TOPGRAFT_CACHE"] = scratch
        print(f"\n{'mistake':<24} {'lines of traceback':>20}")
        for name, make in mistakes(Path(scratch, "empty")).items():
            try:
                make()
            except Exception as error:
                print(f"{name:<24} {len(''.join(traceback.format_exception(error)).splitlines()):>20,}")


if __name__ == "__main__":
    main()
