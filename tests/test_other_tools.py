"""What a run and its corpus hold is read by pandas, polars, DuckDB, datasets and webdataset as it lies there."""

import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from shards.corpus.index import read_index, read_whole_index, shard_names
from shards.exchange.wids import FILE_NAME as WIDS
from shards.store.files import CARD, part_path
from shards.store.manifest import read_manifest
from xdc_core.data.features import read_features
from xdc_core.data.labels import read_labels
from xdc_core.graph.stages import all_nodes
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run

FEATURES, LABELS = Node("extract", "audio", 1), Node("label", "video", 1)
Rows = list[dict[str, Any]]


def with_pandas(folder: Path) -> Rows:
    pandas = pytest.importorskip("pandas")
    rows: Rows = pandas.read_parquet(folder).to_dict("records")
    return rows


def with_polars(folder: Path) -> Rows:
    rows: Rows = pytest.importorskip("polars").scan_parquet(folder).collect().to_dicts()
    return rows


def with_duckdb(folder: Path) -> Rows:
    found = pytest.importorskip("duckdb").sql(f"from read_parquet('{folder}/*.parquet')")
    return [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]


def with_datasets(folder: Path) -> Rows:
    rows: Rows = load("parquet", data_dir=str(folder), split="train").to_list()
    return rows


def load(*given: str, **settings: Any) -> Any:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    return datasets.load_dataset(*given, **settings)


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is asked of a network, and nothing is written elsewhere."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


READERS = [with_pandas, with_polars, with_duckdb, with_datasets]
each_reader = pytest.mark.parametrize("read", READERS, ids=[reader.__name__[5:] for reader in READERS])


@each_reader
def test_features_are_read_from_their_folder(worked_run: Run, read: Callable[[Path], Rows]) -> None:
    directory = worked_run.directory(FEATURES)
    parts = [read_features(part_path(directory, shard)) for shard in shard_names(worked_run.corpus)]
    rows = read(directory / "data")
    assert [row["key"] for row in rows] == np.concatenate([keys for keys, _ in parts]).tolist()
    found = np.array([row["feature"] for row in rows], np.float32)
    assert (found == np.concatenate([features for _, features in parts])).all()


@each_reader
def test_pseudo_labels_are_read_from_their_folder(worked_run: Run, read: Callable[[Path], Rows]) -> None:
    directory = worked_run.directory(LABELS)
    wanted = [read_labels(directory, shard) for shard in shard_names(worked_run.corpus)]
    rows = read(directory / "data")
    assert set(rows[0]) == {"key", "cluster", "distance"}
    assert [row["key"] for row in rows] == np.concatenate([keys for keys, _ in wanted]).tolist()
    assert [row["cluster"] for row in rows] == np.concatenate([clusters for _, clusters in wanted]).tolist()


@each_reader
def test_the_index_of_a_corpus_is_read_from_its_folder(tiny_corpus: Path, read: Callable[[Path], Rows]) -> None:
    names = ["key", "source", "label", "frames", "mp4_offset", "mp4_sha256"]
    rows = read(tiny_corpus / "index")
    wanted = read_whole_index(tiny_corpus, names).drop_columns(["shard"]).to_pylist()
    assert [{name: row[name] for name in names} for row in rows] == wanted


def members(corpus: Path) -> list[tuple[str, dict[str, bytes]]]:
    """The clips of all tars, in order, with the bytes of their members."""
    clips: dict[str, dict[str, bytes]] = {}
    for shard in shard_names(corpus):
        with tarfile.open(corpus / f"{shard}.tar") as archive:
            for member in archive:
                key, _, extension = member.name.partition(".")
                file = archive.extractfile(member)
                assert file is not None
                clips.setdefault(key, {})[extension] = file.read()
    return list(clips.items())


def test_webdataset_reads_the_clips(tiny_corpus: Path) -> None:
    import webdataset

    tars = [str(tiny_corpus / name) for name in json.loads((tiny_corpus / "shards.json").read_text())]
    samples = list(webdataset.WebDataset(tars, shardshuffle=False))
    found = [(sample["__key__"], {name: sample[name] for name in ("mp4", "flac", "json")}) for sample in samples]
    assert found == members(tiny_corpus)


def test_datasets_reads_the_clips_by_the_card(tiny_corpus: Path) -> None:
    wanted, found = members(tiny_corpus), list(load(str(tiny_corpus), split="train", streaming=True))
    assert [clip["__key__"] for clip in found] == [key for key, _ in wanted]
    assert [(clip["mp4"], clip["flac"]) for clip in found] == [(own["mp4"], own["flac"]) for _, own in wanted]
    assert [clip["json"] for clip in found] == [json.loads(own["json"]) for _, own in wanted]


