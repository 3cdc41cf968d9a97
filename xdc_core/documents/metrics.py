"""metrics.jsonl: one line a step that is worth one."""

import json
from pathlib import Path
from typing import Any

from shards.store.checked_read import read_stored
from shards.store.fault import fault_point
from shards.store.files import write_text


def append_metrics(path: Path, line: dict[str, Any]) -> None:
    """Append one line of JSON."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    fault_point("after metrics")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole lines; a last one that a kill cut short is left out. None where there is no file.

    Raises StageError where a committed file is not what was committed.
    """
    lines = []
    if path.exists():
        for text in read_stored(path, "train").decode(errors="replace").splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                continue
    return lines


def rewind_metrics(path: Path, step: int) -> None:
    """Forget the lines of steps from `step` on: they will be done again."""
    kept = [line for line in read_metrics(path) if line["step"] < step]
    write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
