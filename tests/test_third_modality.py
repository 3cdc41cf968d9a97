"""A third modality, from a package of its own: `xdc init`, `run`, `eval` and `status` know it as they know the two.

The package lies in tests/flicker_modality, as it does once it is installed: its modules, and a dist-info folder with
the entry point. Nothing in shards, xdc_core and flows is about it.
"""

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from flows.cli.running.new_run import files_by_modality
from shards.errors import ConfigError
from tests.places import ROOT
from xdc_core.config.load import load_config, parse_config
from xdc_core.config.schema import Config
from xdc_core.config.views import views_of
from xdc_core.data.features import read_features

PACKAGE = ROOT / "tests" / "flicker_modality"
THREE = ["video", "audio", "flicker"]
PAIRS = [f"{one}_to_{other}" for one in THREE for other in THREE if one != other]


def xdc(home: Path, *arguments: object, installed: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, with the package installed or not, and a Prefect of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    path = os.pathsep.join(map(str, [PACKAGE, ROOT] if installed else [ROOT]))
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *map(str, arguments)],
        env=kept | {"PYTHONPATH": path, "PREFECT_HOME": str(home)},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def done(home: Path, *arguments: object) -> str:
    """Run the command, which must succeed, and return what it printed."""
    process = xdc(home, *arguments)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the package installed for the test's own process."""
    monkeypatch.syspath_prepend(PACKAGE)


def test_nothing_in_the_packages_is_about_it() -> None:
    files = [path for name in ("shards", "xdc_core", "flows") for path in (ROOT / name).rglob("*.*") if path.is_file()]
    texts = {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in files if path.suffix != ".pyc"}
    assert len(texts) > 200
    assert [path for path, text in texts.items() if "flicker" in text.lower()] == []


@pytest.mark.slow
@pytest.mark.usefixtures("installed")
def test_two_rounds_of_three_modalities_are_run_reported_and_evaluated(
    digits: Path, tiny_config: Config, tiny_corpus: Path, tmp_path: Path
) -> None:
    root = tmp_path / "three"
    names = ",".join(THREE)
    done(tmp_path, "init", root, "--videos", digits, "--corpus", tiny_corpus, "--modalities", names, "--rounds", 2)
    text = (root / "xdc.yaml").read_text()
    assert "# clip -> flicker encoder\nflicker:\n  encoder: xdc_flicker.encoder:flicker_tiny" in text
    assert "  gain: 8.0  # what differences of grey in [0, 1] are multiplied by" in text
    assert "k: {video: 16, audio: 16, flicker: 16, joint: 16}" in text
    make_smaller(root / "xdc.yaml", tiny_config)

    done(tmp_path, "run", root)
    rows = json.loads(done(tmp_path, "status", root, "--json"))
    nodes = rows["nodes"] if isinstance(rows, dict) else rows
    assert {row["state"] for row in nodes} == {"fresh"}
    of_flicker = {row["stage"] for row in nodes if row["modality"] == "flicker"}
    assert of_flicker == {"init", "extract", "cluster", "label", "train"}

    report = json.loads((root / "rounds" / "001" / "report" / "report.json").read_text())
    assert list(report["sources"]) == THREE
    assert list(report["training"]) == THREE
    heads = {name for name in report["training"]["flicker"]["curve"][0] if name.startswith("accuracy_")}
    assert heads == {"accuracy_video", "accuracy_audio"}
    assert {row["source"] for row in report["history"]} == set(THREE)
    page = (root / "rounds" / "002" / "report" / "report.html").read_text()
    assert "flicker clusters" in page
    assert "#cc79a7" in page.lower()

    results = json.loads((root / "rounds" / "002" / "evaluations" / "pairs" / "results.json").read_text())
    assert {name.removesuffix(".pair.10") for name in results["metrics"] if name.endswith("pair.10")} == {
        *PAIRS,
        "chance",
    }
    assert set(results["trials"][0]["chosen"]) == {"video-audio", "video-flicker", "audio-flicker"}
    (probe,) = json.loads(done(tmp_path, "eval", root, "--protocol", "fc", "--modality", "flicker", "--json"))
    assert probe["encoder"] == "xdc_flicker.encoder:flicker_tiny"
    assert probe["metrics"]["accuracy"]["mean"] == pytest.approx(accuracy_of(root, probe["evaluation"]))

    _, features = read_features(root / "rounds" / "002" / "features" / "flicker" / "data" / "000000.parquet")
    assert features.shape == (16, 32)
    assert len(set(map(tuple, features.round(4).tolist()))) > 1
    without_the_package(tmp_path, root)


