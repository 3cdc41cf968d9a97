"""The tables of a study: its rows, sentences and sections."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.xdc_core.test_study import ends_at_2, facts_of, row, study
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run
from xdc_core.study.cells import make_cells
from xdc_core.study.results import summarise
from xdc_core.study.summary import contenders
from xdc_core.study.table import table_of
from xdc_core.study.takes_off import takes_off
from xdc_core.study.write import StudyFiles


def ends(contender: str, *values: float, number: int = 2) -> list[dict[str, Any]]:
    return [row(contender, seed, value, round=number, split="validation", draw=0) for seed, value in enumerate(values)]


def test_a_run_takes_off_if_it_is_clearly_above_untrained_encoders_and_the_control() -> None:
    rows = [*ends("xdc", 0.2, 0.3, 0.2, number=0), *ends("shuffled", 0.4, 0.5), *ends("xdc", 0.55, 0.56, 0.1)]
    found = {entry["contender"]: entry for entry in takes_off(rows, [{"video": "label"}], ["shuffled"], ends_at_2)}
    assert found["xdc"]["threshold"] == pytest.approx(0.5 + 0.1 * 0.5)
    assert (found["xdc"]["baseline"], found["xdc"]["baseline_of"]) == (0.5, "shuffled")
    assert (found["xdc"]["took"], found["xdc"]["of"]) == (1, 3)
    assert (found["shuffled"]["took"], found["shuffled"]["of"]) == (0, 2)
    # Before the control has been run, untrained encoders alone are the baseline.
    without = [entry for entry in rows if entry["contender"] == "xdc"]
    (alone,) = takes_off(without, [{"video": "label"}], ["shuffled"], ends_at_2)
    assert (alone["baseline"], alone["baseline_of"], alone["took"]) == (0.3, "scratch", 2)


def cell_entry(run: str, contender: str, **more: Any) -> dict[str, Any]:
    plain = {"run": run, "contender": contender, "variant": {}, "seconds": 90.0, "rounds": 2, "finished": True}
    return plain | {"diagnostics": [], "unreadable": None} | more


def test_the_table_tells_runs_that_take_off_their_minutes_and_what_was_not_run() -> None:
    rows = [*ends("shuffled", 0.3), *ends("xdc", 0.2, 0.2, number=0), *ends("xdc", 0.9, 0.1)]
    bad = ["bad", "audio: one cluster holds 90% of the clips."]
    cells = [
        cell_entry("xdc-seed0", "xdc"),
        cell_entry("xdc-seed1", "xdc", seconds=150.0, diagnostics=[bad, ["good", "video: all is well."]]),
        cell_entry("xdc-seed2", "xdc", rounds=1, finished=False),
        cell_entry("sdc-seed0", "sdc", rounds=None, finished=False, seconds=0.0),
    ]
    text = table_of(facts_of(rows, cells=cells, cpu_hours=1.5))
    assert "| | finished runs | take off: video | CPU minutes: mean | highest |" in text
    assert "| xdc | 2 of 3 | 1 of 2 | 2.0 | 2.5 |" in text
    assert "| sdc | 0 of 1 |  |  |  |" in text
    assert "It must be above: video 0.370 (0.300 of shuffled)." in text
    assert "2 of 4 runs are not finished. The limit of 1.5 CPU hours stopped the study." in text
    assert "- xdc-seed2: 1 of 2 rounds\n- sdc-seed0: not begun\n" in text
    assert "- xdc-seed1: audio: one cluster holds 90% of the clips." in text
    assert "all is well" not in text


def test_the_table_has_retrieval_in_both_directions_with_chance() -> None:
    numbers = {"audio_to_video.class.1": 0.37, "video_to_audio.class.1": 0.31, "chance.class.1": 0.03}
    numbers |= {"audio_to_video.pair.1": 0.033, "video_to_audio.pair.1": 0.02, "chance.pair.1": 0.0008}
    rows = [row("xdc", 0, value, metric=name, modality=None) for name, value in numbers.items()]
    lines = table_of(facts_of(rows)).splitlines()
    (head,) = [line for line in lines if "same label first" in line]
    place = [cell.strip() for cell in head.split("|")].index("same label first by audio")
    (own_line,) = [line for line in lines if line.startswith("| xdc | 0.370")]
    assert own_line.split("|")[place].strip() == "0.370"
    assert "| *chance* | 0.0300 | 0.0300 | 0.0008 | 0.0008 |" in lines


def test_every_label_has_a_table_and_every_main_contender_a_sentence() -> None:
    targets = [dict.fromkeys(("video", "audio"), factor) for factor in ("label", "position")]
    rows = [
        row(name, 0, value, factor=factor)
        for factor in ("label", "position")
        for name, value in (("safe", 0.9), ("xdc", 0.8), ("sdc", 0.85), ("supervised", 0.99))
    ]
    names = ["scratch", "supervised", "sdc", "xdc", "safe"]
    facts = facts_of(rows, digits=False, targets=targets, main=["safe", "xdc"], contenders=names)
    text = table_of(facts)
    assert "### position\n" in text
    sentences = [line.partition("test: ")[2] for line in text.splitlines() if line.startswith("Lowest run of")]
    assert sentences == ["video: 0.900 against 0.850 (sdc), apart.", "video: 0.800 against 0.850 (sdc), NOT apart."]
    assert text.count("| safe | 1 |") == 2


def test_scratch_has_the_clusters_of_untrained_encoders_but_no_training() -> None:
    rows = [row("sdc", 0, 0.3, round=0, metric=name, split="all") for name in ("ami", "loss", "nmi_previous")]
    found = {entry["metric"] for entry in summarise(rows, 2) if entry["contender"] == "scratch"}
    assert found == {"ami"}


def test_a_contender_with_one_more_training_is_measured_after_it_and_the_others_after_theirs() -> None:
    rows = [*ends("xdc", 0.8), *ends("last", 0.3), *ends("last", 0.9, number=3)]
    rows += [entry | {"split": "test"} for entry in rows]
    facts = facts_of(rows, contenders=["scratch", "xdc", "last"], last_rounds={"{}": {"xdc": 2, "last": 3}})
    assert contenders(facts, "{}") == ["xdc", "last"]
    text = table_of(facts)
    assert "| xdc | 1 | 0.800 |" in text
    assert "| last | 1 | 0.900 |" in text
    assert "One more training, from the first encoders (last_training), and measured after it: last." in text


def test_scratch_leaves_out_contenders_that_begin_with_other_encoders() -> None:
    rows = [*ends("xdc", 0.2, number=0), *ends("wide", 0.4, number=0), *ends("xdc", 0.9), *ends("wide", 0.6)]
    (scratch,) = [entry for entry in summarise(rows, 2, ["wide"]) if entry["contender"] == "scratch"]
    assert (scratch["mean"], scratch["n"]) == (0.2, 1)
    found = takes_off(rows, [{"video": "label"}], [], ends_at_2, ["wide"])
    assert {(entry["baseline"], entry["baseline_of"]) for entry in found} == {(0.4, "wide, untrained")}
    assert "scratch leaves out wide:" in table_of(facts_of(rows, other_untrained=["wide"]))


def test_a_run_that_cannot_be_read_has_a_line_instead_of_its_numbers(tmp_path: Path, worked_run: Run) -> None:
    made = study(seeds=1, contenders=["xdc", "sdc"], rounds=1)
    cells = make_cells(made, tmp_path)
    for cell in cells:
        shutil.copytree(worked_run.root / "rounds", cell.run.root / "rounds")
    damaged = cells[0].run.directory(Node("report", None, 1)) / "report.json"
    damaged.write_text(damaged.read_text()[:100])
    results = StudyFiles(tmp_path, made, cells).write(figure=False)
    assert {row["contender"] for row in results["summary"]} >= {"xdc", "sdc"}
    assert f"- {cells[0].run.root.name}: {damaged}" in (tmp_path / "table.md").read_text()
    damaged = cells[0].run.directory(Node("label", "audio", 1)) / "scores.json"
    damaged.unlink()
    results = StudyFiles(tmp_path, made, cells).write(figure=False)
    assert {row["contender"] for row in results["summary"]} == {"sdc", "scratch"}
    text = (tmp_path / "table.md").read_text()
    assert "## Not readable\n\nThe numbers of 1 runs are left out:\n\n" in text
    assert str(damaged) in text
