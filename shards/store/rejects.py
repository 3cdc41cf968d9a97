"""The rejects of a shard in a committed directory."""

from pathlib import Path

from shards.store.checked_read import read_stored_json


def rejected_keys(directory: Path, stage: str, shard: str) -> list[str]:
    """Return the keys in `<shard>.rejects.json`; none without the file. Raises StageError as `read_stored` does."""
    path = directory / f"{shard}.rejects.json"
    return [entry["key"] for entry in read_stored_json(path, stage)] if path.exists() else []
