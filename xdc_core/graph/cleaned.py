"""Directories that were cleaned: finished, but without the large files that nothing reads any more.

`xdc clean` leaves the manifest, which proves what was there, and adds cleaned.json. Nodes that were made from the
removed files stay fresh, because a fingerprint follows from settings and inputs, and not from files.
"""

from pathlib import Path

from shards.store.build import Record, record_of
from shards.store.manifest import Manifest, missing_files, read_manifest
from xdc_core.documents.cleaned import read_cleaned


def cleaned(target: Path, fingerprint: str, manifest: Manifest | None = None) -> Record | None:
    """Return the record of `target` if it was committed with this fingerprint and has lost only what was cleaned.

    manifest: its manifest, if it has been read already.
    """
    mark = read_cleaned(target)
    manifest = (manifest or read_manifest(target)) if mark is not None else None
    if mark is None or manifest is None or manifest.fingerprint != fingerprint:
        return None
    missing = missing_files(target, manifest)
    return record_of(target, manifest, reused=True) if missing and all(map(mark.covers, missing)) else None
