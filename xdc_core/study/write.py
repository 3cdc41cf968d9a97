"""The files of a study: results.parquet (every number), study.json (means and spreads), table.md and figure.svg."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from shards.store.files import write_json, write_text
from shards.store.parquet import write_parquet
from xdc_core.study.cells import Cell
from xdc_core.study.figure import draw_figure
from xdc_core.study.results import cell_rows, seconds_of, summarise
from xdc_core.study.settings import StudySettings
from xdc_core.study.table import table_of


def write_study(root: Path, study: StudySettings, cells: list[Cell]) -> dict[str, Any]:
    """Write the files of a study from its finished rounds. Return the content of study.json."""
    rows = [row for cell in cells for row in cell_rows(cell)]
    if rows:
        write_parquet(root / "results.parquet", pa.Table.from_pylist(rows))
    last = max(cell.run.config.last_round for cell in cells)
    results = {
        "study": root.resolve().name,
        "settings": study.model_dump(mode="json"),
        "rounds": last,
        "summary": summarise(rows, last),
        "cells": [
            {"run": cell.run.root.name, "contender": cell.contender, "variant": cell.variant, "draw": cell.draw}
            | {"seed": cell.seed, "seconds": round(seconds_of(cell), 1)}
            for cell in cells
        ],
    }
    write_json(root / "study.json", results)
    write_text(root / "table.md", table_of(results))
    draw_figure(root / "figure.svg", results)
    return results
