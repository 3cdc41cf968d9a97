"""Survey source files: size, content hash, duration, codecs. Each file is read once, and the result is stored.

The results are appended to a file of notes, so that nothing is done again after a kill. With an executor that does
not work in this process, workers survey groups of files and write into a folder beside the corpus. In the end, or after
a kill at the beginning of the next call, its results are appended to the notes.
"""

import contextlib
import json
import math
import re
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from shards.errors import SourceError
from shards.media.child import ENDED
from shards.media.source_file import check_readable
from shards.progress import Progress
from shards.settings import ALL_MODALITIES, CorpusSettings
from shards.sources.columns import source_columns
from shards.sources.fetched import state_of, states_of
from shards.sources.look import PROBE_VERSION, UNREADABLE, look_at
from shards.sources.source import Listing
from shards.sources.surveyed import Survey, Surveyed, survey_columns
from shards.store.commit import discard
from shards.store.executor import IN_PROCESS, Advance, Executor, Job, MayBeInProcess, run_units
from shards.store.fault import fault_point
from shards.store.files import new_file
from shards.store.receipt import RECEIPTS, UNITS, Receipt, new_shard, receipts_of
from shards.store.units import begin_units, stored_shards

# A group of files is at most about this long, a minute's work on two cores. How large files are is estimated.
GROUP_FILES, GROUP_BYTES = 256, 4 << 30
ESTIMATED_FROM = 1000  # Files whose sizes are looked up, among all files that are surveyed.
BATCH = 1024  # Earlier results that are compared at once.
FILES, COPIES = f"{UNITS}/files.arrow", "copies"


def still_holds(root: Path, entry: Surveyed) -> bool:
    """Return whether a result is still valid, as far as can be known without reading the file: its size and time are
    the same, and if it could not be read, it still cannot be.
    """
    return _is_as_before(root, entry, state_of(root, entry.path))


def _still_holding(root: Path, entries: Iterable[Surveyed]) -> Iterator[Surveyed]:
    """Yield the results that are still valid, as `still_holds`."""
    entries = iter(entries)
    while batch := list(islice(entries, BATCH)):
        for entry, state in zip(batch, states_of(root, [entry.path for entry in batch]), strict=True):
            if _is_as_before(root, entry, state):
                yield entry


def _is_as_before(root: Path, entry: Surveyed, state: tuple[int, int]) -> bool:
    if (entry.size, entry.mtime_ns) != state:
        return False
    if not entry.reason.startswith(UNREADABLE):
        return True
    try:
        check_readable(root / entry.path, entry.unreadable_at)
    except SourceError:
        return True
    return False


