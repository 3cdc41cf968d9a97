"""Training: it learns, and it goes on where it was stopped, however it is computed."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from shards.corpus.index import read_whole_index
from shards.errors import ConfigError, StageError
from shards.store.commit import partial_directories, partial_directory
from shards.store.files import sha256_of
from tests.places import ROOT
from tests.runs import MakeRun
from tests.xdc_core.stage_process import checkpointed_step, signalled_after, start
from tests.xdc_core.tasks import targets_of
from xdc_core.config import methods
from xdc_core.config.training import TrainSettings
from xdc_core.documents.metrics import append_metrics, read_metrics, rewind_metrics
from xdc_core.encoders.file import load_encoder
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.run_stage import run_stage
from xdc_core.graph.stages import all_nodes
from xdc_core.graph.state import node_state
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run
from xdc_core.stages.train import small_batch
from xdc_core.training.checkpoint import load_checkpoint, save_checkpoint
from xdc_core.training.heads import EncoderWithHeads

AUDIO = Node("train", "audio", 0)
# Enough to know 48 clips nearly by heart: the loss ends far below the threshold of the tests.
LEARNS = {"train_clips": 1920, "lr": 0.005}


def metrics_of(run: Run, node: Node) -> list[dict[str, Any]]:
    return read_metrics(run.directory(node) / "metrics.jsonl")


def first_loss(run: Run, node: Node) -> float:
    return float(metrics_of(run, node)[0]["loss"])


def last_loss(run: Run, node: Node) -> float:
    """Of the last three lines."""
    return float(np.mean([line["loss"] for line in metrics_of(run, node)[-3:]]))


@pytest.mark.slow
@pytest.mark.parametrize("modality", ["video", "audio"])
def test_the_loss_falls_below_that_of_guessing(copy_run: MakeRun, modality: str) -> None:
    run, node = copy_run(**LEARNS), Node("train", modality, 0)
    record = run_stage(run, node)
    assert first_loss(run, node) == pytest.approx(math.log(4), abs=0.3)
    assert last_loss(run, node) < 0.85 * math.log(4)
    assert record.summary["loss"] < record.summary["first_loss"]
    assert record.rows == record.summary["clips"] == 1920


def test_the_summary_and_the_log_say_what_was_computed_on(worked_run: Run) -> None:
    summary = run_stage(worked_run, AUDIO).summary
    assert summary["device"] == "cpu"
    assert "warning" not in summary
    log = (worked_run.directory(AUDIO) / "train.log").read_text().splitlines()
    assert json.loads(log[0]) == {"device": "cpu"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"batch": 16}, ""),
        ({"batch": 32, "processes": 2}, ""),
        ({"batch": 32, "processes": 8, "sync_batch_norm": True}, ""),
        ({"batch": 32, "processes": 8}, "batch norm sees 4 clips at a time .* Set train.sync_batch_norm, or raise"),
        ({"batch": 8}, "batch norm sees 8 clips at a time .* Raise train.batch"),
        ({"batch": 8, "processes": 2, "sync_batch_norm": True}, "batch norm sees 8 clips .* Raise train.batch"),
    ],
)
def test_a_batch_norm_over_few_clips_is_warned_of(settings: dict[str, Any], said: str) -> None:
    warning = small_batch(TrainSettings(**settings))
    assert re.match(said, warning) if said else warning == ""


def test_the_warning_stands_in_summary_and_log(copy_run: MakeRun) -> None:
    run = copy_run(train={"batch": 4, "clips": 8})
    summary = run_stage(run, AUDIO).summary
    assert summary["warning"].startswith("batch norm sees 4 clips at a time")
    assert summary["warning"] in (run.directory(AUDIO) / "train.log").read_text()


@pytest.mark.parametrize("method", methods.METHODS)
def test_all_methods_train_the_heads_of_their_table(copy_run: MakeRun, method: str) -> None:
    run = copy_run(method=method)
    for node in (node for node in all_nodes(run.config) if node.round == 0 and node.stage != "report"):
        run_stage(run, node)
    for modality, sources in methods.heads(method).items():
        node = Node("train", modality, 0)
        lines = metrics_of(run, node)
        assert {name for name in lines[0] if name.startswith("accuracy")} == {f"accuracy_{name}" for name in sources}
        # The loss is the sum over heads, and all begin with guessing.
        guessing = sum(math.log(k) for k in targets_of(run, node).classes.values())
        assert lines[0]["loss"] == pytest.approx(guessing, abs=0.3 * len(sources))
        assert (lines[-1]["step"], lines[-1]["steps"]) == (7, 8)
        files = {path.name for path in run.directory(node).iterdir()}
        assert files == {"encoder.safetensors", "metrics.jsonl", "train.log", "manifest.json"}


def test_a_training_changes_its_encoder_and_stores_nothing_of_the_heads(worked_run: Run) -> None:
    before = load_file(worked_run.directory(Node("init", "video")) / "encoder.safetensors")
    path = worked_run.directory(Node("train", "video", 0)) / "encoder.safetensors"
    after = load_file(path)
    assert before.keys() == after.keys()
    assert not any("head" in name for name in after)
    changed = [name for name in after if not torch.equal(before[name], after[name])]
    assert len(changed) == len(after)
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["encoder"] == "r2plus1d_tiny"
        assert "head" not in "".join(file.metadata().values())
    load_encoder(path, "r2plus1d_tiny")


def test_others_may_read_an_encoder_as_far_as_the_umask_lets_them(worked_run: Run) -> None:
    directory = worked_run.directory(Node("init", "video"))
    modes = {(directory / name).stat().st_mode for name in ("encoder.safetensors", "manifest.json")}
    assert len(modes) == 1


@pytest.mark.slow
def test_heads_are_drawn_anew_every_round(copy_run: MakeRun) -> None:
    run = copy_run(method="sdc", rounds=2, **LEARNS)
    for node in (node for node in all_nodes(run.config) if node.modality == "audio" and node.round in (0, 1)):
        run_stage(run, node)
    after = Node("train", "audio", 1)
    assert last_loss(run, AUDIO) < 0.85 * math.log(4)
    assert first_loss(run, after) == pytest.approx(math.log(4), abs=0.3)
    draws = [targets_of(run, Node("train", "audio", number)).draws for number in (0, 1)]
    assert not (draws[0] == draws[1]).all()


def test_a_new_head_has_the_configured_deviation_and_depends_on_the_seed(worked_run: Run) -> None:
    path = worked_run.directory(Node("init", "audio")) / "encoder.safetensors"

    def heads(seed: int, drawn_before: int = 0) -> EncoderWithHeads:
        torch.manual_seed(drawn_before)
        encoder = load_encoder(path, worked_run.config.audio.encoder)
        return EncoderWithHeads(encoder, {"video": 50, "audio": 30}, 0.05, seed)

    model = heads(3)
    assert model.heads["video"].weight.shape == (50, 64)
    assert model.heads["video"].weight.std().item() == pytest.approx(0.05, rel=0.1)
    assert model.heads["video"].weight.mean().item() == pytest.approx(0, abs=0.005)
    assert not model.heads["audio"].bias.any()
    assert torch.equal(heads(3, drawn_before=1).heads["audio"].weight, model.heads["audio"].weight)
    assert not torch.equal(heads(4).heads["audio"].weight, model.heads["audio"].weight)
    logits = model.eval()(torch.zeros(2, 1, 100, 40))
    assert {name: tuple(value.shape) for name, value in logits.items()} == {"video": (2, 50), "audio": (2, 30)}


def test_what_is_learnt_are_the_labels_of_the_other_modality(worked_run: Run) -> None:
    task = targets_of(worked_run, AUDIO)
    assert task.heads == {"video": ["video"]}
    assert task.classes == {"video": 4}
    assert (task.steps, len(task.draws)) == (8, 128)
    drawn = np.bincount(task.targets["video"][task.draws], minlength=4)
    assert np.ptp(drawn[drawn > 0]) <= 1


def test_only_splits_to_learn_from_are_learnt_from(make_run: MakeRun) -> None:
    run = make_run(learn_splits=["train"])
    for node in (node for node in all_nodes(run.config) if node.round in (None, 0) and node.stage in STAGES_BEFORE):
        run_stage(run, node)
    splits = read_whole_index(run.corpus, ["split"])["split"].to_pylist()
    assert splits.count("test") == 8
    task = targets_of(run, AUDIO)
    assert {splits[row] for row in task.draws} == {"train"}
    assert (task.targets["video"] >= 0).all()  # The others get labels all the same.


STAGES_BEFORE = ("shard", "init", "extract", "cluster", "label")


def test_splits_that_do_not_exist_are_told_of_at_once(make_run: MakeRun) -> None:
    with pytest.raises(ConfigError, match=r"nothing in the corpus has the split 'v'\. Its splits are: 'test', 'train'"):
        run_stage(make_run(learn_splits=["train", "v"]), Node("init", "video"))


def test_a_loss_that_is_not_finite_stops_and_names_the_learning_rate(copy_run: MakeRun) -> None:
    run = copy_run(lr=1e30, train_clips=640)
    with pytest.raises(StageError, match=r"step \d+: the loss is (nan|inf)\. Lower train\.lr \(now 1e\+30\)"):
        run_stage(run, AUDIO)
    assert node_state(run, AUDIO, Fingerprints(run))[0] == "partial"


# --- stopped and continued ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_training_that_was_terminated_and_killed_ends_with_the_same_bytes(copy_run: MakeRun) -> None:
    settings = {"train_clips": 1600, "checkpoint_every": 4}
    whole, broken = copy_run(**settings), copy_run(**settings)
    run_stage(whole, AUDIO)
    wanted = Fingerprints(broken).of(AUDIO)
    assert wanted is not None
    partial = partial_directory(broken.directory(AUDIO), wanted)

    process = start(broken, AUDIO)
    said = signalled_after(process, partial, 0, signal.SIGTERM)
    assert process.returncode == 1
    kept = checkpointed_step(partial)
    assert f"SIGTERM at step {kept - 1} of 100. The checkpoint of step {kept} is kept." in said
    assert len(list(partial.glob("checkpoint-*.pt"))) == 1
    assert node_state(broken, AUDIO, Fingerprints(broken)) == ("partial", "a newer one is begun; the old one is stale")

    process = start(broken, AUDIO)
    signalled_after(process, partial, kept + 8, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    # As after a kill in the middle of a line.
    (partial,) = partial_directories(broken.directory(AUDIO), wanted)
    with (partial / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99, "lo')

    steps: list[int] = []
    run_stage(broken, AUDIO, progress=lambda done, total, note="": steps.append(done))
    assert steps[0] > kept + 8
    one, other = (run.directory(AUDIO) / "encoder.safetensors" for run in (whole, broken))
    assert one.read_bytes() == other.read_bytes()
    logged = [line["step"] for line in metrics_of(broken, AUDIO)]
    assert logged == [line["step"] for line in metrics_of(whole, AUDIO)] == [*range(0, 100, 10), 99]
    for ours, theirs in zip(metrics_of(whole, AUDIO), metrics_of(broken, AUDIO), strict=True):
        assert {**ours, "clips_per_s": 0} == {**theirs, "clips_per_s": 0}
    assert not list(broken.directory(AUDIO).glob("checkpoint*"))


class Stopped(Exception):
    """Stands for whatever ends a training from outside."""


def train_with_a_break(run: Run, node: Node, after: int) -> None:
    """Train, break off once `after` steps are logged, and train on from the checkpoint."""

    def stop(done: int, total: int, note: str = "") -> None:
        if done > after:
            raise Stopped

    with pytest.raises(Stopped):
        run_stage(run, node, progress=stop)
    steps: list[int] = []
    run_stage(run, node, progress=lambda done, total, note="": steps.append(done))
    assert 1 < steps[0] <= after + 1


COMPILER = shutil.which(os.environ.get("CXX", "g++"))
SWITCHES = [
    pytest.param({}, id="none"),
    pytest.param({"train_precision": "bfloat16"}, id="bfloat16"),
    pytest.param({"train_channels_last": True}, id="channels_last"),
    pytest.param({"train_precision": "bfloat16", "train_channels_last": True}, id="both"),
    pytest.param({"clip_gradient": 0.5, "decay_on": "weights", "lr_per": 32}, id="clipped"),
    pytest.param(
        {"compile": True},
        id="compile",
        marks=[pytest.mark.slow, pytest.mark.skipif(not COMPILER, reason="there is no C++ compiler")],
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("settings", SWITCHES)
@pytest.mark.parametrize("modality", ["video", "audio"])
def test_a_switch_changes_neither_what_is_stored_nor_that_a_broken_training_goes_on(
    copy_run: MakeRun, modality: str, settings: dict[str, Any]
) -> None:
    node = Node("train", modality, 0)
    settings = settings | {"train_clips": 96, "log_every": 1, "seed": 0}
    whole, broken = copy_run(**settings), copy_run(**settings)
    run_stage(whole, node)
    train_with_a_break(broken, node, after=4)
    one, other = (run.directory(node) / "encoder.safetensors" for run in (whole, broken))
    assert one.read_bytes() == other.read_bytes()
    initial = load_file(whole.directory(Node("init", modality)) / "encoder.safetensors")
    trained = load_file(one)
    assert {name: (value.shape, value.dtype) for name, value in trained.items()} == {
        name: (value.shape, value.dtype) for name, value in initial.items()
    }
    assert all(torch.isfinite(value).all() for value in trained.values())
    assert not any(torch.equal(trained[name], initial[name]) for name in trained)
    lines = metrics_of(broken, node)
    assert [line["step"] for line in lines] == [0, 1, 2, 3, 4, 5]
    assert all(("gradient_norm" in line) == ("clip_gradient" in settings) for line in lines)


@pytest.mark.parametrize("modality", ["video", "audio"])
@pytest.mark.parametrize("settings", [param for param in SWITCHES if param.id not in ("none", "clipped")])
def test_a_switch_changes_the_losses_by_rounding_only(
    copy_run: MakeRun, modality: str, settings: dict[str, Any]
) -> None:
    node, common = Node("train", modality, 0), {"train_clips": 64, "log_every": 1, "lr": 1e-4}
    plain, switched = copy_run(**common), copy_run(**common, **settings)
    losses = []
    for run in (plain, switched):
        run_stage(run, node)
        losses.append([line["loss"] for line in metrics_of(run, node)])
    within = 0.02 if "train_precision" in settings else 1e-4
    assert losses[1] == pytest.approx(losses[0], abs=within)


@pytest.mark.slow
def test_without_a_compiler_a_training_that_is_to_be_compiled_says_so_at_once(copy_run: MakeRun) -> None:
    run = copy_run(compile=True)
    # In a process of its own: PyTorch looks for the compiler when it is imported.
    command = [sys.executable, "-m", "xdc_core", "train", str(run.root), "audio", "0"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"CXX": "/nonexistent"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert re.search(
        r"train\.compile is true, but PyTorch cannot compile for cpu here: .*/nonexistent.*\. Set it to", done.stderr
    )
    assert "Traceback" not in done.stderr
    assert node_state(run, AUDIO, Fingerprints(run))[0] == "partial"


# --- parts -------------------------------------------------------------------------------------------------------


def test_a_checkpoint_replaces_older_ones_and_holds_tensors_and_plain_values_only(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None
    for step in (5, 10):
        save_checkpoint(tmp_path, step, {"model": {"w": torch.full((2,), float(step))}})
    (only,) = tmp_path.iterdir()
    assert only.name == f"checkpoint-00000010-{sha256_of(only)[:16]}.pt"
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded["step"] == 10
    assert loaded["model"]["w"].tolist() == [10, 10]
    torch.save({"step": 1, "bad": Path("x")}, tmp_path / "checkpoint-00000011.pt")
    with pytest.raises(Exception, match="Weights only load failed"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("place", [0, 0.3, 0.6, 0.999])
def test_a_checkpoint_of_which_one_bit_changed_is_an_error_and_not_learnt_from(tmp_path: Path, place: float) -> None:
    path = save_checkpoint(tmp_path, 5, {"model": {"w": torch.arange(1000.0)}})
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 4
    path.write_bytes(data)
    with pytest.raises(StageError, match=r"checkpoint-00000005-.*pt is damaged.*Delete it and run this again"):
        load_checkpoint(tmp_path)


def test_metrics_are_whole_lines_and_are_rewound_to_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    for step in (0, 10, 20):
        append_metrics(path, {"step": step})
    with path.open("a") as file:
        file.write('{"step": 3')
    assert [line["step"] for line in read_metrics(path)] == [0, 10, 20]
    rewind_metrics(path, 15)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0, 10]
