"""Every record that a user looks at is shown within the limits, whatever it holds."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len
from support.fitted import fitted

from topgraft.data.overviews import Samples
from topgraft.data.samples import Duplicate, Sample, Splits, Unreadable
from topgraft.data.survey import Range, Survey
from topgraft.evaluation.forgetting import Forgetting, Kept
from topgraft.evaluation.results import Evaluation, FittedClassifier, Prediction, Predictions
from topgraft.evaluation.similarity import Similarity
from topgraft.features.export import Features
from topgraft.metrics import ClassReport, Difference, Interval, Metrics
from topgraft.models.summary import Layer, Parameters, Summary
from topgraft.strategies.history import EpochRecord, History
from topgraft.strategies.plan import Phase, Rule
from topgraft.system import reprs
from topgraft.training.inspection import Inspection, PlannedPhase, Station, TableRow

# What a folder or a file may be called: markup, a terminal's escapes, a line's end, a mark that turns the direction of
# writing, a formula, half of a pair of surrogates, wide characters, and accents that take no column.
NASTY = '<script>alert("x")</script>&\x1b[31m\r\n\x9b\u202e\u2028$a$\udc80 漢字' + "e\u0301" * 300
SHARE = Interval(0.948, 0.9, 0.973, 153)


def samples(names: list[str], count: int) -> tuple[Sample, ...]:
    array = np.zeros((2, 2), np.uint8)
    kinds: list[dict[str, Any]] = [{"path": Path(names[0])}, {"array": array}]
    return tuple(
        Sample(f"{at}{names[at % len(names)]}", at % len(names), digest="ab" * 32, **kinds[at % 2])
        for at in range(count)
    )


def metrics(names: list[str]) -> Metrics:
    n = len(names)
    rows = tuple(ClassReport(name, 0.5, None, 0.25, 3) for name in names)
    zeros = (0,) * n
    confusion = tuple((*zeros[1:row], 1, *zeros[row:]) for row in range(n))
    return Metrics(153, SHARE, SHARE, 0.124, 0.025, 15, rows, confusion)


def shown(name: str, classes: int, count: int) -> dict[type, Any]:
    """One object of each type, whose names hold a text."""
    names = [f"{name}{at}" for at in range(classes)]
    bad = (Unreadable(name, name),) * 3
    train = samples(names, count)
    numbers = metrics(names)
    logits = np.broadcast_to(np.float32(0), (count, classes))  # takes no memory
    labels = np.arange(count, dtype=np.int64) % classes
    evaluation = Evaluation(
        "test", True, tuple(s.name for s in train), logits, labels, tuple(names), numbers, bad, (name,), (name,), name
    )
    epochs = tuple(EpochRecord(0, name, at, 1.5, 0.5, 0.25, SHARE, 1e-3, None, at == 1) for at in range(count // 10))
    answers = tuple(Prediction(s.name, tuple(names), (1 / classes,) * classes) for s in train[: count // 10])
    duplicate = Duplicate("ab", (name,) * 30, (0,) * 30, ("train",) * 30)
    groups = [f"{name}{at}" for at in range(30)]
    planned = PlannedPhase(name, 3, 1e-4, {group: None if at < 9 else 0.5 for at, group in enumerate(groups)})
    rows = tuple(TableRow(group, 1000, 0.5, name) for group in groups)
    stations = tuple(Station(name, (32, 3, 224, 224), "float32", -1.0, 1.0) for _ in range(9))
    layers = tuple(Layer(group, name, name, (32, 112, 112), 864, 10_838_016, 99, 3) for group in groups * 5)
    model = fitted()
    config = {**model.config, "notes": [name] * 3, "data": {**model.config["data"], "where": name}}
    config["backbone"] = {**model.config["backbone"], "name": name, "weights": name, "licence": name}
    kept = Kept(9, name, SHARE, SHARE, None, None, Difference(0.1, 0.0, 0.2, 9))
    return {
        Sample: train[0],
        Samples: Samples(train),
        Duplicate: duplicate,
        Splits: Splits(
            name, tuple(names), train, train[:9], (), frozenset({"val"}), 0, bad, (duplicate,), (name,) * 9, (), name
        ),
        Metrics: numbers,
        Evaluation: evaluation,
        EpochRecord: epochs[0],
        History: History(epochs),
        Prediction: answers[0],
        Predictions: Predictions(answers, bad),
        PlannedPhase: planned,
        Inspection: Inspection(name, name, rows, stations, (name,), bad, (), (planned,) * 5),
        Phase: Phase(name, tuple(Rule(group, 0.5) for group in groups), 3, 1e-3, 5, None, 1.5),
        Features: Features(
            evaluation.names, np.broadcast_to(np.float32(0), (count, 9)), labels, ("train",) * count, tuple(names),
            name, bad, (name,),
        ),
        FittedClassifier: replace(
            model, classes=tuple(names), config=config, history=epochs, validation=evaluation, unreadable=bad
        ),
        Summary: Summary(name, 224, classes, layers, Parameters(3, 2, 1), 10**9, 10**9, (name,) * 3),
        Survey: Survey(
            name, tuple(names), {"train": dict.fromkeys(names, 3)}, 3 * classes, (), 0, Range(1, 2.5, 3), None,
            {"JPEG": 3}, bad, (duplicate,), (), (), 1.0, (name,), name,
        ),
        Forgetting: Forgetting(
            name, name, False, 10.0, Similarity(9, SHARE, 0.9, 0.8), kept, name, bad
        ),
    }  # fmt: skip


SMALL = shown("ant", 3, 60)
CASES: dict[str, Callable[[], dict[type, Any]]] = {
    "small": lambda: SMALL,
    "nasty": cache(lambda: shown(NASTY, 12, 60)),
    "nasty and many": cache(lambda: shown(NASTY, 300, 3000)),
    "1,000 classes and 100,000 images": cache(lambda: shown("class ", 1000, 100_000)),
}
TYPES = pytest.mark.parametrize("kind", SMALL, ids=lambda kind: kind.__name__)
ALL = pytest.mark.parametrize("case", CASES)


class _Reader(HTMLParser):
    """Notes the tags and the text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: str) -> _Reader:
    reader = _Reader()
    reader.feed(page)
    reader.close()
    assert not reader.open
    return reader


