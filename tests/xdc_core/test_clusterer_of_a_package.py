"""A clustering algorithm of an installed package: spherical k-means, with a model of two arrays."""

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import normalized_mutual_info_score

from shards.corpus.index import read_whole_index
from shards.errors import ConfigError, StageError
from shards.section import Section
from shards.store.manifest import read_manifest
from tests.installed_package import install_package
from tests.places import ROOT
from tests.runs import MakeRun
from xdc_core.clustering.clusterer import Clusterer
from xdc_core.clustering.preprocess import fit_preprocess
from xdc_core.compute.seed import derive_seed
from xdc_core.config.load import parse_config
from xdc_core.data.features import read_features
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.run_stage import run_stage
from xdc_core.graph.stages import all_nodes, settings_of
from xdc_core.graph.state import node_state
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run

DECLARED = """
from pydantic import Field
from shards.section import Section
from xdc_core.clustering.clusterer import Clusterer

class Settings(Section):
    passes: int = Field(5, ge=1, description="over all points")
    centre: bool = False

SPHERICAL = Clusterer("spherical", Settings, "spheres.work", arrays=("directions", "middle"), version=3)
"""
WORK = """
import numpy as np

def unit(points, middle):
    moved = points - middle
    return moved / np.linalg.norm(moved, axis=1, keepdims=True)

def fit(points, k, settings, seed, threads, gpus):
    middle = points.mean(0) if settings.centre else np.zeros(points.shape[1], np.float32)
    own = unit(points, middle)
    directions = own[np.random.default_rng(seed).choice(len(own), k, replace=False)]
    objective = []
    for _ in range(settings.passes):
        cosines = own @ directions.T
        objective.append(float(cosines.max(1).sum()))
        nearest = cosines.argmax(1)
        sums = np.stack([own[nearest == cluster].sum(0) for cluster in range(k)])
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        directions = np.where(lengths > 0, sums / np.maximum(lengths, 1e-12), directions).astype(np.float32)
    return {"directions": directions, "middle": middle}, {"objective": objective}

def assign(model, points):
    cosines = unit(points, model["middle"]) @ model["directions"].T
    return 1 - cosines.max(1), cosines.argmax(1)
"""
SPHERICAL = {"algorithm": "spherical", "algorithm_settings": {"passes": 3}}


