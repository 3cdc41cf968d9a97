"""Training in several processes: torchrun, gloo, and what each of them sees and does."""

import math
import os
import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from shards.corpus.index import read_index, shard_names
from shards.errors import ConfigError, StageError
from shards.store.commit import partial_directory
from tests.places import ROOT
from tests.processes import alive, children_of, wait_for
from tests.runs import MakeRun
from tests.xdc_core.stage_process import checkpointed_step, start, wait_for_checkpoint
from tests.xdc_core.tasks import targets_of
from xdc_core.compute.seed import derive_seed
from xdc_core.documents.metrics import read_metrics
from xdc_core.encoders.file import load_encoder
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.run_stage import run_stage
from xdc_core.graph.state import node_state
from xdc_core.ranks.agent import AGENT
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run

AUDIO = Node("train", "audio", 0)
BATCH, STEPS = 16, 12
# Python imports this at its start: every rank then notes which clip it looks at, and with which seed.
NOTE_CLIPS = """
import os

if "RANK" in os.environ:
    from xdc_core.data.clips import ClipViews

    look = ClipViews.__getitem__

    def noted(self, item):
        with open(os.path.join(os.environ["NOTES"], os.environ["RANK"]), "a") as file:
            file.write(f"{item.row} {item.seed}\\n")
        return look(self, item)

    ClipViews.__getitem__ = noted
"""


def metrics_of(run: Run, node: Node) -> list[dict[str, float]]:
    return read_metrics(run.directory(node) / "metrics.jsonl")


def curve(run: Run, node: Node, name: str = "loss") -> np.ndarray:
    return np.array([line[name] for line in metrics_of(run, node)])


