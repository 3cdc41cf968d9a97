"""`xdc curate` and `xdc map`: curate, train again; and a table for viewers."""

import csv
import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from shards.corpus.index import read_whole_index
from shards.media.decode import decode_frames
from tests.flows.test_cli import xdc
from tests.runs import MakeRun, changed, write_run
from xdc_core.config.load import parse_config
from xdc_core.graph.run_stage import run_stage
from xdc_core.graph.stages import all_nodes
from xdc_core.runs.node import Node


def rows_of(manifest: Path) -> list[dict[str, str]]:
    with manifest.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_curated_subset_is_a_manifest_on_which_a_run_trains_again(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(learn_splits=["train"])
    manifest = tmp_path / "curated" / "subset.csv"
    options = ("--round", 0, "--per-cluster", 4, "--by", "audio", "--where", "level_db > -100", "--to", manifest)
    code, output = xdc("curate", run.root, *options, "--json")  # Makes the features and clusters, too.
    assert code == 0, output
    answer = json.loads(output[output.index("{\n") :])
    assert answer["chosen"] <= 4 * 4
    assert answer["learnt"] == 40 == answer["chosen"] + sum(answer["left_out"].values())
    assert answer["other_splits"] == 8
    rows = rows_of(manifest)
    assert len(rows) == answer["chosen"] + 8
    assert all((manifest.parent / row["path"]).is_file() for row in rows)

    again = tmp_path / "again"
    code, output = xdc("init", again, "--videos", manifest, "--preset", "tiny", "--corpus", tmp_path / "corpus-again")
    assert code == 0, output
    changes = {
        "rounds": 1,
        "corpus": {"path": str(tmp_path / "corpus-again"), "videos": str(manifest), "learn_splits": ["train"]},
        "k": {"video": 2, "audio": 2, "joint": 2},
        "train": {"clips": 32, "batch": 16},
        "corpus_workers": 2,
    }
    trained = write_run(again, parse_config(changed(run.config.model_dump(), changes), "the test's settings"))
    for node in all_nodes(trained.config):
        if node.round in (None, 0) and node.stage != "report":
            run_stage(trained, node)
    assert (trained.directory(Node("train", "video", 0)) / "encoder.safetensors").is_file()
    before = {Path(row["source"]).name: row for row in read_whole_index(run.corpus).to_pylist()}
    for row in read_whole_index(trained.corpus).to_pylist():
        assert row["mp4_sha256"] == before[Path(row["source"]).name]["mp4_sha256"]  # The same clips were cut.
        assert row["label"] == before[Path(row["source"]).name]["label"]


def test_random_subsets_depend_on_the_seed_alone_and_a_keep_list_is_followed(copy_run: MakeRun, tmp_path: Path) -> None:
    run = copy_run()
    written = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        code, output = xdc(
            "curate", run.root, "--per-cluster", 2, "--random", "--seed", seed, "--to", tmp_path / f"{name}.csv"
        )
        assert code == 0, output
        written[name] = (tmp_path / f"{name}.csv").read_text()
    assert written["a"] == written["b"] != written["c"]
    assert xdc("duplicates", run.root, "--threshold", 0.1, "--out", tmp_path / "found")[0] == 0
    keep = tmp_path / "found" / "keep.parquet"
    code, output = xdc("curate", run.root, "--keep", keep, "--to", tmp_path / "kept.csv")
    assert code == 0, output
    kept = [row for row in pq.ParquetFile(keep).read().to_pylist() if row["kept"]]
    assert len(rows_of(tmp_path / "kept.csv")) == len(kept) < 48
    assert f"{48 - len(kept)} left out by --keep {keep}: near-duplicates" in output


def test_a_keep_list_leaves_out_clips_without_features_and_must_be_of_the_features_that_are_there(
    copy_run: MakeRun, tmp_path: Path
) -> None:
    run = copy_run()
    assert xdc("duplicates", run.root, "--out", tmp_path)[0] == 0
    table = pq.ParquetFile(tmp_path / "keep.parquet").read()
    about = json.loads(table.schema.metadata[b"xdc"])
    assert (about["run"], about["round"], about["modalities"]) == (str(run.root.resolve()), 1, ["video", "audio"])
    rows = table.to_pylist()
    rows[7]["kept"] = None
    written = pa.Table.from_pylist(rows, table.schema)
    pq.write_table(written, tmp_path / "other.parquet")
    code, output = xdc("curate", run.root, "--keep", tmp_path / "other.parquet", "--to", tmp_path / "kept.csv")
    assert code == 0, output
    assert "  1 left out by --keep" in output
    assert "no feature of video and audio, so not compared" in output
    assert len(rows_of(tmp_path / "kept.csv")) == 47
    for name, changes in {
        "features of audio of round 1 that have been computed again": {"features": {"audio": "0" * 64}},
        "made of another corpus": {"corpus": "0" * 64},
    }.items():
        metadata = {"xdc": json.dumps(about | changes)}
        pq.write_table(written.replace_schema_metadata(metadata), tmp_path / "stale.parquet")
        code, output = xdc("curate", run.root, "--keep", tmp_path / "stale.parquet", "--to", tmp_path / "stale.csv")
        assert code == 2
        assert name in output
        assert f"xdc duplicates {run.root.resolve()} --round 1" in output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--per-cluster", "2", "--by", "joint"), "makes no clusters of joint"),
        (("--by", "video"), "needs --per-cluster"),
        (("--nearest", "--random", "--per-cluster", "2"), "give one of them"),
        (("--where", "motion > 1e9"), "no clip"),
        (("--where", "smell > 1"), "no column 'smell'"),
        (("--keep", "nothing.parquet"), "cannot be read as a keep-list"),
    ],
)
def test_rules_that_do_not_fit_are_errors(
    copy_run: MakeRun, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    code, output = xdc("curate", copy_run().root, *options, "--to", tmp_path / "subset.csv")
    assert code == 2
    assert words in output
    assert not (tmp_path / "subset.csv").exists()


def test_a_map_has_all_clips_with_features_planes_clusters_and_media(copy_run: MakeRun, tmp_path: Path) -> None:
    run = copy_run()
    table = tmp_path / "map.parquet"
    code, output = xdc("map", run.root, "--to", table, "--pictures", "--media", tmp_path / "media")
    assert code == 0, output
    rows = pq.ParquetFile(table).read()
    assert len(rows) == 48
    assert rows.schema.field("feature_video").type.list_size == 64
    labels = (
        pq.ParquetFile(next((run.directory(Node("label", "audio", 1)) / "data").glob("*.parquet"))).read().to_pylist()
    )
    cluster_of = dict(zip(rows["key"].to_pylist(), rows["cluster_audio"].to_pylist(), strict=True))
    assert all(cluster_of[row["key"]] == row["cluster"] for row in labels)
    for name in ("video", "audio"):
        assert np.isfinite(rows[f"x_{name}"].to_numpy()).all()
        assert rows[f"y_{name}"].to_numpy().std() > 0
    first = rows.slice(0, 1).to_pylist()[0]
    assert Image.open(BytesIO(first["picture"]["bytes"])).format == "JPEG"
    assert len(decode_frames(Path(first["video_path"]).read_bytes(), 0, 4)) == 4
    assert Path(first["audio_path"]).suffix == ".flac"
    assert {"label", "split", "source", "motion"} <= set(rows.column_names)


def test_the_report_of_a_round_shows_its_features_in_a_plane(copy_run: MakeRun) -> None:
    run = copy_run()
    run_stage(run, Node("report", None, 1), force=True)
    page = (run.directory(Node("report", None, 1)) / "report.html").read_text()
    for caption in ("video, by cluster", "audio, by cluster", "video, by label"):
        assert f"<h3>{caption}</h3>" in page