@pytest.fixture
def spheres(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the installed package, on the search path of this process and of its children."""
    modules = {"spheres/__init__.py": "", "spheres/declared.py": DECLARED, "spheres/work.py": WORK}
    points = {"xdc.clusterers": {"spherical": "spheres.declared:SPHERICAL"}}
    folder = install_package(tmp_path / "site", "spheres", modules, points)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{ROOT}")
    return folder


def labels(run: Run, node: Node) -> dict[str, tuple[list[int], list[float]]]:
    tables = {path.name: pq.read_table(path) for path in sorted(run.directory(node).glob("data/*.parquet"))}
    return {name: (table["cluster"].to_pylist(), table["distance"].to_pylist()) for name, table in tables.items()}


def killed(run: Run, node: Node, point: str) -> None:
    command = [sys.executable, "-m", "xdc_core", node.stage, str(run.root), str(node.modality), str(node.round)]
    environment = os.environ | {"XDC_FAULT": f"kill:1:{point}"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert read_manifest(run.directory(node)) is None


@pytest.mark.slow
def test_it_clusters_and_labels_and_after_a_kill_ends_with_the_same_bytes(spheres: Path, copy_run: MakeRun) -> None:
    cluster, label = Node("cluster", "audio", 0), Node("label", "audio", 0)
    whole, interrupted = (copy_run(cluster=SPHERICAL) for _ in range(2))
    assert node_state(whole, cluster, Fingerprints(whole))[0] == "stale"
    assert "algorithm: None -> spherical" in node_state(whole, cluster, Fingerprints(whole))[1]
    for node in (cluster, label):
        run_stage(whole, node)
    for node, point in ((cluster, "before rename middle.npy"), (label, "before rename 000001.parquet")):
        (interrupted.directory(node) / "manifest.json").unlink()
        killed(interrupted, node, point)
        run_stage(interrupted, node)
        assert run_stage(interrupted, node).reused
    for name in ("directions.npy", "middle.npy", "preprocess.npz", "kmeans.json"):
        one, other = ((run.directory(cluster) / name).read_bytes() for run in (whole, interrupted))
        assert one == other, name
    assert not (whole.directory(cluster) / "centroids.npy").exists()
    assert labels(whole, label) == labels(interrupted, label)

    directions = np.load(whole.directory(cluster) / "directions.npy")
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, rtol=1e-5)
    clusters, distances = zip(*labels(whole, label).values(), strict=True)
    assert {value for values in clusters for value in values} <= set(range(4))
    assert all(-1e-5 <= value <= 2 for values in distances for value in values)


def test_it_is_recorded_with_its_settings(spheres: Path, copy_run: MakeRun) -> None:
    node, run = Node("cluster", "video", 0), copy_run(cluster=SPHERICAL)
    run_stage(run, node)
    fitted = json.loads((run.directory(node) / "kmeans.json").read_text())
    assert (fitted["algorithm"], fitted["settings"]) == ("spherical", {"passes": 3, "centre": False})
    assert len(fitted["objective"]) == 3
    assert sum(fitted["sizes"]) == fitted["sample"]
    manifest = read_manifest(run.directory(node))
    assert manifest is not None
    wanted = {"algorithm": "spherical", "algorithm_version": 3, "algorithm_settings": {"passes": 3, "centre": False}}
    assert wanted.items() <= manifest.settings.items()
    assert "iterations" not in manifest.settings


def test_its_settings_and_no_others_are_part_of_the_fingerprint(spheres: Path, worked_run: Run) -> None:
    def fingerprint_with(**cluster: Any) -> str | None:
        values = worked_run.config.model_dump()
        config = parse_config(values | {"cluster": values["cluster"] | cluster}, "a test")
        return Fingerprints(Run(worked_run.root, config)).of(Node("cluster", "audio", 0))

    spherical = fingerprint_with(algorithm="spherical")
    assert spherical != fingerprint_with()
    assert spherical == fingerprint_with(algorithm="spherical", algorithm_settings={"passes": 5}, iterations=7)
    assert spherical != fingerprint_with(algorithm="spherical", algorithm_settings={"passes": 6})


def test_a_round_with_it_has_a_report_and_an_evaluation_of_clusters(spheres: Path, make_run: MakeRun) -> None:
    evaluation = {"protocol": "clusters", "modality": "audio", "label": "label_speaker", "when": "end"}
    run = make_run(cluster=SPHERICAL, rounds=0, method="sdc", evaluate={"speakers": evaluation})
    for node in all_nodes(run.config):
        run_stage(run, node)
    page = (run.directory(Node("report", None, 0)) / "report.html").read_text()
    assert "Clusters in numbers" in page
    assert "Objective of spherical" in page
    assert "Objective of k-means" not in page
    assert settings_of(run.config, Node("eval", "speakers", 0))["cluster"]["algorithm"] == "spherical"
    results = json.loads((run.directory(Node("eval", "speakers", 0)) / "results.json").read_text())
    assert results["metrics"]["nmi"]["mean"] == pytest.approx(nmi_with_speakers(run), abs=1e-6)


def nmi_with_speakers(run: Run) -> float:
    """The agreement of the evaluation `speakers`, computed with the package's functions."""
    parts = sorted(run.directory(Node("extract", "audio", 0)).glob("data/*.parquet"))
    keys, features = zip(*map(read_features, parts), strict=True)
    row_of = {row["key"]: row for row in read_whole_index(run.corpus).to_pylist()}
    rows = [row_of[key] for key in np.concatenate(keys)]
    train, test = (np.array([row["split"] == split for row in rows]) for split in ("train", "test"))
    speakers = np.array([row["label_speaker"] for row in rows])
    views = np.concatenate(features)
    preprocess, _ = fit_preprocess([views[train]], run.config.cluster)
    work, settings = importlib.import_module("spheres.work"), SimpleNamespace(passes=3, centre=False)
    seed = derive_seed(run.config.seed, "eval", "speakers", "test", 0)
    model, _ = work.fit(preprocess([views[train]]), len(set(speakers)), settings, seed, 1, 0)
    _, clusters = work.assign(model, preprocess([views[test]]))
    return float(normalized_mutual_info_score(speakers[test], clusters))


@pytest.mark.parametrize(
    ("cluster", "why"),
    [
        ({"algorithm": "sperical"}, "the clustering algorithm 'sperical' is unknown. Did you mean 'spherical'?"),
        (SPHERICAL | {"algorithm_settings": {"pases": 3}}, "algorithm_settings of spherical: pases: Extra inputs"),
        (SPHERICAL | {"algorithm_settings": {"passes": 0}}, "passes: Input should be greater than or equal to 1"),
        (SPHERICAL | {"iterations_over_all": 2}, "iterations_over_all is for kmeans, and algorithm is spherical"),
        ({"algorithm_settings": {"passes": 3}}, "kmeans takes its settings from this section"),
    ],
)
def test_a_name_or_setting_that_it_does_not_have_is_refused(spheres: Path, cluster: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_config({"cluster": cluster}, "a test")
    assert why in str(error.value)


def test_labels_are_balanced_with_centroids_only(spheres: Path) -> None:
    with pytest.raises(ConfigError, match=r"needs the centroids of kmeans, and cluster\.algorithm is spherical"):
        parse_config({"cluster": SPHERICAL, "label": {"assign": "balanced"}}, "a test")


def test_it_gives_several_clusterings_which_differ_in_seed(spheres: Path, copy_run: MakeRun) -> None:
    cluster, label = Node("cluster", "audio", 0), Node("label", "audio", 0)
    run = copy_run(cluster=SPHERICAL | {"heads": 2})
    for node in (cluster, label):
        run_stage(run, node)
    arrays = [name for name in run.directory(cluster).iterdir() if name.suffix == ".npy"]
    assert sorted(path.name for path in arrays) == ["directions-1.npy", "directions.npy", "middle-1.npy", "middle.npy"]
    first, second = (np.load(run.directory(cluster) / name) for name in ("directions.npy", "directions-1.npy"))
    assert not np.array_equal(first, second)
    for shard in sorted(run.directory(label).glob("data/[0-9]*.parquet")):
        table = pq.read_table(shard)
        assert table.column_names == ["key", "cluster", "distance", "cluster_1", "distance_1"]
    fitted = json.loads((run.directory(cluster) / "kmeans.json").read_text())
    assert [fitted["algorithm"], *(own["algorithm"] for own in fitted["clusterings"])] == ["spherical", "spherical"]


@pytest.mark.parametrize(
    ("work", "why"),
    [
        ("return {'other': points}, {}", "gives the arrays other, but it declares centroids"),
        ("return {'centroids': points[:k] * np.nan}, {}", "values that are not finite"),
    ],
)
def test_a_model_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: str, why: str) -> None:
    name = f"wrong_fit_{abs(hash(work))}"
    (tmp_path / f"{name}.py").write_text(f"import numpy as np\ndef fit(points, k, *others):\n    {work}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(StageError, match=why):
        Clusterer("wrong", Section, name).fit(np.ones((9, 2), np.float32), 3, Section(), 0, 1)


@pytest.mark.parametrize(
    ("work", "why"),
    [
        ("return np.zeros(9), np.full(9, 3)", "not integers from 0 to 2"),
        ("return np.zeros(9), np.zeros(9)", "not integers from 0 to 2"),
        ("return np.zeros(8), np.zeros(9, int)", r"distances \(8,\) and clusters \(9,\)"),
        ("return np.full(9, np.inf), np.zeros(9, int)", "distances that it assigns are not finite"),
    ],
)
def test_an_assignment_that_is_none_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: str, why: str
) -> None:
    name = f"wrong_assign_{abs(hash(work))}"
    (tmp_path / f"{name}.py").write_text(f"import numpy as np\ndef assign(model, points):\n    {work}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(StageError, match=why):
        Clusterer("wrong", Section, name).assign({}, np.ones((9, 2), np.float32), 3)
