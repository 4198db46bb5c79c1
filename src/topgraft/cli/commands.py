"""The commands: each runs one public function and prints its result. Heavy modules are imported inside them."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict, fields
from typing import Any

from topgraft.data.notes import print_notes
from topgraft.system import progress

from . import fit as cli_fit
from .output import print_json, results

STARTED = time.perf_counter()
"""When the command began, for the seconds that are shown."""


def _choices(asked: argparse.Namespace) -> dict[str, Any]:
    return {entry.name: getattr(asked, entry.name) for entry in fields(asked.kind) if hasattr(asked, entry.name)}


def run_fit(asked: argparse.Namespace) -> int:
    return cli_fit.fit(asked, _choices(asked), STARTED)


def run_evaluate(asked: argparse.Namespace) -> int:
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


def run_predict(asked: argparse.Namespace) -> int:
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


def run_forgetting(asked: argparse.Namespace) -> int:
    from topgraft import api
    from topgraft.cli.render import forgetting, table

    found = api.forgetting(asked.artifact, asked.images, asked.source, **_choices(asked))
    if asked.json:
        print_json(asdict(found))
        return 0
    print_notes((), found.unreadable)
    table.lines(forgetting.forgotten(found))
    return 0


def run_data(asked: argparse.Namespace) -> int:
    from topgraft import api
    from topgraft.cli.render import dataset

    found = api.survey(asked.where, **_choices(asked))
    if asked.json:
        print_json(asdict(found))
    else:
        dataset.surveyed(found)
    return 0


def run_features(asked: argparse.Namespace) -> int:
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


def run_inspect(asked: argparse.Namespace) -> int:
    from topgraft import api
    from topgraft.cli.render import network

    found = api.inspect(asked.where, **_choices(asked))
    if asked.json:
        print_json(asdict(found))
    else:
        print_notes((), found.unreadable)
        network.inspected(found)
    return 0


def run_backbones(asked: argparse.Namespace) -> int:
    from topgraft import api
    from topgraft.cli.render import network

    rows = api.list_backbones()
    if asked.json:
        print_json({"backbones": rows})
    else:
        network.backbones(rows)
    return 0


def run_summary(asked: argparse.Namespace) -> int:
    from topgraft import api
    from topgraft.cli.render import network

    found = api.summary(asked.backbone, asked.input_size, asked.classes)
    if asked.json:
        print_json(asdict(found))
    else:
        network.summarized(found)
    return 0


def run_devices(asked: argparse.Namespace) -> int:
    from topgraft import api
    from topgraft.cli.render import devices

    found = api.devices(asked.measure, asked.cache_dir)
    if asked.json:
        print_json(found)
    else:
        devices.devices(found)
    return 0
