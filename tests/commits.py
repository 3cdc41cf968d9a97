"""Committed directories that a test has changed, made to look as if they had been committed so."""

import json
from dataclasses import asdict
from pathlib import Path

from shards.exchange import wids
from shards.store.files import PARTS
from shards.store.manifest import MANIFEST, Manifest, list_files, read_manifest, write_manifest


def commit_as_it_is(directory: Path) -> None:
    """Have the manifest list the files as they are now: for what was wrong before it was committed."""
    facts = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    facts.pop("seal", None)
    facts["files"] = {name: asdict(entry) for name, entry in list_files(directory).items()}
    (directory / MANIFEST).write_text(json.dumps(facts), encoding="utf-8")


def commit_anything(directory: Path, stage: str = "shard") -> None:
    """Write a manifest of the files as they are, for a directory that no stage has made."""
    made = Manifest(stage=stage, version=1, fingerprint="0" * 64, seconds=0, started="", finished="")
    write_manifest(directory, made.model_copy(update={"files": list_files(directory)}))


def as_of_format_1(directory: Path) -> None:
    """Turn a committed directory into what an earlier version would have committed with the same fingerprint."""
    manifest = read_manifest(directory)
    assert manifest is not None
    files = {name: entry for name, entry in manifest.files.items() if name != wids.FILE_NAME}
    for name in manifest.files.keys() - files.keys():
        (directory / name).unlink()
    for folder in PARTS:
        for part in directory.glob(f"{folder}/*"):
            part.rename(directory / part.name)
            files[part.name] = files.pop(f"{folder}/{part.name}")
        if (directory / folder).exists():
            (directory / folder).rmdir()
    assert write_manifest(directory, manifest.model_copy(update={"files": files})).format == 1
