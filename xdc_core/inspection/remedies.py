"""The commands that bring damaged directories of a run back."""

from contextlib import suppress
from pathlib import Path

from shards.command import command
from shards.corpus.generation import earlier_generations
from shards.errors import StageError
from shards.objects.tars import object_of, tars_elsewhere
from shards.settings import is_url
from shards.store.manifest import read_manifest
from xdc_core.runs.corpora import is_corpus, stored_from
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run


def mend(run: Run, node: Node, path: Path) -> str:
    """Return what brings a damaged file of a node back."""
    if node != SHARD or not is_url(run.config.corpus.path):
        return rebuild(run, node)
    if path.suffix == ".tar" and not path.exists():
        with suppress(StageError):  # tars.json is damaged: it is fetched again with the rest.
            elsewhere = tars_elsewhere(path.parent)
            if elsewhere is not None and not elsewhere.get("generation"):
                return f"# copy this tar to {elsewhere['url']} again"
            if elsewhere is not None and (run.videos is None or not run.videos.exists()):
                return f"# bring {elsewhere['url']}/{object_of(elsewhere, path.name)} back from a copy"
            return cut_again(run, node)
    # The bucket has every file of the index, and --force would cut all clips again.
    return f"{command('rm', '-rf', path)} && {run.command(node)}"


def cut_again(run: Run, node: Node) -> str:
    """Return the command that makes a corpus again from its videos, and what is lost by it."""
    lost = len(earlier_generations(read_manifest(run.directory(node))))
    if not lost:
        return run.command(node, force=True)
    return (
        f"{run.command(node, force=True)}  # only if there is no copy of what is damaged: it cuts all clips again, the "
        f"corpus loses its earlier generations ({lost}), and what was made from it is stale"
    )


def rebuild(run: Run, node: Node, force: bool = True) -> str:
    """Return the command that makes the directory of a node again."""
    if is_corpus(node):
        _, videos, settings = stored_from(run, node)
        if node == SHARD and (is_url(settings.path) or run.features):
            return run.command(node, force and bool(run.features))
        if force and videos is not None and videos.exists():
            return cut_again(run, node)
        if videos is None or not videos.exists():
            return f"# restore {run.directory(node)} from a copy: its videos do not exist, so it cannot be rebuilt"
    return run.command(node, force)
