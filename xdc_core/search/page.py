"""The page of a search: the query and what was found, to look at and to listen to."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from shards.errors import ConfigError
from shards.objects.cache import Cache
from shards.progress import silent
from shards.store.files import write_json, write_text

LISTED = "files.json"  # The files that a page has put into its folder, with this one: nothing else is ever removed.


def media_folder(html: Path) -> Path:
    """Return the folder of a page's pictures and sounds.

    Raises:
        ConfigError: it is there, and holds something else than a page's files.
    """
    folder = html.with_name(f"{html.stem}-media")
    if not os.path.lexists(folder):
        return folder
    if folder.is_symlink() or not folder.is_dir():
        raise ConfigError(
            f"{folder} is not a folder, and the page's media belong there. Choose another FILE for --html."
        )
    found = _files(folder)
    try:
        listed = json.loads((folder / LISTED).read_bytes()) if found else []
    except (FileNotFoundError, ValueError):
        listed = []
    if others := sorted(set(found).difference(listed if isinstance(listed, list) else [])):
        raise ConfigError(
            f"{folder} holds {len(others)} files that no page of xdc search has written, {others[0]} first. The page's "
            "media belong there and would replace them: choose another FILE for --html, or move them."
        )
    return folder


def _files(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]


def write_page(
    html: Path, results: dict[str, Any], query: tuple[Path, str], corpus: Path, cache: Cache | None = None
) -> None:
    """Write a page of results, and the media that it shows into a folder beside it, NAME-media.

    results: the JSON values of a search. query: the directory of clips that has the query, and its key. corpus: of the
    results. cache: of clips from object stores. The folder of an earlier page is replaced once all files are there.

    Raises:
        ConfigError: the folder holds something else.
        StageError: a clip cannot be read.
    """
    from xdc_core.report.clips import write_examples
    from xdc_core.report.page import render

    folder = media_folder(html)
    keys = [row["key"] for row in results["results"]]
    html.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=html.parent, prefix=f".{folder.name}.") as temporary:
        new = Path(temporary) / "new"
        (new / "query").mkdir(parents=True)
        missing = write_examples(query[0], [query[1]], new / "query", new / "none", silent, cache)
        missing |= write_examples(corpus, keys, new, new / "none", silent, cache)
        write_json(new / LISTED, sorted([*_files(new), LISTED]))
        if folder.exists():
            os.rename(folder, Path(temporary) / "old")
        os.rename(new, folder)
    shown = [{"place": f"{folder.name}/query/{query[1]}", "query": True} | results["query"]]
    shown += [{"place": f"{folder.name}/{row['key']}", "query": False} | row for row in results["results"]]
    for clip in shown:
        clip["sound"] = (html.parent / f"{clip['place']}.ogg").exists()
        clip["missing"] = missing.get(clip["key"], "")
    write_text(html, render("search.html", about=results, clips=shown))
