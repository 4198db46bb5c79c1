"""Write the golden fixtures: what a released version leaves on disk, so that later code is tested on it.

    python -m tests.support.golden.make

Run it from the root of a checkout of the release, with that checkout's interpreter, and commit the folder that it
writes, ``tests/support/golden/VERSION``. Never run it to mend a failing test: what a released version has written does
not change. `tests/line/test_golden.py` says what is tested.

Everything is made through the command line, on photos and weights that the script makes itself. Most channels of the
weights are dead, and the others have few different values, so that the files are small when they are compressed.

    inputs.tar.xz      photos, source, weights, rules.toml: what the fits were given
    NAME.tar.xz        the artifact of a fit, with the logits of its validation and test images, and predictions.json:
                       classes and probabilities for each of the photos
    mid_epoch.tar.xz   the checkpoint of a fit that was killed within an epoch; the one of `rules`
    mid_fold.tar.xz    the checkpoint of a fit that was killed within a fold of cross-validation
    cache.tar.xz       the cache that the fit `rules` has left
    expected.json      version, machine, and where the checkpoints are
"""

from __future__ import annotations

import json
import lzma
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import same_fits, small_inputs
from benchmarks.checkout import OFTEN, Checkout, kill_within, open_checkout
from tests.support.golden.fits import ENGINE, FITS, RULES_FILE, UNFINISHED

OUTPUTS = 6  # of the weights' own classifier
STRIDES = {"squeezenet1_1": 4, "lite0": 8, "timm": 1}  # see `benchmarks.small_inputs.write_weights`

MACHINE = ("processor_name", "processor", "threads", "engines")
"""What ``topgraft devices --json`` says of all that decides about the last bits."""


def main() -> None:
    """Write the folder of this version."""
    with tempfile.TemporaryDirectory(prefix="golden-") as temporary:
        root = Path(temporary)
        checkout = open_checkout(sys.executable, root)
        devices = json.loads(checkout.run(["devices", "--json"]))
        folder = Path(__file__).parent / devices["topgraft"]
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        write_inputs(root, checkout)
        pack(folder / "inputs.tar.xz", root, ["photos", "source", "weights", "rules.toml"])
        for name in FITS:
            make_artifact(root, replace(checkout, cache=root / "caches" / name), name)
            pack(folder / f"{name}.tar.xz", root, [f"runs/{name}"])
        pack(folder / "cache.tar.xz", root / "caches" / "rules", ["features", "boundaries"])
        places = {name: make_checkpoint(root, checkout, name) for name in UNFINISHED}
        for name in UNFINISHED:
            pack(folder / f"{name}.tar.xz", root, [f"runs/{name}/checkpoint.safetensors"])
        machine = {name: devices[name] for name in MACHINE}
        expected = {"version": devices["topgraft"], "machine": machine, "places": places}
        (folder / "expected.json").write_text(json.dumps(expected, indent=2) + "\n", encoding="utf-8")
    for path in sorted(folder.iterdir()):
        print(f"{path.stat().st_size:9,} {path.name}")


def make_artifact(root: Path, checkout: Checkout, name: str) -> None:
    """Run a fit, evaluate it, so that the artifact holds logits of the test images, and keep its predictions there."""
    fit, out = FITS[name], f"runs/{name}"
    checkout.run(["fit", "photos", *checkout.spelled(fit.options), "--out", out, "--json"], fit.needs)
    require_trained(root, name)
    apart = replace(checkout, cache=root / "caches" / "afterwards")
    apart.run(["evaluate", out, "photos", *ENGINE, "--json"], fit.needs)
    predicted = json.loads(apart.run(["predict", out, "photos", *ENGINE, "--json"], fit.needs))
    answers = json.dumps(same_fits.answers(predicted))
    (root / out / "predictions.json").write_text(answers + "\n", encoding="utf-8")


def make_checkpoint(root: Path, checkout: Checkout, name: str) -> Mapping[str, int]:
    """Kill a fit within an epoch, or within a fold, and return where."""
    arguments = ["fit", "photos", *checkout.spelled(UNFINISHED[name]), "--out", f"runs/{name}", *OFTEN]
    return kill_within(checkout, arguments, root / "runs" / name, WANTED[name])


WANTED = {
    "mid_epoch": lambda place: place["step"] > 0,
    "mid_fold": lambda place: place.get("fold", 0) > 1 and place["step"] > 0,
}


def write_inputs(root: Path, checkout: Checkout) -> None:
    """Photos, source, weights and rules.toml."""
    small_inputs.write_photos(root / "photos", ("across", "rising", "upright"), 60, seed=1, side=48)
    small_inputs.write_photos(root / "source", tuple(map(str, range(OUTPUTS))), 6, seed=2, side=48)
    (root / "rules.toml").write_text(RULES_FILE, encoding="utf-8")
    shapes = {
        "squeezenet1_1": small_inputs.squeezenet_shapes(OUTPUTS),
        "lite0": small_inputs.lite0_shapes(OUTPUTS),
        "timm": same_fits.timm_shapes(checkout),
    }
    for name, each in shapes.items():
        path = root / "weights" / f"{name}.safetensors"
        small_inputs.write_weights(path, each, seed=0, stride=STRIDES[name], levels=2)


def require_trained(root: Path, name: str) -> None:
    """Whether the base of an artifact has changed where it should, so that a fixture holds what it is for.

    Raises:
        SystemExit: it has not.
    """
    options = FITS[name].options
    if "--weights" not in options:
        return
    given = same_fits.tensor_sums(root / options[options.index("--weights") + 1])
    found = same_fits.tensor_sums(root / "runs" / name / "model.safetensors")
    changed = {each for each in set(found.values()) - set(given.values()) if each.count(",") == 3}  # kernels, N×C×H×W
    if bool(changed) != FITS[name].trains:
        raise SystemExit(f"{name}: {len(changed)} kernels of {len(found)} tensors have changed: not what it is for")


def pack(archive: Path, root: Path, names: Sequence[str]) -> None:
    """Write files and folders below `root` into an archive, without times and owners."""

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname = 0, 0, 0, "", ""
        return entry

    with (
        lzma.open(archive, "wb", preset=9 | lzma.PRESET_EXTREME) as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name in names:
            tar.add(root / name, name, filter=plain)


if __name__ == "__main__":
    main()
