"""Runs of the manifests' format 1, with Parquet files beside the others, are read, checked and gone on with."""

import shutil
from pathlib import Path

import pytest

from shards.corpus.index import shard_names
from shards.store.files import part_path
from tests.commits import as_of_format_1
from tests.runs import MakeRun
from xdc_core.cleaning.clean import clean
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.run_stage import run_stage
from xdc_core.graph.stages import all_nodes
from xdc_core.graph.state import node_state
from xdc_core.inspection.verification import verify_run
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run

CLUSTER, LABEL, TRAIN = Node("cluster", "video", 1), Node("label", "video", 1), Node("train", "audio", 0)


@pytest.fixture
def old(copy_run: MakeRun, tiny_corpus: Path, tmp_path: Path) -> Run:
    """A copy of the run that is worked off, and of its corpus, as an earlier version made them."""
    shutil.copytree(tiny_corpus, tmp_path / "old-corpus")
    run = copy_run(corpus={"path": str(tmp_path / "old-corpus")})
    for node in all_nodes(run.config):
        as_of_format_1(run.directory(node))
    assert not [path for path in tmp_path.rglob("*") if path.is_dir() and path.name in ("data", "index")]
    return run


def test_every_node_is_fresh_and_sound(old: Run) -> None:
    fingerprints = Fingerprints(old)
    assert {node_state(old, node, fingerprints)[0] for node in all_nodes(old.config)} == {"fresh"}
    assert verify_run(old) == []
    assert all(run_stage(old, node).reused for node in all_nodes(old.config))


def test_what_is_made_again_from_it_has_the_same_bytes_and_lies_in_a_folder(old: Run, worked_run: Run) -> None:
    for node in (CLUSTER, LABEL, TRAIN, Node("report", None, 1)):
        assert not run_stage(old, node, force=True).reused
    centroids, encoder = "centroids.npy", "encoder.safetensors"
    for node, name in ((CLUSTER, centroids), (TRAIN, encoder)):
        assert (old.directory(node) / name).read_bytes() == (worked_run.directory(node) / name).read_bytes()
    for shard in shard_names(old.corpus):
        made = old.directory(LABEL) / "data" / f"{shard}.parquet"
        assert made.read_bytes() == part_path(worked_run.directory(LABEL), shard).read_bytes()
    assert not list(old.directory(LABEL).glob("*.parquet"))


def test_its_features_are_cleaned(old: Run) -> None:
    features = old.directory(Node("extract", "video", 0))
    assert len(list(features.glob("*.parquet"))) == 3
    assert features in {Path(removal.path) for removal in clean(old).removed}
    assert not list(features.rglob("*.parquet"))
    assert node_state(old, Node("extract", "video", 0), Fingerprints(old))[0] == "cleaned"


def test_a_lost_part_is_named_where_it_was(old: Run) -> None:
    lost = old.directory(LABEL) / "000001.parquet"
    lost.unlink()
    assert [(Path(found.path), found.what) for found in verify_run(old)] == [(lost, "the file is missing")]
    assert node_state(old, SHARD, Fingerprints(old))[0] == "fresh"