def read_survey(path: Path) -> Iterator[Surveyed]:
    """Yield the lines of a survey file except damaged ones, such as a last line cut short by a kill."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                yield Surveyed(**json.loads(line))
            except (ValueError, TypeError):
                continue


def recall(
    listing: Listing, known: Iterable[Surveyed], notes: Path, settings: CorpusSettings, oldest: int = 1
) -> tuple[Survey, pa.Array]:
    """Return the earlier results that are still valid, and the sorted paths of the files of the listing without one.

    They have what the settings need.

    `oldest`: results of earlier versions of the probe than this one do not count. With the present one, files whose
    process ended by itself have none either: in earlier versions of xdc a process that could not start had that reason.
    """
    valid = survey_columns(
        entry
        for entry in _still_holding(listing.root, chain(known, read_survey(notes)))
        if entry.probe_version >= oldest
        and not (oldest == PROBE_VERSION and entry.reason.startswith(ENDED))
        and entry.serves(settings)
    )
    paths = listed_files(listing)
    unknown = paths.filter(pc.invert(pc.is_in(paths, value_set=valid.table["path"])))
    return valid, unknown.take(pc.sort_indices(unknown))


def listed_files(listing: Listing) -> pa.Array:
    """Return the paths of all files of a listing, each once, in no particular order."""
    paths: pa.Array = pc.unique(source_columns(listing.sources).table["path"])
    return paths


def survey(
    listing: Listing,
    known: Iterable[Surveyed],
    notes: Path,
    settings: CorpusSettings,
    progress: Progress,
    executor: Executor = IN_PROCESS,
    logs: Path = Path("logs"),
    name: str = "shard",
) -> Survey:
    """Survey every file of a listing. New results are appended to `notes` at once, so that a kill loses nothing.

    `known` are earlier results, used if they are still valid. They and `notes` must be for the same modalities, because
    a file may be usable for one modality only.

    Files are probed in child processes, within the limits of the settings. Threads hash them, without a time limit.
    With an executor that does not work in this process workers do so, and `notes` gets the results in the end. `logs`:
    the folder for their output. `name`: of the node, for messages and the names of the logs.
    """
    for left in _folders(notes, settings):
        if not (left / UNITS / RECEIPTS).is_dir():  # The call was killed before any worker began.
            discard(left)
            continue
        begin_units(left, stored_shards(left))
        for _ in _take_over(left, notes):
            pass
    valid, unknown = recall(listing, known, notes, settings, PROBE_VERSION)
    if not len(unknown):
        return valid.select(listed_files(listing))
    notes.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(executor, MayBeInProcess) and executor.in_process(gpu=False):
        new = _survey_here(listing.root, unknown, notes, settings, progress)
    else:
        new = _survey_in_units(listing.root, unknown, notes, settings, progress, executor, logs, name)
    return survey_columns(chain(valid.files(), new)).select(listed_files(listing))


def forget_survey(notes: Path, settings: CorpusSettings) -> None:
    """Remove the notes of a survey, and what workers have stored for them."""
    notes.unlink(missing_ok=True)
    for left in _folders(notes, settings):
        discard(left)


def _folder_name(notes: Path, settings: CorpusSettings, number: str) -> str:
    """Return the name of a folder for workers: that of a partial directory of the corpus."""
    alone = "" if settings.modalities == ALL_MODALITIES else "-".join(["", *settings.modalities])
    corpus = notes.name.removesuffix(f"{alone.replace('-', '.', 1)}.survey.jsonl")
    return f"{corpus}.survey{alone}-{number}.partial"


def _folders(notes: Path, settings: CorpusSettings) -> list[Path]:
    """Return the folders that workers of an earlier, killed call have written into."""
    before, after = _folder_name(notes, settings, "*").split("*")
    pattern = re.compile(f"{re.escape(before)}[0-9a-f]{{8}}{re.escape(after)}")
    if not notes.parent.is_dir():
        return []
    return [path for path in sorted(notes.parent.iterdir()) if pattern.fullmatch(path.name)]


def _survey_here(
    root: Path, unknown: pa.Array, notes: Path, settings: CorpusSettings, progress: Progress
) -> Iterator[Surveyed]:
    bad = 0
    copies = notes.with_name(_folder_name(notes, settings, "copies"))
    new = look_at(root, (path.as_py() for path in unknown), settings, copies)
    with notes.open("a", encoding="utf-8") as file, contextlib.closing(new):
        for count, (entry, final) in enumerate(new, start=1):
            if final:
                fault_point("before note")
                file.write("\n" + json.dumps(asdict(entry)))
                file.flush()
                fault_point("after note")
            bad += bool(entry.reason)
            progress(count, len(unknown), f"files probed, {bad} unusable" if bad else "files probed")
            yield entry
    if copies.exists():
        discard(copies)


def _survey_in_units(
    root: Path,
    unknown: pa.Array,
    notes: Path,
    settings: CorpusSettings,
    progress: Progress,
    executor: Executor,
    logs: Path,
    name: str,
) -> Iterator[Surveyed]:
    """Have workers survey files in groups; append the results to the notes, and yield them."""
    root, notes = root.absolute(), notes.absolute()
    # Nobody else knows its name: a worker that outlives its stage writes nothing into a later one's.
    out = notes.with_name(_folder_name(notes, settings, uuid.uuid4().hex[:8]))
    (out / UNITS).mkdir(parents=True)
    sizes = _write_groups(out / FILES, root, unknown)
    job = Job(
        name=f"the survey of {name}",
        work="shards.corpus.survey:survey_groups",
        arguments={"out": str(out), "root": str(root), "settings": settings.model_dump(mode="json")},
        out=str(out),
        logs=str(logs),
        library="torch",
    )
    run_units(executor, job, sizes, 1, progress, "files probed")
    yield from _take_over(out, notes)


def _write_groups(path: Path, root: Path, unknown: pa.Array) -> dict[str, int]:
    """Write the paths of each group of files as a batch of an Arrow file. Return the number of files by group."""
    looked_at = unknown[:: math.ceil(len(unknown) / ESTIMATED_FROM)]
    size = sum(max(0, state_of(root, name.as_py())[0]) for name in looked_at) / len(looked_at)
    length = max(1, min(GROUP_FILES, int(GROUP_BYTES / max(1, size))))
    sizes: dict[str, int] = {}
    with new_file(path) as temporary, pa.ipc.new_file(temporary, pa.schema([("path", unknown.type)])) as file:
        for first in range(0, len(unknown), length):
            group = unknown[first : first + length]
            file.write_batch(pa.record_batch({"path": group}))
            sizes[f"{len(sizes):06d}"] = len(group)
    return sizes


def survey_groups(arguments: dict[str, Any], groups: list[str], advance: Advance) -> Iterator[Receipt]:
    """Store the survey of some groups of files as JSON lines, and yield their receipts: the work of a unit."""
    out, root = Path(arguments["out"]), Path(arguments["root"])
    with pa.memory_map(str(out / FILES)) as file:
        batches = pa.ipc.open_file(file)
        paths = (path for group in groups for path in batches.get_batch(int(group))["path"].to_pylist())
        looks = look_at(root, paths, CorpusSettings.model_validate(arguments["settings"]), out / UNITS / COPIES)
        with contextlib.closing(looks):
            for group in groups:
                with new_shard(out, group) as new:
                    new.rows = batches.get_batch(int(group)).num_rows
                    with new_file(new.folder / f"{group}.jsonl") as path, path.open("w", encoding="utf-8") as lines:
                        for entry, final in islice(looks, new.rows):
                            lines.write(json.dumps([final, asdict(entry)]) + "\n")
                            new.rejects += bool(entry.reason)
                            advance(int(not entry.reason), int(bool(entry.reason)))
                    new.rows -= new.rejects
                yield new.stored


def _take_over(out: Path, notes: Path) -> Iterator[Surveyed]:
    """Append to the notes what workers have stored in `out`, yield it, and remove `out`."""
    with notes.open("a", encoding="utf-8") as file:
        for receipt in receipts_of(out, sorted(stored_shards(out))):
            for name in receipt.files:
                for line in (out / name).read_text(encoding="utf-8").splitlines():
                    final, values = json.loads(line)
                    if final:
                        file.write("\n" + json.dumps(values))
                    yield Surveyed(**values)
    fault_point("after notes")
    discard(out)
