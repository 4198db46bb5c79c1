"""Run twelve fits on a checkout, and compare their numbers bit by bit with those of another one.

    python -m benchmarks.same_fits --out before.json                        # with the code as it was
    python -m benchmarks.same_fits --against before.json                    # with the code as it is now
    python -m benchmarks.same_fits --python OTHER/.venv/bin/python --out before.json

It is for people who change names and shape of the code and nothing that it computes: every fit must end in the same
weights, the same validation logits, the same losses and the same predictions. Run it with the code before the change
and after it, on one machine with the same packages, with the same number of threads. The exit code is 1 where
anything differs. Between two runs of one checkout nothing may differ either; if it does, no comparison is worth much.

The fits run through the command line, on photos and weights that the script makes from a seed. Everything that a fit
could measure and decide by is given: engine, precision, threads, caching; and `auto` is replayed from the config of a
run that is recorded once and kept in the output file, so that later code has to read a config of earlier code. Names
of options may have changed in between: `SPELLINGS` in ``checkout.py`` lists what each is called, and the first one that
`topgraft fit --help` knows is used. Add a name there when you rename an option.

Printed for each fit are beginnings of SHA-256 sums:

    weights       of the tensors' values, without their names: a renamed group changes nothing
    names         of the tensors with their names
    logits        of the validation logits with their labels
    losses        of the training and validation losses in the history
    predictions   of classes and probabilities for all photos, from `topgraft predict`

and how many tensors the fit has changed. It takes about two minutes on an idle machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import small_inputs
from benchmarks.checkout import OFTEN, Checkout, FitFailedError, kill_within, open_checkout

NETWORKS = {
    "squeezenet1_1": ("--backbone", "squeezenet1_1", "--weights", "{folder}/squeezenet1_1.safetensors"),
    "lite0": ("--backbone", "efficientnet_lite0", "--weights", "{folder}/lite0.safetensors"),
    "random": ("--backbone", "efficientnet_lite0", "--weights", "random"),
    "timm": ("--backbone", "timm:test_efficientnet", "--weights", "{folder}/timm.safetensors"),
    "descriptors": ("--backbone", "descriptor_coding"),
}

ENGINE = ("--engine", "torch", "--precision", "fp32", "--device", "cpu", "--workers", "1")
"""What would otherwise be decided by the machine."""

STEPS = ("--batch-size", "8", "--epochs", "7", "--lr", "6e-4", "--stalled", "ignore")
LITE0_STEPS = ("--batch-size", "8", "--epochs", "8", "--lr", "1e-3", "--stalled", "ignore")
"""Of all fits that take steps: enough of them that the trained network is better than its head alone, and is kept."""

MIXUP = (
    "--strategy", "full", "--batch-size", "2", "--epochs", "4", "--lr", "5e-4", "--stalled", "ignore",
    "--mixup", "0.2", "--label-smoothing", "0.1",
)  # fmt: skip
"""Batches so small that an epoch is long enough to be killed in."""

CLASSES = ("across", "rising", "upright")
OUTPUTS = 6  # of the weights' own classifier
SIDE = 32  # pixels


@dataclass(frozen=True)
class Fit:
    """One line of the table.

    Attributes:
        name: what is printed.
        network: a key of `NETWORKS`.
        options: of ``topgraft fit``, in the names of the keys of `benchmarks.checkout.SPELLINGS`; "{folder}" is the
            folder of the inputs.
        needs: the module without which it is skipped.
        replay: replay it from a recorded config.
        kill: kill it within an epoch, and resume it.
    """

    name: str
    network: str
    options: tuple[str, ...]
    needs: str = ""
    replay: bool = False
    kill: bool = False


FITS = (
    Fit("head", "squeezenet1_1", ("--strategy", "head")),
    Fit("descriptor coding, svm", "descriptors", ("--strategy", "head"), needs="cv2"),
    Fit(
        "partial, cached", "squeezenet1_1",
        ("--strategy", "partial", "--unfreeze-from", "stage2", *STEPS, "--boundary-cache", "on", "--views", "2"),
    ),
    Fit(
        "partial, not cached", "squeezenet1_1",
        ("--strategy", "partial", "--unfreeze-from", "stage2", *STEPS, "--boundary-cache", "off"),
    ),
    Fit("full, mixup", "squeezenet1_1", MIXUP),
    Fit("full, ema", "lite0", ("--strategy", "full", *LITE0_STEPS, "--ema", "0.5")),
    Fit(
        "partial, l2-sp", "lite0",
        ("--strategy", "partial", "--unfreeze-from", "stage5", *LITE0_STEPS, "--l2-sp", "0.1",
         "--boundary-cache", "on"),
    ),
    Fit(
        "random weights", "random",
        ("--strategy", "full", "--batch-size", "8", "--epochs", "3", "--lr", "5e-3", "--stalled", "ignore",
         "--optimizer", "sgd", "--augment", "strong", "--class-weight", "balanced"),
    ),
    Fit(
        "forget at most", "lite0",
        ("--strategy", "partial", "--unfreeze-from", "stage7", *LITE0_STEPS, "--boundary-cache", "off",
         "--forget-at-most", "15", "--source", "{folder}/source"),
    ),
    Fit(
        "timm", "timm",
        ("--strategy", "partial", "--unfreeze-from", "stage3", *LITE0_STEPS, "--boundary-cache", "on", "--views", "1"),
        needs="timm",
    ),
    Fit(
        "auto, replayed", "squeezenet1_1",
        ("--strategy", "auto", "--budget", "10m", *STEPS, "--boundary-cache", "on", "--views", "1"), replay=True,
    ),
    Fit("full, mixup, resumed", "squeezenet1_1", MIXUP, kill=True),
)  # fmt: skip


def write_inputs(checkout: Checkout) -> None:
    """Photos, labeled images of the original task, and weights."""
    folder = checkout.folder
    small_inputs.write_photos(folder / "photos", CLASSES, 40, seed=1, jpeg=20)
    small_inputs.write_photos(folder / "source", tuple(map(str, range(OUTPUTS))), 10, seed=2)
    shapes = {
        "squeezenet1_1": small_inputs.squeezenet_shapes(OUTPUTS),
        "lite0": small_inputs.lite0_shapes(OUTPUTS),
        **({} if checkout.timm is None else {"timm": timm_shapes(checkout)}),
    }
    for name, each in shapes.items():
        small_inputs.write_weights(folder / f"{name}.safetensors", each, seed=0)


def timm_shapes(checkout: Checkout) -> small_inputs.Shapes:
    """Names and shapes of the tensors of timm's network, with timm's names."""
    network = NETWORKS["timm"][1].removeprefix("timm:")
    code = f"""{checkout.timm}
