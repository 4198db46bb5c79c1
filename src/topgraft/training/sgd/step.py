"""One step of a phase, and the walk over all images that judge it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from topgraft.models import freeze
from topgraft.models.classifier import Classifier
from topgraft.system.gpu import to_device
from topgraft.training.inputs import TrainingInputs

from .divergence import chance_loss
from .fused_conv import FusedGroups, fold, gradients
from .fused_conv import logits as folded_logits
from .losses import mix, soft_cross_entropy, soft_targets
from .optimizers import make_optimizer, penalized


@dataclass(frozen=True)
class StepChoices:
    """How a phase steps.

    Attributes:
        optimizer, batch_size: see `topgraft.settings.verbs.FitSettings`.
        precision: ``bf16`` casts the products; softmax, loss, weights and their sums are float32 in any case.
        device: ``cpu`` or ``cuda``.
        l2: see `topgraft.training.sgd.optimizers.penalty`.
        class_weights: float64, one for each class, or None.
        pretrained: whether the weights know something that can be lost; random ones may rise far above chance and
            come down again.
        updates_batchnorm: whether BatchNorm takes its statistics from the batches, as random weights need.
        stalled: ``stop`` raises where a lower rate learns and this one does not, ``lower`` continues with that.
        seed: of the order of the images, of dropout, and of mixup.
        schedule: see `topgraft.training.sgd.optimizers.schedule`.
        label_smoothing, mixup: see `topgraft.training.sgd.losses`.
        ema: share of a step's old mean in the running mean of the weights, which is what is validated and kept;
            0 for the weights themselves.
        l2_sp: pull of the weights towards the published ones, α of α/2·‖w - w₀‖²
            (https://arxiv.org/abs/1802.01483, section 3); the head is not pulled.
        keep_last: the last epoch stays, as how many there are was chosen before.
        patience: the phase ends where so many epochs in a row are no better than the best; None for never.
        keep_minutes: minutes between states that are kept within an epoch.
        own_rate: the rate is one that a user gave: where it is too high, which one holds is looked for in any case.

    The loss is looked at after every `BLOCK` of the first `STALL_STEPS` steps, and for as long as the rate rises,
    unless `stalled` is ``ignore``. A loss that is not a number always stops.
    """

    optimizer: str
    batch_size: int
    precision: str
    device: str
    l2: float = 0.0
    class_weights: NDArray[np.float64] | None = None
    pretrained: bool = True
    updates_batchnorm: bool = False
    stalled: str = "stop"
    seed: int = 0
    schedule: str = "constant"
    label_smoothing: float = 0.0
    mixup: float = 0.0
    ema: float = 0.0
    l2_sp: float = 0.0
    keep_last: bool = False
    patience: int | None = None
    keep_minutes: float = 3.0
    own_rate: bool = False


@dataclass(frozen=True, eq=False)
class Run:
    """What stays the same while a phase runs.

    Attributes:
        classifier: trains in place.
        rows: `topgraft.strategies.plan.table` of the phase's rules.
        material: the images.
        train, val: indices into it.
        choices: how to step.
        started: the network's state before the first step.
        anchor: the state that `StepChoices.l2_sp` pulls to.
        folded: computes the same faster, where it can; see `topgraft.training.sgd.fused_conv`.
    """

    classifier: Classifier
    rows: Mapping[str, float | None]
    material: TrainingInputs
    train: NDArray[np.int64]
    val: NDArray[np.int64]
    choices: StepChoices
    started: Mapping[str, torch.Tensor]
    anchor: Mapping[str, torch.Tensor] = field(default_factory=dict)
    folded: FusedGroups | None = None

    @property
    def groups(self) -> dict[str, torch.nn.Module]:
        """The network's groups by name."""
        return dict(self.classifier.groups.items())

    @property
    def chance(self) -> float:
        """See `topgraft.training.sgd.divergence.chance_loss`."""
        return chance_loss(self.material.labels[torch.from_numpy(self.train)].numpy(), self.choices.class_weights)

    def optimizer(self, lr: float) -> torch.optim.Optimizer:
        """A fresh one at a rate."""
        return make_optimizer(self.groups, self.rows, name=self.choices.optimizer, lr=lr, l2=self.choices.l2)


@dataclass(frozen=True)
class Step:
    """What one step leaves: mean loss, right answers, images. Numbers may still be on their way from a GPU."""

    loss: torch.Tensor
    right: torch.Tensor
    images: int


def shuffled(images: NDArray[np.int64], seed: int, number: int) -> NDArray[np.int64]:
    """Images in the order of an epoch: a function of the seed and the epoch's number alone."""
    order: NDArray[np.int64] = np.random.default_rng([seed, number]).permutation(images)
    return order


def one_step(
    run: Run, optimizer: torch.optim.Optimizer, images: torch.Tensor, labels: torch.Tensor, draw: Sequence[int]
) -> Step:
    """Step on one batch.

    Args:
        run: the phase.
        optimizer: with the rates of this step.
        images, labels: the batch.
        draw: seeds what is random in the step.
    """
    choices = run.choices
    classes = run.classifier.head.out_features
    weights = None if choices.class_weights is None else torch.from_numpy(choices.class_weights).float()
    targets = soft_targets(labels, classes, smoothing=choices.label_smoothing, weights=weights)
    if choices.mixup:
        images, targets = mix(images, targets, choices.mixup, np.random.default_rng(list(draw)))
    targets = replace(targets, shares=to_device(targets.shares, choices.device))
    # One image alone has no variance where the map is 1×1: it is normalized by the running statistics.
    freeze.apply_modes(run.groups, run.rows, choices.updates_batchnorm and len(labels) > 1)
    on_gpu = choices.device == "cuda"
    seed = np.random.SeedSequence(list(draw)).generate_state(1, np.uint64)[0].item()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if on_gpu else []):
        if on_gpu:
            torch.manual_seed(seed)
        else:  # the caller's generators of GPUs are not forked, and are left alone
            torch.default_generator.manual_seed(seed)
        if run.folded is not None:
            loss, right = gradients(run.folded, images, labels, targets)
        else:
            logits = _logits(run, images)
            loss = soft_cross_entropy(logits, targets)
            loss.backward()  # type: ignore[no-untyped-call]
            right = (logits.detach().argmax(1) == to_device(labels, choices.device)).sum()
    if choices.l2_sp:
        _pull(run)
    optimizer.step()
    optimizer.zero_grad()
    return Step(loss.detach(), right, len(labels))


