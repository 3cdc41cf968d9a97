"""k-means with real faiss, and which clips it is trained on."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import faiss
import numpy as np
import pytest

from shards.corpus.index import read_whole_index
from shards.errors import ConfigError
from shards.store.executor import IN_PROCESS, Executor
from shards.store.manifest import list_files
from tests.runs import MakeRun
from tests.xdc_core.tasks import BACKWARDS, task_for
from xdc_core.clustering.kmeans import kmeans
from xdc_core.compute.kmeans_check import FaissGpus
from xdc_core.data.features import source_part, write_features
from xdc_core.graph.run_stage import run_stage
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run
from xdc_core.stages import cluster as clustering
from xdc_core.stages import sample as sampling
from xdc_core.stages.sample import SAMPLE, count_learnable, read_sample, sample_size

BLOBS = np.array([[0, 0, 0], [10, 0, 0], [0, 10, 0], [0, 0, 10], [9, 9, 9]], np.float32)


def blobs(each: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Points around five centres, mixed, and whose they are."""
    rng = np.random.default_rng(0)
    owner = rng.permutation(np.repeat(np.arange(5), each))
    return (BLOBS[owner] + rng.normal(size=(5 * each, 3)) * 0.5).astype(np.float32), owner


def nearest(points: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    return ((points[:, None] - centroids[None]) ** 2).sum(axis=2).argmin(axis=1)


def test_separated_blobs_are_found() -> None:
    points, owner = blobs()
    centroids, facts = kmeans(points, 5, 20, seed=0, threads=1)
    assert centroids.dtype == np.float32
    match = nearest(BLOBS, centroids)
    assert sorted(match.tolist()) == [0, 1, 2, 3, 4]
    assert (match[owner] == nearest(points, centroids)).all()
    np.testing.assert_allclose(centroids[match], BLOBS, atol=0.2)
    assert facts["sizes"] == [100] * 5
    assert facts["empty"] == 0


def test_the_objective_falls_and_is_the_sum_of_squared_distances() -> None:
    points = np.random.default_rng(1).normal(size=(2000, 8)).astype(np.float32)
    centroids, facts = kmeans(points, 16, 25, seed=3, threads=1)
    objective = np.array(facts["objective"])
    assert len(objective) == 25
    assert (np.diff(objective) <= 1e-6 * objective[0]).all()
    assert objective[-1] < 0.95 * objective[0]
    own = ((points - centroids[nearest(points, centroids)]) ** 2).sum()
    # faiss counts before the last move of the centroids, so it can only be a little more.
    assert own <= objective[-1] <= 1.01 * own


def test_sizes_are_counted_with_the_final_centroids() -> None:
    points = np.random.default_rng(1).normal(size=(500, 4)).astype(np.float32)
    centroids, facts = kmeans(points, 7, 10, seed=3, threads=1)
    assert facts["sizes"] == np.bincount(nearest(points, centroids), minlength=7).tolist()


def test_all_points_are_used_however_many_a_cluster_has() -> None:
    # faiss would take 256 a centroid: 512 of these. Only with all of them the centroid is the mean.
    rng = np.random.default_rng(2)
    points = np.concatenate([rng.normal(size=(3001, 2)), rng.normal(size=(3000, 2)) + 50]).astype(np.float32)
    centroids, _ = kmeans(points, 2, 5, seed=0, threads=1)
    means = np.array([points[:3001].mean(axis=0), points[3001:].mean(axis=0)])
    np.testing.assert_allclose(centroids[np.argsort(centroids[:, 0])], means, atol=1e-4)


def test_the_same_seed_gives_the_same_centroids_and_another_one_others() -> None:
    points = np.random.default_rng(1).normal(size=(800, 8)).astype(np.float32)
    one, _ = kmeans(points, 10, 5, seed=1, threads=1)
    assert (one == kmeans(points, 10, 5, seed=1, threads=1)[0]).all()
    assert not (one == kmeans(points, 10, 5, seed=2, threads=1)[0]).all()


def test_as_many_clusters_as_points_is_possible() -> None:
    points = np.eye(6, dtype=np.float32)
    centroids, facts = kmeans(points, 6, 5, seed=0, threads=1)
    assert facts["sizes"] == [1] * 6
    assert sorted(nearest(points, centroids).tolist()) == list(range(6))


def test_empty_clusters_are_refilled_or_counted() -> None:
    points = np.repeat(BLOBS[:2], 50, axis=0)
    _, facts = kmeans(points, 4, 5, seed=0, threads=1)
    assert sum(facts["sizes"]) == 100
    assert facts["empty"] == facts["sizes"].count(0) == 2
    assert facts["splits"] > 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_none_are_refused(bad: float) -> None:
    points, _ = blobs()
    points[7, 1] = bad
    with pytest.raises(RuntimeError, match="NaN"):
        kmeans(points, 3, 5, seed=0, threads=1)


def facts_of(run: Run, node: Node) -> dict[str, object]:
    found: dict[str, object] = json.loads((run.directory(node) / "kmeans.json").read_text())
    return found


# What faiss 1.15 raises where cudaMalloc fails; other errors of CUDA end the process.
NO_MEMORY = (
    "Error in void* faiss::gpu::StandardGpuResourcesImpl::allocMemory: Error: 'err == cudaSuccess' failed: "
    "StandardGpuResources: alloc fail type FlatData dev 0 size 16777216 bytes (cudaMalloc error out of memory [2])"
)


@pytest.fixture
def gpu_that_fails(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[bool]]:
    """Has faiss's k-means (the real one otherwise) raise an error on GPUs; gives a list of where it was tried."""

    def failing(message: str) -> list[bool]:
        tried: list[bool] = []

        class Kmeans(faiss.Kmeans):
            def __init__(self, d: int, k: int, gpu: bool, **settings: object) -> None:
                super().__init__(d, k, **settings)
                self.on_gpu = gpu
                tried.append(gpu)

            def train(self, points: np.ndarray) -> None:
                if self.on_gpu:
                    raise RuntimeError(message)
                super().train(points)

        monkeypatch.setattr(faiss, "Kmeans", Kmeans)
        return tried

    return failing


def test_without_memory_on_the_gpu_k_means_is_done_on_the_cpu_and_says_so(
    gpu_that_fails: Callable[[str], list[bool]], capsys: pytest.CaptureFixture[str]
) -> None:
    points, _ = blobs()
    wanted, _ = kmeans(points, 5, 10, seed=0, threads=1)
    tried = gpu_that_fails(NO_MEMORY)
    centroids, facts = kmeans(points, 5, 10, seed=0, threads=1, gpus=1)
    assert tried == [True, False]
    assert (centroids == wanted).all()
    assert facts["on"] == "CPU, 1 threads (no memory left on the GPU)"
    assert "warning: k-means on CPU, 1 threads (no memory left on the GPU): Error in" in capsys.readouterr().err


def test_another_error_of_the_gpu_is_no_reason_to_go_on(gpu_that_fails: Callable[[str], list[bool]]) -> None:
    tried = gpu_that_fails("cudaMalloc error an illegal memory access was encountered [700]")
    with pytest.raises(RuntimeError, match="illegal memory access"):
        kmeans(blobs()[0], 5, 10, seed=0, threads=1, gpus=1)
    assert tried == [True]


@pytest.mark.parametrize(
    ("device", "found", "tried", "where"),
    [
        ("cpu", (2, ""), False, "CPU, 1 threads"),
        ("auto", (2, ""), True, "2 GPUs"),
        ("cuda", (2, ""), True, "2 GPUs"),
        ("auto", (0, ""), False, "CPU, 1 threads"),
        # On a platform with faiss-cpu, say.
        ("cuda", (0, ""), False, "CPU, 1 threads (faiss finds no GPU)"),
        (
            "auto",
            (0, "k-means fails on the GPU: it ended"),
            False,
            "CPU, 1 threads (k-means fails on the GPU: it ended)",
        ),
    ],
)
def test_the_setting_device_decides_about_k_means_too(
    copy_run: MakeRun,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    found: tuple[int, str],
    tried: bool,
    where: str,
) -> None:
    run, node, asked = copy_run(runs_on={"device": device}), Node("cluster", "audio", 0), []
    real = faiss.Kmeans

    def noted(*sizes: int, gpu: bool, **settings: object) -> faiss.Kmeans:
        asked.append(gpu)
        return real(*sizes, **settings)

    monkeypatch.setattr(faiss, "Kmeans", noted)
    monkeypatch.setattr(clustering, "faiss_gpus", lambda: FaissGpus(*found, "1.15.1"))
    monkeypatch.setattr(clustering, "WORTH_A_GPU", 0)
    run_stage(run, node, force=True)
    assert asked == [tried]
    assert facts_of(run, node)["on"] == where


def test_a_short_fit_starts_no_gpu(copy_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def never() -> FaissGpus:
        raise AssertionError("looked for a GPU")

    monkeypatch.setattr(clustering, "faiss_gpus", never)
    run, node = copy_run(runs_on={"device": "auto"}), Node("cluster", "audio", 0)
    run_stage(run, node, force=True)
    assert facts_of(run, node)["on"] == "CPU, 1 threads"


@pytest.mark.parametrize("source", ["video", "audio"])
def test_the_stage_records_what_it_did(worked_run: Run, source: str) -> None:
    node = Node("cluster", source, 0)
    facts = facts_of(worked_run, node)
    centroids = np.load(worked_run.directory(node) / "centroids.npy", allow_pickle=False)
    assert centroids.shape == (4, facts["components"])
    assert centroids.dtype == np.float32
    assert (facts["k"], facts["clips"], facts["sample"]) == (4, 48, 48)
    assert sum(facts["sizes"]) == 48  # type: ignore[arg-type]
    assert facts["on"] == "CPU, 1 threads"


def test_every_round_and_source_has_a_seed_of_its_own(worked_run: Run) -> None:
    seeds = {facts_of(worked_run, Node("cluster", source, n))["seed"] for source in ("video", "audio") for n in (0, 1)}
    assert len(seeds) == 4


def features_with_row_numbers(run: Run) -> None:
    """Features of which the first number is the clip's row in the corpus."""
    index = read_whole_index(run.corpus, ["key"])
    directory = run.directory(Node("extract", "video", 0))
    directory.mkdir(parents=True)
    number = 0
    for shard in sorted(set(index["shard"].to_pylist())):
        keys = [
            key for key, own in zip(index["key"].to_pylist(), index["shard"].to_pylist(), strict=True) if own == shard
        ]
        rows = np.zeros((len(keys), 5), np.float32)
        rows[:, 0] = np.arange(number, number + len(keys))
        number += len(keys)
        write_features(directory / f"{shard}.parquet", keys, rows)


def sample_of(run: Run, seed: int, executor: Executor = IN_PROCESS) -> tuple[np.ndarray, int]:
    """The sampled features of the cluster stage of the video, and the number of clips to learn from."""
    task = task_for(run, Node("cluster", "video", 0))
    task.out.mkdir(exist_ok=True)
    learnable = count_learnable(run.corpus, task.directories("extract"), task.settings.learn_splits)
    sample_mb = task.settings.cluster.sample_mb
    (points,) = read_sample(dataclasses.replace(task, executor=executor), learnable, sample_mb, seed)
    return points, learnable.total


def test_a_sample_fits_its_budget_and_is_the_same_every_time(make_run: MakeRun) -> None:
    run = make_run(sample_mb=20 * 5 * 4 / 1e6)  # 20 clips of 5 float32.
    features_with_row_numbers(run)
    points, clips = sample_of(run, 3)
    chosen = points[:, 0].astype(int).tolist()
    assert (len(chosen), clips) == (20, 48)
    assert len(set(chosen)) == 20
    assert {number // 16 for number in chosen} == {0, 1, 2}  # From every shard.
    again, _ = sample_of(run, 3)
    assert (again == points).all()
    other, _ = sample_of(run, 4)
    assert not (other == points).all()


def test_a_budget_that_fits_everything_takes_every_clip_in_order(make_run: MakeRun) -> None:
    run = make_run(sample_mb=48 * 5 * 4 / 1e6)
    features_with_row_numbers(run)
    points, clips = sample_of(run, 3)
    assert points[:, 0].tolist() == list(range(48)) == list(range(clips))


def test_only_splits_to_learn_from_are_taken(make_run: MakeRun) -> None:
    run = make_run(learn_splits=["test"])
    features_with_row_numbers(run)
    points, clips = sample_of(run, 3)
    splits = read_whole_index(run.corpus, ["split"])["split"].to_pylist()
    assert points[:, 0].tolist() == [number for number, split in enumerate(splits) if split == "test"]
    assert clips == 8


def test_splits_are_found_however_they_are_spelt_and_missing_ones_are_named(make_run: MakeRun) -> None:
    run = make_run(learn_splits=[" Test"])
    features_with_row_numbers(run)
    assert sample_of(run, 3)[1] == 8
    unknown = make_run(learn_splits=["train", "tets", "val"])
    features_with_row_numbers(unknown)
    with pytest.raises(ConfigError, match=r"has the split 'tets', 'val'\. Its splits are: 'test', 'train'"):
        sample_of(unknown, 3)


@pytest.mark.parametrize("sample_mb", [20 * 5 * 4 / 1e6, 1.0])
@pytest.mark.parametrize("splits", [None, ["train"]])
def test_workers_take_the_same_sample(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, sample_mb: float, splits: list[str] | None
) -> None:
    run = make_run(sample_mb=sample_mb, learn_splits=splits)
    features_with_row_numbers(run)
    monkeypatch.setattr(sampling, "PER_GROUP", 2)
    points, clips = sample_of(run, 3)
    assert not (run.root / "out" / SAMPLE).exists()
    others, counted = sample_of(run, 3, BACKWARDS)
    assert (run.root / "out" / SAMPLE).exists()
    assert counted == clips == (40 if splits else 48)
    assert (others == points).all()


def test_every_file_of_features_is_read_once(copy_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = copy_run(sample_mb=20 * 64 * 4 / 1e6)
    read: list[str] = []

    def noted(directories: Sequence[Path], shard: str) -> tuple[np.ndarray, list[np.ndarray]]:
        read.append(shard)
        return source_part(directories, shard)

    monkeypatch.setattr(sampling, "source_part", noted)
    run_stage(run, Node("cluster", "audio", 0))
    assert read == ["000000", "000001", "000002"]


@pytest.mark.parametrize("method", ["xdc", "cdc"])
def test_the_stage_with_workers_writes_the_same_bytes_and_leaves_nothing(
    copy_run: MakeRun, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(sampling, "PER_GROUP", 2)
    node, runs = Node("cluster", "joint" if method == "cdc" else "audio", 0), []
    for executor in (IN_PROCESS, BACKWARDS):
        runs.append(copy_run(method=method, sample_mb=20 * 128 * 4 / 1e6))
        run_stage(runs[-1], node, force=True, executor=executor)
    plain, other = (list_files(run.directory(node)) for run in runs)
    assert plain == other
    assert sorted(plain) == ["centroids.npy", "kmeans.json", "preprocess.npz"]


def test_a_sample_that_is_small_for_its_clusters_is_a_warning_with_the_size_that_is_enough(
    copy_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    node, width = Node("cluster", "audio", 0), 64
    run_stage(copy_run(sample_mb=20 * width * 4 / 1e6), node)
    text = capsys.readouterr().err
    assert "warning: k-means is fitted to a sample of 20 of 48 clips, 5 per cluster. Below about 600" in text
    assert "Raise cluster.sample_mb to 1, or" in text
    run_stage(copy_run(sample_mb=20 * width * 4 / 1e6, iterations_over_all=1), node)
    run_stage(copy_run(), node, force=True)  # All clips, which are few, too.
    assert "per cluster" not in capsys.readouterr().err


def test_the_budget_counts_float32_numbers() -> None:
    assert sample_size(1.0, 250) == 1000
    assert sample_size(0.000001, 512) == 1


def test_the_stage_says_how_large_the_sample_was(copy_run: MakeRun) -> None:
    run = copy_run(sample_mb=20 * 64 * 4 / 1e6)
    run_stage(run, Node("cluster", "audio", 0))
    facts = facts_of(run, Node("cluster", "audio", 0))
    assert (facts["sample"], facts["clips"]) == (20, 48)
    assert sum(facts["sizes"]) == 20  # type: ignore[arg-type]


def test_more_clusters_than_clips_is_an_error_that_names_both(copy_run: MakeRun) -> None:
    run = copy_run(k={"video": 49, "audio": 4})
    with pytest.raises(
        ConfigError, match=r"cluster\.k\.video is 49, but there are only 48 clips to learn from\. Lower"
    ):
        run_stage(run, Node("cluster", "video", 0))


def test_more_clusters_than_the_sample_has_clips_points_at_the_sample(copy_run: MakeRun) -> None:
    run = copy_run(sample_mb=0.0005)
    with pytest.raises(
        ConfigError, match=r"cluster\.sample_mb \(0\.0005\) holds the features of 1 clips.*k\.video is 4"
    ):
        run_stage(run, Node("cluster", "video", 0))
