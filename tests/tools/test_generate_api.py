"""The generated signatures of ``api.py`` are up to date, and staleness is noticed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    path = Path(__file__).parents[2] / "tools" / "generate_api.py"
    spec = importlib.util.spec_from_file_location("generate_api", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_checked_in_is_what_is_generated(generator: ModuleType) -> None:
    assert generator.main(["--check"]) == 0


@pytest.mark.parametrize(
    ("line", "other"),
    [
        ("    batch_size: int = 32,\n", ""),
        ("    batch_size: int = 32,\n", "    batch_size: int = 64,\n"),
        ("        batch_size: images of one step", "        batch_size: images"),
        ("    quiet: bool = False,\n", "    quiet: bool = False,\n    gone: int = 1,\n"),
    ],
)
def test_a_stale_signature_is_noticed_and_written_again(
    generator: ModuleType, line: str, other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = generator.FILES[0].read_text("utf-8")
    assert line in source
    copy = tmp_path / "api.py"
    copy.write_text(source.replace(line, other), "utf-8")
    monkeypatch.setattr(generator, "FILES", [copy])
    assert generator.main(["--check"]) == 1
    assert generator.main([]) == 0
    assert copy.read_text("utf-8") == source
