"""Fine-tuning in other precisions, layouts and numbers of processes: the same draws, and nearly the same numbers."""

import json
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.runs import MakeRun
from xdc_core.config.finetune import FinetuneSettings
from xdc_core.config.load import parse_config
from xdc_core.config.views import views_of
from xdc_core.data.clips import ClipItem, ClipViews
from xdc_core.data.rows import corpus_rows
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.run_stage import run_stage
from xdc_core.graph.stages import settings_of
from xdc_core.modalities.registry import MODALITIES
from xdc_core.probes.evaluation_clips import EvaluationClips, epoch_items
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run

NODE = Node("eval", "probe", 1)
TUNED = {"epochs": 2, "batch": 8, "warmup": 1.0, "dropout": 0.2}


def tuned(copy: MakeRun, **settings: Any) -> Run:
    probe = {"protocol": "all", "modality": "audio", "label": "label_speaker", "finetune": TUNED | settings}
    return copy(evaluate={"probe": probe})


def trial(run: Run) -> dict[str, Any]:
    run_stage(run, NODE)
    (found,) = json.loads((run.directory(NODE) / "results.json").read_text())["trials"]
    return found  # type: ignore[no-any-return]


def losses(found: dict[str, Any]) -> list[float]:
    return [row["loss"] for row in found["chosen"]["tried"]]


def items_of(run: Run, rng: np.random.Generator | None, rank: int, world_size: int) -> list[list[ClipItem]]:
    """The items of an epoch of three batches, over 12 recordings of two clips each."""
    rows = corpus_rows(run.corpus, MODALITIES["audio"], run.root)
    views = ClipViews(run.corpus, rows, views_of(run.config, "audio"))
    clips = [[2 * number, 2 * number + 1] for number in range(12)]
    starts: dict[int, tuple[int | None, ...]] = dict.fromkeys(range(24), (None,))
    of = EvaluationClips(views, clips, {row: row // 2 for row in range(24)}, starts)
    groups = np.array_split(np.arange(12), 3)
    return [list(batch) for batch in epoch_items(of, groups, 5, rng, (rank, world_size))]


def test_processes_share_the_views_that_one_would_take(worked_run: Run) -> None:
    alone = items_of(worked_run, None, 0, 1)
    first, second = (items_of(worked_run, None, rank, 2) for rank in (0, 1))
    assert [len(batch) for batch in first] == [2, 2, 2]
    assert [own + other for own, other in zip(first, second, strict=True)] == alone
    assert len({item.seed for batch in alone for item in batch}) == 12
    assert [item.row // 2 for batch in alone for item in batch] == list(range(12))


def test_one_generator_draws_clips_and_views_in_turn(worked_run: Run) -> None:
    rng = np.random.default_rng(3)
    items = items_of(worked_run, rng, 0, 1)
    assert all(item.seed is rng for batch in items for item in batch)
    again = np.random.default_rng(3)
    assert [item.row for batch in items for item in batch] == [again.choice([2 * n, 2 * n + 1]) for n in range(12)]


def hashed(**finetune: Any) -> dict[str, Any]:
    """What enters the fingerprint of a fine-tuning with these settings."""
    entry = {"protocol": "all", "modality": "video", "finetune": finetune}
    config = parse_config({"evaluate": {"tuned": entry}}, "a test")
    found: dict[str, Any] = settings_of(config, Node("eval", "tuned", 0))["finetune"]
    return found


def test_settings_that_change_nothing_leave_the_fingerprint_as_it_was() -> None:
    before = {"optimizer", "head_lr", "body_lr", "batch", "epochs", "warmup", "milestones", "factor", "weight_decay"}
    assert hashed().keys() == before | {"dropout"}
    assert hashed(workers=1) == hashed(workers=4) == hashed() | {"seed_per_view": True}
    assert hashed(precision="bfloat16")["precision"] == "bfloat16"


@pytest.mark.parametrize("settings", [{"batch": 9, "processes": 2}, {"batch": 4, "processes": 4}])
def test_a_batch_that_cannot_be_shared_out_is_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"batch \(\d\) must be a multiple of processes \(\d\), and at least twice"):
        FinetuneSettings.model_validate(settings)


def test_the_number_of_workers_changes_nothing(copy_run: MakeRun) -> None:
    one, two = (tuned(copy_run, workers=workers) for workers in (1, 2))
    assert Fingerprints(one).of(NODE) == Fingerprints(two).of(NODE)
    assert trial(one) == trial(two)


def test_half_precision_and_another_layout_learn_nearly_the_same(copy_run: MakeRun) -> None:
    plain, layout, half = (
        trial(tuned(copy_run, dropout=0.0, **settings))
        for settings in ({}, {"channels_last": True}, {"precision": "bfloat16"})
    )
    np.testing.assert_allclose(losses(layout), losses(plain), rtol=1e-3)
    np.testing.assert_allclose(losses(half), losses(plain), rtol=0.05)
    assert losses(half) != losses(plain)


@pytest.mark.slow
def test_two_processes_that_were_stopped_go_on_to_the_same_end(copy_run: MakeRun) -> None:
    class Stop(Exception):
        """Stands for a kill after the first epoch."""

    def stop(done: int, total: int, note: str = "") -> None:
        assert note.startswith("epochs of test")
        raise Stop

    whole, broken = (tuned(copy_run, processes=2) for _ in range(2))
    with pytest.raises(Stop):
        run_stage(broken, NODE, progress=stop)
    ends = [trial(run) for run in (whole, broken)]
    assert ends[0] == ends[1]
    assert [row["epoch"] for row in ends[0]["chosen"]["tried"]] == [1, 2]
    assert (ends[0]["train"], ends[0]["test"]) == (40, 8)
    # Each process predicts a part of the recordings.
    predicted = pq.read_table(whole.directory(NODE) / "predictions" / "test-0.parquet").to_pydict()
    assert len(set(predicted["source"])) == 8
    right = np.mean([ours == theirs for ours, theirs in zip(predicted["predicted"], predicted["label"], strict=True)])
    assert ends[0]["metrics"]["accuracy"] == pytest.approx(right)
    left = {path.name for path in broken.directory(NODE).iterdir()}
    assert left == {"results.json", "results.parquet", "predictions", "trials", "manifest.json"}