import json, timm
state = timm.create_model({network!r}, num_classes={OUTPUTS}).state_dict()
print(json.dumps({{name: list(tensor.shape) for name, tensor in state.items()}}))"""
    return {name: tuple(shape) for name, shape in json.loads(checkout.python_says(code) or "{}").items()}


def run_fit(checkout: Checkout, fit: Fit, config: str | None) -> tuple[Path, str | None, str]:
    """Run one line of the table.

    Args:
        checkout: the code.
        fit: the line.
        config: text of the config that is replayed, if one was recorded before.

    Returns:
        The artifact, the config that was replayed, if any, and a remark.
    """
    out = checkout.folder / "runs" / fit.name.replace(" ", "-").replace(",", "")
    flags = checkout.spelled((*NETWORKS[fit.network], *ENGINE, "--seed", "3", "--input-size", str(SIDE), *fit.options))
    arguments = ["fit", str(checkout.folder / "photos"), *flags]
    if fit.replay:
        if config is None:
            recorded = out.with_name("recorded")
            checkout.run([*arguments, "--out", str(recorded), "--json"], fit.needs)
            config = (recorded / "config.json").read_text(encoding="utf-8").replace(str(checkout.folder), "{folder}")
        file = checkout.folder / "recorded.json"
        file.write_text(config.replace("{folder}", str(checkout.folder)), encoding="utf-8")
        photos = str(checkout.folder / "photos")
        checkout.run(["fit", photos, "--config", str(file), "--out", str(out), "--json"], fit.needs)
        return out, config, f"{len(json.loads(config)['resolved']['phases'])} phases"
    if fit.kill:
        return out, None, _kill_and_resume(checkout, arguments, out)
    checkout.run([*arguments, "--out", str(out), "--json"], fit.needs)
    return out, None, ""


def _kill_and_resume(checkout: Checkout, arguments: Sequence[str], out: Path) -> str:
    """Kill a fit within an epoch, and resume it; says where."""
    arguments = [*arguments, "--out", str(out), "--json"]
    kill_within(checkout, [*arguments, *OFTEN], out, lambda place: place["step"] > 0)
    place = json.loads(checkout.run([*arguments, "--resume"]))["resumed_from"]
    return "killed in " + ", ".join(f"{name} {value}" for name, value in place.items())


def sums(checkout: Checkout, fit: Fit, artifact: Path) -> dict[str, Any]:
    """SHA-256 sums of what a fit has given, and how many tensors it has changed."""
    predicted = checkout.run(["predict", str(artifact), str(checkout.folder / "photos"), *ENGINE, "--json"], fit.needs)
    tensors = tensor_sums(artifact / "model.safetensors")
    weights = checkout.spelled(NETWORKS[fit.network])[-1]
    given = set(tensor_sums(Path(weights)).values()) if Path(weights).is_file() else set()
    with np.load(artifact / "logits" / "val.npz", allow_pickle=False) as arrays:
        logits = [(arrays[name].dtype.str, arrays[name].shape, arrays[name].tobytes().hex()) for name in _LOGITS]
    history = [json.loads(line) for line in (artifact / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    return {
        "weights": _sum(sorted(tensors.values())),
        "names": _sum(sorted(tensors.items())),
        "logits": _sum(logits),
        "losses": _sum([[record["train_loss"], record["val_loss"]] for record in history]),
        "predictions": _sum(answers(json.loads(predicted))),
        "changed": sum(value not in given for value in tensors.values()),
        "tensors": len(tensors),
    }


_LOGITS = ("logits", "labels")


def tensor_sums(path: Path) -> dict[str, str]:
    """Of each tensor of a safetensors file by name: type, shape and SHA-256 of its bytes."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    found = {}
    for name, entry in json.loads(data[8 : 8 + size]).items():
        if name != "__metadata__":
            start, end = (8 + size + offset for offset in entry["data_offsets"])
            found[name] = f"{entry['dtype']} {entry['shape']} {hashlib.sha256(data[start:end]).hexdigest()}"
    return found


