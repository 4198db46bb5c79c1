"""What holds for the project as a whole."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import topgraft

SOURCE = Path(topgraft.__file__).parent


def test_no_file_is_longer_than_400_lines() -> None:
    long = {p.name: n for p in SOURCE.rglob("*.py") if (n := len(p.read_text("utf-8").splitlines())) > 400}
    assert not long


def test_there_is_no_utils_module() -> None:
    assert not [p for p in SOURCE.rglob("*.py") if "util" in p.stem or "helper" in p.stem]


def test_importing_topgraft_imports_no_torch_and_opens_no_socket() -> None:
    code = (
        "import sys, topgraft; print([m for m in ('torch', 'openvino', 'numpy.random', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom topgraft import cli\n"
        "try: cli.main(['--help'])\nexcept SystemExit: pass\n"
        "print('HEAVY', [m for m in ('torch', 'openvino', 'sklearn', 'PIL', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout


def test_public_names_are_there() -> None:
    for name in topgraft.__all__:
        assert getattr(topgraft, name) is not None


def test_only_freeze_sets_requires_grad() -> None:
    setters = [p.name for p in SOURCE.rglob("*.py") if "requires_grad" in p.read_text("utf-8")]
    assert setters == ["freeze.py"]


def test_nothing_is_unpickled_outside_the_restricted_reader() -> None:
    for path in SOURCE.rglob("*.py"):
        text = path.read_text("utf-8")
        assert "pickle.load" not in text, path
        assert "allow_pickle=True" not in text, path
        assert text.count("torch.load(") == text.count("weights_only=True"), path


def where(text: str) -> set[str]:
    """The modules whose code holds a text."""
    return {p.relative_to(SOURCE).as_posix() for p in SOURCE.rglob("*.py") if text in p.read_text("utf-8")}


def test_files_become_pixels_in_one_place() -> None:
    assert where("Image.OPEN") == {"transforms.py"}
    assert where("Image.open(") == set()
    assert where("load_pixels(") == {"transforms.py", "dataset.py", "cost.py"}  # cost measures how fast it is
    assert where("load_view(") == {"views.py", "dataset.py"}


def test_image_specs_are_made_by_the_weights_alone() -> None:
    families = ("backbones/", "baselines/")  # which say what their weights want
    others = {name for name in where("ImageSpec(") if not name.startswith(families)}
    assert others == {"published.py", "artifact.py"}  # an artifact brings back what it was given


def test_randomness_comes_from_explicit_generators() -> None:
    # Dropout takes no generator: there the global one is seeded for each step, and put back after it.
    assert where("torch.manual_seed(") == {"stepping.py"}
    for name in ("random.seed(", "torch.seed(", "import random", "np.random.rand", "RandomState"):
        assert not where(name), name
    drawing = {p for name in ("rand(", "randn(", "randint(", "randperm(") for p in where(f"torch.{name}")}
    assert {p for p in drawing if "generator=" not in (SOURCE / p).read_text("utf-8")} == set()


def test_the_source_distribution_holds_all_that_its_tests_need(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="77")
    root, copy = Path(__file__).parents[1], tmp_path / "project"
    leave_out = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(root / "tests", copy / "tests", ignore=leave_out)
    shutil.copytree(SOURCE, copy / "src" / "topgraft", ignore=leave_out)
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "constraints.txt"):
        shutil.copy(root / name, copy)
    code = "from setuptools import build_meta; build_meta.build_sdist('dist')"
    subprocess.run([sys.executable, "-c", code], cwd=copy, capture_output=True, check=True)
    (archive,) = (copy / "dist").iterdir()
    with tarfile.open(archive) as files:
        packed = {name.partition("/")[2] for name in files.getnames()}
    held = {path.relative_to(copy).as_posix() for path in copy.glob("tests/**/*") if path.is_file()}
    assert held, "the tests were copied"
    assert held <= packed
    assert {"constraints.txt", "LICENSE", "src/topgraft/py.typed"} <= packed
