"""Verify the committed files of a run, list other files beside them, and give the commands for repair."""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from shards.command import command
from shards.corpus.recut import damaged_sources
from shards.corpus.seen import SEEN
from shards.errors import MachineError, StageError
from shards.indexing.columns import SUFFIX, column_faults, directories_of_generations, is_held
from shards.indexing.generation_view import corpus_at
from shards.objects.bucket import Bucket
from shards.objects.generation import unused_tars
from shards.objects.tars import tars_elsewhere
from shards.progress import Progress, silent
from shards.settings import is_url
from shards.store.build import reusable
from shards.store.commit import STALE, partial_directories
from shards.store.lock import in_progress, lock_of, read_holder, this_machine
from shards.store.manifest import read_manifest
from xdc_core.cleaning.features import large_files
from xdc_core.documents.cleaned import read_cleaned
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.rounds import as_stopped
from xdc_core.graph.stages import all_nodes, asked_nodes, inputs
from xdc_core.graph.state import node_state
from xdc_core.inspection.directory_check import comparable, file_faults, manifest_faults, row_faults
from xdc_core.inspection.remedies import cut_again, mend, rebuild
from xdc_core.runs.corpora import is_corpus
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run

HIDDEN = re.compile(r"\..+\.(partial|removed|returning|lock|tmp|digits|survey\.jsonl|columns)")
# Files beside a directory NAME while it is built: `.NAME.lock`, `.NAME.FINGERPRINT.partial` and the like.
BESIDE = re.compile(r"\.(?P<name>.+?)\.(?:lock|[^.]+\.(?:partial|removed|returning|columns))")


@dataclass(frozen=True)
class Finding:
    """One problem of a run.

    damaged: bytes or rows differ from what was committed. unchecked: an object store could not be read. unfinished:
    begun, stale, missing or in progress. set aside: a damaged directory in `.stale/`. left over: files of a dead
    process that are not needed.
    """

    kind: Literal["damaged", "unchecked", "unfinished", "set aside", "left over"]
    path: str
    what: str
    remedy: str


def verify_run(run: Run, progress: Progress = silent) -> list[Finding]:
    """Check every committed directory of a run, including its corpora: manifests against the graph, files against the
    sha256 in their manifests, tars against indices, rows against the index. Reads every byte and changes nothing.
    """
    as_set = Fingerprints(run)
    run = as_stopped(run, as_set)
    fingerprints, findings = as_set.after_stop(run), list[Finding]()
    nodes = list(dict.fromkeys([*all_nodes(run.config), *_asked(run)]))
    readers = _readers(run, nodes)
    for done, node in enumerate(nodes, start=1):
        if run.directory(node).exists():
            findings += _check_node(run, node, fingerprints)
        elif node in readers and node_state(run, node, fingerprints)[0] == "missing":
            what = f"it is missing, although {readers[node]} was made from it"
            findings.append(Finding("unfinished", str(run.directory(node)), what, rebuild(run, node, force=False)))
        progress(done, len(nodes), f"directories verified, {node}")
    places = dict.fromkeys(run.directory(node) for node in nodes)
    for place in dict.fromkeys(target.parent for target in places):
        findings += _set_aside(place, {target.name for target in places if target.parent == place})
    findings += _left_over(run, nodes, fingerprints)
    findings += _left_in_bucket(run)
    return findings


def _unchecked(run: Run, error: MachineError) -> Finding:
    return Finding("unchecked", str(run.corpus), str(error), command("xdc", "verify", run.root))


def _left_in_bucket(run: Run) -> Iterator[Finding]:
    """Yield tars below the URL of a corpus that was cut into an object store, which no generation of it has."""
    try:
        elsewhere = tars_elsewhere(run.corpus)
    except StageError:  # It is reported with the corpus.
        return
    if elsewhere is None or not elsewhere.get("generation"):
        return
    try:
        unused = unused_tars(Bucket(elsewhere["url"]))
    except MachineError as error:
        yield _unchecked(run, error)
        return
    except StageError as error:
        url, _, what = str(error).partition(" is damaged: ")
        yield Finding("damaged", url, what, f"# bring {url} back from a copy")
        return
    for name in unused:
        url = f"{elsewhere['url']}/{name}"
        what = "no generation of the corpus has this tar: it was left by a killed call, or one is in progress"
        yield Finding("left over", url, what, f"if nobody cuts this corpus now: {command('aws', 's3', 'rm', url)}")


