"""Search, duplicates, subsets and maps of features that somebody else computed."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.store.manifest import read_manifest
from tests.flows.test_cli import xdc
from tests.runs import changed, write_run
from tests.test_other_tools import PAGE, described, type_of
from xdc_core.config.load import parse_config
from xdc_core.config.schema import Config
from xdc_core.graph.run_stage import run_stage
from xdc_core.graph.stages import all_nodes
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run

CLIPS, WIDTH = 200, 8


@pytest.fixture
def run(tmp_path: Path, tiny_config: Config) -> Run:
    """A finished run of given features. Clip 199 is nearly clip 0."""
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(CLIPS, 3))
    corpus = {"path": "corpus", "videos": None, "clips_per_shard": 64, "features": {}}
    for name in ("video", "audio"):
        own = np.concatenate([shared, 0.3 * rng.normal(size=(CLIPS, WIDTH - 3))], axis=1) @ rng.normal(
            size=(WIDTH,) * 2
        )
        own[199] = own[0] + 1e-4
        table = {
            "key": [f"clip-{number:03d}" for number in range(CLIPS)],
            "feature": pa.FixedSizeListArray.from_arrays(pa.array(own.astype(np.float32).ravel()), WIDTH),
            "path": [f"films/{number}.mp4" for number in range(CLIPS)],
            "duration_s": [2.0] * CLIPS,
        }
        (tmp_path / name).mkdir()
        pq.write_table(pa.table(table), tmp_path / name / "a.parquet")
        corpus["features"][name] = str(tmp_path / name)
    values = changed(tiny_config.model_dump(), {"rounds": 0, "pca": 4, "corpus": corpus})
    made = write_run(tmp_path / "run", parse_config(values, "a test's settings"))
    for node in all_nodes(made.config):
        run_stage(made, node)
    return made


def test_given_features_are_searched_deduplicated_curated_and_mapped(run: Run, tmp_path: Path) -> None:
    code, output = xdc("search", run.root, "clip-000", "--by", "video", "--json")
    assert code == 0, output
    assert json.loads(output[output.index("{") :])["results"][0]["key"] == "clip-199"
    code, output = xdc("search", run.root, "clip-000", "--by", "audio", "--in", "video", "--json")
    assert code == 0, output
    assert "clip-199" in [found["key"] for found in json.loads(output[output.index("{") :])["results"][:3]]
    code, output = xdc("duplicates", run.root, "--threshold", "0.9999")
    assert code == 0, output
    kept = pq.read_table(run.root / "duplicates" / "keep.parquet").to_pylist()
    assert {row["key"] for row in kept if row["group"] is not None} == {"clip-000", "clip-199"}
    keep = run.root / "duplicates" / "keep.parquet"
    code, output = xdc("curate", run.root, "--per-cluster", 5, "--keep", keep, "--to", tmp_path / "subset.csv")
    assert code == 0, output
    assert "films/" in (tmp_path / "subset.csv").read_text()
    code, output = xdc("map", run.root, "--to", tmp_path / "map.parquet")
    assert code == 0, output
    assert pq.read_table(tmp_path / "map.parquet").num_rows == CLIPS
    for name in ("keep", "pairs"):
        columns = {field.name: type_of(str(field.type)) for field in pq.read_schema(keep.with_name(f"{name}.parquet"))}
        assert columns == described(f"Columns of `{name}.parquet`")
    for node in (Node("maps", None, 0), Node("search", "video", 0)):
        manifest = read_manifest(run.directory(node))
        assert manifest is not None
        assert all(f"`{name}`" in PAGE for name in manifest.files)
    code, output = xdc("map", run.root, "--to", tmp_path / "pictures.parquet", "--pictures")
    assert code == 0, output
    assert pq.read_table(tmp_path / "pictures.parquet")["picture"].null_count == CLIPS


def test_new_features_get_the_clusters_of_given_features_without_an_encoder(run: Run, tmp_path: Path) -> None:
    for out, media in (("files", tmp_path / "video"), ("run", run.root)):
        code, output = xdc("assign", run.root, media, "--modality", "video", "--out", tmp_path / out)
        assert code == 0, output
        found, labels = (
            pa.concat_tables([pq.read_table(file, columns=["key", "cluster"]) for file in sorted(place.glob("data/*"))])
            for place in (tmp_path / out / "video", run.directory(Node("label", "video", 0)))
        )
        assert found == labels
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "a.mp4").write_bytes(b"some media")
    for arguments in (
        ("assign", run.root, tmp_path / "media", "--out", tmp_path / "no"),
        ("embed", run.root, tmp_path / "media", "--out", tmp_path / "no"),
        ("search", run.root, tmp_path / "media" / "a.mp4"),
        ("search", run.root, "clip-000", "--among", run.root),
    ):
        code, output = xdc(*arguments)
        assert code == 2, output
        assert "this run has given features (corpus.features) and no encoder" in output
