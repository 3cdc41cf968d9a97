"""Views made in worker processes, however these are started; and that none of them outlives its stage."""

import os
import pickle
import signal
import sys

import pytest
import torch
from safetensors.torch import load_file

from shards.corpus.index import shard_names
from shards.errors import MachineError
from shards.store.files import part_path
from tests.processes import alive, children_of, wait_for
from tests.runs import MakeRun
from tests.warm import STAGE, WarmProcess, warm
from xdc_core.config.views import views_of
from xdc_core.data import loader
from xdc_core.data.clips import ClipItem, ClipViews, ShardRows
from xdc_core.data.features import read_features
from xdc_core.data.loader import batches_by_shard, load_views, start_method
from xdc_core.data.rows import corpus_rows
from xdc_core.graph.run_stage import run_stage
from xdc_core.modalities.registry import MODALITIES
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run

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
            read_features(part_path(each.directory(node), shard)) for each in (run, worked_run)
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
    rows, apart = (
        corpus_rows(corpus, MODALITIES["audio"], worked_run.root),
        ShardRows(corpus, dict.fromkeys(shards, 16), MODALITIES["audio"]),
    )
    for source in (rows, apart):
        for item in (ClipItem(40), ClipItem(40, seed=1), ClipItem(40, (0, 2))):
            views = ClipViews(corpus, source, views_of(config, modality.name))
            before = views[item][1]
            assert before is not None
            assert len(before) == len(item.starts)
            again = pickle.loads(pickle.dumps(views))
            assert again._reader is None
            assert torch.equal(again[item][1], before)


def open_tars() -> list[str]:
    """Return the tars that this process has open."""
    links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    return sorted(os.readlink(link) for link in links if os.path.islink(link) and os.readlink(link).endswith(".tar"))


@pytest.mark.parametrize("workers", [0, 1])
def test_no_batch_has_clips_of_two_shards_and_no_tar_stays_open(worked_run: Run, workers: int) -> None:
    modality = MODALITIES["audio"]
    rows = ShardRows(worked_run.corpus, dict.fromkeys(shard_names(worked_run.corpus), 16), MODALITIES["audio"])
    views = ClipViews(worked_run.corpus, rows, views_of(worked_run.config, modality.name))
    before = open_tars()
    batches = list(load_views(views, batches_by_shard(rows.spans, 10), workers, CPU))
    assert [len(batch.rows) for batch in batches] == [10, 6] * 3
    assert [row for batch in batches for row in batch.rows] == list(range(48))
    assert all(batch.views is not None and len(batch.views) == len(batch.rows) for batch in batches)
    assert open_tars() == before


def test_views_of_one_clip_are_those_that_are_made_one_by_one(worked_run: Run) -> None:
    rows = corpus_rows(worked_run.corpus, MODALITIES["video"], worked_run.root)
    views = ClipViews(worked_run.corpus, rows, views_of(worked_run.config, "video"))
    items = [[ClipItem(3, (0, None, 2)), ClipItem(20)], [ClipItem(3, (start,)) for start in (0, None, 2)]]
    together, apart = (batch.views for batch in load_views(views, items, 0, CPU))
    assert together is not None
    assert apart is not None
    assert len(together) == 4
    assert torch.equal(together[:3], apart)


class WithoutPermission(ClipViews):
    """Clips that cannot be read on this machine."""

    def __getitem__(self, item: ClipItem) -> tuple[int, torch.Tensor | None, str]:
        raise MachineError("s3://bucket/000000.tar: no permission: get it.")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_worker_is_that_of_this_process(worked_run: Run, workers: int) -> None:
    rows = corpus_rows(worked_run.corpus, MODALITIES["audio"], worked_run.root)
    views = WithoutPermission(worked_run.corpus, rows, views_of(worked_run.config, "audio"))
    with pytest.raises(MachineError) as caught:
        list(load_views(views, [[ClipItem(0)]], workers, CPU))
    assert (type(caught.value), str(caught.value)) == (MachineError, "s3://bucket/000000.tar: no permission: get it.")


def test_loading_leaves_the_common_random_numbers_alone(worked_run: Run) -> None:
    rows = corpus_rows(worked_run.corpus, MODALITIES["audio"], worked_run.root)
    views = ClipViews(worked_run.corpus, rows, views_of(worked_run.config, "audio"))
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    assert len(list(load_views(views, [[ClipItem(0, seed=4)]], 0, CPU))) == 1
    assert torch.rand(1) == expected


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_workers_of_init_do_not_change_the_first_encoder(copy_run: MakeRun, worked_run: Run, modality: str) -> None:
    node = Node("init", modality)
    run = copy_run(extract={"workers": 2})
    run_stage(run, node, force=True)
    ours, theirs = (each.directory(node) / "encoder.safetensors" for each in (run, worked_run))
    assert ours.read_bytes() == theirs.read_bytes()


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
