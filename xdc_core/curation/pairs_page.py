"""A page of pairs of near-duplicates: pictures and sounds side by side, in one file."""

import base64
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from markupsafe import Markup

from shards.corpus.reader import ClipReader
from shards.objects.cache import Cache
from xdc_core.curation.duplicates import Duplicates, summary
from xdc_core.report.charts import histogram_chart
from xdc_core.report.clips import MEDIA_COLUMNS
from xdc_core.report.media import write_media
from xdc_core.report.page import render

PAIRS = 60  # On a page: leaks first, then those nearest to the threshold, which decide whether it is right.
PAGE_COLUMNS = ["source", "start_s", *MEDIA_COLUMNS]


def shown_pairs(found: Duplicates) -> list[int]:
    """Return the numbers of the pairs on the page: a third each at most of leaks, of the least and of the most similar,
    and more of the others where there are fewer of one kind.
    """
    leaks, count = found.leaks.tolist(), len(found.first)
    least, most = list(range(count - 1, -1, -1)), list(range(count))
    chosen = dict.fromkeys(leaks[: PAIRS // 3] + least[: PAIRS // 3] + most[: PAIRS // 3])
    chosen |= dict.fromkeys(least)
    return sorted(list(chosen)[:PAIRS], reverse=True)  # The least similar come first.


def pairs_page(found: Duplicates, clips: pa.Table, corpus: Path, title: str, cache: Cache | None = None) -> str:
    """Return the HTML of the page. clips: PAGE_COLUMNS and `shard` of the index, in the order of the found clips.

    Raises:
        StageError: a clip cannot be read.
    """
    pairs = shown_pairs(found)
    media: dict[int, dict[str, Any]] = {}
    with ClipReader(corpus, cache) as reader, tempfile.TemporaryDirectory() as folder:
        for pair in pairs:
            for number in (int(found.first[pair]), int(found.second[pair])):
                if number not in media:
                    row = clips.slice(number, 1).to_pylist()[0]
                    media[number] = _clip(reader, row, Path(folder)) | {"split": found.splits[number]}
    shown = [
        {
            "similarity": float(found.pair_similarity[pair]),
            "leak": found.splits[found.first[pair]] != found.splits[found.second[pair]],
            "clips": [
                media[number] | {"kept": bool(found.of[number] < 0)}
                for number in (int(found.first[pair]), int(found.second[pair]))
            ],
        }
        for pair in pairs
    ]
    return render("pairs.html", title=title, shown=shown, chart=_chart(found), **summary(found))


def _clip(reader: ClipReader, row: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    reason = write_media(reader, row["shard"], row, folder)
    shown = {"key": row["key"], "source": row["source"], "start_s": row["start_s"], "reason": reason}
    for name, suffix, kind in (("picture", "webp", "image/webp"), ("sound", "ogg", "audio/ogg")):
        path = folder / f"{row['key']}.{suffix}"
        data = base64.b64encode(path.read_bytes()).decode() if path.exists() else ""
        shown[name] = f"data:{kind};base64,{data}" if data else ""
    return shown


def _chart(found: Duplicates) -> Markup:
    """Return the histogram of distances to the nearest neighbour, 1 - similarity, with the threshold."""
    distances = [1 - edge for edge in found.rule.edges]
    threshold = None if found.threshold is None else 1 - found.threshold
    title = "Distances to the nearest neighbour"
    return Markup(histogram_chart(found.rule.counts, distances, "1 - similarity", title, threshold))