def answers(printed: Mapping[str, Any]) -> list[tuple[list[str], list[float]]]:
    """Of each photo the classes, best first, and their probabilities, whatever their keys are called."""
    rows = next(value for value in printed.values() if isinstance(value, list) and value)
    return [(_first_list(row, str), _first_list(row, float)) for row in rows]


def _first_list(row: Mapping[str, Any], kind: type) -> list[Any]:
    return next(v for v in row.values() if isinstance(v, list) and v and all(isinstance(each, kind) for each in v))


def _sum(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()  # JSON has floats with all their digits


_SUMS = ("weights", "names", "logits", "losses", "predictions")


def compare(found: Mapping[str, Any], before: Mapping[str, Any] | None) -> list[str]:
    """The sums of a fit that are not as they were; names of tensors may change."""
    if before is None:
        return []
    return [each for each in _SUMS if each != "names" and found.get(each) != before.get(each)]


def main(arguments: list[str] | None = None) -> None:
    """Print the sums, and what differs; exits with 1 if anything does."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--python", default=sys.executable, help="interpreter of the checkout; default: this one")
    parser.add_argument("--against", type=Path, metavar="FILE", help="the --out of an earlier run, to compare with")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file that gets the sums")
    parser.add_argument("--threads", type=int, default=1, help="of the processor; default: 1")
    parser.add_argument("--only", metavar="TEXT", default="", help="only the fits whose name has this in it")
    given = parser.parse_args(arguments)
    before = {} if given.against is None else json.loads(given.against.read_text(encoding="utf-8"))
    threads = before.get("threads", given.threads)
    with tempfile.TemporaryDirectory(prefix="same-fits-") as folder:
        checkout = open_checkout(given.python, Path(folder), threads)
        write_inputs(checkout)
        machine = checkout.python_says(_MACHINE) or ""
        print(f"{machine}; threads: {threads}", flush=True)
        if before and before["machine"] != machine:
            print(f"another machine or other packages than before ({before['machine']}): sums may differ by that alone")
        report: dict[str, Any] = {"machine": machine, "threads": threads, "config": before.get("config"), "fits": {}}
        faults, began = 0, time.perf_counter()
        for fit in FITS:
            if given.only in fit.name:
                faults += _one(checkout, fit, report, before)
    print(f"{time.perf_counter() - began:.0f} s")
    if given.out is not None:
        given.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if before:
        print(f"{faults} of {len(report['fits'])} fits differ" if faults else "all fits are the same")
    raise SystemExit(1 if faults else 0)


_MACHINE = """
import platform, numpy, torch, PIL
print("; ".join((platform.processor() or platform.machine(), torch.backends.cpu.get_cpu_capability(),
    "Python " + platform.python_version(), "torch " + torch.__version__, "NumPy " + numpy.__version__,
    "Pillow " + PIL.__version__)))
"""


def _one(checkout: Checkout, fit: Fit, report: dict[str, Any], before: Mapping[str, Any]) -> int:
    """Run and print one fit; returns 1 where it failed or differs."""
    earlier = before.get("fits", {}).get(fit.name)
    if fit.needs and not checkout.has(fit.needs):
        missing = "" if earlier is None else ", but could be before"
        print(f"{fit.name:24} skipped: {fit.needs} cannot be imported{missing}", flush=True)
        return int(earlier is not None)
    began = time.perf_counter()
    try:
        artifact, config, remark = run_fit(checkout, fit, report["config"])
        found = sums(checkout, fit, artifact)
    except FitFailedError as error:
        print(f"{fit.name:24} FAILED: {error}", flush=True)
        report["fits"][fit.name] = {"failed": str(error)}
        return 1
    report["config"] = config or report["config"]
    report["fits"][fit.name] = found
    differ = compare(found, earlier)
    verdict = "" if earlier is None else "DIFFERS: " + ", ".join(differ) if differ else "the same"
    if earlier is not None and not differ and found["names"] != earlier["names"]:
        verdict = "the same but for names of tensors"
    shown = "  ".join(f"{each} {found[each][:10]}" for each in _SUMS)
    changed = f"{found['changed']} of {found['tensors']} tensors changed"
    seconds = f"{time.perf_counter() - began:.0f} s"
    print(f"{fit.name:24} {shown}  {'; '.join(filter(None, (changed, remark, seconds, verdict)))}", flush=True)
    return int(bool(differ))


if __name__ == "__main__":
    main()
