"""The work of `xdc search`: what must be made first, the query's feature, and the output."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flows.cli.using.media_query import embed_query
from flows.cli.using.nodes import make_nodes
from shards.errors import ConfigError
from xdc_core.compute.threads import limit_faiss
from xdc_core.graph.rounds import as_stopped, check_round, newest_with_encoders
from xdc_core.graph.stages import features_before
from xdc_core.modalities.registry import MODALITIES
from xdc_core.new_clips.encoders import encoders_of_run
from xdc_core.new_clips.parts import same_encoders
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run, open_run
from xdc_core.search.clips import describe, feature_of, find_clip, unknown_query
from xdc_core.search.index_stage import index_node
from xdc_core.search.maps_stage import maps_node
from xdc_core.search.page import media_folder, write_page
from xdc_core.search.searched import Searched, check_space, features_at, search_among, search_run
from xdc_core.search.spaces import Space


@dataclass(frozen=True)
class Asked:
    """What is asked for, as on the command line. number: of the round; count: of the clips to find."""

    run: Path
    by: str | None = None
    within: str | None = None
    among: Path | None = None
    number: int | None = None
    count: int = 10
    split: str | None = None


def space_asked(asked: Asked, run: Run) -> Space:
    """Return the space in which is searched.

    Raises:
        ConfigError: the run does not have the modality.
    """
    by = _modality(asked.by or asked.within or run.config.modalities[0], run)
    return Space(_modality(asked.within, run) if asked.within else by, by)


def _modality(word: str, run: Run) -> str:
    names = {name: name for name in run.config.modalities}
    names |= {MODALITIES[name].word: name for name in run.config.modalities if MODALITIES[name].word}
    if word not in names:
        raise ConfigError(f"{run.root} has no modality {word!r}. Choose one of: {', '.join(names)}.")
    return names[word]


def open_search(asked: Asked, run: Run, space: Space) -> tuple[Searched, int]:
    """Make what a search needs, and return the clips that are searched, and the number of the round.

    Raises:
        ConfigError: the run has no such round, or the clips of `among` have no features by the same encoders.
        StageError, Busy: a stage failed, or another process is building the same.
    """
    names = run.config.modalities
    number = newest_with_encoders(run, names) if asked.number is None else check_round(run, asked.number)
    maps = [maps_node(number)]
    make_nodes(run, maps, features_before(run.config, maps))
    check_space(run, number, space)
    limit_faiss(run.config.runs_on)
    if asked.among is None:
        index = [index_node(space, number)]
        make_nodes(run, index, features_before(run.config, index))
        return search_run(run, number, space), number
    other = as_stopped(open_run(asked.among))
    there = same_encoders(encoders_of_run(run, number, [space.of]), other, [space.of])
    features = [Node("extract", space.of, there)]
    make_nodes(other, features, [SHARD, *features_before(other.config, features)])
    return search_among(run, number, space, other, there), number


def search_clips(asked: Asked, query: str | None, at: float | None, html: Path | None) -> dict[str, Any]:
    """Search for the clips nearest to a query; with `html` also write a page. Return JSON values.

    Raises:
        ConfigError: the query is neither a clip nor a media file, or lacks what is compared; or as `open_search`.
        StageError, Busy: as `open_search`.
    """
    if query is None:
        raise ConfigError("give a QUERY: the key of a clip of the run, or a media file; or --measure SPLIT.")
    run = as_stopped(open_run(asked.run))
    space, shard = space_asked(asked, run), find_clip(run.corpus, query)
    if shard is None and not Path(query).is_file():
        raise unknown_query(run.corpus, query)
    if shard is not None and at is not None:
        raise ConfigError("--at is for media files: a clip of the run is searched for as it is.")
    if html is not None:
        media_folder(html)  # What it refuses, it refuses before anything is computed.
    with TemporaryDirectory(prefix="xdc-search-") as folder:
        searched, number = open_search(asked, run, space)
        if shard is not None:
            feature = feature_of(run.directory(Node("extract", space.by, number)), shard, query, space.by)
            about = {"key": query} | describe(run.corpus, run.videos, [(shard, query)])[query]
            corpus, key = run.corpus, query
        else:
            feature, corpus, about = embed_query(run, number, space.by, Path(query), at, Path(folder))
            key = about["key"]
        # In another corpus a clip with the same key is another one, or a copy.
        here = searched.features.corpus.resolve() == run.corpus.resolve()
        own = query if shard is not None and here else None
        results = searched.about | {"query": about, "results": searched.search(feature, own, asked.count, asked.split)}
        if html is not None:
            _write_page(html, results, (corpus, key), searched)
    return results


def _write_page(html: Path, results: dict[str, Any], query: tuple[Path, str], searched: Searched) -> None:
    """Write the page in another process: its spectrograms need torch, and this one has loaded faiss."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        cache = searched.run.config.runs_on.clip_cache
        pool.submit(write_page, html, results, query, searched.features.corpus, cache).result()


