"""The command line: flags from `topgraft.settings`, results from `topgraft.api`, shown by `topgraft.show`.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted. Standard output holds results only; with
``--json`` it holds one JSON object. Nothing heavy is imported before a verb runs, so ``--help`` is quick.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from . import progress, settings
from .errors import Stalled, TopgraftError, UsageError
from .version import __version__

if TYPE_CHECKING:
    from .records import Evaluation, Unreadable

_STARTED = time.perf_counter()

WHERE = (
    "a folder of class folders; a CSV file with the columns image,label and perhaps split; "
    "or digits, cifar10, cifar100, cifar100_coarse"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = _parser()
    asked = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # file names may hold what a console's own encoding cannot show
            stream.reconfigure(errors="backslashreplace")
    try:
        with progress.quiet(asked.quiet or asked.json):
            return int(asked.run(asked))
    except UsageError as error:
        return _fail(error, 2)
    except TopgraftError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        print("topgraft: interrupted; what the cache holds is not computed again", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader has gone (`| head`): nothing is wrong, and nobody listens. At its end Python would write what
        # is left in the buffer, and fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _fail(error, 1)


def _fail(error: Exception, code: int) -> int:
    print(f"topgraft: {error}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="topgraft", description="Turn a pretrained convolutional network into your own image classifier."
    )
    parser.add_argument("--version", action="version", version=f"topgraft {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    fit = _verb(verbs, "fit", _fit, "fit a classifier to labelled images and save it", settings.FitSettings)
    fit.add_argument("where", metavar="WHERE", help=WHERE)
    fit.add_argument("--out", type=Path, metavar="DIR", help="folder of the artifact; default: runs/NAME-N")
    fit.add_argument("--overwrite", action="store_true", help="replace the artifact that is there")

    evaluate = _verb(verbs, "evaluate", _evaluate, "accuracy on labelled images", settings.EvaluateSettings)
    evaluate.add_argument("artifact", metavar="DIR", type=Path, help="an artifact that fit has made")
    evaluate.add_argument("where", metavar="WHERE", help=WHERE)

    predict = _verb(verbs, "predict", _predict, "answers for images", settings.PredictSettings)
    predict.add_argument("artifact", metavar="DIR", type=Path, help="an artifact that fit has made")
    predict.add_argument(
        "paths", metavar="PATH", nargs="+", help="image files, folders, glob patterns; - reads a list of them"
    )
    predict.add_argument("--format", choices=("table", "csv"), default="table", help="default: table")

    data = _verb(verbs, "data", _data, "look at images before fitting", settings.OpenSettings)
    data.add_argument("where", metavar="WHERE", help=WHERE)

    features = _verb(verbs, "features", _features, "write pooled features to a file", settings.FeaturesSettings)
    features.add_argument("where", metavar="WHERE", help=WHERE)
    features.add_argument("--out", type=Path, required=True, metavar="F", help="a file ending in .npz or .parquet")

    inspect = _verb(
        verbs,
        "inspect",
        _inspect,
        "the freeze table, and one batch at each station",
        settings.InspectSettings,
    )
    inspect.add_argument("where", metavar="WHERE|DIR", help="an artifact; or " + WHERE)

    _verb(verbs, "backbones", _backbones, "list the published networks", None)

    summary = _verb(verbs, "summary", _summary, "layers, shapes and parameters of a network", None)
    summary.add_argument("backbone", metavar="NAME", help="see `topgraft backbones`; or timm:NAME")
    summary.add_argument("--input-size", type=_whole, metavar="N", help="side of the images; default: the weights' own")
    summary.add_argument("--classes", type=_whole, metavar="N", help="outputs; default: the published top's")

    devices = _verb(verbs, "devices", _devices, "this machine, and what runs the base on it", None)
    devices.add_argument("--measure", action="store_true", help="measure for a minute, and keep the result")
    devices.add_argument("--cache-dir", type=Path, metavar="DIR", help="folder where the measurement is kept")
    return parser


def _verb(
    verbs: Any, name: str, run: Callable[[argparse.Namespace], int], help: str, kind: type[Any] | None
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
    parser.set_defaults(run=run, kind=kind)
    parser.add_argument("--json", action="store_true", help="print one JSON object, and nothing else")
    parser.add_argument("--quiet", action="store_true", help="show no progress and no notes")
    for entry in fields(kind) if kind is not None else ():
        hint = settings.base_type(get_type_hints(kind)[entry.name])
        flag = "--" + entry.name.replace("_", "-")
        text = entry.metadata["help"].replace("%", "%%")
        default = settings.default(entry)
        # Absent flags stay absent, so that a replayed run's settings are overridden only by what was typed.
        if hint is bool:
            parser.add_argument(flag, action="store_true", default=argparse.SUPPRESS, help=text)
            continue
        parser.add_argument(
            flag,
            type=hint,
            default=argparse.SUPPRESS,
            choices=entry.metadata["options"] or None,
            metavar=None if entry.metadata["options"] else {int: "N", float: "X", Path: "PATH"}.get(hint, "NAME"),
            help=text if default is None else f"{text}; default: {default}",
        )
    return parser


def _whole(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _choices(asked: argparse.Namespace) -> dict[str, Any]:
    return {entry.name: getattr(asked, entry.name) for entry in fields(asked.kind) if hasattr(asked, entry.name)}


def _fit(asked: argparse.Namespace) -> int:
    from . import artifact, show

    out = asked.out or _free_name(asked.where)
    artifact.check_target(out, asked.overwrite)
    from . import api

    start = time.perf_counter() - _STARTED
    choices = _choices(asked)
    try:
        model = api.fit(asked.where, **choices)
    except Stalled as stall:
        if not (asked.quiet or asked.json):
            show.stalled(stall)
        silent = asked.quiet or asked.json or choices.get("stalled", "ask") != "ask"
        if stall.rate is None or silent or not _agrees(stall.rate):
            raise
        model = api.fit(asked.where, **{**choices, "lr": stall.rate})
    began = time.perf_counter()
    api.save(model, out, overwrite=asked.overwrite)
    seconds = {"start": start, **model.cost.seconds, "save": time.perf_counter() - began}
    seconds["total"] = time.perf_counter() - _STARTED
    if asked.json:
        result = _results(model.validation)
        _print_json(
            {
                "artifact": str(out),
                "seconds": {name: round(value, 4) for name, value in seconds.items()},
                "top1": result["top1"],
                "validation": result,
                "images": {"from_cache": model.cost.images_from_cache, "computed": model.cost.images_decoded},
                "selection": model.config["selection"],
                "resolved": model.config["resolved"],
                "unreadable": [asdict(entry) for entry in model.unreadable],
                "notes": model.config["notes"],
            }
        )
        return 0
    _remark(model.config["notes"], model.unreadable, asked)
    show.fitted(model, out, seconds, quiet=asked.quiet)
    return 0


def _agrees(rate: float) -> bool:
    """Ask on a terminal; elsewhere nobody answers."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    print(f"Start again with the learning rate {rate:g}? [Y/n] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("", "y", "yes")


