"""The page of a search: the query and what was found, to look at and to listen to."""

import shutil
from pathlib import Path
from typing import Any

from shards.objects.cache import Cache
from shards.progress import silent
from shards.store.files import write_text


def write_page(
    html: Path, results: dict[str, Any], query: tuple[Path, str], corpus: Path, cache: Cache | None = None
) -> None:
    """Write a page of results, and the media that it shows into a folder beside it, NAME-media.

    results: the JSON values of a search. query: the directory of clips that has the query, and its key. corpus: of the
    results. cache: of clips from object stores.

    Raises:
        StageError: a clip cannot be read.
    """
    from xdc_core.report.clips import write_examples
    from xdc_core.report.page import render

    folder = html.with_name(f"{html.stem}-media")
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "query").mkdir(parents=True)
    keys = [row["key"] for row in results["results"]]
    missing = write_examples(query[0], [query[1]], folder / "query", folder / "none", silent, cache)
    missing |= write_examples(corpus, keys, folder, folder / "none", silent, cache)
    shown = [{"place": f"{folder.name}/query/{query[1]}", "query": True} | results["query"]]
    shown += [{"place": f"{folder.name}/{row['key']}", "query": False} | row for row in results["results"]]
    for clip in shown:
        clip["sound"] = (html.parent / f"{clip['place']}.ogg").exists()
        clip["missing"] = missing.get(clip["key"], "")
    write_text(html, render("search.html", about=results, clips=shown))
