"""Remove what no node of a run needs any more. A kill at any instant leaves directories whole, cleaned, or renamed.

Of features only the large files go. First cleaned.json is written into their directory: from then on it counts as
cleaned, however many of its files are still there. A directory that is removed whole is renamed first, under a name
that nothing reads. The next call finishes both.

The locks of a directory and of all that is made from it are held meanwhile. So a process that builds one of them is
never disturbed, and what it reads stays.
"""

from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from shards.errors import Busy
from shards.store.commit import discard, remove_tree
from shards.store.fault import fault_point
from shards.store.files import sync
from shards.store.lock import exclusive
from xdc_core.cleaning.asked import place_of
from xdc_core.cleaning.candidate import Candidate, Kept
from xdc_core.cleaning.features import large_files, unneeded_features, why_needed
from xdc_core.cleaning.stale import configured, left_over, locked, of_other_settings
from xdc_core.cleaning.usage import Usage, files_below, measure, usage
from xdc_core.documents.cleaned import Cleaned, read_cleaned, write_cleaned
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.rounds import as_stopped
from xdc_core.graph.run_stage import finished
from xdc_core.graph.stages import stage_of
from xdc_core.runs.corpora import is_corpus
from xdc_core.runs.run import Run
from xdc_core.stages.evaluate import EVALUATE


@dataclass(frozen=True)
class Removal:
    """What was removed of one directory, or can be. linked: bytes with another name, which therefore stay on disk."""

    path: str
    kind: str
    why: str
    files: int
    bytes: int
    linked: int


@dataclass(frozen=True)
class Cleaning:
    """The result: what took space before, what was removed, and what was looked at and kept."""

    usage: tuple[Usage, ...]
    removed: tuple[Removal, ...]
    kept: tuple[Kept, ...]

    @property
    def freed(self) -> int:
        """Return the bytes that the removal frees on the disk."""
        return sum(removal.bytes - removal.linked for removal in self.removed)


def clean(
    given: Run, keep_rounds: int = 1, stale: bool = False, dry_run: bool = False, automatic: bool = False
) -> Cleaning:
    """Remove the features of a run's rounds before the newest `keep_rounds`, as far as no node needs them.

    Args:
        given: the run with the configuration of its xdc.yaml.
        keep_rounds: at least 1. Rounds are counted from the newest with a finished directory.
        stale: also remove partial directories that no call will continue, earlier generations in `.stale/`, and
            features, clusters and labels of nodes that the configuration does not have.
        dry_run: remove nothing, and return what would be removed.
        automatic: the call is not a user's: see `unneeded_features`. What takes space is then not counted.

    Raises:
        OSError: a file cannot be removed.
    """
    as_set = Fingerprints(given, compare=not automatic)
    run = as_stopped(given, as_set)
    fingerprints = as_set.after_stop(run)
    found = [*left_over(run), *unneeded_features(run, fingerprints, keep_rounds, automatic)]
    if stale:
        found += of_other_settings(given, run, fingerprints)
    before = () if automatic else tuple(usage(run))
    removed, kept = list[Removal](), [entry for entry in found if isinstance(entry, Kept)]
    for candidate in (entry for entry in found if isinstance(entry, Candidate)):
        outcome = _measured(run, candidate) if dry_run else _remove(run, candidate, fingerprints)
        if isinstance(outcome, Kept):
            kept.append(outcome)
        else:
            removed.append(outcome)
    if not dry_run:
        _clear_left_overs(run, fingerprints)
    return Cleaning(before, tuple(removed), tuple(kept))


def _clear_left_overs(run: Run, fingerprints: Fingerprints) -> None:
    """Remove the locks of killed processes, and what they have left beside directories that are finished.

    The lock of a directory that is to be built stays: whoever builds it takes it.
    """
    nodes = {run.directory(node): node for node in configured(run) if not is_corpus(node)}
    for target in locked(run):
        if target in nodes:
            finished(run, nodes[target], fingerprints)
        else:
            with suppress(Busy, OSError), exclusive(target, patience=0):
                pass


def _measured(run: Run, candidate: Candidate) -> Removal:
    directory, node = candidate.path, candidate.node
    files = files_below(directory) if node is None else [directory / name for name in large_files(run, node)]
    size = measure(candidate.kind, files)
    return Removal(str(directory), candidate.kind, candidate.why, size.files, size.bytes, size.linked)


def _remove(run: Run, candidate: Candidate, fingerprints: Fingerprints) -> Removal | Kept:
    """Remove one candidate under the locks of all directories that it concerns, unless it is needed now."""
    with ExitStack() as locks:
        try:
            readers = (*candidate.readers.due, *candidate.readers.asked)
            asked = (place_of(run, reader) for reader in readers if reader.stage == EVALUATE.name)
            for place in dict.fromkeys((candidate.target, *map(run.directory, readers), *asked)):
                if place.parent.is_dir():  # Else it was never begun; `exclusive` would create the folder.
                    locks.enter_context(exclusive(place, patience=0))
        except Busy as busy:
            return Kept(str(candidate.path), str(busy))
        removal = _measured(run, candidate)
        if candidate.node is None:
            _remove_whole(candidate.path)
        else:
            # What is finished is looked up again: other processes may have changed it before the locks were taken.
            if why := why_needed(run, candidate.node, candidate.readers, fingerprints):
                return Kept(str(candidate.path), why)
            _remove_files(run, candidate, removal)
    return removal


def _remove_files(run: Run, candidate: Candidate, removal: Removal) -> None:
    directory, node = candidate.path, candidate.node
    assert node is not None
    names = large_files(run, node)
    patterns = list(stage_of(node).cleanable)
    at = datetime.now(UTC).isoformat(timespec="seconds")
    fault_point("before clean", directory.name)
    if read_cleaned(directory) is None:  # Else an earlier call was killed.
        write_cleaned(directory, Cleaned(patterns=patterns, files=removal.files, bytes=removal.bytes, at=at))
    for name in names:
        (directory / name).unlink(missing_ok=True)
        fault_point("in clean", name)
    for folder in {directory, *((directory / name).parent for name in names)}:
        sync(folder)
    fault_point("after clean", directory.name)


def _remove_whole(directory: Path) -> None:
    if directory.name.endswith(".removed"):
        remove_tree(directory)
        return
    doomed = None if directory.name.startswith(".") else directory.with_name(f".{directory.name}.gone.removed")
    fault_point("before clean", directory.name)
    with suppress(FileNotFoundError):  # Its builder has just committed or renamed it.
        discard(directory, doomed)
    fault_point("after clean", directory.name)
