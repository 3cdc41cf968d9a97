"""The directory of a corpus in an object store: all its files but the tars, and where these are."""

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from shards.errors import StageError
from shards.objects.bucket import Bucket, Stored
from shards.objects.tars import TARS, tars_elsewhere
from shards.progress import Progress
from shards.store.build import Identity, Outcome, Record, build, record_of
from shards.store.files import new_file, sha256_of, write_json
from shards.store.manifest import (
    MANIFEST,
    FileEntry,
    Manifest,
    fingerprint,
    missing_files,
    parse_manifest,
    read_manifest,
)

THREADS = 8
NAME = re.compile(r"[\w-][\w.-]*")  # Of a file in a corpus's directory: it cannot lead out of it.


def mirror(corpus: Path, url: str, progress: Progress, force: bool = False) -> Record:
    """Build the directory `corpus` of a corpus that lies at `url`: its files without the tars, and tars.json.

    Its manifest has the fingerprint and the summary of the corpus, so that stages read it like one that lies here. It
    is used again while the corpus's manifest is the same object. A killed call goes on with the files that lack.

    Raises:
        StageError: no finished corpus is there, or one of its objects is missing or not that in its manifest.
        MachineError: the object store cannot be read.
    """
    bucket = Bucket(url)
    try:
        noted = bucket.look(MANIFEST)
    except StageError as error:
        raise _no_corpus(error, bucket.url) from None
    manifest, elsewhere = read_manifest(corpus), tars_elsewhere(corpus)
    if manifest is not None and elsewhere is not None and not force:
        same = (elsewhere["url"], elsewhere["manifest"]) == (bucket.url, noted.etag)
        if same and not missing_files(corpus, manifest):
            return record_of(corpus, manifest, reused=True)
    there = parse_manifest(bucket.read(MANIFEST))
    if there is None or there.stage != "shard":
        raise StageError(f"{bucket.url}/{MANIFEST} is not the manifest of a corpus, or it is damaged: copy it again.")
    _check(bucket.url, there, bucket.objects())

    def work(out: Path) -> Outcome:
        small = {name: entry for name, entry in there.files.items() if not name.endswith(".tar")}
        with ThreadPoolExecutor(THREADS) as threads:
            for done, _ in enumerate(threads.map(lambda name: _fetch(bucket, name, small[name], out), small), start=1):
                progress(done, len(small), "files of the index fetched")
        tars = {name: entry for name, entry in there.files.items() if name.endswith(".tar")}
        content = {name: {"size": entry.size, "sha256": entry.sha256} for name, entry in tars.items()}
        write_json(out / TARS, {"url": bucket.url, "manifest": noted.etag, "tars": content})
        return Outcome(there.rows, there.rejects, there.summary, (*small, TARS))

    identity = Identity("shard", there.version, there.fingerprint, inputs=there.inputs, settings=there.settings)
    mark = fingerprint([bucket.url, noted.etag])
    again = mark if force or (manifest is not None and manifest.fingerprint == there.fingerprint) else None
    record = build(corpus, identity, work, again=again)
    if record.reused and (tars_elsewhere(corpus) or {}).get("manifest") != noted.etag:  # An older one was brought back.
        record = build(corpus, identity, work, again=mark)
    return record


def _no_corpus(error: StageError, url: str) -> StageError:
    return type(error)(f"{error} A finished corpus has a {MANIFEST} there: corpus.path is {url}.")


def _check(url: str, manifest: Manifest, objects: dict[str, Stored]) -> None:
    """Raise StageError if an object of a corpus is missing or has another size."""
    for name, entry in manifest.files.items():
        if NAME.fullmatch(name) is None:
            raise StageError(
                f"{url}/{MANIFEST} has a file named {name!r}, which is not one of a corpus: do not use it."
            )
        size = objects[name].size if name in objects else None
        if size != entry.size:
            what = "is missing" if size is None else f"has {size} bytes instead of {entry.size}"
            raise StageError(f"{url}/{name} {what}: the corpus was not copied completely. Copy it again.")


def _fetch(bucket: Bucket, name: str, entry: FileEntry, out: Path) -> None:
    """Write one file of the corpus into `out`, unless it is there."""
    path = out / name
    if path.exists() and sha256_of(path) == entry.sha256:
        return
    data = bucket.read(name, entry.size)
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise StageError(
            f"{bucket.url}/{name} is not what the corpus's {MANIFEST} says (sha256): it has changed under its name. "
            "Copy the corpus there again."
        )
    with new_file(path) as temporary:
        temporary.write_bytes(data)
