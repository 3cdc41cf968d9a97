"""The work of `xdc map`: reads a round, writes the table."""

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa

from flows.cli.using.looked_at import look_at
from flows.terminal import counter
from shards.corpus.reader import ClipReader
from shards.errors import ConfigError
from shards.store.parquet import write_row_groups
from xdc_core.clustering.projection import FITTED, UMAP_FITTED, Method
from xdc_core.compute.threads import limit_faiss
from xdc_core.config.methods import TRUTH
from xdc_core.curation.clip_media import ClipMedia
from xdc_core.curation.map_table import Mapped, fitted_projections, map_tables


def write_map(
    root: Path, number: int | None, projection: str, to: Path, pictures: bool, media: Path | None
) -> dict[str, Any]:
    """Write the table `to`, shard by shard. Return its path, columns, and number of clips.

    Clusters that the round does not have are left out: they are not made for this.

    Raises:
        ConfigError: a wrong name or round, or umap-learn is missing.
        StageError, Busy: what a stage raises whose features are missing.
    """
    if to.suffix != ".parquet":
        raise ConfigError(f"--to {to}: the table ends in .parquet.")
    looked_at = look_at(root, number)
    run = looked_at.run
    limit_faiss(run.config.runs_on)
    features = dict(zip(looked_at.modalities, looked_at.features, strict=True))
    sources = [source for source in looked_at.sources if source != TRUTH and looked_at.has_labels(source)]
    labels = {source: looked_at.labels(source) for source in sources}
    method: Method = next(each for each in get_args(Method) if each == projection)
    mapped = Mapped(run.corpus, features, labels, method, run.config.seed)
    rows = 0
    with ExitStack() as stack:
        progress = stack.enter_context(counter("map"))
        files = None
        if pictures or media is not None:
            reader = stack.enter_context(ClipReader(run.corpus, run.config.runs_on.clip_cache))
            files = ClipMedia(reader, pictures, media)
        projections = fitted_projections(mapped, UMAP_FITTED if method == "umap" else FITTED)
        tables = map_tables(mapped, projections, files, progress)
        first = next(tables)

        def counted() -> Iterator[pa.Table]:
            nonlocal rows
            for table in chain([first], tables):
                rows += len(table)
                yield table

        write_row_groups(to, first.schema, counted())
    return {
        "map": str(to),
        "round": looked_at.round,
        "projection": projection,
        "clips": rows,
        "columns": first.schema.names,
    }
