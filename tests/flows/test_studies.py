"""`xdc compare` from the command line."""

import csv
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.cli.app import app
from flows.cli.running.compare import Budget, CellListener, run_study
from flows.cli.running.study import parse_contenders, parse_overrides, parse_seeds, study_of
from flows.terminal import TerminalListener
from shards.errors import ConfigError
from shards.store.build import Record
from tests.xdc_core.test_study import begin, study
from xdc_core.runs.node import Node
from xdc_core.study.cells import plan_cells
from xdc_core.study.settings import load_study, save_study
from xdc_core.study.write import StudyFiles


@pytest.mark.slow
def test_a_small_study_from_the_command_line(tmp_path: Path) -> None:
    root = tmp_path / "study"
    options = ["--contenders", "xdc,supervised", "--seeds", "1", "--rounds", "1", "--change", "train.clips=64"]
    options += ["--change", "extract.calibration_batches=2"]
    root.mkdir()
    (root / "study.yaml").write_text("validation_clips: 20\ntest_clips: 20\nclips: 60\n")
    result = CliRunner().invoke(app, ["compare", str(root), *options])
    assert result.exit_code == 0, result.output
    assert "| scratch | 1 |" in result.output
    assert "| supervised | 1 |" in result.output
    assert {path.name for path in root.iterdir()} == {
        *("study.yaml", "study.json", "table.md", "figure.svg", "results.parquet", "digits", "corpora", "runs")
    }
    before = (root / "results.parquet").read_bytes()
    assert CliRunner().invoke(app, ["compare", str(root)]).exit_code == 0
    assert (root / "results.parquet").read_bytes() == before


