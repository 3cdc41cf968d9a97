"""Whether a node's directory is fresh, cleaned, stale, partial or missing, and why."""

from collections.abc import Iterator
from typing import Any

from shards.store.build import reusable
from shards.store.commit import partial_directories
from shards.store.manifest import read_manifest
from xdc_core.documents.cleaned import read_cleaned
from xdc_core.graph.cleaned import cleaned
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.stages import inputs, settings_of, stage_of
from xdc_core.runs.corpora import is_corpus, lost_corpus
from xdc_core.runs.node import Node
from xdc_core.runs.outside import WEIGHTS
from xdc_core.runs.run import Run


def node_state(run: Run, node: Node, fingerprints: Fingerprints) -> tuple[str, str]:
    """Return the state of a node and why it has it: "fresh", "cleaned", "stale", "partial" or "missing".

    fresh: committed with the current fingerprint. cleaned: the same, but `xdc clean` has removed its large files.
    stale: committed, but its settings or inputs changed since, or files are gone. partial: begun, and will be
    continued. missing: it does not exist (with a reason only if it cannot be built).
    """
    directory, wanted = run.directory(node), fingerprints.of(node)
    manifest = read_manifest(directory)
    if wanted is not None and reusable(directory, wanted, manifest):
        return "fresh", ""
    if wanted is not None and cleaned(directory, wanted, manifest) and (mark := read_cleaned(directory)):
        return "cleaned", f"{mark.files} files were removed on {mark.at[:10]}; the manifest is kept"
    if wanted is not None and partial_directories(directory, wanted):
        return "partial", "will be continued" if manifest is None else "a newer one is begun; the old one is stale"
    if manifest is None:
        if is_corpus(node) and list(directory.parent.glob(f".{directory.name}.*.partial")):
            return "partial", "will be continued"
        return "missing", (lost_corpus(run, node) or "") if is_corpus(node) else ""
    if is_corpus(node) and wanted is None:
        return "stale", fingerprints.reasons[node]
    return "stale", explain_stale(run, node, manifest, fingerprints)


def explain_stale(run: Run, node: Node, manifest: Any, fingerprints: Fingerprints) -> str:
    """Return what has changed since a committed directory was built."""
    if manifest.fingerprint == fingerprints.of(node):
        return "files are missing or of another size"
    sources = fingerprints.inputs_of(node)
    if (given := WEIGHTS in sources) != (WEIGHTS in manifest.inputs):
        return "random weights -> weights of a file" if given else "weights of a file -> random weights"
    settings = manifest.settings
    now = settings_of(run.config, node)
    reasons = [f"{name}: {old} -> {new}" for name, old, new in _differences(settings, now)]
    if not is_corpus(node) and not reasons:
        lost = {str(source) for source in inputs(run.config, node) if is_corpus(source) and lost_corpus(run, source)}
        changed = [name for name, value in sources.items() if manifest.inputs.get(name) != value]
        reasons = [f"{name} is not there" if name in lost else f"{name} changed" for name in changed]
    version = stage_of(node).version
    if not reasons and manifest.version != version:
        reasons = [f"stage version {manifest.version} -> {version}"]
    return "; ".join(reasons[:3]) or "sources changed"


def _differences(old: dict[str, Any], new: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            for inner, was, becomes in _differences(before, after):
                yield f"{name}.{inner}", was, becomes
        elif before != after:
            yield name, before, after
