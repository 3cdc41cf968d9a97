"""Directories of a run that belong to other settings: partial ones, earlier generations, nodes that are gone."""

import os
from collections.abc import Iterator
from pathlib import Path

from shards.store.build import reusable
from shards.store.commit import STALE, partial_directories, target_of
from shards.store.manifest import MANIFEST
from xdc_core.cleaning.candidate import Candidate, Kept
from xdc_core.cleaning.usage import EARLIER, KINDS, LEFT_OVER, PARTIAL, STAGE_OF_FOLDER
from xdc_core.graph.cleaned import cleaned
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.stages import all_nodes, evaluation_nodes
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run

# What a node that is not in the configuration leaves and may go. Encoders, evaluations and reports are results.
REMADE = ("extract", "embed", "cluster", "label", "teachers", "maps", "search")


def left_over(run: Run) -> Iterator[Candidate]:
    """Yield directories that a killed removal has renamed."""
    for directory in _directories(run):
        if directory.name.startswith(".") and directory.name.endswith(".removed"):
            yield Candidate(directory, LEFT_OVER, "its removal was killed in the middle", directory)


def of_other_settings(given: Run, run: Run, fingerprints: Fingerprints) -> Iterator[Candidate | Kept]:
    """Yield partial directories that no call will continue, earlier generations, and directories of nodes that the
    configuration does not have.

    given: the run with the configuration of the user. run: the same as its stopping rule has ended it.
    """
    nodes = {given.directory(node): node for node in configured(given)}
    nodes |= {run.directory(node): node for node in configured(run)}
    for directory in _directories(run):
        if belongs := target_of(directory):
            target, mark = belongs
            if directory.parent.name == STALE:
                yield _earlier(directory, target, mark, nodes.get(target), fingerprints)
            else:
                yield _partial(directory, target, nodes.get(target), fingerprints)
        elif directory not in nodes and (directory / MANIFEST).exists() and (stage := _stage(run, directory)):
            yield Candidate(directory, KINDS[stage], "its node is not in the configuration", directory)


def configured(run: Run) -> list[Node]:
    """Return all nodes of a run's configuration, and the evaluations that can be asked for."""
    nodes = list(all_nodes(run.config))
    for number in range(run.config.last_round + 1):
        nodes += evaluation_nodes(run.config, list(run.config.evaluate), number)
    return list(dict.fromkeys(nodes))


def _earlier(
    directory: Path, target: Path, mark: str, node: Node | None, fingerprints: Fingerprints
) -> Candidate | Kept:
    """mark: the beginning of its fingerprint; "" if it is never restored."""
    wanted = fingerprints.of(node) if node is not None else None
    if mark and node is not None and wanted is None:
        return Kept(str(directory), "the corpus must be built first: whether it will be restored is not known")
    if mark and wanted is not None and wanted.startswith(mark) and not _finished(target, wanted):
        return Kept(str(directory), "the next call restores it: the settings are again those that it was made with")
    return Candidate(directory, EARLIER, "it was replaced after a change of settings or inputs", target)


def _finished(target: Path, wanted: str) -> bool:
    return bool(reusable(target, wanted) or cleaned(target, wanted))


def _partial(directory: Path, target: Path, node: Node | None, fingerprints: Fingerprints) -> Candidate | Kept:
    if node is None:
        return Candidate(directory, PARTIAL, "its node is not in the configuration", target)
    wanted = fingerprints.of(node)
    if wanted is None:
        return Kept(str(directory), "the corpus must be built first: whether it will be continued is not known")
    if _finished(target, wanted):
        return Candidate(directory, PARTIAL, f"{node} is finished", target)
    if directory in partial_directories(target, wanted):
        return Kept(str(directory), "the next call continues it")
    return Candidate(directory, PARTIAL, f"{node} was begun with other settings or inputs", target)


def _stage(run: Run, directory: Path) -> str | None:
    """Return the stage of a directory of a round, if its files can be made again."""
    place = directory.relative_to(run.root).parts
    stage = STAGE_OF_FOLDER.get(place[2]) if len(place) in (3, 4) and place[0] == "rounds" else None
    return stage if stage in REMADE else None


def locked(run: Run) -> Iterator[Path]:
    """Yield the directories of a run whose lock file exists, beside the directory or where it was."""
    folders = [run.root / "init", run.root / "rounds", *_directories(run)]
    for folder in folders:
        if not (folder.name.startswith(".") or (folder / MANIFEST).exists()):
            for lock in sorted(folder.glob(".*.lock")):
                yield lock.with_name(lock.name[1:].removesuffix(".lock"))


def _directories(run: Run) -> Iterator[Path]:
    """Yield the directories of nodes, and what lies beside them, but nothing in them. No directory of clips is looked
    at: it may be shared with other runs.
    """
    for place in (run.root / "init", run.root / "rounds"):
        for folder, folders, _ in os.walk(place):
            found = [Path(folder, name) for name in sorted(folders)]
            yield from found
            # A committed directory is not entered, and of a hidden one only the earlier generations.
            folders[:] = [
                path.name
                for path in found
                if path.name == STALE or not (path.name.startswith(".") or (path / MANIFEST).exists())
            ]
            if Path(folder).name == STALE:
                folders.clear()
