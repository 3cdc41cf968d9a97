"""The files of a study: results.parquet (every number), study.json (means and spreads), table.md and figure.svg."""

import json
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from shards.errors import StageError
from shards.store.files import write_json, write_text
from shards.store.manifest import read_manifest
from shards.store.parquet import write_parquet
from xdc_core.config.schema import Config
from xdc_core.documents.report import Diagnostic, read_report
from xdc_core.graph.stages import round_nodes, settings_of, setup_nodes
from xdc_core.runs.node import Node
from xdc_core.study.cells import Cell, is_finished, rounds_done
from xdc_core.study.contenders import CONTENDERS, SCRATCH
from xdc_core.study.figure import draw_figure
from xdc_core.study.measures import factor_of, targets_of
from xdc_core.study.results import Row, cell_rows, seconds_of, summarise
from xdc_core.study.settings import StudySettings
from xdc_core.study.table import table_of
from xdc_core.study.takes_off import takes_off

SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("variant", "contender")]
    + [(name, pa.int64()) for name in ("draw", "seed", "round")]
    + [(name, pa.string()) for name in ("modality", "split", "metric", "factor")]
    + [("value", pa.float64())]
)


@dataclass
class StudyFiles:
    """The files of a study in `root`, which are written again whenever a round of a cell is finished.

    A cell whose files cannot be read has a line in the table instead of its numbers.

    left_out: what is left out of the recordings to probe on, in words. cpu_hours: the limit that stopped the study.
    """

    root: Path
    study: StudySettings
    cells: list[Cell]
    left_out: list[str] = field(default_factory=list)
    cpu_hours: float | None = None
    _rows: dict[Path, list[Row]] = field(default_factory=dict)
    _of_cells: dict[Path, dict[str, Any]] = field(default_factory=dict)
    _lock: Any = field(default_factory=threading.Lock)

    def write(self, changed: list[Cell] | None = None, figure: bool = True) -> dict[str, Any]:
        """Write the files from the finished rounds. Return the content of study.json.

        changed: the cells of which there is something new since the last call; None: all. figure: draw it, too.
        Several threads may call this.
        """
        with self._lock:
            for cell in self.cells if changed is None else changed:
                self._read(cell)
            rows = [row for cell in self.cells for row in self._rows.get(cell.run.root, [])]
            results = self._results(rows)
            if rows:
                write_parquet(self.root / "results.parquet", pa.Table.from_pylist(rows, SCHEMA))
            write_json(self.root / "study.json", results)
            write_text(self.root / "table.md", table_of(results))
            if figure:
                draw_figure(self.root / "figure.svg", results, rows)
            return results

    def _read(self, cell: Cell) -> None:
        root = cell.run.root
        unreadable = None
        try:
            rows = list(cell_rows(cell, self.study.validation, self.study.test))
        except (StageError, OSError) as error:
            rows, unreadable = [], str(error)
        self._rows[root] = rows
        self._of_cells[root] = {
            "run": root.name,
            "contender": cell.contender,
            "variant": cell.variant,
            "draw": cell.draw,
            "seed": cell.seed,
            "seconds": round(seconds_of(cell), 1),
            "rounds": rounds_done(cell),
            "finished": is_finished(cell),
            "diagnostics": _diagnostics(cell),
            "unreadable": unreadable,
        }

    def _results(self, rows: list[Row]) -> dict[str, Any]:
        rounds = max(cell.run.config.rounds for cell in self.cells)
        lasts: dict[str, dict[str, int]] = defaultdict(dict)
        for cell in self.cells:
            lasts[json.dumps(cell.variant, sort_keys=True)][cell.contender] = cell.run.config.last_round
        others = other_untrained(self.cells)
        modalities = list(self.cells[0].run.config.modalities)
        targets = [
            {modality: factor_of(column) for modality, column in target.items()}
            for target in targets_of(self.study, modalities)
        ]
        configs = {cell.contender: cell.run.config for cell in self.cells}
        own = [name for name in configs if name not in CONTENDERS]
        controls = [name for name, config in configs.items() if config.train.shuffle_labels]
        return {
            "study": self.root.resolve().name,
            "settings": self.study.model_dump(mode="json"),
            "rounds": rounds,
            "last_rounds": lasts,
            "other_untrained": others,
            "digits": not self.study.own,
            "probe_on": self.study.probe_on,
            "validation": self.study.validation is not None,
            "modalities": modalities,
            "targets": targets,
            "contenders": [SCRATCH, *(name for name in CONTENDERS if name in configs), *own],
            "labelled": [name for name, config in configs.items() if config.method == "supervised"],
            "controls": controls,
            "main": list(self.study.main),
            "summary": summarise(rows, rounds, others),
            "takes_off": takes_off(
                rows, targets, controls, lambda row: row["round"] == lasts[row["variant"]][row["contender"]], others
            ),
            "cells": [self._of_cells[cell.run.root] for cell in self.cells if cell.run.root in self._of_cells],
            "cpu_hours": self.cpu_hours,
            "left_out": self.left_out,
        }


def _diagnostics(cell: Cell) -> list[Diagnostic]:
    """Return the diagnostics of a cell's last finished round."""
    number = rounds_done(cell)
    if number is None:
        return []
    directory = cell.run.directory(Node("report", None, number))
    try:
        return [] if read_manifest(directory) is None else read_report(directory).diagnostics
    except (StageError, OSError) as error:
        return [("bad", str(error))]


def other_untrained(cells: Sequence[Cell]) -> list[str]:
    """Return the contenders whose encoders or features differ, before any training, from those of the built-in ones.

    Without a built-in contender they are compared with the first one.
    """
    found: dict[str, None] = {}
    groups: dict[tuple[str, int, int], list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[json.dumps(cell.variant, sort_keys=True), cell.draw, cell.seed].append(cell)
    for group in groups.values():
        reference = next((cell for cell in group if cell.contender in CONTENDERS), group[0])
        begins = _untrained(reference.run.config)
        found |= dict.fromkeys(cell.contender for cell in group if _untrained(cell.run.config) != begins)
    return list(found)


def _untrained(config: Config) -> list[Any]:
    """Return the settings that decide the features of untrained encoders."""
    nodes = [*setup_nodes(config), *round_nodes(config, 0)]
    return [(str(node), settings_of(config, node)) for node in nodes if node.stage in ("shard", "init", "extract")]
