"""Corpora that are written to an object store. Below the URL of a corpus lie

    tars/<shard>.<sha256>.tar       the tars, put by workers as soon as each is finished
    generations/<id>/<file>         all other files of a state of the corpus, created exclusively, manifest.json last
    current                         the id of the present generation, moved with If-Match

A tar's name has its sha256, and the id of a generation is a digest of the sizes and sha256 of all its files, tars
included. So nothing is ever replaced by something else: two coordinators at once, or a worker that outlives its stage,
cannot mix their files, generations share tars that they have in common, and a reader keeps what it reads. What decides
is `current`: of two coordinators one moves it, and the other one takes the generation of the first.
"""

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from shards.errors import StageError
from shards.objects.bucket import Bucket, Stored
from shards.objects.tars import TARS, TARS_THERE, object_of, tar_object, tars_elsewhere
from shards.store.fault import fault_point
from shards.store.files import sha256_of, write_json
from shards.store.manifest import (
    MANIFEST,
    FileEntry,
    Manifest,
    fingerprint,
    list_files,
    parse_manifest,
    read_manifest,
    write_manifest,
)
from shards.store.receipt import UNITS
from shards.store.units import stored_files

CURRENT = "current"
GENERATIONS = "generations/"
THREADS = 8
GONE = (
    "Nothing has changed there, and what is finished is kept. Bring what was deleted back from a copy, or cut all "
    "clips again: xdc stage shard RUN --force"
)


class Overtaken(StageError):
    """Report that another coordinator has written the same corpus meanwhile, with other bytes."""


@dataclass(frozen=True)
class Current:
    """The content of the object `current`, and its ETag. fingerprint: of the corpus."""

    generation: str
    fingerprint: str
    etag: str


def folder_of(generation: str) -> str:
    """Return with what the names of a generation's objects begin, except those of tars."""
    return f"{GENERATIONS}{generation}/"


def read_current(bucket: Bucket) -> Current | None:
    """Return which generation is the present one; None if xdc has written none there.

    Raises:
        StageError: the object `current` is not one of xdc.
        MachineError: the object store cannot be read.
    """
    found = bucket.fetch(CURRENT)
    if found is None:
        return None
    try:
        content = json.loads(found[0])
        return Current(str(content["generation"]), str(content["fingerprint"]), found[1])
    except (ValueError, TypeError, KeyError) as error:
        raise StageError(
            f"{bucket.url}/{CURRENT} does not name a generation of a corpus ({error!r}). Give corpus.path a folder of "
            "its own, or bring the object back."
        ) from None


def unused_tars(bucket: Bucket) -> list[str]:
    """Return the names of tars that no generation has: of calls that were killed, or that are in progress.

    Raises:
        StageError: the manifest of a generation is damaged, so that its tars are not known.
        MachineError: the object store cannot be read.
    """
    objects = bucket.objects()
    used = set()
    for name in objects:
        if name.startswith(GENERATIONS) and name.endswith(f"/{MANIFEST}"):
            manifest = parse_manifest(bucket.read(name), f"{bucket.url}/{name}")
            if manifest is None:
                raise StageError(
                    f"{bucket.url}/{name} is damaged: which tars this generation has is not known, so none is known to "
                    "be unused. Bring the object back from a copy; or delete it, if no run reads this generation."
                )
            used |= {tar_object(tar, entry.sha256) for tar, entry in manifest.files.items()}
    return [name for name in sorted(objects) if name.startswith(TARS_THERE) and name not in used]


def absent(objects: Mapping[str, Stored], files: Mapping[str, FileEntry], names: Mapping[str, str]) -> str:
    """Return which object is missing or has another size, and what it is like; "" if all are there.

    files: of a corpus. names: of their objects. objects: what the bucket has.
    """
    for name, entry in files.items():
        stored = objects.get(names[name])
        if stored is None:
            return f"{names[name]} is missing"
        if stored.size != entry.size:
            return f"{names[name]} has {stored.size} bytes instead of {entry.size}"
    return ""


def store_tar(bucket: Bucket, path: Path) -> FileEntry:
    """Put a tar, unless it is there, see that it is there with its size, and remove the file.

    An object with its name and other content, or another size, is replaced: it is of no use to anyone.

    Raises:
        StageError: it has another size after it was put.
        MachineError: it cannot be written.
    """
    entry = FileEntry(path.stat().st_size, sha256_of(path))
    name = tar_object(path.name, entry.sha256)
    found = bucket.find(name)
    if found is None or found.size != entry.size or bucket.sha256(name, entry.size) != entry.sha256:
        fault_point("before upload", path.name)
        bucket.upload(name, path)
        if (size := bucket.look(name).size) != entry.size:
            raise StageError(f"{bucket.url}/{name} has {size} bytes after {entry.size} were written: run this again.")
    fault_point("after upload", path.name)
    path.unlink()
    return entry


