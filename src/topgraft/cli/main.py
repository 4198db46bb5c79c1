"""The command line: flags from `topgraft.settings`, results from `topgraft.api`, shown by `topgraft.cli.render.fit`.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted. Standard output holds results only; with
``--json`` it holds one JSON object. Nothing heavy is imported before a verb runs, so ``--help`` is quick.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, get_type_hints

from topgraft._version import __version__
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

from . import commands

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

    fit = _verb(verbs, "fit", commands.run_fit, "fit a classifier to labeled images and save it", FitSettings)
    fit.add_argument("where", metavar="WHERE", help=WHERE)
    output = _group(fit, OUTPUT)
    output.add_argument("--out", type=Path, metavar="DIR", help="folder of the artifact; default: runs/NAME-N")
    output.add_argument("--overwrite", action="store_true", help="replace the artifact that is there")

    evaluate = _verb(verbs, "evaluate", commands.run_evaluate, "accuracy on labeled images", EvaluateSettings)
    evaluate.add_argument("artifact", metavar="DIR", type=Path, help="an artifact that fit has made")
    evaluate.add_argument("where", metavar="WHERE", help=WHERE)

    predict = _verb(verbs, "predict", commands.run_predict, "answers for images", PredictSettings)
    predict.add_argument("artifact", metavar="DIR", type=Path, help="an artifact that fit has made")
    predict.add_argument(
        "paths", metavar="PATH", nargs="+", help="image files, folders, glob patterns; - reads a list of them"
    )
    _group(predict, OUTPUT).add_argument("--format", choices=("table", "csv"), default="table", help="default: table")

    forgetting = _verb(
        verbs, "forgetting", commands.run_forgetting, "how much of the original task is lost", ForgettingSettings
    )
    forgetting.add_argument("artifact", metavar="DIR", type=Path, help="an artifact that fit has made")
    forgetting.add_argument("--images", metavar="WHERE", help="your own images; default: those that validated the fit")
    forgetting.add_argument("--source", metavar="WHERE", help="labeled images of the original task, as ImageNet's")

    data = _verb(verbs, "data", commands.run_data, "look at images before fitting", OpenSettings)
    data.add_argument("where", metavar="WHERE", help=WHERE)

    features = _verb(verbs, "features", commands.run_features, "write pooled features to a file", FeaturesSettings)
    features.add_argument("where", metavar="WHERE", help=WHERE)
    _group(features, OUTPUT).add_argument(
        "--out", type=Path, required=True, metavar="F", help="a file ending in .npz or .parquet"
    )

    inspect = _verb(
        verbs,
        "inspect",
        commands.run_inspect,
        "the freeze table, and one batch at each station",
        InspectSettings,
    )
    inspect.add_argument("where", metavar="WHERE|DIR", help="an artifact; or " + WHERE)

    _verb(verbs, "backbones", commands.run_backbones, "list the published networks", None)

    summary = _verb(verbs, "summary", commands.run_summary, "layers, shapes and parameters of a network", None)
    summary.add_argument("backbone", metavar="NAME", help="see `topgraft backbones`; or timm:NAME")
    summary.add_argument("--input-size", metavar="N", help="side of the images, as 224; default: the weights' own")
    summary.add_argument("--classes", type=_whole, metavar="N", help="outputs; default: the published top's")

    devices = _verb(verbs, "devices", commands.run_devices, "this machine, and what runs the base on it", None)
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


def _group(parser: argparse.ArgumentParser, heading: str) -> argparse._ArgumentGroup:
    return next(group for group in parser._action_groups if group.title == heading)


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
