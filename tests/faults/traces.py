"""What a run has on its disk, without what tells of time; and what should not be there."""

import json
import re
from pathlib import Path
from typing import Any

from shards.store.commit import STALE

# Folders of a run that tell when things were done, and hold no result.
UNEQUAL = ("logs", "tracking")
SEEN = ".sources.json"  # Beside a corpus: a digest of what its sources looked like.
COLUMNS = re.compile(r"\.[0-9a-f]{12}\.columns/")  # A cache of the corpus's index.
TIMES = {"seconds", "cpu_seconds", "started", "finished", "clips_per_s", "at"}
HIDDEN = re.compile(r"\..+\.(partial|removed|returning|lock|tmp|digits|survey\.jsonl)")


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _timeless(inner) for name, inner in value.items() if name not in TIMES}
    return [_timeless(inner) for inner in value] if isinstance(value, list) else value


def contents(directory: Path) -> dict[str, bytes]:
    """The bytes of all files of a directory, by name. Of JSON without times; of logs and pages only that they are."""
    found = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if not path.is_file() or STALE in path.parts or name.split("/")[0] in UNEQUAL:
            continue
        if name.endswith(SEEN) or COLUMNS.search(name):
            continue
        data = path.read_bytes()
        if path.name in ("train.log", "report.html", "overview.html"):
            data = b""
        elif path.name == "manifest.json":
            said = json.loads(data)
            data = json.dumps(_timeless({**said, "files": sorted(said["files"]), "seal": ""})).encode()
        elif path.suffix == ".json":
            data = json.dumps(_timeless(json.loads(data))).encode()
        elif path.suffix == ".jsonl" and not path.name.startswith("."):
            data = json.dumps([_timeless(json.loads(line)) for line in data.splitlines()]).encode()
        found[name] = data
    return found


def left_over(root: Path) -> list[str]:
    """Temporary files, locks and unfinished directories below a directory."""
    return sorted(str(path.relative_to(root)) for path in root.rglob(".*") if HIDDEN.fullmatch(path.name))


def differences(one: dict[str, bytes], other: dict[str, bytes]) -> list[str]:
    """Names of files that only one has, or that differ."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
