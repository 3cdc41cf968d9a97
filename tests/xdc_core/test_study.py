"""Studies: cells are ordinary runs that differ in one thing, and their numbers are put side by side honestly."""

import json
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from shards.errors import ConfigError
from shards.store.manifest import Manifest, write_manifest
from tests.commits import commit_as_it_is
from xdc_core.config.load import EVALUATIONS_FILE, load_config, parse_section
from xdc_core.documents.results import Results, Trial, write_results
from xdc_core.runs.node import Node
from xdc_core.runs.run import open_run
from xdc_core.study.cells import Cell, make_cells
from xdc_core.study.contenders import DEFAULT
from xdc_core.study.corpora import digits_settings
from xdc_core.study.figure import draw_figure
from xdc_core.study.results import cell_rows, seconds_of, summarise
from xdc_core.study.settings import StudySettings, load_study
from xdc_core.study.summary import contenders, find
from xdc_core.study.table import table_of
from xdc_core.study.takes_off import takes_off


def study(**values: Any) -> StudySettings:
    return parse_section(StudySettings, values, "a test's study")


def begin(cell: Cell) -> None:
    """Finish the first stage of a cell, as far as a study can see."""
    folder = cell.run.directory(Node("init", "video"))
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(
        folder,
        Manifest(stage="init", modality="video", version=1, fingerprint="0", seconds=1, started="", finished=""),
    )


def test_every_contender_meets_every_seed_and_every_value(tmp_path: Path) -> None:
    cells = make_cells(study(seeds=3, draws=2, vary={"digits.nuisance": (0.0, 0.4)}), tmp_path)
    assert len(cells) == len({cell.run.root for cell in cells}) == len(DEFAULT) * 3 * 2
    assert {(cell.seed, cell.draw) for cell in cells} == {(0, 0), (1, 1), (2, 0)}
    # The first seed comes first: a study that is stopped has some of everything.
    assert {cell.seed for cell in cells[: len(DEFAULT) * 2]} == {0}
    for cell in cells:
        assert cell.digits is not None
        assert cell.digits.nuisance == cell.variant["digits.nuisance"]
        assert cell.digits.seed == cell.draw


def test_cells_differ_in_the_method_and_in_nothing_else(tmp_path: Path) -> None:
    cells = make_cells(study(seeds=1), tmp_path)
    configs = {cell.contender: cell.run.config.model_dump() for cell in cells}
    reference = configs["xdc"]
    for contender, config in configs.items():
        differing = {name for name in config if config[name] != reference[name]}
        allowed = {"shuffled": {"train"}, "cdc-canonical": {"method", "cluster"}}.get(contender, {"method"})
        assert differing <= allowed, contender
    assert configs["shuffled"]["train"] == reference["train"] | {"shuffle_labels": True}
    assert {config["method"] for config in configs.values()} == {"supervised", "sdc", "mdc", "cdc", "xdc"}
    assert reference["corpus"]["learn_splits"] == ["train"]


def test_cells_are_ordinary_runs_on_a_corpus_that_they_share(tmp_path: Path) -> None:
    first, *rest = make_cells(study(seeds=2, draws=1, contenders=["xdc", "sdc"]), tmp_path)
    assert open_run(first.run.root).config == first.run.config == load_config(first.run.root / "xdc.yaml")
    assert {cell.run.corpus for cell in rest} == {first.run.corpus}
    assert first.videos is not None
    assert first.run.videos == (first.videos / "manifest.csv").resolve()
    assert {name: entry.test for name, entry in first.run.config.evaluate.items()} == {
        "probe-video": ("validation", "test"),
        "probe-audio": ("validation", "test"),
    }