def commands(findings: list[Finding]) -> list[str]:
    """Return the commands that rebuild what is damaged, in this order."""
    return list(dict.fromkeys(finding.remedy for finding in findings if finding.kind == "damaged"))


def _asked(run: Run) -> Iterator[Node]:
    """Return nodes of evaluations, searches and data sets that were requested and exist, and their inputs."""
    nodes = [Node("data", name) for name in run.config.datasets]
    for number in range(run.config.last_round + 1):
        nodes += asked_nodes(run.config, number)
    readers = _readers(run, nodes)
    yield from (node for node in nodes if node in readers or run.directory(node).exists())


def _readers(run: Run, nodes: list[Node]) -> dict[Node, Node]:
    """Return for each input of an existing node the first node made from it. `nodes`: each after its inputs."""
    reader_of: dict[Node, Node] = {}
    for node in reversed(nodes):
        there = node if run.directory(node).exists() else reader_of.get(node)
        if there is not None:
            reader_of |= dict.fromkeys(inputs(run.config, node), there)
    return reader_of


def _check_node(run: Run, node: Node, fingerprints: Fingerprints) -> list[Finding]:
    """Check one directory; again if another process has replaced or cleaned it meanwhile."""
    directory = run.directory(node)
    while True:
        before = read_manifest(directory), read_cleaned(directory)
        findings = _check_once(run, node, fingerprints)
        if (read_manifest(directory), read_cleaned(directory)) == before:
            return findings


def _check_once(run: Run, node: Node, fingerprints: Fingerprints) -> list[Finding]:
    directory = run.directory(node)
    manifest = read_manifest(directory)
    if manifest is None:
        what = "it has no valid manifest.json: it counts as missing, and will be rebuilt"
        return [Finding("damaged", str(directory), what, rebuild(run, node, force=False))]
    faults = list(file_faults(directory, manifest))
    strange = {path for path, _ in faults}
    faults += manifest_faults(node, directory, manifest)
    state, why = node_state(run, node, fingerprints)
    # Stale rows have no reference.
    unchecked = list[Finding]()
    rows = row_faults(run, node, manifest, fingerprints.kept.get(node))
    if (not faults and state == "fresh") or (is_corpus(node) and not strange - set(directory.glob("*.tar"))):
        try:
            faults += [fault for fault in comparable(rows, directory) if fault not in faults]
        except MachineError as error:
            unchecked.append(_unchecked(run, error))
    findings = [Finding("damaged", str(path), what, mend(run, node, path)) for path, what in faults]
    findings += unchecked
    if is_corpus(node) and not faults:
        remedy = command("xdc", "recut", run.root)
        if node == SHARD and is_url(run.config.corpus.path):  # Single shards of these are not cut again.
            remedy = cut_again(run, node) if run.videos else "# run `xdc recut` where it was made, and copy it again"
        for name, what in damaged_sources(directory).items():
            findings.append(Finding("damaged", str(directory), f"{name}: {what} by an earlier version of xdc", remedy))
    if state == "cleaned" and large_files(run, node) and not in_progress(directory):
        what = "`xdc clean` was killed while it removed this; features that are left are not used"
        findings.append(Finding("left over", str(directory), what, command("xdc", "clean", run.root)))
    if state not in ("fresh", "cleaned") and not faults:
        findings.append(Finding("unfinished", str(directory), f"{state}: {why}", command("xdc", "run", run.root)))
    return findings


