"""The directory of a corpus in an object store: all its files but the tars, and where these are."""

import hashlib
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from shards.errors import ConfigError, StageError
from shards.objects.bucket import Bucket, NotThere
from shards.objects.generation import Current, absent, folder_of, read_current
from shards.objects.tars import TARS, TARS_THERE, object_of, tars_elsewhere
from shards.progress import Progress
from shards.store.build import Identity, Outcome, Record, build, record_of
from shards.store.files import INDEX, link_or_copy, new_file, sha256_of, write_json
from shards.store.manifest import (
    MANIFEST,
    FileEntry,
    Manifest,
    fingerprint,
    missing_files,
    parse_manifest,
    read_manifest,
)
from shards.store.receipt import UNITS

THREADS = 8
NAME = re.compile(rf"({INDEX}/)?[\w-][\w.-]*")  # Of a file in a corpus's directory: it cannot lead out of it.


def mirror(
    corpus: Path,
    url: str,
    progress: Progress,
    force: bool = False,
    current: Current | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Record:
    """Build the directory `corpus` of a corpus that lies at `url`: its files without the tars, and tars.json.

    Its manifest has the fingerprint and the summary of the corpus, so that stages read it like one that lies here. It
    is used again while the corpus's manifest is the same object. A killed call goes on with the files that lack, and
    files that the directory has already are not fetched. current: the generation that is wanted; the present one by
    default. settings: those that it must have been made with, because the videos to make it again are not here.

    Raises:
        ConfigError: it was made with other settings.
        StageError: no finished corpus is there, or one of its objects is missing or not that in its manifest.
        MachineError: the object store cannot be read.
    """
    bucket = Bucket(url)
    try:
        folder, etag, generation = _place(bucket, current)
    except NotThere as error:
        if settings is None:
            raise
        raise ConfigError(
            f"corpus.videos does not exist here, and no corpus was cut into {bucket.url}: {error}"
        ) from None
    manifest, elsewhere = read_manifest(corpus), tars_elsewhere(corpus)
    if manifest is not None and elsewhere is not None and not force:
        same = (elsewhere["url"], elsewhere["manifest"]) == (bucket.url, etag)
        if same and not missing_files(corpus, manifest):
            _check_settings(bucket.url, manifest, settings)
            return record_of(corpus, manifest, reused=True)
    there = parse_manifest(bucket.read(folder + MANIFEST))
    if there is None or there.stage != "shard":
        raise StageError(
            f"{bucket.url}/{folder}{MANIFEST} is not the manifest of a corpus, or it is damaged: copy it again."
        )
    _check_settings(bucket.url, there, settings)
    tars = {name: entry for name, entry in there.files.items() if name.endswith(".tar")}
    content: dict[str, Any] = {"url": bucket.url, "manifest": etag} | ({"generation": generation} if generation else {})
    content["tars"] = {name: {"size": entry.size, "sha256": entry.sha256} for name, entry in tars.items()}
    objects = {name: object_of(content, name) if name in tars else folder + name for name in there.files}
    _check(bucket, folder, there, objects)

    def work(out: Path) -> Outcome:
        shutil.rmtree(out / UNITS, ignore_errors=True)  # Of a process that wrote this corpus, and was killed.
        small = [name for name in there.files if name not in tars]
        with ThreadPoolExecutor(THREADS) as threads:
            fetched = threads.map(
                lambda name: _fetch(bucket, objects[name], there.files[name], out / name, corpus / name), small
            )
            for done, _ in enumerate(fetched, start=1):
                progress(done, len(small), "files of the index fetched")
        for path in out.rglob("*"):
            if path.is_file() and str(path.relative_to(out)) not in small:
                path.unlink()
        write_json(out / TARS, content)
        return Outcome(there.rows, there.rejects, there.summary, (*small, TARS))

    identity = Identity("shard", there.version, there.fingerprint, inputs=there.inputs, settings=there.settings)
    mark = fingerprint([bucket.url, etag])
    again = mark if force or (manifest is not None and manifest.fingerprint == there.fingerprint) else None
    record = build(corpus, identity, work, again=again)
    if record.reused and (tars_elsewhere(corpus) or {}).get("manifest") != etag:  # An older one was brought back.
        record = build(corpus, identity, work, again=mark)
    return record


def _place(bucket: Bucket, current: Current | None) -> tuple[str, str, str]:
    """Return the folder of a corpus's small files, an ETag that changes with the corpus, and its generation.

    The folder and the generation of a corpus that was copied there are "".
    """
    try:
        if current is None:
            return "", bucket.look(MANIFEST).etag, ""
    except NotThere as error:
        current = read_current(bucket)
        if current is None:
            raise _no_corpus(error, bucket.url) from None
    except StageError as error:
        raise _no_corpus(error, bucket.url) from None
    return folder_of(current.generation), current.etag, current.generation


def _check_settings(url: str, manifest: Manifest, settings: Mapping[str, Any] | None) -> None:
    if settings is None or manifest.settings == settings:
        return
    own = sorted(name for name in {*settings, *manifest.settings} if settings.get(name) != manifest.settings.get(name))
    raise ConfigError(
        f"corpus.videos does not exist here, and the corpus in {url} was cut with other settings (corpus."
        f"{', corpus.'.join(own)}). Bring the videos back to cut it with these, correct them, or set corpus.videos to "
        "null: then the corpus is used as it is."
    )


def _no_corpus(error: StageError, url: str) -> StageError:
    return type(error)(f"{error} A finished corpus has a {MANIFEST} there: corpus.path is {url}.")


def catch_up(corpus: Path, url: str, progress: Progress, force: bool) -> Current | None:
    """Return the present generation of a corpus that is to be written to `url`; None if there is none.

    If `corpus` is not the directory of it, it becomes that, unless with `force`: what others have cut is used.

    Raises:
        ConfigError: a corpus was copied there, which is not changed.
        StageError, Busy: as `mirror`.
    """
    bucket = Bucket(url)
    if bucket.find(MANIFEST) is not None:
        raise ConfigError(
            f"{bucket.url} holds a corpus that was copied there, and it stays as it is. To read it, set corpus.videos "
            "to null; to cut corpus.videos, give corpus.path another folder."
        )
    current = read_current(bucket)
    if current is not None and not force:
        mirror(corpus, url, progress, current=current)
    return current


def _check(bucket: Bucket, folder: str, manifest: Manifest, names: Mapping[str, str]) -> None:
    """Raise StageError if an object of a corpus is missing or has another size. names: of the objects, by file."""
    for name in manifest.files:
        if NAME.fullmatch(name) is None:
            raise StageError(
                f"{bucket.url}/{folder}{MANIFEST} has a file named {name!r}, which is not one of a corpus: do not "
                "use it."
            )
    objects = bucket.objects(TARS_THERE) | bucket.objects(folder) if folder else bucket.objects()
    if lost := absent(objects, manifest.files, names):
        why = "the corpus was not copied completely. Copy it again."
        if folder:
            why = "it was deleted. Bring it back from a copy, or cut all clips again: xdc stage shard RUN --force"
        raise StageError(f"{bucket.url}/{lost}: {why}")


def _fetch(bucket: Bucket, name: str, entry: FileEntry, path: Path, present: Path) -> None:
    """Write one file of the corpus, unless it is there. name: of the object. present: is linked, if it is the same."""
    if _is(path, entry):
        return
    if _is(present, entry):
        path.unlink(missing_ok=True)
        if path.parent.name == INDEX:
            path.parent.mkdir(exist_ok=True)
        link_or_copy(present, path)
        return
    data = bucket.read(name, entry.size)
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise StageError(
            f"{bucket.url}/{name} is not what the corpus's {MANIFEST} says (sha256): it has changed under its name. "
            "Bring it back, or write the corpus there again."
        )
    with new_file(path) as temporary:
        temporary.write_bytes(data)


def _is(path: Path, entry: FileEntry) -> bool:
    return path.exists() and path.stat().st_size == entry.size and sha256_of(path) == entry.sha256
