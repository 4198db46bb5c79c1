"""Options by the names that they have today, in configs and checkpoints written before they were renamed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RENAMED = {"from_": "unfreeze_from"}
"""Former name of an option → its name today."""


def translated_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Saved settings by today's names."""
    return {RENAMED.get(name, name): value for name, value in settings.items()}


def with_option_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's config whose settings have today's names; call it after the config's hash has been checked."""
    parts = {part: translated_settings(config[part]) for part in ("settings", "asked") if part in config}
    return {**config, **parts}
