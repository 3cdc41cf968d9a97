"""The runs below a folder, and what became of each."""

import os
from pathlib import Path
from typing import Any

from shards.errors import ConfigError, XdcError
from xdc_core.config.load import FILE_NAME
from xdc_core.documents.report import FILE_NAME as REPORT
from xdc_core.documents.report import Report, read_report
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run, open_run


def find_runs(folder: Path) -> list[Path]:
    """Every directory at or below `folder` that holds an xdc.yaml, sorted. Hidden folders, and what a run holds, are
    not searched: a round's report has a copy of the configuration too.

    Raises:
        ConfigError: there is no such folder.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder. Name one that holds runs: xdc runs runs")
    found = []
    for root, folders, files in os.walk(folder):
        if FILE_NAME in files:
            found.append(Path(root))
            folders.clear()
        folders[:] = [name for name in folders if not name.startswith(".")]
    return sorted(found)


def newest_report(run: Run) -> Report | None:
    """Read the report of the last round that has one, whether it is up to date or not; None without any.

    Raises:
        StageError: it is damaged.
    """
    for number in range(run.config.rounds, -1, -1):
        directory = run.directory(Node("report", None, number))
        if (directory / REPORT).exists():
            return read_report(directory)
    return None


def describe_run(root: Path) -> dict[str, Any]:
    """Return what a run is and how far it came: run, method, modalities, control, seed, rounds, reported, finished,
    clips, agreement, evaluations. `reported` is the last round that has a report. `agreement`: AMI of the last round's
    clusters with the first label column, by label source. `problem` says why a run cannot be read; the rest is then
    missing.
    """
    try:
        run = open_run(root)
        report = newest_report(run)
    except XdcError as error:
        return {"run": str(root), "problem": str(error).splitlines()[0]}
    config = run.config
    described: dict[str, Any] = {
        "run": str(root),
        "problem": None,
        "method": config.method,
        "modalities": list(config.modalities),
        "control": config.train.shuffle_labels,
        "seed": config.seed,
        "rounds": config.rounds,
        "reported": None,
        "finished": None,
        "clips": None,
        "agreement": {},
        "evaluations": {},
    }
    if report is None:
        return described
    label = report.first_label
    last = [row for row in report.history if row.round == report.round]
    return described | {
        "reported": report.round,
        "finished": max(node.finished for node in report.nodes),
        "clips": report.corpus.get("clips"),
        "agreement": {row.source: row.score("ami", label) for row in last} if label else {},
        "evaluations": {row.evaluation: row.mean for row in report.evaluation_history if row.round == report.round},
    }
