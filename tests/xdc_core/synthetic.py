"""A corpus of rows alone, without tars, with the pseudo-labels of a round: for memory and speed at any size."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from shards.corpus.index import GROUPS, index_name, index_schema, shard_name
from shards.store.files import part_name
from shards.store.node import Node
from shards.store.parquet import write_parquet
from shards.store.stage import Task
from tests.commits import commit_anything
from xdc_core.config.load import parse_config
from xdc_core.config.views import views_of
from xdc_core.documents.scores import Scores, write_scores
from xdc_core.runs.node import SHARD
from xdc_core.training.settings import Training

LABELS, FEATURES = Node("label", "audio", 0), Node("extract", "video", 0)


def write_rows(root: Path, clips: int, per_shard: int, k: int) -> None:
    """Write `corpus`, `labels` and `features` below `root`, committed; the features have not a byte."""
    rng = np.random.default_rng(0)
    corpus, labels, features = (root / name for name in ("corpus", "labels", "features"))
    for number, first in enumerate(range(0, clips, per_shard)):
        size = min(per_shard, clips - first)
        keys = pa.array([f"a-video-of-some-name-{0xABCDEF1234 + first + n:010x}-{10_000 * n:08d}" for n in range(size)])
        digests = {name: pa.array([f"{at:064x}" for at in range(first, first + size)]) for name in ("mp4", "flac")}
        values = {
            "key": keys,
            "source": pa.array([f"some/folder/video-{first + n:09d}.mp4" for n in range(size)]),
            "split": pa.array(["train" if n % 10 else "test" for n in range(size)]),
            "mp4_offset": pa.array(np.arange(size) * 377_000),
            **{f"{name}_sha256": column for name, column in digests.items()},
            "sha256": digests["mp4"],
            "boundaries_s": pa.nulls(size, pa.list_(pa.float32())),
            **{field.name: pa.nulls(size, field.type) for field in GROUPS},
        }
        schema = index_schema(())
        ones = pa.array(np.ones(size, np.int64))
        table = pa.table({field.name: values.get(field.name, ones).cast(field.type) for field in schema}, schema)
        write_parquet(corpus / index_name(shard_name(number)), table)
        clusters = pa.array(rng.integers(0, k, size, np.int32))
        distances = pa.array(np.zeros(size, np.float32))
        table = pa.table({"key": keys, "cluster": clusters, "distance": distances})
        write_parquet(labels / part_name(shard_name(number)), table)
    scores = {"k": k, "clips": clips, "empty": 0, "largest": clips, "largest_share": 1, "labels": {}, "sizes": []}
    write_scores(labels, Scores.model_validate(scores))
    features.mkdir(exist_ok=True)
    for directory, stage in ((corpus, "shard"), (labels, "label"), (features, "extract")):
        commit_anything(directory, stage)


def training_task(root: Path, clips: int, uniform: bool = True) -> Task[Training]:
    """The task of a training of video on these rows, with as many draws as clips."""
    config = parse_config({"train": {"clips": clips, "uniform": uniform}}, "the synthetic run")
    settings = Training(0, ["train"], ("audio",), views_of(config, "video"), config.train, config.runs_on)
    inputs = {SHARD: root / "corpus", LABELS: root / "labels", FEATURES: root / "features"}
    out = root / "out"
    out.mkdir(exist_ok=True)
    return Task(Node("train", "video", 0), settings, inputs, out, root / "train", root)
