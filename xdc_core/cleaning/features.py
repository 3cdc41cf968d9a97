"""Which features a run does not need any more: those of earlier rounds that all nodes have read."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

from shards.store.commit import partial_directories
from shards.store.manifest import read_manifest
from xdc_core.cleaning.candidate import Candidate, Kept, Readers
from xdc_core.cleaning.usage import KINDS
from xdc_core.config.schema import Config
from xdc_core.documents.cleaned import covered, read_cleaned
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.stages import all_nodes, asked_nodes, inputs, round_nodes, stage_of
from xdc_core.graph.state import node_state
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run


def unneeded_features(
    run: Run, fingerprints: Fingerprints, keep_rounds: int, automatic: bool
) -> Iterator[Candidate | Kept]:
    """Yield the directories before the newest `keep_rounds` rounds whose large files no node needs, and those that are
    kept all the same, with the reason.

    A directory whose cleaning was killed in the middle is yielded whatever its round. automatic: features that were
    made again after all that reads them was finished, or for an evaluation that is not finished, are kept, because a
    user has asked for them.
    """
    first_kept = newest_round(run, fingerprints) - keep_rounds + 1
    for node, readers in _cleanable(run).items():
        assert node.round is not None
        directory = run.directory(node)
        files = large_files(run, node)
        unfinished = read_cleaned(directory) is not None
        known = fingerprints.of(node) is not None
        if not files or (known and node.round >= first_kept and not unfinished):
            continue
        why = why_needed(run, node, readers, fingerprints)
        if not why and automatic and not unfinished:
            why = _made_for(run, node, readers, fingerprints)
        if why:
            yield Kept(str(directory), why)
        else:
            why = f"all that reads {node} is finished"
            yield Candidate(directory, KINDS[node.stage], why, directory, node, readers)


def newest_round(run: Run, fingerprints: Fingerprints) -> int:
    """Return the number of the last round of which a directory is finished with the present settings; -1 for none."""
    for number in range(run.config.last_round, -1, -1):
        if any(is_finished(run, node, fingerprints) for node in round_nodes(run.config, number)):
            return number
    return -1


def large_files(run: Run, node: Node) -> list[str]:
    """Return the names of a committed node's cleanable files that exist."""
    directory, patterns = run.directory(node), stage_of(node).cleanable
    manifest = read_manifest(directory)
    names = manifest.files if manifest is not None else ()
    return [name for name in names if covered(name, patterns) and (directory / name).exists()]


def why_needed(run: Run, node: Node, readers: Readers, fingerprints: Fingerprints) -> str:
    """Return why the large files of a node must stay; "" if nothing needs them.

    They must unless all nodes that read them are finished with the present settings. An evaluation that nobody has
    asked for yet does not count, but one that is begun does. `xdc eval` holds a lock before that.
    """
    wanted = fingerprints.of(node)
    if wanted is None:
        return "the corpus must be built first: what is fresh is not known"
    if not is_finished(run, node, fingerprints):
        return "it is stale or damaged: `xdc run` will replace it"
    for reader in readers.due:
        if not is_finished(run, reader, fingerprints):
            return f"{reader} reads it and is not finished"
    for reader in readers.asked:
        own = fingerprints.of(reader)
        if own is not None and partial_directories(run.directory(reader), own):
            return f"{reader} reads it and is begun"
    return ""


def is_finished(run: Run, node: Node, fingerprints: Fingerprints) -> bool:
    """Return whether a node is fresh, or was cleaned when it was. Nothing is changed, not even left-overs of a kill."""
    return node_state(run, node, fingerprints)[0] in ("fresh", "cleaned")


def _cleanable(run: Run) -> dict[Node, Readers]:
    """Return all nodes whose stage has cleanable files, each with the nodes that read it."""
    config = run.config
    due = dict.fromkeys(all_nodes(config))
    asked = [node for number in range(config.last_round + 1) for node in asked_nodes(config, number) if node not in due]
    by_due, by_asked = _readers(config, due), _readers(config, asked)
    return {
        node: Readers(tuple(by_due[node]), tuple(by_asked[node])) for node in (*due, *asked) if stage_of(node).cleanable
    }


def _readers(config: Config, nodes: Iterable[Node]) -> dict[Node, list[Node]]:
    found: dict[Node, list[Node]] = defaultdict(list)
    for reader in nodes:
        for source in inputs(config, reader):
            found[source].append(reader)
    return found


def _made_for(run: Run, node: Node, readers: Readers, fingerprints: Fingerprints) -> str:
    """Return for what a user has had a node's files made, of which no node that is due has need; "" if one had."""
    if not readers.due:
        unfinished = (reader for reader in readers.asked if not is_finished(run, reader, fingerprints))
        return next((f"it was made for {reader}, which is not finished" for reader in unfinished), "")
    own = read_manifest(run.directory(node))
    others = [manifest for reader in readers.due if (manifest := read_manifest(run.directory(reader))) is not None]
    if own is not None and others and own.finished > max(manifest.finished for manifest in others):
        return "it was made again after all that reads it; only `xdc clean` removes it"
    return ""
