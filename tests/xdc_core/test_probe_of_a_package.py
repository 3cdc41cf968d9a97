"""A probe of an installed package: it always predicts the most frequent class."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from shards.errors import ConfigError
from tests.installed_package import install_package
from xdc_core.config.load import parse_config
from xdc_core.graph.run_stage import run_stage
from xdc_core.graph.stages import settings_of
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run

DECLARED = """
from xdc_core.config.protocols import Probe
MAJORITY = Probe("majority", "majority_probe", "majority", version=2)
"""
WORK = """
import numpy as np
from xdc_core.evaluation.predictions import predict_recordings

def majority(train, test, classes, seed, held_out_share):
    counts = np.bincount(train.labels, minlength=classes).astype(np.float32)
    return predict_recordings(test, np.tile(counts, (len(test), 1)), {"class": int(counts.argmax())}, ())
"""


def test_it_is_a_protocol_of_evaluations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copy_run: Callable[..., Run]
) -> None:
    modules = {"majority_declared.py": DECLARED, "majority_probe.py": WORK}
    points = {"xdc.probes": {"majority": "majority_declared:MAJORITY"}}
    monkeypatch.syspath_prepend(install_package(tmp_path / "site", "majority", modules, points))
    evaluation = {"protocol": "majority", "modality": "audio", "label": "label_speaker"}
    run, node = copy_run(evaluate={"most": evaluation}), Node("eval", "most", 1)
    run_stage(run, node)
    results = json.loads((run.directory(node) / "results.json").read_text())
    assert results["protocol"] == "majority"
    assert results["trials"][0]["chosen"].keys() == {"class"}
    assert 0 <= results["metrics"]["accuracy"]["mean"] < 1
    assert settings_of(run.config, node)["probe_version"] == 2
    with pytest.raises(ConfigError, match=r"the protocol 'majorty' is unknown\. Did you mean 'majority'\?"):
        parse_config({"evaluate": {"most": evaluation | {"protocol": "majorty"}}}, "a test")
