"""Settings are written once: the Python signatures, the flags and the saved config are the same list."""

from __future__ import annotations

import inspect
import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

import topgraft as tg
from topgraft.cli import main
from topgraft.errors import UsageError
from topgraft.settings import verbs
from topgraft.settings.fields import as_json, changed, default, from_arguments, make

VERBS = [
    ("open_images", "data", verbs.OpenSettings),
    ("survey", "data", verbs.OpenSettings),
    ("forgetting", "forgetting", verbs.ForgettingSettings),
    ("fit", "fit", verbs.FitSettings),
    ("evaluate", "evaluate", verbs.EvaluateSettings),
    ("predict", "predict", verbs.PredictSettings),
    ("extract_features", "features", verbs.FeaturesSettings),
    ("inspect", "inspect", verbs.InspectSettings),
]


@pytest.mark.parametrize(("verb", "command", "kind"), VERBS)
def test_python_and_command_line_take_the_same_choices(verb: str, command: str, kind: type) -> None:
    signature = inspect.signature(getattr(tg, verb))
    choices = {n: p.default for n, p in signature.parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert choices == {"quiet": False} | {entry.name: default(entry) for entry in fields(kind)}
    parser = main._parser()
    subparser = next(a for a in parser._actions if a.choices and "fit" in a.choices).choices[command]
    flags = {flag for action in subparser._actions for flag in action.option_strings}
    shown = {"quiet"} | {entry.name for entry in fields(kind) if entry.metadata["notation"].flag}
    assert {"--" + name.replace("_", "-") for name in choices if name in shown} <= flags
    assert not {"--" + name.replace("_", "-") for name in choices if name not in shown} & flags
    assert all(name in (getattr(tg, verb).__doc__ or "") for name in choices)


def test_an_argument_at_its_default_counts_as_not_given() -> None:
    arguments = {entry.name: default(entry) for entry in fields(verbs.PredictSettings)} | {"images": "a.jpg"}
    assert changed(verbs.PredictSettings, arguments) == {}
    assert changed(verbs.PredictSettings, {**arguments, "top_k": 3, "engine": "torch"}) == {
        "top_k": 3,
        "engine": "torch",
    }
    assert from_arguments(verbs.PredictSettings, {**arguments, "top_k": 3}) == verbs.PredictSettings(top_k=3)


def test_false_is_not_taken_for_zero() -> None:
    arguments = {entry.name: default(entry) for entry in fields(verbs.OpenSettings)}
    with pytest.raises(UsageError, match="split_seed must be a whole number, not False"):
        from_arguments(verbs.OpenSettings, {**arguments, "split_seed": False})


def test_as_json_writes_out_every_choice() -> None:
    made = make(verbs.FitSettings, {"seed": 3, "cache_dir": "x"})
    saved = json.loads(json.dumps(as_json(made)))
    assert set(saved) == {entry.name for entry in fields(verbs.FitSettings)}
    assert make(verbs.FitSettings, saved) == made


def test_numpy_integers_and_paths_are_taken() -> None:
    made = make(verbs.FitSettings, {"seed": np.int64(3), "data_dir": "a/b", "workers": None})
    assert (made.seed, type(made.seed), made.data_dir, made.workers) == (3, int, Path("a/b"), None)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sede": 1}, "did you mean seed"),
        ({"zzz": 1}, "the settings are"),
        ({"engine": "tpu"}, "one of auto, openvino, torch, fastest"),
        ({"seed": -1}, "at least 0"),
        ({"seed": "1"}, "whole number"),
        ({"seed": True}, "whole number"),
        ({"strict": 1}, "True or False"),
        ({"limit": 0}, "at least 1"),
        ({"backbone": None}, "must be text"),
    ],
)
def test_wrong_choices_say_what_is_right(given: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(verbs.FitSettings, given)


def test_what_has_no_effect_are_choices_of_fit() -> None:
    assert {entry.name for entry in fields(verbs.FitSettings)} >= verbs.WITHOUT_EFFECT


@pytest.mark.parametrize(
    ("given", "found"), [(0, 0.0), ("2.5", 2.5), (100, 100.0), (-1, None), (101, None), ("x", None)]
)
def test_points_that_may_be_forgotten(given: float | str, found: float | None) -> None:
    if found is None:
        with pytest.raises(UsageError, match="0 to 100 points"):
            make(verbs.FitSettings, {"forget_at_most": given})
    else:
        assert make(verbs.FitSettings, {"forget_at_most": given}).forget_at_most == found


@pytest.mark.parametrize("given", [64, "64", "64x64", (64, 64), (64, 64, 3)])
def test_an_input_size_is_saved_as_one_side(given: object) -> None:
    made = make(verbs.FitSettings, {"input_size": given})
    assert as_json(made)["input_size"] == 64


def test_an_input_size_below_the_smallest_is_refused() -> None:
    with pytest.raises(UsageError, match="input_size must be at least 32, not 16"):
        make(verbs.FitSettings, {"input_size": (16, 16)})
