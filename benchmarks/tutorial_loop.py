"""The peer of `benchmarks.fit` and `benchmarks.finetune`: the usual PyTorch tutorial. Run by those, not alone.

The recipe of https://docs.pytorch.org/tutorials/beginner/transfer_learning_tutorial.html ("ConvNet as fixed feature
extractor", and "Finetuning the ConvNet", where every parameter trains): random resized crop and flip in training,
resize 256 and center crop 224 in validation, SGD 1e-3 with momentum 0.9, a step schedule, the best epoch by validation
kept. The network is the same EfficientNet-Lite0 with the same weights, float32, eager. The tutorial's own batches are
of 4.
"""

from __future__ import annotations

import copy
import json
import math
import random
import sys
import time
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

from topgraft.models.classifier import Classifier, load_pretrained

Item = tuple[torch.Tensor, int]


class Photos(Dataset[Item]):
    """Class folders, decoded and transformed at every visit."""

    def __init__(self, root: Path, training: bool) -> None:
        classes = sorted(p.name for p in root.iterdir() if p.is_dir())
        self.items = [(p, k) for k, name in enumerate(classes) for p in sorted((root / name).iterdir())]
        self.classes, self.training = classes, training

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        path, label = self.items[index]
        image = Image.open(path).convert("RGB")
        image = random_crop(image) if self.training else center_crop(image)
        pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).reshape(224, 224, 3)
        return pixels, label


def random_crop(image: Image.Image) -> Image.Image:
    """A random part of 8 to 100 % of the area and 3/4 to 4/3 in shape, at 224×224, flipped half of the time."""
    width, height = image.size
    for _ in range(10):
        area = width * height * random.uniform(0.08, 1.0)
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = random.randint(0, width - w), random.randint(0, height - h)
            image = image.crop((left, top, left + w, top + h))
            break
    image = image.resize((224, 224), Image.Resampling.BILINEAR)
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else image


def center_crop(image: Image.Image) -> Image.Image:
    """Shorter side to 256, the central 224×224."""
    width, height = image.size
    scale = 256 / min(width, height)
    image = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    return image.crop((left, top, left + 224, top + 224))


def epoch(model: Classifier, loader: DataLoader[Item], optimizer: torch.optim.Optimizer | None) -> float:
    """One pass; returns accuracy."""
    right = n = 0
    model.train(optimizer is not None)
    for pixels, labels in loader:
        with torch.set_grad_enabled(optimizer is not None):
            logits = model(pixels)
            loss = nn.functional.cross_entropy(logits, labels)
        if optimizer is not None:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        right += int((logits.argmax(1) == labels).sum())
        n += len(labels)
    return right / n


def main(root: str, epochs: str, batch: str, part: str = "head") -> None:
    """Train for `epochs` on ``root/train`` in batches of `batch`, validate on ``root/val``, print one JSON object.

    `part` is what trains: ``head``, or ``all``.
    """
    random.seed(0)
    torch.manual_seed(0)
    train, val = Photos(Path(root, "train"), True), Photos(Path(root, "val"), False)
    loaders = [
        DataLoader(train, int(batch), shuffle=True, num_workers=2),
        DataLoader(val, int(batch), num_workers=2),
    ]
    model = load_pretrained("efficientnet_lite0", classes=len(train.classes))
    for parameter in model.parameters():
        parameter.requires_grad = part == "all"
    model.head.reset_parameters()
    for parameter in model.head.parameters():
        parameter.requires_grad = True
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-3, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)
    best, kept = 0.0, copy.deepcopy(model.state_dict())
    began = time.perf_counter()
    for _ in range(int(epochs)):
        epoch(model, loaders[0], optimizer)
        schedule.step()
        accuracy = epoch(model, loaders[1], None)
        if accuracy > best:
            best, kept = accuracy, copy.deepcopy(model.state_dict())
    model.load_state_dict(kept)
    print(json.dumps({"top1": best, "n": len(val), "loop_seconds": time.perf_counter() - began}))


if __name__ == "__main__":
    main(*sys.argv[1:])
