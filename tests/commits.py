"""Committed directories that a test has changed, made to look as if they had been committed so."""

import json
from pathlib import Path

from shards.store.manifest import MANIFEST, list_files


def commit_as_it_is(directory: Path) -> None:
    """Have the manifest list the files as they are now: for what was wrong before it was committed."""
    facts = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    facts.pop("seal", None)
    facts["files"] = {name: entry.model_dump() for name, entry in list_files(directory).items()}
    (directory / MANIFEST).write_text(json.dumps(facts), encoding="utf-8")
