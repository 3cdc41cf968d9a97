"""A training on both nodes of a Ray cluster has the bytes of one machine, also if a node is lost in the middle."""

import os
import subprocess
from pathlib import Path

import pytest

from shards.store.commit import partial_directory
from tests.engines.ray_cluster import ADDRESS, ENVIRONMENT, OTHER, RayCluster
from tests.processes import PATIENCE_S, wait_for
from tests.runs import MakeRun
from tests.xdc_core.stage_process import checkpointed_step
from xdc_core.documents.metrics import read_metrics
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.run_stage import run_stage
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run

pytestmark = [pytest.mark.engines, pytest.mark.engines_long]
AUDIO = Node("train", "audio", 0)
SETTINGS = {"train_clips": 960, "checkpoint_every": 5, "train_processes": 2}


def partial_of(run: Run) -> Path:
    wanted = Fingerprints(run).of(AUDIO)
    assert wanted is not None
    return partial_directory(run.directory(AUDIO), wanted)


def start(ray_nodes: RayCluster, run: Run) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        ray_nodes.command("-m", "flows.cli", "stage", "train", run.root, "--modality", "audio", "--round", "0"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **ENVIRONMENT},
    )


def test_a_training_that_loses_a_node_goes_on_when_it_is_back_with_the_bytes_of_one_machine(
    ray_nodes: RayCluster, copy_run: MakeRun
) -> None:
    one = copy_run(**SETTINGS)
    run_stage(one, AUDIO)
    ray = {"executor": "ray", "executor_settings": {"address": ADDRESS}}
    two = copy_run(**SETTINGS, runs_on={"nodes": 2, "rendezvous": "127.0.0.1", **ray})

    stage = start(ray_nodes, two)
    wait_for("a checkpoint", lambda: checkpointed_step(partial_of(two)), of=stage)
    ray_nodes.kill(OTHER)
    said = stage.communicate(timeout=PATIENCE_S)[0]
    assert stage.returncode == 1, said
    assert "torchrun ended with exit code 1." in said
    kept = checkpointed_step(partial_of(two))
    assert 5 <= kept < 60

    ray_nodes.start(OTHER)
    stage = start(ray_nodes, two)
    said = stage.communicate(timeout=PATIENCE_S)[0]
    assert stage.returncode == 0, said
    encoders = [(run.directory(AUDIO) / "encoder.safetensors").read_bytes() for run in (one, two)]
    assert encoders[0] == encoders[1]
    lines = [read_metrics(run.directory(AUDIO) / "metrics.jsonl") for run in (one, two)]
    curves = [[line | {"clips_per_s": 0} for line in of_run] for of_run in lines]
    assert curves[0] == curves[1]
