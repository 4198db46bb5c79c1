"""What holds for the project as a whole."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from support.source_code import SOURCE, callers, calls, imported, keyword, trees, users

import topgraft


def test_no_file_is_longer_than_400_lines() -> None:
    long = {p.name for p in SOURCE.rglob("*.py") if len(p.read_text("utf-8").splitlines()) > 400}
    assert long <= {"api.py"}  # its signatures and their documentation are generated


def test_there_is_no_utils_module() -> None:
    assert not [p for p in SOURCE.rglob("*.py") if "util" in p.stem or "helper" in p.stem]


# Single words that we avoid are in docs/words.txt, which codespell reads; it knows no phrases.
AVOIDED = {
    r"\b(go|goes|going|gone|went)\s+on\b": "continue, resume",
    r"\blets?\s+go\s+of\b": "release",
    r"\bwalked\s+over\b": "completed",
    r"\bone's\s+own\b": "your own",
    r"(?<!there )(?<!where )\b(is|was|are|were)\s+no\s+(?!longer|more|less|better|one\b|answer)[a-z]": "is not a",
}


def test_avoided_phrases_are_not_used() -> None:
    root = Path(__file__).parents[1]
    files = [*SOURCE.rglob("*.py"), *(root / "tests").rglob("*.py"), *root.glob("*.md"), *root.glob("docs/**/*.md")]
    used = [
        f"{file.name}: {match.group()!r}; write {better!r}"
        for file in files
        for phrase, better in AVOIDED.items()
        for match in re.finditer(phrase, file.read_text("utf-8"), re.IGNORECASE)
    ]
    assert not used


def test_documents_name_modules_that_exist() -> None:
    root = Path(__file__).parents[1]
    folders = (root / name for name in ("src", "tests", "tools", "benchmarks"))
    files = [file.as_posix() for folder in folders for file in folder.rglob("*.py")]
    named = [
        f"{page.name}: {name}"
        for page in (*root.glob("CONTRIBUTING.md"), *root.glob("docs/decisions/*.md"))
        for name in re.findall(r"`([\w/]+\.py)`", page.read_text("utf-8"))
        if not any(file.endswith(f"/{name}") for file in files)
    ]
    assert not named


def test_importing_topgraft_imports_no_torch_and_opens_no_socket() -> None:
    code = (
        "import sys\nopened = []\n"
        "sys.addaudithook(lambda event, _: opened.append(event) if event.startswith('socket.') else None)\n"
        "import socket\nwith socket.socket(): assert opened, 'the hook hears of sockets'\nopened.clear()\n"
        "import topgraft\n"
        "print([m for m in ('torch', 'openvino', 'numpy.random', 'sklearn') if m in sys.modules], opened)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] []"


@pytest.mark.parametrize("verb", ["load", "predict", "evaluate", "save", "open_images"])
def test_using_a_model_imports_no_training_code(verb: str) -> None:
    code = (
        f"import sys, topgraft\ntopgraft.{verb}\n"
        "try: topgraft.load('no such folder')\nexcept topgraft.ArtifactError: pass\n"
        "print([m for m in sys.modules if m.startswith(('topgraft.training', 'topgraft.cli'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom topgraft.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print('HEAVY', [m for m in ('torch', 'openvino', 'sklearn', 'PIL', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout


FUNCTIONS = (
    "create_network devices evaluate extract_features fit forgetting inspect list_backbones load open_images predict "
    "save summary survey"
)
TYPES = (
    "ClassReport Cost Difference Duplicate EpochRecord Evaluation Features FittedClassifier Forgetting History "
    "ImageSpec Inspection Interval Metrics Phase Prediction Predictions Rule Sample Splits Summary Survey Unreadable"
)
ERRORS = (
    "ArtifactError CheckpointError DataError DownloadError ImageError TopgraftError TrainingStalledError UsageError "
    "WeightsError"
)


def test_the_public_names_are_these() -> None:
    names = {*FUNCTIONS.split(), *TYPES.split(), *ERRORS.split(), "__version__"}
    assert set(topgraft.__all__) == set(dir(topgraft)) == names
    assert len(topgraft.__all__) == len(names)
    for name in names - {"__version__"}:
        value = getattr(topgraft, name)
        assert value.__name__ == name
        assert isinstance(value, type) == (name not in FUNCTIONS.split())


def test_type_checkers_see_the_names_that_are_loaded_lazily() -> None:
    tree = ast.parse(Path(topgraft.__file__).read_text("utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert {alias.name: node.module for node in imports for alias in node.names} == topgraft._MODULE_OF


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_module_takes_the_name_of_a_public_function(seed: int) -> None:
    code = (
        "import importlib, pkgutil, random, sys, topgraft\n"
        "names = [m.name for m in pkgutil.walk_packages(topgraft.__path__, 'topgraft.') if '__main__' not in m.name]\n"
        "assert len(names) > 150, names\n"
        f"random.Random({seed}).shuffle(names)\n"
        "for name in names: importlib.import_module(name)\n"
        "print([n for n in topgraft.__all__ if not callable(getattr(topgraft, n)) and n != '__version__'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_only_freeze_sets_requires_grad() -> None:
    assert callers("requires_grad_") | users(".requires_grad") == {"models/freeze.py"}
    assert not [
        path for tree in trees() for path, call in calls("nn.Parameter") if keyword(call, "requires_grad") is False
    ]


def test_nothing_is_unpickled_outside_the_restricted_reader() -> None:
    assert imported("pickle") == {"data/sources/cifar_pickles.py", "models/weights/files.py"}  # which names its errors
    assert not imported("dill") | imported("joblib") | imported("cloudpickle")
    assert not callers("pickle.load") | callers("pickle.loads")
    assert all(keyword(call, "weights_only") is True for _, call in calls("torch.load"))
    assert not [path for path, call in calls("np.load") if keyword(call, "allow_pickle")]


def test_files_become_pixels_in_one_place() -> None:
    assert users("Image.OPEN") == {"data/decode.py"}
    assert not callers("Image.open")
    assert callers("load_pixels") == {"data/loader.py", "features/benchmark.py"}  # which measures how fast it is
    assert callers("load_view") == {"data/loader.py"}


def test_image_specs_are_made_by_the_weights_alone() -> None:
    others = {path for path in callers("ImageSpec") if not path.startswith("models/backbones/")}
    assert others == {"models/weights/published.py", "artifacts/load.py"}  # an artifact brings back what it was given


def test_randomness_comes_from_explicit_generators() -> None:
    # Dropout takes no generator: there the global one is seeded for each step, and put back after it.
    assert callers("torch.manual_seed") == {"training/sgd/step.py"}
    assert not imported("random")
    for name in ("random.seed", "torch.seed", "np.random.seed", "np.random.rand", "np.random.RandomState"):
        assert not callers(name), name
    for name in ("torch.rand", "torch.randn", "torch.randint", "torch.randperm"):
        assert not [path for path, call in calls(name) if "generator" not in {k.arg for k in call.keywords}], name


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