def test_a_rank_whose_agent_died_before_it_came_so_far_leaves_at_once(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    command = [sys.executable, "-m", "xdc_core.ranks.process", "job.json"]
    environment = os.environ | {AGENT: str(gone.pid)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    # Else it would say that there is no task.
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


@pytest.mark.slow
@pytest.mark.parametrize(("modality", "other"), [("video", "audio"), ("audio", "video")])
def test_two_processes_learn_what_one_learns_step_by_step(
    copy_of: MakeRun, uneven_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, modality: str, other: str
) -> None:
    node = Node("train", modality, 0)
    how = {"clips": STEPS * BATCH, "optimizer": "sgd", "lr": 3e-4, "schedule": "constant", "uniform": False}
    how |= {"log_every": 1, "sync_batch_norm": True}
    one, two = (copy_of(uneven_run, train=how | {"processes": processes}) for processes in (1, 2))
    sizes = [len(read_index(two.corpus, shard, ["key"])) for shard in shard_names(two.corpus)]
    assert sorted(sizes) == [8, 20, 20]
    run_stage(one, node)
    (tmp_path / "sitecustomize.py").write_text(NOTE_CLIPS)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    (tmp_path / "notes").mkdir()
    assert run_stage(two, node).rows == STEPS * BATCH

    np.testing.assert_allclose(curve(two, node), curve(one, node), rtol=0, atol=1e-4)
    hits = f"accuracy_{other}"
    np.testing.assert_allclose(curve(two, node, hits), curve(one, node, hits), rtol=0, atol=1e-3)
    assert len(curve(one, node)) == STEPS
    encoders = [load_file(run.directory(node) / "encoder.safetensors") for run in (one, two)]
    assert encoders[0].keys() == encoders[1].keys()
    for name, value in encoders[0].items():
        torch.testing.assert_close(encoders[1][name], value, rtol=1e-3, atol=1e-3, msg=name)

    # Who saw what. A view's seed tells the position of its draw.
    seed = derive_seed(two.config.seed, 0, "train", modality)
    position = {derive_seed(seed, n): n for n in range(STEPS * BATCH)}
    seen = {rank: [line.split() for line in (tmp_path / "notes" / rank).read_text().splitlines()] for rank in "01"}
    assert {len(items) for items in seen.values()} == {STEPS * BATCH // 2}
    draws = targets_of(two, node).draws
    clips: dict[int, list[int]] = defaultdict(list)
    positions = []
    for items in seen.values():
        for count, (clip, view_seed) in enumerate(items):
            n = position[int(view_seed)]
            positions.append(n)
            assert n // BATCH == count // (BATCH // 2), "a rank is at another step"
            assert int(clip) == draws[n]
            clips[n // BATCH].append(int(clip))
    assert sorted(positions) == list(range(STEPS * BATCH))
    # 48 clips in batches of 16, each once before any twice: no clip is in a step twice, and each is seen 4 times.
    assert all(len(set(step)) == BATCH for step in clips.values())
    assert set(np.bincount([clip for step in clips.values() for clip in step])) == {4}


@pytest.mark.slow
def test_two_processes_share_every_batch(copy_run: MakeRun) -> None:
    run = copy_run(train_processes=2)
    (run.root / "xdc.yaml").write_text("edited: since the stage began\n")  # The processes do not read it again.
    told: list[int] = []
    record = run_stage(run, AUDIO, progress=lambda done, total, note="": told.append(done))
    assert record.summary["steps"] == 8
    assert record.rows == 128
    assert told == [1, 8]
    assert [line["step"] for line in metrics_of(run, AUDIO)] == [0, 7]
    assert curve(run, AUDIO)[0] == pytest.approx(math.log(4), abs=0.3)
    path = run.directory(AUDIO) / "encoder.safetensors"
    trained = load_encoder(path, run.config.audio.encoder).state_dict()
    initial = load_file(run.directory(Node("init", "audio")) / "encoder.safetensors")
    assert all(torch.isfinite(value).all() for value in trained.values())
    assert sum(not torch.equal(trained[name], initial[name]) for name in trained) == len(trained)
    # Each process normalises its own half of a batch: not what one process does, and not what was asked for here.
    alone = copy_run()
    run_stage(alone, AUDIO)
    assert np.abs(np.array(curve(run, AUDIO)) - curve(alone, AUDIO)).max() > 1e-3


def test_a_batch_that_cannot_be_shared_out_is_refused(copy_run: MakeRun) -> None:
    run = copy_run(train_processes=3)
    with pytest.raises(ConfigError, match=r"train\.batch \(16\) is not a multiple of train\.processes \(3\)"):
        run_stage(run, AUDIO)


@pytest.mark.slow
def test_what_ends_the_processes_is_told_in_the_same_words_as_with_one(copy_run: MakeRun) -> None:
    run = copy_run(train_processes=2, lr=1e30, train_clips=640)
    with pytest.raises(StageError, match=r"^step \d+: the loss is (nan|inf)\. Lower train\.lr \(now 1e\+30\)\.$"):
        run_stage(run, AUDIO)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the ranks through /proc")
def test_two_processes_that_were_terminated_and_killed_end_with_the_same_bytes(copy_run: MakeRun) -> None:
    settings = {"train_clips": 960, "checkpoint_every": 10, "train_processes": 2}
    whole, broken = copy_run(**settings), copy_run(**settings)
    run_stage(whole, AUDIO)
    wanted = Fingerprints(broken).of(AUDIO)
    assert wanted is not None
    partial = partial_directory(broken.directory(AUDIO), wanted)

    process = start(broken, AUDIO)
    wait_for_checkpoint(process, partial, 0)
    os.killpg(process.pid, signal.SIGTERM)  # As systemd and batch systems do.
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    kept = checkpointed_step(partial)
    assert said.startswith(f"SIGTERM at step {kept - 1} of 60. The checkpoint of step {kept} is kept.")
    assert len(list(partial.glob("checkpoint-*.pt"))) == 1
    assert node_state(broken, AUDIO, Fingerprints(broken))[0] == "partial"

    process = start(broken, AUDIO)
    wait_for_checkpoint(process, partial, kept)
    (agent,) = children_of(process.pid)
    ranks = children_of(agent)
    assert len(ranks) == 2
    process.kill()
    process.communicate(timeout=60)
    wait_for("the ranks to end", lambda: not any(alive(rank) for rank in ranks))
    # Nobody wrote a last checkpoint into a directory that is no longer locked.
    assert checkpointed_step(partial) % 10 == 0

    run_stage(broken, AUDIO)
    one, other = (run.directory(AUDIO) / "encoder.safetensors" for run in (whole, broken))
    assert one.read_bytes() == other.read_bytes()
    for ours, theirs in zip(metrics_of(whole, AUDIO), metrics_of(broken, AUDIO), strict=True):
        assert {**ours, "clips_per_s": 0} == {**theirs, "clips_per_s": 0}
