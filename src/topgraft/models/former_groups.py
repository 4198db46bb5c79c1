"""Read what was written when groups of a network had other names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from topgraft.strategies.history import EpochRecord

V = TypeVar("V")

FORMER = {
    # Its groups were numbered one behind its layers, which are numbered by the paper's stages 2 to 5.
    "resnet50_notes": {
        "stem": "stem", "stage1": "stage2", "stage2": "stage3", "stage3": "stage4", "stage4": "stage5", "head": "head",
    },
}  # fmt: skip
"""Backbone → former name of each group, in the chain's order → its name today."""


def are_former(backbone: str, names: Iterable[str]) -> bool:
    """Whether groups, or tensors or layers in them, have the former names: one of those is in use no more."""
    gone = _gone(backbone)
    return any(name.partition(".")[0] in gone for name in names)


def former_name(backbone: str, name: str) -> str:
    """What a tensor or layer was called, by its name today."""
    was = {today: then for then, today in FORMER.get(backbone, {}).items()}
    group, dot, rest = name.partition(".")
    return f"{was.get(group, group)}{dot}{rest}"


def translated(backbone: str, tensors: Mapping[str, V]) -> dict[str, V]:
    """Tensors of a chain by today's names."""
    if not are_former(backbone, tensors):
        return dict(tensors)
    today: dict[str, V] = {}
    for name, tensor in tensors.items():
        group, _, rest = name.partition(".")
        today[f"{FORMER[backbone].get(group, group)}.{rest}"] = tensor
    return today


def translated_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's config by today's names: tables, rules, and phases that are called after a group."""
    backbone = config.get("backbone", {}).get("name", "")
    if not are_former(backbone, (group for table in config.get("phases", {}).values() for group in table)):
        return dict(config)
    today = {**config, "resolved": dict(config["resolved"])}
    for part in ("phases", "selection", "auto", "caching"):
        today[part] = _renamed(backbone, config.get(part))
    today["resolved"]["caching"] = _renamed(backbone, config["resolved"].get("caching", {}))
    today["resolved"]["phases"] = [_phase(backbone, phase) for phase in config["resolved"].get("phases", ())]
    for part in ("settings", "asked"):
        settings = dict(config.get(part, {}))
        if settings.get("unfreeze_from"):
            settings["unfreeze_from"] = renamed(backbone, settings["unfreeze_from"])
        if settings.get("rules"):
            settings["rules"] = [{**p, "rules": dict(_rules(backbone, p["rules"].items()))} for p in settings["rules"]]
        today[part] = settings
    return today


def translated_history(backbone: str, history: Iterable[EpochRecord]) -> tuple[EpochRecord, ...]:
    """Records of epochs, whose phases are called by today's names."""
    return tuple(replace(record, name=renamed(backbone, record.name)) for record in history)


def in_checkpoint(backbone: str, tensors: Iterable[str], state: Mapping[str, Any]) -> bool:
    """Whether the state of an unfinished fit has the former names."""
    gone = _gone(backbone)
    # Its settings are left out: a path in them may be called as a group was.
    text = json.dumps([list(tensors), {key: value for key, value in state.items() if key != "settings"}], default=str)
    return bool(gone) and re.search(rf"\b({'|'.join(gone)})\b", text) is not None


def renamed(backbone: str, text: str) -> str:
    """A text in former names, as that of a phase, with today's."""
    names = FORMER.get(backbone, {})
    return re.sub(r"\w+", lambda word: names.get(word[0], word[0]), text)


def _gone(backbone: str) -> set[str]:
    names = FORMER.get(backbone, {})
    return set(names) - set(names.values())


def _renamed(backbone: str, value: Any) -> Any:
    """A JSON value in which every group has today's name."""
    if isinstance(value, str):
        return renamed(backbone, value)
    if isinstance(value, Mapping):
        return {renamed(backbone, key): _renamed(backbone, entry) for key, entry in value.items()}
    return [_renamed(backbone, entry) for entry in value] if isinstance(value, list) else value


def _phase(backbone: str, phase: Mapping[str, Any]) -> dict[str, Any]:
    pairs = _rules(backbone, [(rule["pattern"], rule["lr_multiplier"]) for rule in phase["rules"]])
    rules = [{"pattern": pattern, "lr_multiplier": multiplier} for pattern, multiplier in pairs]
    return {**phase, "name": renamed(backbone, phase["name"]), "rules": rules}


def _rules(backbone: str, rules: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Patterns written out for today's groups, as ``stage[12]`` meant others; the first that matches a group counts."""
    today: dict[str, Any] = {}
    for pattern, multiplier in rules:
        matching = [now for then, now in FORMER[backbone].items() if fnmatchcase(then, pattern)]
        for group in [pattern] if pattern == "*" else matching:
            today.setdefault(group, multiplier)
    return list(today.items())
