"""`config.json` of an artifact: written with its own hash, checked when read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from topgraft.errors import ArtifactError
from topgraft.system.files import HISTORY_FILE

from .results import DAMAGE, read_text

FORMAT_VERSION = 2


HASHED = ("model.safetensors", HISTORY_FILE, "images.csv")  # what is never written again after the save


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of an artifact.

    Raises:
        ArtifactError: no artifact, a damaged one, or one from a newer version.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ArtifactError(
            f"{folder} is not a Topgraft artifact: there is no config.json in it; give the folder that fit made"
        )
    try:
        config = json.loads(read_text(path))
        version = config["format_version"]
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise ValueError(f"format_version is {version!r}")
        if version > FORMAT_VERSION:
            maker = str(config.get("versions", {}).get("topgraft", "?"))
            raise ArtifactError(
                f"{folder} has format {version}, made by a newer Topgraft ({maker}); "
                f"this one reads up to format {FORMAT_VERSION}: pip install --upgrade topgraft"
            )
        if config["config_sha256"] != hash_of(config):
            raise ValueError("what it says is not what was saved: its SHA-256 differs")
    except DAMAGE as error:
        raise ArtifactError(f"{path} is damaged ({error}); copy the artifact again or refit") from None
    return cast("dict[str, Any]", config)


def hash_of(config: Mapping[str, Any]) -> str:
    """SHA-256 of a config without its own entry, so that a changed byte is found."""
    said = {key: value for key, value in config.items() if key != "config_sha256"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
