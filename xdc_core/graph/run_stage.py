"""Run one node of the graph by a function call: without Prefect, without a child process.

from xdc_core.runs.run import Node, open_run
from xdc_core.graph.run_stage import run_stage
run_stage(open_run("runs/first"), Node("extract", "video", 0))
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shards.command import command
from shards.corpus.generation import Change, as_read, since_read
from shards.corpus.stage import forget_notes
from shards.errors import ConfigError, StageError
from shards.indexing.generation_view import corpus_at, remove_view
from shards.progress import Progress, silent
from shards.store.build import Identity, Outcome, Record, build, machine_trouble_explained, reusable
from shards.store.commit import clear_left_overs, discard
from shards.store.executor import IN_PROCESS, Executor
from shards.store.manifest import read_manifest
from xdc_core.graph.cleaned import cleaned
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.stages import inputs, settings_of, stage_of
from xdc_core.runs.corpora import is_corpus, lost_corpus, stored_from
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run
from xdc_core.runs.task import task_of


def reuse(run: Run, node: Node, fingerprints: Fingerprints | None = None) -> Record | None:
    """Return the record of a fresh node, else None. Read only manifests; remove left-overs of a kill beside it."""
    wanted = (fingerprints or Fingerprints(run)).of(node)
    record = reusable(run.directory(node), wanted) if wanted else None
    if record is not None:
        clear_left_overs(run.directory(node))
        if is_corpus(node):
            forget_notes(*stored_from(run, node)[::2])
    return record


def finished(run: Run, node: Node, fingerprints: Fingerprints, readers: Sequence[Node] | None = ()) -> Record | None:
    """Return the record of a node that is fresh, or that was cleaned and is not read any more; else None.

    readers: the nodes that are to read its files. If one of them is not finished, a cleaned node counts as unfinished.
    None: its files are wanted in any case.
    """
    record = reuse(run, node, fingerprints)
    if record is not None or readers is None:
        return record
    wanted = fingerprints.of(node)
    record = cleaned(run.directory(node), wanted) if wanted else None
    if record is None or not all_fresh(run, readers, fingerprints):
        return None
    clear_left_overs(run.directory(node))
    return record


def all_fresh(run: Run, nodes: Iterable[Node], fingerprints: Fingerprints | None = None) -> bool:
    """Return whether all of these nodes are fresh, or were cleaned when they were. Without `fingerprints`, sources that
    look changed are not compared one by one.
    """
    fingerprints = fingerprints or Fingerprints(run, compare=False)
    return all(finished(run, node, fingerprints) is not None for node in nodes)


def made_again(
    run: Run, nodes: Sequence[Node], fingerprints: Fingerprints, forced: Collection[Node] = ()
) -> Iterator[tuple[Node, Node, float]]:
    """Yield the cleaned nodes that a run of these nodes makes again: the node, a node that reads it and is built, and
    the seconds that it took.

    forced: those of the nodes that are built even if they are finished.
    """
    for node in nodes:
        wanted = fingerprints.of(node)
        record = cleaned(run.directory(node), wanted) if wanted else None
        if record is not None:
            readers = readers_among(run, node, nodes)
            built = (other for other in readers if other in forced or not all_fresh(run, [other], fingerprints))
            if (reader := next(built, None)) is not None:
                yield node, reader, record.seconds


def readers_among(run: Run, node: Node, nodes: Iterable[Node]) -> list[Node]:
    """Return those of the nodes that read the directory of `node`."""
    return [other for other in nodes if node in inputs(run.config, other)]


def run_stage(
    run: Run,
    node: Node,
    force: bool = False,
    progress: Progress = silent,
    corpus_read_as: str | None = None,
    executor: Executor = IN_PROCESS,
) -> Record:
    """Make a node's directory correspond to the configuration: reuse it, continue it, or build it.

    `force` rebuilds it. `corpus_read_as` is the fingerprint that the corpus had as an input when the caller began, if
    it is known: see `Fingerprints`. `executor` does the units of the stage, if it has some. Return the record;
    `record.reused` says whether the directory was reused.

    Raises:
        StageError: an input is missing or stale (the text has the command that builds it), or the work fails.
        ConfigError: the configuration does not fit the data, or neither the corpus nor its videos exist.
        Busy: another process is building it.
    """
    with machine_trouble_explained(str(node), run.directory(node)):
        return _run_stage(run, node, force, progress, corpus_read_as, executor)


def _run_stage(
    run: Run, node: Node, force: bool, progress: Progress, corpus_read_as: str | None, executor: Executor
) -> Record:
    stage = stage_of(node)
    if is_corpus(node) and (lost := lost_corpus(run, node)):
        raise ConfigError(lost)
    if stage.build is not None:
        return stage.build(run, node, progress, force, executor)
    fingerprints = Fingerprints(run, corpus_read_as)
    for source in inputs(run.config, node):
        if reuse(run, source, fingerprints) is None:
            if is_corpus(source) and (lost := lost_corpus(run, source)):
                raise ConfigError(f"{node} needs {source}. {lost}")
            if (record := finished(run, source, fingerprints)) is not None:
                raise StageError(
                    f"{node} needs {source}, whose files `xdc clean` has removed. They must be made again, which took "
                    f"{record.seconds:.1f} s the first time. {_remedy(run, source)}"
                )
            raise StageError(f"{node} needs {source}, which is missing or stale. {_remedy(run, source)}")
    wanted, outside = fingerprints.of(node), fingerprints.outside(node)
    assert wanted is not None
    identity = Identity(
        stage=node.stage,
        version=stage.version,
        fingerprint=wanted,
        modality=node.modality,
        round=node.round,
        inputs={name: value for name, value in fingerprints.inputs_of(node).items() if value},
        settings=settings_of(run.config, node),
    )

    def work(out: Path) -> Outcome:
        read = {source: _content(run, source) for source in inputs(run.config, node)}
        with _corpus_of(run, identity.inputs.get(SHARD.name), node in fingerprints.kept, out) as corpus:
            outcome = stage.work(task_of(stage, run, node, out, progress, outside, executor, force, corpus))
        for source, content in read.items():
            change = _change(run, source, content)
            if change == "away":  # What it was is in this directory's fingerprint. It may come back.
                raise StageError(
                    f"{source} was not at its place ({run.directory(source)}) when {node} had been made of it: it is "
                    "being replaced, or that was interrupted. Nothing is lost: run this again."
                )
            if change == "replaced" or (change == "grown" and corpus is None):
                discard(out)  # It was made from two different versions.
                raise StageError(f"{source} was replaced while {node} read it. Nothing is lost: run this again.")
        for name, digest in stage.outside(run, node).items():
            if identity.inputs[name] != digest:
                discard(out)
                raise StageError(f"the file of {name} changed while {node} read it. Nothing is lost: run this again.")
        return outcome

    return build(run.directory(node), identity, work, force)


def _content(run: Run, node: Node) -> Any:
    """Return what differs if the directory of an input was replaced by another one. `xdc index` may add columns to that
    of a corpus meanwhile.
    """
    return as_read(run.directory(node)) if is_corpus(node) else read_manifest(run.directory(node))


def _change(run: Run, node: Node, content: Any) -> Change:
    """Return what has become of an input since it had this content."""
    if is_corpus(node):
        return since_read(run.directory(node), content)
    return "same" if _content(run, node) == content else "replaced"


@contextmanager
def _corpus_of(run: Run, read_as: str | None, kept: bool, out: Path) -> Iterator[Path | None]:
    """Yield where a node reads the run's corpus: None for its place.

    Where clips may be appended meanwhile, or have been since, it is a view of one generation. read_as: the corpus's
    fingerprint as an input of the node, None if it is none. kept: whether it is that of an earlier generation.
    """
    if read_as is not None and (kept or run.config.corpus.append):
        with corpus_at(run.corpus, read_as, out) as view:
            yield view
    else:
        remove_view(out)  # `append` may have been switched off since a stage was killed that had one.
        yield None


def _remedy(run: Run, source: Node) -> str:
    everything = command("xdc", "run", run.root)
    return f"Build it with: {run.command(source)}   (or everything that is missing: {everything})"