def write_generation(
    bucket: Bucket, out: Path, manifest: Manifest, tars: Mapping[str, FileEntry], before: Current | None
) -> None:
    """Put all files in `out`, then the manifest, and make them the present generation. Write tars.json into `out`.

    manifest: without files. tars: those that were put. before: what was the present generation when this began. If
    another coordinator has put the manifest of the same files, that one stays. All tars are looked for before it is
    put, because those of earlier generations, and of calls that were killed, may have been deleted meanwhile.

    Raises:
        Overtaken: another coordinator has put the same corpus, with other bytes.
        StageError: another corpus was written there meanwhile, a tar is missing, or an object of the generation has
            other bytes.
        MachineError: the object store cannot be written.
    """
    (out / TARS).unlink(missing_ok=True)
    small = {name: entry for name, entry in list_files(out, stored_files(out)).items() if not name.startswith(".")}
    files = dict(sorted({**small, **tars}.items()))
    generation = fingerprint({name: [entry.size, entry.sha256] for name, entry in files.items()})[:32]
    folder = folder_of(generation)
    with ThreadPoolExecutor(THREADS) as threads:
        for _ in threads.map(lambda name: _put(bucket, folder + name, (out / name).read_bytes()), small):
            pass
    stored = {name: tar_object(name, entry.sha256) for name, entry in tars.items()}
    if lost := absent(bucket.objects(TARS_THERE), tars, stored):
        raise StageError(f"{bucket.url}/{lost}: a tar that this corpus has from an earlier call. {GONE}")
    write_manifest(out / UNITS, manifest.model_copy(update={"files": files}))
    fault_point("before manifest")
    bucket.put(folder + MANIFEST, (out / UNITS / MANIFEST).read_bytes())
    fault_point("after manifest")
    made = make_current(bucket, generation, manifest.fingerprint, before)
    fault_point("after current")
    content = {name: asdict(entry) for name, entry in tars.items()}
    write_json(out / TARS, {"url": bucket.url, "manifest": made.etag, "generation": generation, "tars": content})


def _put(bucket: Bucket, name: str, data: bytes) -> None:
    if not bucket.put(name, data) and bucket.read(name) != data:
        raise StageError(
            f"{bucket.url}/{name} has changed under its name: it is not what xdc has written there. Delete it, and run "
            "this again."
        )


def point_at(corpus: Path, fingerprint: str) -> None:
    """Make the generation in the directory `corpus` the present one where it is written, if it is not.

    An earlier generation that is wanted once more was brought back, or the bucket is another one than before: all
    objects of the generation are looked for first.

    Raises:
        StageError: one is missing, or as `make_current`.
    """
    elsewhere, manifest = tars_elsewhere(corpus), read_manifest(corpus)
    if manifest is None or elsewhere is None or not elsewhere.get("generation"):
        return
    bucket = Bucket(elsewhere["url"])
    current = read_current(bucket)
    if current is not None and current.generation == elsewhere["generation"]:
        return
    folder = folder_of(elsewhere["generation"])
    files = {name: entry for name, entry in manifest.files.items() if name != TARS}
    names = {name: folder + name for name in files}
    files |= {name: FileEntry(**entry) for name, entry in elsewhere["tars"].items()}
    names |= {name: object_of(elsewhere, name) for name in elsewhere["tars"]}
    objects = bucket.objects(TARS_THERE) | bucket.objects(folder)
    lost = absent(objects, files, names)
    if not lost and folder + MANIFEST not in objects:
        lost = f"{folder}{MANIFEST} is missing"
    if lost:
        raise StageError(f"{bucket.url}/{lost}: {corpus} has the index of a corpus that is not there any more. {GONE}")
    make_current(bucket, elsewhere["generation"], fingerprint, current)


def make_current(bucket: Bucket, generation: str, fingerprint: str, before: Current | None) -> Current:
    """Make a generation the present one, if `before` still is; return what is then. fingerprint: of the corpus.

    Raises:
        Overtaken, StageError, MachineError: as `write_generation`.
    """
    data = json.dumps({"generation": generation, "fingerprint": fingerprint}).encode()
    if etag := bucket.put(CURRENT, data, before.etag if before else None):
        return Current(generation, fingerprint, etag)
    now = read_current(bucket)
    if now is not None and now.generation == generation:
        return now
    if now is not None and now.fingerprint == fingerprint:
        raise Overtaken(f"{bucket.url}: another process has written the same corpus there. Run this again: it is used.")
    what = "is not there" if now is None else f"names the generation {now.generation}, of another corpus"
    raise StageError(
        f"{bucket.url}/{CURRENT} {what}: another process has written there meanwhile. Nothing is lost. Give each "
        "corpus a folder of its own (corpus.path), or run this again to put this corpus in the place of the other one."
    )