def _evaluate(asked: argparse.Namespace) -> int:
    from . import api, artifact, show

    model = api.load(asked.artifact)
    result = api.evaluate(model, asked.where, **_choices(asked))
    try:
        if not artifact.add_results(asked.artifact, result) and not asked.quiet:
            print(f"{asked.artifact} keeps the validation results that chose the model, not these", file=sys.stderr)
    except OSError as error:
        print(f"topgraft: the results are not kept in {asked.artifact}: {error}", file=sys.stderr)
    if asked.json:
        _print_json(_results(result))
        return 0
    _remark(result.notes, result.unreadable, asked)
    if result.seen and not asked.quiet:
        shown = "".join(f"\n  {name}" for name in result.seen[:10])
        more = f"\n  … and {len(result.seen) - 10:,} more" if len(result.seen) > 10 else ""
        images = "1 image" if len(result.seen) == 1 else f"{len(result.seen):,} images"
        print(
            f"left out {images} that fitting or selection has used (--include-seen counts them):{shown}{more}",
            file=sys.stderr,
        )
    show.evaluated(result)
    return 0


def _predict(asked: argparse.Namespace) -> int:
    from . import api, show

    paths: list[str] = []
    for path in asked.paths:
        paths += [line.strip() for line in sys.stdin if line.strip()] if path == "-" else [path]
    model = api.load(asked.artifact)
    answers = api.predict(model, paths, **_choices(asked))
    if asked.json:
        _print_json(asdict(answers))
    else:
        for entry in answers.unreadable:
            print(f"topgraft: {entry.name}: {entry.reason}", file=sys.stderr)
        show.predicted_csv(answers) if asked.format == "csv" else show.predicted(answers)
    return 0 if answers.predictions else 1