def test_every_type_is_in_the_table() -> None:
    """By name, as a dataclass with slots is a second class of the same name."""
    names = {f"{kind.__module__}.{kind.__name__}" for kind in reprs.Shown.__subclasses__()}
    listed = {f"{kind.__module__}.{kind.__name__}" for kind in SMALL}
    assert {name for name in names if name.startswith("topgraft.")} == listed


@ALL
@TYPES
def test_a_text_is_short_and_printable(kind: type, case: str) -> None:
    text = repr(CASES[case]()[kind])
    lines = text.split("\n")
    assert 1 <= len(lines) <= reprs.LINES
    assert max(map(cell_len, lines)) <= reprs.WIDTH
    assert all(line.isprintable() for line in lines)
    assert len(text) <= 5 * reprs.LINES * reprs.WIDTH  # accents take no column


@ALL
@TYPES
def test_a_page_is_small_and_holds_no_markup_but_its_own(kind: type, case: str) -> None:
    page = CASES[case]()[kind]._repr_html_()
    assert len(page.encode()) <= reprs.HTML_BYTES
    reader = read(page)
    assert set(reader.tags) <= {"div", "p", "b", "table", "thead", "tbody", "tr", "th", "td"}
    assert reader.text.isprintable()
    assert "tex2jax_ignore" in page.split(">")[0]
    assert not re.search(r"color|#[0-9a-f]{3}", page.replace(NASTY, ""))  # a dark page has its own


@pytest.mark.parametrize("case", ["nasty", "nasty and many"])
def test_what_files_say_is_escaped_and_not_left_out(case: str) -> None:
    for kind, value in CASES[case]().items():
        page = value._repr_html_()
        assert "<script" not in page, kind
        assert "&lt;script&gt;" in page or "&lt;scr" in page, kind


@TYPES
def test_a_list_of_them_is_readable_where_they_come_in_lists(kind: type) -> None:
    if kind in (Sample, Duplicate, EpochRecord, Prediction, PlannedPhase, Phase):
        assert repr(SMALL[kind]).startswith(kind.__name__ + "(")
        assert "\n" not in repr(SMALL[kind])


def test_what_is_shown_as_a_table_is_still_a_tuple() -> None:
    splits, model = SMALL[Splits], SMALL[FittedClassifier]
    assert isinstance(splits.train, Samples)
    assert isinstance(model.history, History)
    assert splits.train == tuple(splits.train)
    assert model.history[:1] == (model.history[0],)
    assert model.history[0] is SMALL[EpochRecord]
    again = pickle.loads(pickle.dumps(model.history))
    assert (type(again), again) == (History, model.history)
    assert replace(splits, train=splits.train[:1]).train == splits.train[:1]


MAKES: dict[str, Callable[[], Any]] = {
    "no samples": lambda: Samples(()),
    "no history": lambda: History(()),
    "no answers": lambda: Predictions((), (Unreadable("a", "is empty"),)),
    "no splits": lambda: Splits("photos", (), (), (), (), problem="none"),
    "one answer": lambda: Prediction("a", ("ant",), (1.0,)),
}


@pytest.mark.parametrize("name", MAKES)
def test_what_is_empty_can_be_shown(name: str) -> None:
    value = MAKES[name]()
    assert repr(value)
    assert read(value._repr_html_()).text
