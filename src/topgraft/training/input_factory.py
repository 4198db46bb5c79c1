"""What phases train on, made ready: features, activations at a boundary, or pixels; and what they will cost."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from topgraft.data.augment import AUGMENTATIONS, Augmentation, View
from topgraft.data.loader import batches, decoding_threads
from topgraft.data.pixel_cache import Pixels, fits, open_pixels
from topgraft.data.samples import Sample, Unreadable, labels_of
from topgraft.errors import CacheError, DataError, OutOfTimeError, TopgraftError
from topgraft.features.extract import FeatureRows, compute
from topgraft.features.frozen_base import Base, open_base, open_boundary, open_probes
from topgraft.metrics import softmax
from topgraft.models.classifier import Classifier
from topgraft.models.registry import find_network
from topgraft.models.weights.load import load_network
from topgraft.models.weights.names import RANDOM
from topgraft.settings import verbs
from topgraft.strategies.defaults import VIEWS
from topgraft.strategies.facts import Facts
from topgraft.strategies.plan import Phase, frozen_prefix
from topgraft.system import progress
from topgraft.system.files import cache_folder
from topgraft.training.cost.budget import AFTER, RemainingWork
from topgraft.training.cost.cache_decision import CacheDecision, Timings, decide
from topgraft.training.cost.group_costs import GroupCost, above, below, measure_groups
from topgraft.training.head import Labeled
from topgraft.training.head.probes import probe

from .boundary_cache import fill, free_bytes, measure_store, trim
from .inputs import PixelInputs, TrainingInputs
from .replay import Resolved

_MEASURED = 16  # images that are decoded to see how long it takes
_PROBING = 0.1  # share of a budget after which no further probe is begun
_FAMILIAR = 2000  # images that are asked how familiar they are


@dataclass(eq=False)
class Preparation:
    """Images, network and choices of one fit, and what was found out about them on the way.

    Attributes:
        classifier: on the CPU, in evaluation mode, where a method is called.
        samples: train, then validation.
        train_images: how many of them are train.
        chosen, resolved: see `topgraft.training.replay.fit_settings`.
        decisions: phase → the decision to train from the cache or not, for the run's config.
        failed: index of a sample → why it cannot be read.
    """

    classifier: Classifier
    samples: Sequence[Sample]
    train_images: int
    chosen: verbs.FitSettings
    resolved: Resolved
    decisions: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    _costs: dict[str, GroupCost] = field(default_factory=dict)
    _decode: float = 0.0  # seconds for an image, all threads working
    _engine: float | None = None  # seconds for an image through the whole base, decoding included
    _store: float | None = None
    _free: int = 0  # bytes of disk, before anything was cached
    _pixels: Pixels | None = None
    _judged: Pixels | None = None
    _unseen: dict[int, str] = field(default_factory=dict)  # of views in the cache

    # --- Measuring --------------------------------------------------------------------------------------------------

    def measure(self) -> None:
        """Time decoding and every group on a few images.

        Raises:
            DataError: none of the first images can be read.
        """
        if self._costs:
            return
        began = time.perf_counter()
        some = list(islice((sample for at, sample in enumerate(self.samples) if at not in self.failed), _MEASURED))
        parts = list(batches(some, self.classifier.spec, batch_size=4, workers=decoding_threads(self.chosen.workers)))
        self._decode = (time.perf_counter() - began) / max(len(some), 1)
        pixels = torch.cat([part.pixels for part in parts])
        if not len(pixels):
            raise DataError(f"none of the first {len(some)} images can be read; `topgraft data` says why")
        self._costs = measure_groups(
            self.classifier, pixels, self.resolved.engine.device, self.resolved.training, self.chosen.batch_size
        )

    def measure_all(self) -> Timings:
        """What an image costs; measures what was not measured yet, the disk included."""
        self.measure()
        if self._store is None:
            self._store = measure_store(self._folder / "boundaries")
            self._free = free_bytes(self._folder)
        return Timings(self._costs, self._engine, self._decode, self._store)

    def state(self) -> dict[str, Any]:
        """What was measured and decided, as JSON types, for a resumed run: see `remember`."""
        # As pairs: JSON objects keep no order, and no numbers as names.
        return {
            "costs": [[name, *asdict(cost).values()] for name, cost in self._costs.items()],
            "decode": self._decode,
            "engine": self._engine,
            "store": self._store,
            "free": self._free,
            "decisions": list(self.decisions.values()),
            "unseen": [[at, reason] for at, reason in self._unseen.items()],
        }

    def remember(self, found: Mapping[str, Any]) -> None:
        """Decide as the run did whose `state` it was; measured again, it might come out otherwise."""
        if found["store"] is not None:  # else nothing had to be decided yet
            self._costs = {name: GroupCost(*cost) for name, *cost in found["costs"]}
            self._decode, self._engine, self._store = found["decode"], found["engine"], found["store"]
            self._free = found["free"]
        self.decisions = {entry["phase"]: dict(entry) for entry in found["decisions"]}
        self._unseen = {int(at): str(reason) for at, reason in found["unseen"]}

    @property
    def _folder(self) -> Path:
        return self.chosen.cache_dir or cache_folder()

    # --- Features, and probes ---------------------------------------------------------------------------------------

    @property
    def _libraries(self) -> tuple[str, ...]:
        return find_network(self.chosen.backbone).libraries

    def _base(self, probes: bool) -> tuple[Base, Mapping[str, int]]:
        """The base, and, for probes, how many numbers each group gives."""
        chosen, engine = self.chosen, self.resolved.engine
        if probes:
            return open_probes(self.classifier, engine, chosen.workers, chosen.cache_dir, self._libraries)
        return open_base(self.classifier, engine, chosen.workers, chosen.cache_dir, self._libraries), {}

    def features(self, probes: bool, until: float = math.inf) -> tuple[FeatureRows, dict[str, NDArray[np.float32]]]:
        """Features of all images and, if asked for, the pooled activations after every group, from the same pass.

        Args:
            probes: whether the activations are asked for.
            until: when a budget ends, by ``time.perf_counter``. If it ends before, that is said, and nothing is cut.
        """
        base, widths = self._base(probes)

        def late(message: str) -> None:
            progress.note(f"{message}; the head is still fitted to all of them")

        computed = compute(self.samples, base, strict=self.chosen.strict, description="base", until=until, late=late)
        if computed.decoded >= _MEASURED and self._store is None:
            self._engine = computed.seconds / computed.decoded
        names = {entry.name: entry.reason for entry in computed.unreadable}
        self.failed = {at: names[sample.name] for at, sample in enumerate(self.samples) if sample.name in names}
        pooled: dict[str, NDArray[np.float32]] = {}
        if probes:
            start = 0
            for name, width in widths.items():
                pooled[name] = computed.rows[:, start : start + width]
                start += width
            features = np.ascontiguousarray(computed.rows[:, start - self.classifier.head.in_features :])
            computed = replace(computed, rows=features)
        return computed, pooled

    def plan(
        self,
        facts: Facts,
        pair: tuple[Labeled, Labeled],
        pooled: Mapping[str, NDArray[np.float32]],
        began: float,
        later: RemainingWork,
    ) -> Facts:
        """The facts with what was measured: probes, seconds of an epoch from each group on, time that is gone.

        Where a budget is as good as over, nothing is measured: no phase will need it.

        Args:
            facts: what was known before.
            pair: features and labels.
            pooled: see `features`.
            began: when the fit began.
            later: what comes after the last phase besides validating.
        """
        groups = [name for name in self.classifier.groups if name != "head"]
        patience, spent = math.inf, time.perf_counter() - began
        if facts.budget is not None:
            if spent + AFTER >= facts.budget:
                return replace(facts, spent=spent)
            patience = min(_PROBING * facts.budget, facts.budget - spent)
        probes, answered = probe(pooled, pair, facts.classes, self.chosen.seed, patience)
        rates = self.measure_all()
        epochs, setups = {}, {}
        for at, first in enumerate(groups):
            trained, judged = above(rates.costs, first)
            seconds = facts.train_images * trained + facts.val_images * judged
            setup = 0.0
            if at:
                decision = self._decide(groups, first, facts.epochs, facts.folds)
                if decision.cached:
                    setup = decision.filling
                    seconds += (facts.train_images + facts.val_images) * rates.reading(decision.boundary)
                else:
                    seconds += (facts.train_images + facts.val_images) * (below(rates.costs, first) + rates.decode)
            else:
                seconds += (facts.train_images + facts.val_images) * rates.decode
            epochs[first], setups[first] = seconds, setup
        each = self._engine if self._engine is not None else rates.decode + rates.prefix("head")
        return replace(
            facts,
            probes=probes,
            probe_images=answered,
            familiarity=self._familiarity(pair[0]) if pooled else None,
            epoch_seconds=epochs,
            setup_seconds=setups,
            spent=time.perf_counter() - began,
            reserve=AFTER * (1 + later.networks) + each * (2 * facts.val_images + later.images),
            solves=later.solves,
        )

    def _familiarity(self, train: Labeled) -> float | None:
        """Mean probability of the published classifier's best answer; None where there is none on these features."""
        with suppress(TopgraftError):
            name = self.chosen.backbone
            side = self.classifier.spec.input_size
            published = load_network(name, self.chosen.weights, input_size=side, folder=self.chosen.cache_dir).chain
            head = published["head"]
            if isinstance(head, torch.nn.Linear) and head.in_features == train.rows.shape[1]:
                weight, bias = head.weight.detach().numpy(), head.bias.detach().numpy()
                return float(softmax(train.rows[:_FAMILIAR] @ weight.T + bias).max(axis=1).mean())
        return None

    # --- What phases step on ----------------------------------------------------------------------------------------

    def material(self, phase: Phase, rows: Mapping[str, float | None]) -> TrainingInputs:
        """The images as the phase's first training group takes them, from the cache where that pays.

        Raises:
            OutOfTimeError: filling the cache took all of the phase's time.
        """
        until = math.inf if phase.seconds is None else time.perf_counter() + phase.seconds
        prefix = frozen_prefix(rows)
        if not prefix or self.chosen.boundary_cache == "off":
            return self._from_pixels()
        groups = list(rows)
        first = groups[len(prefix)]
        decision = self._decide(groups, first, phase.epochs, phase.folds)
        # A phase that was tried in folds comes again under its name, and may be decided otherwise.
        name = f"{phase.name}, {phase.folds} folds" if phase.folds else phase.name
        before = self.decisions.get(name, {})  # of the run that is resumed
        if before:
            decision = replace(decision, cached=before["cached"], why=before["why"])
        elif name in self.resolved.caching:
            decision = replace(decision, cached=self.resolved.caching[name], why="as the run that is replayed did")
        self.decisions[name] = {"phase": name, **asdict(decision), "keys": before.get("keys", [])}
        word = "cached" if decision.cached else "not cached"
        progress.note(f"{phase.name}: activations after {decision.boundary} are {word}: {decision.why}")
        if not decision.cached:
            return self._from_pixels()
        try:
            return self._from_cache(name, decision, in_folds=bool(phase.folds), until=until)
        except OutOfTimeError:
            del self.decisions[name]  # another time, with fewer epochs, it may be another one
            raise
        except CacheError as error:
            self.decisions[name] |= {"cached": False, "why": str(error)}
            progress.note(f"{phase.name}: continuing without the cache: {error}")
            return self._from_pixels()

    def _from_cache(
        self, name: str, decision: CacheDecision, *, in_folds: bool, until: float = math.inf
    ) -> TrainingInputs:
        """Fill what the cache lacks.

        Raises:
            CacheError, OutOfTimeError: see `fill`.
        """
        augmentation = self._augmentation
        views = [] if augmentation is None else [View(augmentation, self.chosen.seed, n) for n in range(decision.views)]
        self.classifier.eval()
        bases = open_boundary(
            self.classifier,
            decision.boundary,
            self.resolved.engine,
            self.chosen.workers,
            self.chosen.cache_dir,
            (None, *views),
            self._libraries,
        )
        self._note_keys(name, [base.store.folder.name for base in bases])
        trim(self._folder / "boundaries", self._quota - decision.needs, [base.store.folder for base in bases])
        readable = [at for at in range(len(self.samples)) if at not in self.failed]
        material = fill(bases, self.samples, self._labels, np.array(readable), self.train_images, in_folds, until)
        self._unseen.update({at: reason for (_, at), reason in material.failed.items()})
        return replace(material, ahead=self.resolved.engine.device == "cuda")

    def _note_keys(self, name: str, keys: Sequence[str]) -> None:
        """Note from which stores a phase trains; say so where a resumed run had others."""
        if self.decisions[name]["keys"] not in ([], list(keys)):
            progress.note(
                f"{name}: the activations are cached again, as a version or a processor is another one than before; "
                "the end may differ in its last digits from that of a fit without interruption"
            )
        self.decisions[name]["keys"] = list(keys)

    def _decide(self, groups: Sequence[str], first: str, epochs: int, passes: int) -> CacheDecision:
        augmentation = self._augmentation
        views = 0 if augmentation is None else min(self.chosen.views or VIEWS, epochs)
        rates = self.measure_all()
        return decide(
            rates,
            groups,
            first,
            train=self.train_images,
            val=len(self.samples) - self.train_images,
            epochs=epochs,
            views=views,
            folds=passes,
            quota=self._quota,
            free=self._free,
            asked=self.chosen.boundary_cache,
        )

    @property
    def _quota(self) -> int:
        return int(self.chosen.cache_quota * 1e9)

    @property
    def _augmentation(self) -> Augmentation | None:
        asked = self.chosen.augment
        if asked == "auto":
            asked = "none" if self.chosen.weights == RANDOM else "crop"
        return None if asked == "none" else AUGMENTATIONS[asked]

    @property
    def _labels(self) -> torch.Tensor:
        return torch.from_numpy(labels_of(self.samples))

    def decode(self) -> None:
        """Decode all images once: to keep them where they fit, and to know which cannot be."""
        spec = self.classifier.spec
        self._pixels = open_pixels(
            self.samples,
            spec,
            workers=decoding_threads(self.chosen.workers),
            keep=self._augmentation is None and fits(len(self.samples), spec),
            description="decode",
        )
        self.failed = dict(self._pixels.failed)

    def _from_pixels(self) -> PixelInputs:
        workers, spec = decoding_threads(self.chosen.workers), self.classifier.spec
        augmentation = self._augmentation
        if self._pixels is None and augmentation is None:
            self.decode()
        if self._pixels is None:  # what cannot be read is known from the features
            self._pixels = Pixels(self.samples, self._labels, spec, workers, None, dict(self.failed))
        val = self.samples[self.train_images :]
        if self._judged is None and self._pixels.kept is None and fits(len(val), spec):
            self._judged = open_pixels(val, spec, workers=workers, keep=True, description="decode validation")
        return PixelInputs(self._pixels, augmentation, self.chosen.seed, self._judged, self.train_images)

    def unreadable(self) -> tuple[Unreadable, ...]:
        """Images that could not be read, and why."""
        failed = {**self._unseen, **self.failed, **(self._pixels.failed if self._pixels is not None else {})}
        return tuple(Unreadable(self.samples[at].name, reason) for at, reason in sorted(failed.items()))