def test_datasets_reads_the_clips_as_webdataset(tiny_corpus: Path) -> None:
    datasets = pytest.importorskip("datasets")
    card = datasets.load_dataset_builder(str(tiny_corpus)).info.features
    tars = str(tiny_corpus / "*.tar")
    found = list(load("webdataset", data_files=tars, features=card, split="train", streaming=True))
    assert [(clip["__key__"], clip["mp4"], clip["flac"]) for clip in found] == [
        (key, own["mp4"], own["flac"]) for key, own in members(tiny_corpus)
    ]


def test_the_card_says_what_the_corpus_is_and_not_where_it_lies(tiny_corpus: Path) -> None:
    text = (tiny_corpus / CARD).read_text(encoding="utf-8")
    _, metadata, body = text.split("---\n", 2)
    assert [config["config_name"] for config in yaml.safe_load(metadata)["configs"]] == ["clips"]
    assert "48 clips of 48 files" in body
    assert "| clip\\_seconds |" in body
    assert "- `label`" in body
    assert not re.search(r"(?<![\w:/])/\w+/", text)


def test_wids_finds_the_tars_with_their_numbers_of_clips(tiny_corpus: Path) -> None:
    content = json.loads((tiny_corpus / WIDS).read_text(encoding="utf-8"))
    assert (content["__kind__"], content["wids_version"], content["name"]) == ("wids-shard-index-v1", 1, "corpus")
    assert content["shardlist"] == [
        {
            "url": f"{shard}.tar",
            "nsamples": len(read_index(tiny_corpus, shard)),
            "filesize": (tiny_corpus / f"{shard}.tar").stat().st_size,
        }
        for shard in shard_names(tiny_corpus)
    ]


PAGE = (Path(__file__).parents[1] / "docs" / "format.md").read_text(encoding="utf-8")


def described(heading: str) -> dict[str, str]:
    """The type of each column in the table under a heading of docs/format.md."""
    (table,) = re.findall(rf"^## {re.escape(heading)}\n(.+?)(?=^#|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    found = {}
    for names, types in re.findall(r"^\| (`[^|]+`) \| ([^|]+?) \|", table, re.MULTILINE):
        columns, kinds = re.findall(r"`(\w+)`", names), types.split(", ")
        found |= dict(zip(columns, kinds * len(columns) if len(kinds) == 1 else kinds, strict=True))
    return found


def type_of(arrow: str) -> str:
    """The page's word for a type of Arrow."""
    nested = {r"fixed_size_list<.*: (\w+)>.*": "fixed-size list of {}", r"list<.*?: (.+)>": "list of {}"}
    for pattern, words in nested.items():
        if match := re.fullmatch(pattern, arrow):
            inner = type_of(match[1])
            return words.format(re.sub("^list", "lists", inner))
    return arrow


def test_every_column_stands_on_the_page(worked_run: Run) -> None:
    round_1, corpus = worked_run.round_directory(1), worked_run.corpus
    found = {
        "Columns of the index": corpus / "index" / "000000.parquet",
        "Columns of `rejects.parquet`": corpus / "rejects.parquet",
        "Columns of `plan.parquet`": corpus / "plan.parquet",
        "Columns of `sources.parquet`": corpus / "sources.parquet",
        "Columns of features": round_1 / "features" / "video" / "data" / "000000.parquet",
        "Columns of labels": round_1 / "labels" / "video" / "data" / "000000.parquet",
    }
    for heading, path in found.items():
        table, schema = described(heading), pq.read_schema(path)
        names = {name: "label" if name.startswith("label_") else name for name in schema.names}
        assert {name: type_of(str(schema.field(name).type)) for name in names} == {
            name: table.get(described_as) for name, described_as in names.items()
        }, heading


def test_every_file_of_a_run_and_its_corpus_stands_on_the_page(worked_run: Run) -> None:
    for directory in (worked_run.corpus, *(worked_run.directory(node) for node in all_nodes(worked_run.config))):
        manifest = read_manifest(directory)
        assert manifest is not None
        for name in manifest.files:
            if Path(name).suffix in (".parquet", ".json", ".jsonl", ".npy", ".npz", ".tar", ".safetensors", ".md"):
                plain = name.rpartition("/")[2].replace("000001", "000000").replace("000002", "000000")
                assert plain in PAGE, f"{directory}: {name}"
