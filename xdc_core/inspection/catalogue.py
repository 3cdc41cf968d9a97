"""The runs below a folder, with their settings and results."""

import os
from pathlib import Path
from typing import Any

from shards.errors import ConfigError, XdcError
from xdc_core.config.load import FILE_NAME
from xdc_core.documents.report import FILE_NAME as REPORT
from xdc_core.documents.report import Report, read_report
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.rounds import as_stopped
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run, open_run


def find_runs(folder: Path) -> list[Path]:
    """Return every directory at or below `folder` with an xdc.yaml, sorted. Hidden folders and the folders of a run are
    not searched, because a round's report has a copy of the configuration.

    Raises:
        ConfigError: the folder does not exist.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder. Name one that contains runs: xdc runs runs")
    runs = []
    for root, folders, files in os.walk(folder):
        if FILE_NAME in files:
            runs.append(Path(root))
            folders.clear()
        folders[:] = [name for name in folders if not name.startswith(".")]
    return sorted(runs)


def newest_report(run: Run) -> Report | None:
    """Read the report of the last round that has one, even if it is stale; None if there is no report.

    Raises:
        StageError: it is damaged.
    """
    for number in range(run.config.last_round, -1, -1):
        directory = run.directory(Node("report", None, number))
        if (directory / REPORT).exists():
            return read_report(directory)
    return None


def describe_run(root: Path) -> dict[str, Any]:
    """Return a run's settings and progress: run, method, modalities, control, seed, rounds, last_round, stopped,
    reported, finished, clips, agreement, evaluations. `reported` is the last round that has a report. `last_round` is
    the last one that there will be; `stopped` is true if the stopping rule has ended the run. `agreement`: AMI of the
    last round's clusters with the first label column, by label source. `problem` says why a run cannot be read; the
    rest is then missing.
    """
    try:
        opened = open_run(root)
        run = as_stopped(opened, Fingerprints(opened, compare=False))
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
        "rounds": opened.config.rounds,
        "last_round": config.last_round,
        "stopped": run.stopped,
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