def _data(asked: argparse.Namespace) -> int:
    from . import api, show

    found = api.survey(asked.where, **_choices(asked))
    if asked.json:
        _print_json(asdict(found))
    else:
        show.surveyed(found)
    return 0


def _features(asked: argparse.Namespace) -> int:
    from . import api, tables

    tables.check_suffix(asked.out)
    found = api.extract_features(asked.where, **_choices(asked))
    tables.write_features(found, asked.out)
    if asked.json:
        _print_json(
            {
                "file": str(asked.out),
                "n": len(found.names),
                "width": int(found.features.shape[1]),
                "backbone": found.backbone,
                "unreadable": [asdict(entry) for entry in found.unreadable],
                "notes": list(found.notes),
            }
        )
        return 0
    _remark(found.notes, found.unreadable, asked)
    print(f"{asked.out}: {len(found.names):,} images × {found.features.shape[1]:,} features of {found.backbone}")
    return 0


def _inspect(asked: argparse.Namespace) -> int:
    from . import api, show

    found = api.inspect(asked.where, **_choices(asked))
    if asked.json:
        _print_json(asdict(found))
    else:
        _remark((), found.unreadable, asked)
        show.inspected(found)
    return 0


def _backbones(asked: argparse.Namespace) -> int:
    from . import api, show

    rows = api.list_backbones()
    if asked.json:
        _print_json({"backbones": rows})
    else:
        show.backbones(rows)
    return 0


def _summary(asked: argparse.Namespace) -> int:
    from . import api, show

    found = api.summary(asked.backbone, asked.input_size, asked.classes)
    if asked.json:
        _print_json(asdict(found))
    else:
        show.summarised(found)
    return 0


def _devices(asked: argparse.Namespace) -> int:
    from . import api, show

    found = api.devices(asked.measure, asked.cache_dir)
    if asked.json:
        _print_json(found)
    else:
        show.devices(found)
    return 0


def _free_name(where: str) -> Path:
    name = Path(where).resolve().stem or "run"
    number = 1
    while Path("runs", f"{name}-{number}").exists():
        number += 1
    return Path("runs", f"{name}-{number}")


def _results(result: Evaluation) -> dict[str, Any]:
    return {
        **asdict(result.metrics),
        "split": result.split,
        "used_for_selection": result.used_for_selection,
        "seen": list(result.seen),
        "unreadable": [asdict(entry) for entry in result.unreadable],
        "notes": list(result.notes),
    }


def _remark(notes: Sequence[str], unreadable: Sequence[Unreadable], asked: argparse.Namespace) -> None:
    """How the images were found and divided, and what was left out, on standard error."""
    if asked.quiet:
        return
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    if unreadable:
        listed = "".join(f"\n  {entry.name}: {entry.reason}" for entry in unreadable)
        files = "1 file" if len(unreadable) == 1 else f"{len(unreadable):,} files"
        print(f"left out {files} that cannot be read:{listed}", file=sys.stderr)


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, allow_nan=False, default=str))


def entry() -> None:
    """What the console command runs. It ends at once: taking PyTorch down in good order takes a third of a second,
    and frees what the system frees anyway."""
    # Importing PyTorch makes a million objects that stay: looking through them for rubbish takes a tenth of a second.
    gc.set_threshold(100_000, 50, 50)
    code = main()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (BrokenPipeError, ValueError):  # nobody reads any more, or the stream is closed
        pass
    except OSError:  # what was printed has not arrived
        code = code or 1
    os._exit(code)


if __name__ == "__main__":
    entry()