def words(digits: Path, path: Path) -> Path:
    """A manifest of the shared digits to probe on, in three parts: whether the digit is below 5."""
    with digits.open() as file:
        rows = list(csv.DictReader(file))
    lines = ["path,split,label"]
    for number, row in enumerate(rows):
        split = ("train", "train", "validation", "test")[number % 4]
        lines.append(f"{digits.parent / row['path']},{split},{row['label'] < '5'}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.slow
def test_a_study_on_an_own_corpus_with_a_contender_of_ones_own(tmp_path: Path, digits: Path, tiny_corpus: Path) -> None:
    root, probe_on = tmp_path / "study", words(digits, tmp_path / "words.csv")
    options = f"--corpus {tiny_corpus} --probe-on {probe_on} --learn all --rounds 1 --seeds slow=1,default=1".split()
    options += ["--contenders", "shuffled", "--contender", "slow=train.lr=0.001,cluster.k={video: 3, audio: 4}"]
    options += ["--change", "train.clips=32", "--change", "cluster.k=4", "--change", "extract.calibration_batches=1"]
    asked = ["compare", str(root), *options]
    result = CliRunner().invoke(app, [*asked, "--cpu-hours", "0"])
    assert result.exit_code == 0, result.output
    assert "2 of 2 runs are not finished. The limit of 0 CPU hours stopped the study." in result.output
    assert "- slow-seed0: not begun" in (root / "table.md").read_text()
    assert not list(root.glob("runs/*/rounds"))
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    for name in ("scratch", "shuffled", "slow"):
        assert f"\n| {name} | 1 |" in result.output
    assert "| slow | 1 of 1 | " in result.output
    assert "not finished" not in result.output
    table = pq.read_table(root / "results.parquet").to_pylist()
    measured = {(row["metric"], row["split"], row["round"]) for row in table if row["contender"] == "slow"}
    for metric in ("probe", "knn", "ami"):
        assert {(metric, split, number) for split in ("validation", "test") for number in (0, 1)} <= measured
    before = (root / "results.parquet").read_bytes()
    assert CliRunner().invoke(app, [*asked, "--cpu-hours", "1"]).exit_code == 0
    assert (root / "results.parquet").read_bytes() == before


@pytest.mark.slow
def test_the_files_of_a_study_are_there_after_every_round(
    tmp_path: Path, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"train.clips": 32, "cluster.k": 4, "extract.calibration_batches": 1}
    choices = {"corpus": tiny_corpus, "validation": None, "contenders": ("xdc",), "seeds": 1, "rounds": 2}
    made = study_of(tmp_path, choices | {"change": changes, "labels": ("label_speaker",)})
    # After the first round: as much as the study may take.
    spent = Budget.add

    def add(budget: Budget, record: Any) -> None:
        spent(budget, record)
        budget.hours = 0.0 if record.stage == "report" else None

    with monkeypatch.context() as patched:
        patched.setattr(Budget, "add", add)
        results = run_study(tmp_path, made, max_parallel=1)
    assert [(cell["rounds"], cell["finished"]) for cell in results["cells"]] == [(0, False)]
    assert "- xdc-seed0: 0 of 2 rounds" in (tmp_path / "table.md").read_text()
    rows = pq.read_table(tmp_path / "results.parquet").to_pylist()
    assert {row["round"] for row in rows} == {0}
    assert {"knn", "probe", "loss"} <= {row["metric"] for row in rows}
    run_study(tmp_path, load_study(tmp_path))
    text = (tmp_path / "table.md").read_text()
    assert "its pair first by audio" in text
    assert "Not run" not in text
    rows = pq.read_table(tmp_path / "results.parquet").to_pylist()
    assert {row["round"] for row in rows if row["metric"] == "video_to_audio.pair.1"} == {0, 2}
    assert {row["round"] for row in rows if row["metric"] == "knn"} == {0, 1, 2}


def test_a_study_that_lacks_a_split_stops_before_any_work(tmp_path: Path, tiny_corpus: Path) -> None:
    result = CliRunner().invoke(app, ["compare", str(tmp_path / "study"), "--corpus", str(tiny_corpus)])
    assert result.exit_code == 2
    assert "has no clip of the split validation. Its splits are: 'test', 'train'." in result.output
    assert not (tmp_path / "study").exists()


def test_paths_of_a_study_are_relative_to_it_and_more_choices_may_be_given_again(tmp_path: Path) -> None:
    choices: dict[str, Any] = {"videos": tmp_path / "clips.csv", "labels": ("label", "label_x"), "seeds": 2}
    made = study_of(tmp_path / "study", choices)
    save_study(tmp_path / "study", made)
    assert load_study(tmp_path / "study").videos == "../clips.csv"
    assert study_of(tmp_path / "study", {"labels": ("label", "label_x")}) == made
    begin(plan_cells(made, tmp_path / "study")[0])
    assert study_of(tmp_path / "study", choices) == made
    with pytest.raises(ConfigError, match="with another labels"):
        study_of(tmp_path / "study", choices | {"labels": ("label",)})


def test_a_study_whose_files_cannot_be_written_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = study(seeds=1, contenders=("xdc",))
    (cell,) = plan_cells(made, tmp_path)
    lines: list[str] = []
    terminal = TerminalListener()
    monkeypatch.setattr(terminal, "line", lines.append)
    files = StudyFiles(tmp_path / "missing" / "file", made, [cell])
    (tmp_path / "missing").write_text("a file, not a folder")
    record = Record("report", None, 1, str(tmp_path), "0", False, 1, 0, 1.0, {})
    CellListener(cell, terminal, files, Budget(0.0, None)).finished(Node("report", None, 1), record)
    assert "files are written later" in lines[-1]


def test_options_become_settings() -> None:
    assert parse_contenders(["a=train.lr=0.1,cluster.k={video: 3, audio: 4},method=cdc", "b=method=sdc"]) == {
        "a": {"train.lr": 0.1, "cluster.k": {"video": 3, "audio": 4}, "method": "cdc"},
        "b": {"method": "sdc"},
    }
    assert parse_overrides(["cluster.k=8,[8, 16]"], several=True) == {"cluster.k": (8, [8, 16])}
    assert parse_seeds("4") == 4
    assert parse_seeds("xdc=5,default=3") == {"xdc": 5, "default": 3}
    for wrong in ("x", "-1"):
        with pytest.raises(ConfigError, match="a number was expected"):
            parse_seeds(wrong)
    with pytest.raises(ConfigError, match="NAME=SETTING=VALUE"):
        parse_contenders(["slow=train.lr"])
    with pytest.raises(ConfigError, match="not valid YAML"):
        parse_overrides(["a=[1"])
