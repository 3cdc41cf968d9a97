"""The init stage with weights of a file: they are taken as they are, and what was taken is recorded."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from shards.corpus.index import shard_names
from shards.errors import ConfigError, StageError
from shards.store.files import part_path, sha256_of
from tests.runs import MakeRun
from xdc_core.data.features import read_features
from xdc_core.encoders import import_weights
from xdc_core.encoders.import_weights import load_weights
from xdc_core.graph.run_stage import run_stage
from xdc_core.graph.stages import inputs
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run

BOTH = pytest.mark.parametrize("modality", ["video", "audio"])


def trained(run: Run, modality: str) -> Path:
    """The encoder that a run has trained in round 0, and of which round 1 extracts."""
    return run.directory(Node("train", modality, 0)) / "encoder.safetensors"


def features(run: Run, modality: str, number: int) -> np.ndarray:
    directory = run.directory(Node("extract", modality, number))
    return np.concatenate([read_features(part_path(directory, shard))[1] for shard in shard_names(run.corpus)])


@BOTH
def test_a_run_begins_with_what_another_has_learnt(worked_run: Run, make_run: MakeRun, modality: str) -> None:
    source = trained(worked_run, modality)
    run = make_run(**{modality: {"weights": str(source)}})
    record = run_stage(run, Node("init", modality))
    assert (run.directory(Node("init", modality)) / "encoder.safetensors").read_bytes() == source.read_bytes()
    assert record.summary["weights"] == {"file": "encoder.safetensors", "sha256": sha256_of(source), "dropped": []}
    assert record.summary["calibration_batches"] == 0
    run_stage(run, Node("extract", modality, 0))
    found = features(run, modality, 0)
    np.testing.assert_array_equal(found, features(worked_run, modality, 1))
    assert not np.allclose(found, features(worked_run, modality, 0), rtol=0.01)


def test_a_state_dict_with_a_head_starts_a_run_and_the_head_is_recorded(worked_run: Run, make_run: MakeRun) -> None:
    run = make_run(video={"weights": "../given/weights.pth"})
    file = run.root.parent / "given" / "weights.pth"
    file.parent.mkdir()
    state = load_file(trained(worked_run, "video"))
    torch.save({"state_dict": state | {"fc.weight": torch.zeros(4, 64), "fc.bias": torch.zeros(4)}}, file)
    record = run_stage(run, Node("init", "video"))
    assert record.summary["weights"] == {
        "file": "weights.pth",
        "sha256": sha256_of(file),
        "dropped": ["fc.weight", "fc.bias"],
    }
    written = load_file(run.directory(Node("init", "video")) / "encoder.safetensors")
    # The statistics among them: a given encoder is not calibrated.
    assert written.keys() == state.keys()
    assert all(torch.equal(written[key], state[key]) for key in state)
    assert any(state[key].abs().sum() > 0 for key in state if key.endswith("running_mean"))


def test_random_weights_record_no_file(worked_run: Run, make_run: MakeRun) -> None:
    record = run_stage(make_run(), Node("init", "video"))
    assert record.summary == {"encoder": "r2plus1d_tiny", "calibration_batches": 2, "parameters": 86_862}


def test_given_weights_need_no_corpus(worked_run: Run, make_run: MakeRun) -> None:
    run = make_run(corpus={"path": "nowhere"}, video={"weights": str(trained(worked_run, "video"))})
    assert inputs(run.config, Node("init", "video")) == []
    assert inputs(run.config, Node("init", "audio")) == [SHARD]
    assert not run_stage(run, Node("init", "video")).reused
    assert not run.corpus.exists()


def test_what_does_not_fit_is_refused_and_leaves_nothing_committed(worked_run: Run, make_run: MakeRun) -> None:
    run = make_run(video={"weights": str(trained(worked_run, "audio"))})
    with pytest.raises(
        ConfigError, match=r"it belongs to audio\.weights, with audio\.encoder set to audio_resnet_tiny"
    ):
        run_stage(run, Node("init", "video"))
    assert not run.directory(Node("init", "video")).exists()


def test_a_file_that_changes_while_it_is_read_is_not_taken(
    worked_run: Run, make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "weights.safetensors"
    shutil.copy(trained(worked_run, "video"), file)
    run, node = make_run(video={"weights": str(file)}), Node("init", "video")

    def load_and_replace(path: Path, name: str, modality: str) -> tuple[torch.nn.Module, list[str]]:
        found = load_weights(path, name, modality)
        shutil.copy(worked_run.directory(Node("init", "video")) / "encoder.safetensors", tmp_path / "new")
        os.replace(tmp_path / "new", file)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(import_weights, "load_weights", load_and_replace)
        with pytest.raises(StageError, match=r"the file of weights changed while init\.video read it"):
            run_stage(run, node)
    assert not run.directory(node).exists()
    assert run_stage(run, node).summary["weights"]["sha256"] == sha256_of(file)
