"""Views made in worker processes, however these are started; and that none of them outlives its stage."""

import os
import pickle
import signal
import sys

import pytest
import torch
from safetensors.torch import load_file

from shards.corpus.index import shard_names
from tests.processes import alive, children_of, wait_for
from tests.runs import MakeRun
from tests.warm import STAGE, WarmProcess, warm
from xdc_core.data import loader
from xdc_core.data.clips import ClipRows, ClipViews, ShardRows
from xdc_core.data.features import read_features
from xdc_core.data.loader import start_method
from xdc_core.data.modality import MODALITIES
from xdc_core.graph.run_stage import run_stage
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run
from xdc_core.stages.embed import PlacedViews

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems start workers in their own way")
CUDA, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.fixture
def as_beside_a_gpu(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """Start workers on the CPU as on a GPU; the list has how they were started."""
    asked: list[str | None] = []

    def method(_: torch.device) -> str | None:
        asked.append(start_method(CUDA))
        return asked[-1]

    monkeypatch.setattr(loader, "start_method", method)
    return asked


def test_a_process_with_cuda_is_not_forked() -> None:
    assert (start_method(CUDA), start_method(CPU)) == ("forkserver", "fork")


def test_workers_that_are_not_forked_make_the_same_features(
    copy_run: MakeRun, worked_run: Run, as_beside_a_gpu: list[str | None]
) -> None:
    node = Node("extract", "video", 0)
    run = copy_run(extract={"workers": 2})
    run_stage(run, node, force=True)
    assert as_beside_a_gpu == ["forkserver"]
    for shard in shard_names(run.corpus):
        (keys, features), (others, theirs) = (
            read_features(each.directory(node) / f"{shard}.parquet") for each in (run, worked_run)
        )
        assert keys.tolist() == others.tolist()
        assert (features == theirs).all()


def test_workers_that_are_not_forked_train_the_same_encoder(
    copy_run: MakeRun, worked_run: Run, as_beside_a_gpu: list[str | None]
) -> None:
    node = Node("train", "audio", 0)
    run = copy_run(train={"workers": 1})
    run_stage(run, node, force=True)
    assert as_beside_a_gpu == ["forkserver"]
    ours, theirs = (load_file(each.directory(node) / "encoder.safetensors") for each in (run, worked_run))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_what_goes_to_workers_is_whole_and_without_open_files(worked_run: Run) -> None:
    corpus, config = worked_run.corpus, worked_run.config
    shards, modality = shard_names(corpus), MODALITIES["audio"]
    rows, apart = ClipRows(corpus, shards, "flac"), ShardRows(corpus, dict.fromkeys(shards, 16), "flac")
    asked: list[tuple[ClipViews, int]] = [
        (ClipViews(corpus, rows, modality, config), 40),
        (ClipViews(corpus, apart, modality, config), 40),
        (PlacedViews(corpus, rows, modality, config, [[0, 2]] * 48), 40),
    ]
    for views, number in asked:
        before = views[number, None][1]
        assert before is not None
        again = pickle.loads(pickle.dumps(views))
        assert again._reader is None
        assert torch.equal(again[number, None][1], before)


def stage_with_workers(run: Run, method: str) -> WarmProcess:
    """A training with two workers that are started by `method`, in a process of its own."""
    code = f"import xdc_core.data.loader as loader\nloader.start_method = lambda _: {method!r}\n{STAGE}"
    return warm(code, "train", run.root, "audio", 0)


def below(process: int) -> set[int]:
    """The living descendants of a process."""
    found: set[int] = set()
    todo = [process]
    while todo:
        children = children_of(todo.pop())
        found.update(children)
        todo += children
    return found


@pytest.mark.parametrize(("method", "family"), [("fork", 2), ("forkserver", 4)])
def test_no_worker_outlives_a_stage_that_is_killed(copy_run: MakeRun, method: str, family: int) -> None:
    run = copy_run(train_clips=10**7, train={"workers": 2, "checkpoint_every": 2})
    stage = stage_with_workers(run, method)
    try:
        partial = run.round_directory(0) / "train"
        wait_for("a checkpoint", lambda: list(partial.glob(".audio.*.partial/checkpoint-*.pt")), 120)
        workers = below(stage.pid)
        assert len(workers) >= family, "two workers; beside them a fork server and a resource tracker"
        os.kill(stage.pid, signal.SIGKILL)
        stage.wait()
        wait_for("the workers to end", lambda: not any(alive(worker) for worker in workers), 15)
    finally:
        stage.kill()
        stage.wait()
