"""What version 0.1.0 made stays fresh: a run that is kept as files, and the fingerprints of every preset and method.

Both were made with the code of commit 87cac8e. The run is XDC with two rounds of training and a last one without, over
`shards/corpus-of-0.1.0.tar.gz`, with given weights that compress well, and evaluations on a data set of tones.
"""

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli.app import app
from xdc_core.config.load import parse_config
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.stages import all_nodes
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run, open_run

HERE = Path(__file__).parent
PINNED = json.loads((HERE / "fingerprints-of-0.1.0.json").read_text(encoding="utf-8"))


@pytest.fixture
def old(tmp_path: Path) -> Run:
    """The run; beside it its corpus, videos and weights, and the data set with its stored clips."""
    for name in ("shards/corpus-of-0.1.0.tar.gz", "run-of-0.1.0.tar.xz"):
        with tarfile.open(HERE / name) as archive:
            archive.extractall(tmp_path, filter="data")
    run = open_run(tmp_path / "run")
    (tmp_path / "stored").rename(run.directory(Node("data", "tones")))  # Its name depends on where the data set lies.
    return run


def said(*words: object) -> tuple[int, str]:
    """Exit code and output of a command."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, result.output


def test_every_node_of_a_run_is_fresh(old: Run) -> None:
    code, output = said("status", old.root, "--json", "--check")
    rows = json.loads(output)
    assert {row["state"] for row in rows} == {"fresh"}, output
    assert len(rows) == len(list(all_nodes(old.config))) == 32
    assert code == 0


def test_a_changed_setting_makes_stale_what_depends_on_it_and_says_so(old: Run) -> None:
    settings = old.root / "xdc.yaml"
    text = settings.read_text(encoding="utf-8")
    settings.write_text(text.replace("lr: 1.0e-12", "lr: 1.0e-11"), encoding="utf-8")
    assert text != settings.read_text(encoding="utf-8")
    code, output = said("status", old.root, "--check")
    assert code == 3
    assert "rounds/000/train/video is stale: lr: 1e-12 -> 1e-11" in output
    assert "rounds/001/features/audio is stale: train.audio of round 0 changed" in output


def test_every_file_of_a_run_is_what_its_manifest_says(old: Run) -> None:
    code, output = said("verify", old.root)
    (damaged,) = (line for line in output.splitlines() if "damaged:" in line)
    assert "corpus: speech.avi: parts of its sound (amrnb) were stored as silence" in damaged  # So did version 0.1.0.
    assert code == 1


@pytest.mark.parametrize("case", PINNED, ids=[f"{case['preset']} {case['values']['method']}" for case in PINNED])
def test_the_fingerprints_of_a_configuration_are_what_they_were(case: dict[str, Any], tmp_path: Path) -> None:
    run = Run(tmp_path, parse_config(case["values"], "as of 0.1.0"))
    now = Fingerprints(run, corpus="0" * 64)
    assert {str(node): str(now.of(node))[:16] for node in all_nodes(run.config)} == case["fingerprints"]