def measure_search(asked: Asked, query: str | None, at: float | None, html: Path | None, split: str) -> dict[str, Any]:
    """Search for every clip of a split among clips of the split (or of `asked.split`), and count what is found.

    Raises:
        ConfigError: there is a query, or an option for one; or no clip is of the split; or as `open_search`.
        StageError, Busy: as `open_search`.
    """
    if query is not None or asked.among is not None:
        raise ConfigError("--measure searches for the clips of a split of the run itself: leave out QUERY and --among.")
    if at is not None or html is not None:
        name = "--html" if at is None else "--at"
        raise ConfigError(f"{name} is for one QUERY, and --measure searches for all clips of a split: leave out one.")
    run = as_stopped(open_run(asked.run))
    space = space_asked(asked, run)
    searched, number = open_search(asked, run, space)
    queries, across = features_at(run, space.by, number), space.of != space.by
    measured = searched.measure(queries, split, asked.split, asked.count, across)
    return searched.about | {"split": split, "measured": measured}


def print_results(results: dict[str, Any], html: Path | None) -> None:
    """Print a table of the clips that were found, and how they were found."""
    from rich.console import Console
    from rich.table import Table

    labels = list(dict.fromkeys(name for row in results["results"] for name in row["labels"]))
    table = Table("rank", "similarity", "key", "source", "start_s", "split", *labels, "path", box=None)
    for row in results["results"]:
        own = [row["labels"].get(name) or "" for name in labels]
        place = [row["source"], f"{row['start_s']:.2f}", row["split"] or ""]
        table.add_row(f"{row['rank']}", f"{row['similarity']:.4f}", row["key"], *place, *own, row["path"] or "")
    Console(width=None if _wide() else 400, soft_wrap=True).print(table)
    for line in about_lines(results):
        print(line)
    if html is not None:
        print(f"page: {html}")


def _wide() -> bool:
    import sys

    return sys.stdout.isatty()


def about_lines(results: dict[str, Any]) -> list[str]:
    """Return lines that say what was compared, and with what recall."""
    where = f" of {results['among']}" if "among" in results else ""
    of, by = results["in"], results["by"]
    compared = f"{of} compared with {of}" if of == by else f"{of} found by {by}"
    lines = [
        f"{compared}, round {results['round']}, {results['clips']} clips{where}, "
        + ("all compared" if results["index"] == "flat" else f"approximate: recall {results['recall']:.3f} at 10")
    ]
    if "map" in results and of != by:
        splits = ", ".join(results["map"]["splits"] or ["all splits"])
        lines.append(f"map between them: fitted to {results['map']['pairs']} clips of {splits}")
    return [*lines, *(f"warning: {text}" for text in results["warnings"])]


def print_measured(measured: dict[str, Any]) -> None:
    """Print recall beside the level of chance, by label column."""
    found = measured["measured"]
    print(f"{found['queries']} clips of {measured['split']} searched for among {found['among']}")
    for name, row in found.items():
        if isinstance(row, dict):
            for k, value in row["recall"].items():
                print(f"  {name}: recall at {k} {value:.4f}, chance {row['chance'][k]:.4f}")
    for line in about_lines(measured):
        print(line)