def accuracy_of(root: Path, evaluation: str) -> float:
    """Return the share of test recordings whose predicted class is their label, from the stored predictions."""
    (file,) = (root / "rounds" / "002" / "evaluations" / evaluation / "predictions").glob("test-*.parquet")
    predicted = pq.read_table(file)
    assert len(predicted) == 8
    right = zip(predicted["predicted"].to_pylist(), predicted["label"].to_pylist(), strict=True)
    return float(np.mean([ours == label for ours, label in right]))


def make_smaller(file: Path, tiny: Config) -> None:
    """Set a run's configuration to what the tests' small runs have."""
    values = yaml.safe_load(file.read_text())
    changes: dict[str, dict[str, Any]] = {
        "corpus": {"clips_per_shard": tiny.corpus.clips_per_shard},
        "extract": {"batch": 16, "calibration_batches": 1},
        "cluster": {"k": dict.fromkeys([*THREE, "joint"], 4)},
        "train": {"clips": 32, "batch": 16},
        "runs_on": {"device": "cpu", "threads": 1},
        "report": {"examples": 1, "track": []},
        "evaluate": {"pairs": {"protocol": "retrieval", "when": "end"}},
    }
    for name, section in changes.items():
        values[name] = values[name] | section
    file.write_text(yaml.safe_dump(values))


def without_the_package(home: Path, root: Path) -> None:
    """Check that the run is refused, with the reason, where the package is not installed."""
    refused = xdc(home, "status", root, installed=False)
    assert refused.returncode == 2
    assert "modalities.2: the modality 'flicker' is unknown. There are: video, audio." in refused.stderr


@pytest.mark.usefixtures("installed")
def test_its_section_is_checked_as_those_of_the_others_are(tmp_path: Path) -> None:
    file = tmp_path / "xdc.yaml"
    for section, words in (
        ("{sise: 24}", "flicker.sise: this key is unknown. Did you mean 'size'?"),
        ("{size: 2}", "flicker.size: 2 is not allowed. Input should be greater than or equal to 8."),
        ("{encoder: r2plus1d_tiny}", "flicker.encoder: "),
    ):
        k = "{flicker: 4, video: 4, audio: 4}"
        file.write_text(f"modalities: [video, audio, flicker]\ncluster: {{k: {k}}}\nflicker: {section}\n")
        with pytest.raises(ConfigError, match=re.escape(words)):
            load_config(file)


@pytest.mark.usefixtures("installed")
def test_a_section_of_a_modality_that_is_not_learnt_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "xdc.yaml").write_text("flicker: {size: 24}\n")
    with pytest.raises(ConfigError, match=r"flicker: .* the run does not learn: add flicker to modalities"):
        load_config(tmp_path / "xdc.yaml")


@pytest.mark.usefixtures("installed")
def test_weights_are_given_to_a_modality_by_its_name() -> None:
    found = files_by_modality(["a.pth", "flicker=b.pth", "audio=c=d.pth"])
    assert found == {"video": Path("a.pth"), "flicker": Path("b.pth"), "audio": Path("c=d.pth")}
    assert files_by_modality(["lr=3.pth"]) == {"video": Path("lr=3.pth")}


@pytest.mark.usefixtures("installed")
def test_a_configuration_with_it_goes_to_another_process_as_it_is() -> None:
    k = {"video": 4, "audio": 4, "flicker": 4}
    config = parse_config({"modalities": THREE, "cluster": {"k": k}, "flicker": {"size": 32}}, "a test")
    assert pickle.loads(pickle.dumps(config)) == config
    assert parse_config(json.loads(config.model_dump_json()), "a test") == config
    assert views_of(config, "flicker").hashed(training=True) == {
        "encoder": "xdc_flicker.encoder:flicker_tiny",
        "size": 32,
        "gain": 8.0,
        "video_frames": 8,
    }