def test_one_number_for_k_is_meant_for_all_label_sources(tmp_path: Path) -> None:
    cells = make_cells(study(seeds=1, contenders=["cdc"], vary={"cluster.k": (8, 32)}), tmp_path)
    assert [cell.run.config.cluster.k for cell in cells] == [{"video": k, "audio": k, "joint": k} for k in (8, 32)]
    assert [cell.run.root.name for cell in cells] == ["cdc-k8-draw0-seed0", "cdc-k32-draw0-seed0"]


def test_an_evaluation_that_was_asked_for_leaves_a_cell_what_it_is(tmp_path: Path) -> None:
    (first, *_) = make_cells(study(seeds=1), tmp_path)
    (first.run.root / EVALUATIONS_FILE).write_text("evaluate: {more: {protocol: knn, modality: audio}}\n")
    assert "more" in open_run(first.run.root).config.evaluate
    assert make_cells(study(seeds=1), tmp_path)[0].run.config == first.run.config


def test_a_study_that_was_changed_does_not_take_old_runs_for_its_own(tmp_path: Path) -> None:
    make_cells(study(seeds=1), tmp_path)
    (first, *_) = make_cells(study(seeds=1, rounds=7), tmp_path)  # No stage is finished yet.
    assert load_config(first.run.root / "xdc.yaml").rounds == 7
    begin(first)
    make_cells(study(seeds=1, rounds=7), tmp_path)
    with pytest.raises(ConfigError, match="differs from the study's settings, in rounds"):
        make_cells(study(seeds=1, rounds=3), tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"contenders": ["xdc", "xdd"]}, "contenders: xdd is unknown. There are: supervised, sdc"),
        ({"seedz": 3}, "Did you mean 'seeds'"),
        ({"vary": {"a": [1], "b": [2]}}, "vary"),
        ({"vary": {"cluster.k": []}}, "vary: no values"),
        ({"vary": {"digits.mismatched": [0.5]}}, "supervised learns the digit that is shown"),
    ],
)
def test_a_wrong_study_is_refused_with_what_is_allowed(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        study(**values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train.lrr": 1}, "train.lrr"),
        ({"digits.nuisence": 1}, "wrong settings"),
        ({"digits.nuisance": 7}, "7"),
    ],
)
def test_a_setting_that_runs_or_digits_do_not_have_is_named(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_cells(study(change=change), tmp_path)


def test_the_digits_of_a_draw_have_their_own_seed_and_held_out_clips(tmp_path: Path) -> None:
    settings = digits_settings(study(clips=90, change={"digits.clips": 70}), tmp_path, {"digits.mismatched": 0.5}, 3)
    assert (settings.clips, settings.validation_clips, settings.test_clips) == (70, 500, 500)
    assert (settings.seed, settings.mismatched, settings.speech) == (3, 0.5, None)


def row(contender: str, seed: int, value: float | None, **more: Any) -> dict[str, Any]:
    plain = {"variant": "{}", "draw": seed % 2, "round": 2, "modality": "video", "split": "test"}
    return plain | {"contender": contender, "seed": seed, "metric": "probe", "factor": "label", "value": value} | more


def test_means_and_spreads_are_over_seeds_and_leave_out_what_was_not_measured() -> None:
    rows = [row("xdc", 0, 0.8), row("xdc", 1, 0.9), row("xdc", 2, None), row("sdc", 0, 0.2)]
    found = {entry["contender"]: entry for entry in summarise(rows, 2)}
    assert found["xdc"]["mean"] == pytest.approx(0.85)
    assert found["xdc"]["sd"] == pytest.approx(0.0707, abs=1e-4)
    assert (found["xdc"]["n"], found["xdc"]["min"], found["xdc"]["max"]) == (2, 0.8, 0.9)
    assert (found["sdc"]["n"], found["sdc"]["sd"]) == (1, None)


def test_scratch_is_round_0_and_counts_each_seed_once_whoever_ran_it() -> None:
    rows = [row(name, seed, 0.2 + seed / 10, round=0) for name in ("xdc", "sdc") for seed in (0, 1)]
    (scratch,) = [entry for entry in summarise(rows, 2) if entry["contender"] == "scratch"]
    assert (scratch["n"], scratch["round"]) == (2, 2)
    assert scratch["mean"] == pytest.approx(0.25)


TARGETS = [{"video": "label", "audio": "spoken"}]


def facts_of(rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    plain = {"study": "s", "rounds": 2, "summary": summarise(rows, 2), "digits": True, "probe_on": None}
    plain |= {"validation": True, "modalities": ["video", "audio"], "targets": TARGETS, "main": ["xdc"]}
    plain |= {"contenders": ["scratch", "supervised", "sdc", "xdc", "shuffled"], "labelled": ["supervised"]}
    plain |= {"takes_off": takes_off(rows, TARGETS, ["shuffled"], ends_at_2), "cells": [], "cpu_hours": None}
    plain |= {"left_out": [], "last_rounds": {}, "other_untrained": []}
    return plain | more


def ends_at_2(row: dict[str, Any]) -> bool:
    return bool(row["round"] == 2)


def study_rows(variant: str = "{}", shift: float = 0.0) -> list[dict[str, Any]]:
    return [
        row(name, seed, base + shift + number / 100, variant=variant, round=number, modality=modality, factor=factor)
        for name, base in (("xdc", 0.5), ("shuffled", 0.3))
        for seed in (0, 1)
        for number in (0, 1, 2)
        for modality, factor in (("video", "label"), ("audio", "spoken"))
    ]


def test_the_table_has_a_row_a_contender_in_the_order_of_the_paper_and_the_last_round_only() -> None:
    rows = [*study_rows(), row("xdc", 0, 0.41, metric="ami", split="all", factor="background")]
    facts = facts_of(rows)
    assert contenders(facts, "{}") == ["scratch", "xdc", "shuffled"]
    lines = table_of(facts).splitlines()
    (xdc,) = [line for line in lines if line.startswith("| xdc | 2")]
    assert "0.520 ± 0.000 | 0.520 ± 0.000" in xdc
    (scratch,) = [line for line in lines if line.startswith("| scratch")]
    assert "0.500" in scratch or "0.300" in scratch
    assert "| xdc | 0.41 /  |" in lines


def test_the_table_says_whether_the_worst_run_of_xdc_is_better_than_the_best_of_all_others() -> None:
    def verdict(lowest: float) -> str:
        own = [row("xdc", 0, 0.9), row("xdc", 1, lowest), row("supervised", 0, 0.99)]
        others = [row("shuffled", 0, 0.40), row("shuffled", 1, 0.2), row("sdc", 0, 0.3)]
        (line,) = [line for line in table_of(facts_of([*own, *others])).splitlines() if line.startswith("Lowest")]
        return line.partition("test: ")[2]

    assert verdict(0.41) == "video: 0.410 against 0.400 (shuffled), apart."
    assert verdict(0.40) == "video: 0.400 against 0.400 (shuffled), NOT apart."
    assert "Lowest" not in table_of(facts_of([row("xdc", 0, 0.9)]))


def test_joint_clusters_stand_for_both_modalities() -> None:
    rows = [*study_rows(), row("xdc", 0, 0.7, metric="nmi", split="all", modality="joint")]
    rows += [row("xdc", 0, 0.6, metric="nmi", split="all", modality="joint", factor="spoken")]
    (line,) = [line for line in table_of(facts_of(rows)).splitlines() if line.startswith("| xdc | 2")]
    assert "0.700 | 0.600" in line


def test_the_figure_names_every_contender_and_is_the_same_for_the_same_numbers(tmp_path: Path) -> None:
    rows = study_rows()
    for name in ("a.svg", "b.svg"):
        draw_figure(tmp_path / name, facts_of(rows), rows)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    text = {element.text for element in ElementTree.parse(tmp_path / "a.svg").iter() if element.text}
    assert {"xdc", "shuffled", "scratch", "video encoder", "audio encoder", "rounds of training"} <= text


def test_the_figure_of_a_varied_setting_has_its_values_along_the_axis(tmp_path: Path) -> None:
    rows = [line for value in (0, 0.4) for line in study_rows(json.dumps({"digits.nuisance": value}), value)]
    draw_figure(tmp_path / "a.svg", facts_of(rows), rows)
    text = {element.text for element in ElementTree.parse(tmp_path / "a.svg").iter() if element.text}
    assert {"digits.nuisance", "0.4"} <= text


def test_a_study_without_results_still_has_a_table_and_a_figure(tmp_path: Path) -> None:
    facts = facts_of([])
    draw_figure(tmp_path / "a.svg", facts, [])
    assert table_of(facts).startswith("# s")
    assert ElementTree.parse(tmp_path / "a.svg").getroot().tag.endswith("svg")


def test_the_numbers_of_a_cell_are_those_in_its_runs_files(tmp_path: Path, worked_run: Any) -> None:
    (cell,) = make_cells(study(seeds=1, contenders=["xdc"], rounds=1), tmp_path)
    assert list(cell_rows(cell)) == []
    assert seconds_of(cell) == 0
    shutil.copytree(worked_run.root / "rounds", cell.run.root / "rounds")
    rows = list(cell_rows(cell))
    scores = json.loads((worked_run.root / "rounds" / "001" / "labels" / "video" / "scores.json").read_text())
    (found,) = [
        entry
        for entry in rows
        if (entry["round"], entry["modality"], entry["metric"], entry["factor"]) == (1, "video", "ami", "speaker")
    ]
    assert found["value"] == scores["labels"]["label_speaker"]["ami"]
    assert {entry["metric"] for entry in rows} == {
        *("nmi", "ami", "purity", "loss", "nmi_previous", "empty", "largest_share")
    }
    assert {entry["split"] for entry in rows if entry["metric"] == "ami"} == {"all"}
    assert seconds_of(cell) > 0
    assert find(facts_of(rows) | {"rounds": 1}, metric="loss", modality="video", round=0) is not None


def test_the_probes_of_a_cell_are_those_of_its_evaluations(tmp_path: Path, worked_run: Any) -> None:
    (cell,) = make_cells(study(seeds=1, contenders=["xdc"], rounds=1), tmp_path)
    shutil.copytree(worked_run.root / "rounds", cell.run.root / "rounds")
    for modality, label, values in (("video", "label", (0.3, 0.2)), ("audio", "label_spoken", (0.6, 0.5))):
        folder = cell.run.directory(Node("eval", f"probe-{modality}", 1))
        trials = [
            Trial(split=split, seed=0, train=40, test=8, metrics={"accuracy": value})
            for split, value in zip(("validation", "test"), values, strict=True)
        ]
        shutil.copytree(worked_run.directory(Node("label", modality, 1)), folder)
        results = Results(
            evaluation=f"probe-{modality}",
            run="run",
            round=1,
            method="xdc",
            data="corpus",
            protocol="fc",
            modality=modality,
            settings={"label": label},
            metrics={},
            trials=trials,
        )
        write_results(folder, results)
        commit_as_it_is(folder)
    rows = [entry for entry in cell_rows(cell) if entry["metric"] == "probe"]
    assert {(entry["round"], entry["modality"], entry["split"], entry["factor"]): entry["value"] for entry in rows} == {
        (1, "video", "validation", "label"): 0.3,
        (1, "video", "test", "label"): 0.2,
        (1, "audio", "validation", "spoken"): 0.6,
        (1, "audio", "test", "spoken"): 0.5,
    }


def test_a_study_is_read_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("seeds: 4\nvary: {train.lr: [0.001, 0.002]}\n")
    assert load_study(tmp_path).variants == [{"train.lr": 0.001}, {"train.lr": 0.002}]
    with pytest.raises(ConfigError, match="does not exist"):
        load_study(tmp_path / "other")
