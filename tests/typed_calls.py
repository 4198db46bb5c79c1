"""Calls that a type checker accepts or refuses; nothing runs them.

mypy reads this file with the package: it fails where a right call is refused, and, as an ignore is then unused, where a
wrong one is accepted.
"""

from __future__ import annotations

from pathlib import Path

import topgraft as tg


def right(model: tg.FittedClassifier) -> None:
    photos = tg.open_images("photos/", limit=100, data_dir=Path("data"))
    tg.fit(photos, backbone="resnet50", strategy="partial", epochs=3, lr=1e-4, input_size=(224, 224), quiet=True)
    tg.fit(photos, rules=[{"name": "head", "rules": {"*": "frozen", "head": 1.0}}], forget_at_most=2.5)
    accuracy: float = tg.evaluate(model, photos.test, split="val").accuracy
    interval: tg.Interval = model.evaluate(photos, include_seen=True).top1
    label: str = model.predict("new/a.jpg", top_k=3)[0].label
    print(accuracy, interval, label, [answer.probability for answer in tg.predict(model, "new/a.jpg", top_k=3)])
    tg.inspect("photos/", strategy="full", placement=True)


def wrong(model: tg.FittedClassifier) -> None:
    tg.fit("photos/", epoch=3)  # type: ignore[call-arg]
    tg.fit("photos/", epochs="3")  # type: ignore[arg-type]
    tg.fit("photos/", strategy="everything")  # type: ignore[arg-type]
    model.predict("new/a.jpg", k=3)  # type: ignore[call-arg]
    tg.open_images("photos/", seed=1)  # type: ignore[call-arg]
    tg.predict(model, "new/a.jpg", top_k=None)  # type: ignore[arg-type]
    tg.evaluate(model, "photos/", split="holdout")  # type: ignore[arg-type]
