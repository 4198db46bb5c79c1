"""The command line: flags from `topgraft.settings`, results from `topgraft.api`, shown by `topgraft.cli.render.fit`.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted. Standard output holds results only; with
``--json`` it holds one JSON object. Nothing heavy is imported before a verb runs, so ``--help`` is quick.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import Field, asdict, fields
from pathlib import Path
from typing import Any, get_type_hints

from topgraft._version import __version__
from topgraft.data.notes import print_notes
from topgraft.errors import TopgraftError, UsageError
from topgraft.settings import fields as settings
from topgraft.settings.verbs import (
    HEADINGS,
    OUTPUT,
    EvaluateSettings,
    FeaturesSettings,
    FitSettings,
    ForgettingSettings,
    InspectSettings,
    OpenSettings,
    PredictSettings,
)
from topgraft.system import progress
from topgraft.system.cores import limit_openmp

from . import fit as cli_fit
from .output import print_json, results

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
        progress.message("topgraft: interrupted; what the cache holds is not computed again")
        return 130
    except BrokenPipeError:
        # The reader has gone (`| head`): nothing is wrong, and no output is read. At its end Python would write what
        # is left in the buffer, and fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _fail(error, 1)


def _fail(error: Exception, code: int) -> int:
    progress.message(f"topgraft: {error}")
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="topgraft", description="Turn a pretrained convolutional network into your own image classifier."
    )
    parser.add_argument("--version", action="version", version=f"topgraft {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    fit = _verb(verbs, "fit", _fit, "fit a classifier to labeled images and save it", FitSettings)
    fit.add_argument("where", metavar="WHERE", help=WHERE)
    fit.add_argument("--out", type=Path, metavar="DIR", help="folder of the artifact; default: runs/NAME-N")
    fit.add_argument("--overwrite", action="store_true", help="replace the artifact that is there")

    evaluate = _verb(verbs, "evaluate", _evaluate, "accuracy on labeled images", EvaluateSettings)
    evaluate.add_argument("artifact", metavar="DIR", type=Path, help="an artifact that fit has made")
    evaluate.add_argument("where", metavar="WHERE", help=WHERE)

    predict = _verb(verbs, "predict", _predict, "answers for images", PredictSettings)
    predict.add_argument("artifact", metavar="DIR", type=Path, help="an artifact that fit has made")
    predict.add_argument(
        "paths", metavar="PATH", nargs="+", help="image files, folders, glob patterns; - reads a list of them"
    )
    predict.add_argument("--format", choices=("table", "csv"), default="table", help="default: table")

    forgetting = _verb(verbs, "forgetting", _forgetting, "how much of the original task is lost", ForgettingSettings)
    forgetting.add_argument("artifact", metavar="DIR", type=Path, help="an artifact that fit has made")
    forgetting.add_argument("--images", metavar="WHERE", help="your own images; default: those that validated the fit")
    forgetting.add_argument("--source", metavar="WHERE", help="labeled images of the original task, as ImageNet's")

    data = _verb(verbs, "data", _data, "look at images before fitting", OpenSettings)
    data.add_argument("where", metavar="WHERE", help=WHERE)

    features = _verb(verbs, "features", _features, "write pooled features to a file", FeaturesSettings)
    features.add_argument("where", metavar="WHERE", help=WHERE)
    features.add_argument("--out", type=Path, required=True, metavar="F", help="a file ending in .npz or .parquet")

    inspect = _verb(
        verbs,
        "inspect",
        _inspect,
        "the freeze table, and one batch at each station",
        InspectSettings,
    )
    inspect.add_argument("where", metavar="WHERE|DIR", help="an artifact; or " + WHERE)

    _verb(verbs, "backbones", _backbones, "list the published networks", None)

    summary = _verb(verbs, "summary", _summary, "layers, shapes and parameters of a network", None)
    summary.add_argument("backbone", metavar="NAME", help="see `topgraft backbones`; or timm:NAME")
    summary.add_argument("--input-size", metavar="N", help="side of the images, as 224; default: the weights' own")
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
    groups = {heading: parser.add_argument_group(heading) for heading in HEADINGS}
    if kind is not None:
        for entry in fields(kind):
            if entry.metadata["notation"].flag:
                add_option(groups[settings.heading(kind, entry.name)], kind, entry)
    groups[OUTPUT].add_argument("--json", action="store_true", help="print one JSON object, and nothing else")
    groups[OUTPUT].add_argument("--quiet", action="store_true", help=progress.QUIET_HELP)
    return parser


def add_option(group: argparse._ArgumentGroup, kind: type[Any], entry: Field[Any]) -> None:
    """Add the flag of a setting. An absent flag stays absent, so that only typed flags override a replayed run."""
    flag, text = settings.flag_of(entry.name), entry.metadata["help"].replace("%", "%%")
    hint = settings.base_type(get_type_hints(kind)[entry.name])
    if hint is bool:
        group.add_argument(flag, dest=entry.name, action="store_true", default=argparse.SUPPRESS, help=text)
        return
    default, options = settings.default(entry), entry.metadata["options"]
    metavar = entry.metadata["notation"].metavar or {int: "N", float: "X", Path: "PATH"}.get(hint, "NAME")
    group.add_argument(
        flag,
        dest=entry.name,
        type=str if entry.metadata["read"] else hint,
        default=argparse.SUPPRESS,
        choices=options or None,
        metavar=None if options else metavar,
        help=text if default is None else f"{text}; default: {default}",
    )


def _whole(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _choices(asked: argparse.Namespace) -> dict[str, Any]:
    return {entry.name: getattr(asked, entry.name) for entry in fields(asked.kind) if hasattr(asked, entry.name)}


def _fit(asked: argparse.Namespace) -> int:
    return cli_fit.fit(asked, _choices(asked), _STARTED)


def _evaluate(asked: argparse.Namespace) -> int:
    from topgraft import api
    from topgraft.artifacts import save
    from topgraft.cli.render import evaluation

    model = api.load(asked.artifact)
    result = api.evaluate(model, asked.where, **_choices(asked))
    try:
        if not save.add_results(asked.artifact, result) and not asked.quiet:
            progress.message(f"{asked.artifact} keeps the validation results that chose the model, not these")
    except OSError as error:
        progress.message(f"topgraft: the results are not kept in {asked.artifact}: {error}")
    if asked.json:
        print_json(results(result))
        return 0
    print_notes(result.notes, result.unreadable)
    if result.seen and not asked.quiet:
        shown = "".join(f"\n  {name}" for name in result.seen[:10])
        more = f"\n  … and {len(result.seen) - 10:,} more" if len(result.seen) > 10 else ""
        images = "1 image" if len(result.seen) == 1 else f"{len(result.seen):,} images"
        progress.message(
            f"left out {images} that fitting or selection has used (--include-seen counts them):{shown}{more}"
        )
    evaluation.evaluated(result)
    return 0


def _predict(asked: argparse.Namespace) -> int:
    from topgraft import api
    from topgraft.cli.render import evaluation

    paths: list[str] = []
    for path in asked.paths:
        paths += [line.strip() for line in sys.stdin if line.strip()] if path == "-" else [path]
    model = api.load(asked.artifact)
    answers = api.predict(model, paths, **_choices(asked))
    if asked.json:
        print_json(asdict(answers))
    else:
        for entry in answers.unreadable:
            progress.message(f"topgraft: {entry.name}: {entry.reason}")
        evaluation.predicted_csv(answers) if asked.format == "csv" else evaluation.predicted(answers)
    return 0 if answers.predictions else 1


def _forgetting(asked: argparse.Namespace) -> int:
    from topgraft import api
    from topgraft.cli.render import forgetting, table

    found = api.forgetting(asked.artifact, asked.images, asked.source, **_choices(asked))
    if asked.json:
        print_json(asdict(found))
        return 0
    print_notes((), found.unreadable)
    table.lines(forgetting.forgotten(found))
    return 0


def _data(asked: argparse.Namespace) -> int:
    from topgraft import api
    from topgraft.cli.render import dataset

    found = api.survey(asked.where, **_choices(asked))
    if asked.json:
        print_json(asdict(found))
    else:
        dataset.surveyed(found)
    return 0


def _features(asked: argparse.Namespace) -> int:
    from topgraft import api
    from topgraft.features import export

    export.check_suffix(asked.out)
    found = api.extract_features(asked.where, **_choices(asked))
    export.write_features(found, asked.out)
    if asked.json:
        print_json(
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
    print_notes(found.notes, found.unreadable)
    print(f"{asked.out}: {len(found.names):,} images × {found.features.shape[1]:,} features of {found.backbone}")
    return 0


def _inspect(asked: argparse.Namespace) -> int:
    from topgraft import api
    from topgraft.cli.render import network

    found = api.inspect(asked.where, **_choices(asked))
    if asked.json:
        print_json(asdict(found))
    else:
        print_notes((), found.unreadable)
        network.inspected(found)
    return 0


def _backbones(asked: argparse.Namespace) -> int:
    from topgraft import api
    from topgraft.cli.render import network

    rows = api.list_backbones()
    if asked.json:
        print_json({"backbones": rows})
    else:
        network.backbones(rows)
    return 0


def _summary(asked: argparse.Namespace) -> int:
    from topgraft import api
    from topgraft.cli.render import network

    found = api.summary(asked.backbone, asked.input_size, asked.classes)
    if asked.json:
        print_json(asdict(found))
    else:
        network.summarized(found)
    return 0


def _devices(asked: argparse.Namespace) -> int:
    from topgraft import api
    from topgraft.cli.render import devices

    found = api.devices(asked.measure, asked.cache_dir)
    if asked.json:
        print_json(found)
    else:
        devices.devices(found)
    return 0


def entry() -> None:
    """What the console command runs. It ends at once: taking PyTorch down in good order takes a third of a second,
    and frees what the system frees anyway."""
    # Importing PyTorch makes a million objects that stay: looking through them for rubbish takes a tenth of a second.
    gc.set_threshold(100_000, 50, 50)
    limit_openmp()
    code = main()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (BrokenPipeError, ValueError):  # the reader has gone, or the stream is closed
        pass
    except OSError:  # what was printed has not arrived
        code = code or 1
    os._exit(code)


if __name__ == "__main__":
    entry()