def _pull(run: Run) -> None:
    """Add the gradient of α/2·‖w - w₀‖² to the penalized parameters of the base that train."""
    names = {id(parameter): name for name, parameter in run.classifier.named_parameters()}
    with torch.no_grad():
        for group, module in run.groups.items():
            for parameter in penalized(module) if group != "head" else ():
                if parameter.grad is not None:
                    away = parameter - run.anchor[names[id(parameter)]]
                    parameter.grad.add_(away, alpha=run.choices.l2_sp)


def _logits(run: Run, images: torch.Tensor) -> torch.Tensor:
    choices = run.choices
    if run.folded is not None:
        return folded_logits(run.folded, images)
    with torch.autocast(choices.device, torch.bfloat16, enabled=choices.precision == "bf16"):
        x = to_device(images, choices.device)
        return run.classifier.after(run.material.boundary, x).float()


def fuse_frozen(run: Run) -> FusedGroups | None:
    """Layers that compute what the phase trains faster, on a processor in float32; None where there are none."""
    choices = run.choices
    if choices.device != "cpu" or choices.precision != "fp32" or choices.updates_batchnorm:
        return None
    names = list(run.classifier.groups)
    first = 0 if run.material.boundary is None else names.index(run.material.boundary) + 1
    groups = {name: run.classifier.groups[name] for name in names[first:]}
    if run.material.boundary is None:
        groups = {"normalise": run.classifier.normalise, **groups}
    # A cache holds the plain images of those that judge, and views of those that train.
    some, at = (run.val[:2], None) if len(run.val) else (run.train[:2], 1)
    for images, _ in run.material.batches(some, 2, at):
        return fold(groups, run.rows, images)
    return None


def validate(run: Run) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits and labels of the images that judge. Leaves the network in evaluation mode."""
    run.classifier.eval()
    parts: list[tuple[torch.Tensor, torch.Tensor]] = []
    if run.choices.device == "cuda":
        size = min(128, 4 * run.choices.batch_size)  # who lowers the batches for a small GPU lowers these
    else:
        # On a processor small batches keep the activations in its cache.
        size = 128 if run.classifier.spec.input_size <= 64 or run.folded is not None else 8
    with torch.inference_mode():
        for images, labels in run.material.batches(run.val, size, None):
            parts.append((_logits(run, images).cpu(), labels))
    logits: NDArray[np.float32] = torch.cat([part for part, _ in parts]).numpy()
    return logits, torch.cat([labels for _, labels in parts]).numpy()