def _set_aside(place: Path, names: set[str]) -> Iterator[Finding]:
    """Yield damaged directories in `.stale/`."""
    for directory in sorted((place / STALE).glob("*")):
        if directory.name.rpartition("-")[0] not in names:
            continue
        manifest = read_manifest(directory)
        faults = [(directory, "it has no valid manifest.json")] if manifest is None else []
        if manifest is not None:
            faults += list(file_faults(directory, manifest))
        if faults:
            what = f"{faults[0][0].name}: {faults[0][1]}; it cannot be used any more"
            yield Finding("set aside", str(directory), what, command("rm", "-r", directory))


def _left_over(run: Run, nodes: list[Node], fingerprints: Fingerprints) -> Iterator[Finding]:
    """Yield hidden files beside the run's directories and in them."""
    targets = {run.directory(node): node for node in nodes}
    roots = dict.fromkeys([run.root.resolve(), *(run.directory(node).resolve() for node in nodes if is_corpus(node))])
    hidden = {path for root in roots for path in root.rglob(".*") if HIDDEN.fullmatch(path.name)}
    for target, node in targets.items():
        if is_corpus(node) and target.parent.exists():  # Other corpora may be beside it.
            hidden |= {path for path in target.parent.iterdir() if _is_beside(target, path)}
    expected = set()
    for target, node in targets.items():
        # Beside a finished directory a partial one of a call with --force is not continued.
        if (wanted := fingerprints.of(node)) and reusable(target, wanted) is None:
            expected |= {begun.resolve() for begun in partial_directories(target, wanted)}
    columns = _columns(run, [node for node in nodes if is_corpus(node)])
    again = command("xdc", "run", run.root)
    for path in sorted(hidden):
        if any(parent.name.endswith(".partial") for parent in path.parents):
            continue  # Part of a directory that is reported as a whole.
        if path.name.endswith(SEEN):
            continue  # It is current, or is written again by the next comparison.
        if (beside := BESIDE.fullmatch(path.name)) and (who := in_progress(path.with_name(beside["name"]))):
            lock, remedy = lock_of(path.with_name(beside["name"])), "wait until it has finished"
            if (holder := read_holder(lock)) is not None and holder.machine != this_machine():
                remedy += f", or, if it is known to be dead: {command('rm', lock)}"
            yield Finding("unfinished", str(path), f"{who} is building it", remedy)
        elif path.resolve() in expected or path.name.endswith((".returning", ".survey.jsonl")):
            yield Finding("unfinished", str(path), "the next call continues it", again)
        elif path.resolve() in columns:
            with suppress(StageError):  # Of the index, whose faults are reported with the corpus.
                for what in _column_faults(path, *columns[path.resolve()]):
                    yield Finding("damaged", str(path), what, command("rm", "-r", path))
        elif path.name.endswith(SUFFIX):
            if is_held(path):
                continue  # The next one beside it removes it when no process reads it any more.
            what = "a copy of the index of an earlier corpus, which nothing reads; the next one beside it removes it"
            yield Finding("left over", str(path), what, command("rm", "-r", path))
        elif path.name.endswith(".partial"):
            what = "begun with other settings or with --force; the next commit beside it removes it"
            yield Finding("left over", str(path), what, command("rm", "-r", path))
        else:
            yield Finding("left over", str(path), "left by a process that was killed", command("rm", "-r", path))


def _column_faults(directory: Path, corpus: Path, generation: str) -> list[str]:
    """Return what differs between mapped columns and the index of a generation of a corpus, one sentence per fault."""
    with TemporaryDirectory() as folder, corpus_at(corpus, generation, Path(folder)) as view:
        return list(column_faults(view, directory))


def _columns(run: Run, corpora: list[Node]) -> dict[Path, tuple[Path, str]]:
    """Return the directories of the mapped columns of committed corpora, each with its corpus and the fingerprint of
    its generation as an input.
    """
    return {
        place.resolve(): (corpus, generation)
        for corpus in map(run.directory, corpora)
        for place, generation in directories_of_generations(corpus, run.root)
    }


def _is_beside(target: Path, path: Path) -> bool:
    """Return whether a hidden file belongs to `target`, and not to a neighbour with a similar name."""
    beside = BESIDE.fullmatch(path.name)
    return beside["name"] == target.name if beside else path.name.startswith(f".{target.name}.")
