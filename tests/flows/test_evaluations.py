"""`xdc eval` from the command line."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli.app import app
from flows.cli.running import evaluate as evaluations
from flows.runners import scheduler
from shards.errors import ConfigError
from shards.store.build import Record
from shards.store.files import part_path
from tests.runs import MakeRun
from xdc_core.cleaning.clean import clean
from xdc_core.config.load import EVALUATIONS_FILE, FILE_NAME
from xdc_core.inspection.results import ListedResults, markdown_table, read_results
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run, open_run


def xdc(*arguments: object) -> tuple[int, str]:
    """Exit code and output of a command, in this process."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


@pytest.mark.slow
def test_what_is_asked_for_is_done_kept_and_reused(copy_run: MakeRun) -> None:
    run = copy_run()
    asked = ("eval", run.root, "--protocol", "fc", "--modality", "audio", "--label", "label_speaker")
    code, shown = xdc(*asked)
    assert code == 0, shown
    assert "corpus label_speaker fc audio" in shown
    path = run.root / "rounds" / "001" / "evaluations" / "corpus-audio-fc-label_speaker" / "results.json"
    before = path.stat().st_mtime_ns
    value = json.loads(path.read_text())["metrics"]["accuracy"]["mean"]
    assert f"{100 * value:.1f}" in shown
    assert set(open_run(run.root).config.evaluate) == {"corpus-audio-fc-label_speaker"}
    # By name, or all of them: the same, reused.
    assert xdc("eval", run.root)[0] == 0
    code, shown = xdc("eval", run.root, "--only", "corpus-audio-fc-label_speaker", "--json")
    assert code == 0
    assert path.stat().st_mtime_ns == before
    # The untrained encoder stands beside it as scratch.
    assert xdc("eval", run.root, "--round", 0)[0] == 0
    code, shown = xdc("eval", run.root, "--table")
    assert code == 0
    rows = [line.split("|")[1].strip() for line in shown.splitlines() if line.startswith("| ")]
    assert rows[1:] == ["scratch", f"xdc, {run.root.name}, round 1"]
    assert "stale" not in shown
    # With other settings the numbers are those of an encoder that is no more.
    file = run.root / FILE_NAME
    file.write_text(re.sub(r"(?m)^  lr: .*", "  lr: 0.5", file.read_text()))
    code, shown = xdc("eval", run.root, "--table")
    (now,) = [line for line in shown.splitlines() if "round 1" in line]
    assert code == 0
    assert "(stale)" in now
    assert "(stale)" not in next(line for line in shown.splitlines() if "scratch" in line)


@pytest.mark.slow
def test_an_evaluation_of_a_cleaned_round_makes_features_again_that_stay_until_it_has_read_them(
    copy_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = {"protocol": "knn", "modality": "audio", "label": "label_speaker", "when": "asked"}
    run = copy_run(evaluate={"probe": probe})
    extract, kept, do = Node("extract", "audio", 0), list[bool](), scheduler.do_node

    def cleaned_before(run: Run, node: Node, *more: Any, **options: Any) -> Record:
        if node.stage == "eval":
            clean(open_run(run.root))
            kept.append((part_path(run.directory(extract), "000000")).exists())
        return do(run, node, *more, **options)

    monkeypatch.setattr(scheduler, "do_node", cleaned_before)
    for options in ((), ("--force",)):
        clean(run)
        code, shown = xdc("eval", run.root, "--round", 0, *options)
        assert code == 0, shown
        assert f"{extract} was cleaned, and eval.probe of round 0 needs it" in shown.replace("\n", " ")
    assert kept == [True, True]
    assert not list(run.root.rglob(".*.lock"))
    clean(run)
    assert not (part_path(run.directory(extract), "000000")).exists()


def test_two_data_sets_of_one_layout_stand_beside_each_other(copy_run: MakeRun, tmp_path: Path) -> None:
    run = copy_run()
    names = [
        evaluations.ask(run.root, "manifest", tmp_path / file, "svm", "audio", "label", views=None, frames=frames)
        for file, frames in (("a.csv", 16), ("b.csv", None), ("a.csv", None))
    ]
    assert names[0] == names[2] == "manifest-audio-svm"
    assert re.fullmatch(r"manifest-audio-[0-9a-f]{6}-svm", names[1])
    config = open_run(run.root).config
    assert {Path(run.root, data.root).resolve().name for data in config.datasets.values()} == {"a.csv", "b.csv"}
    assert config.datasets["manifest-audio"].frames == 16
    assert config.evaluate[names[1]].data == names[1].removesuffix("-svm")
    assert evaluations.ask(run.root, "dcase2014", tmp_path, "svm", "audio", "label") == "dcase2014-audio-svm"
    assert open_run(run.root).config.datasets["dcase2014-audio"].views == 60


def test_words_of_grid_are_cut_in_windows_and_cropped_as_the_runs_own_corpus_of_grid(
    copy_run: MakeRun, tmp_path: Path
) -> None:
    crop = {"x": 4.0, "square": 32.0}
    for changes, wanted in (({}, None), ({"layout": "grid_recordings", "crop": crop}, crop)):
        run = copy_run(corpus=changes)
        evaluations.ask(run.root, "grid", tmp_path, "fc", "video", "label")
        data = open_run(run.root).config.datasets["grid-video"]
        assert (data.views, data.segment_seconds) == (1, 0.64)
        assert (data.crop and data.crop.model_dump(exclude_defaults=True)) == wanted


@pytest.mark.slow
def test_given_weights_are_evaluated_without_a_corpus(
    worked_run: Run, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    weights = worked_run.directory(Node("train", "video", 0)) / "encoder.safetensors"
    code, shown = xdc("init", "run", "--preset", "tiny", "--init", weights)
    assert code == 0, shown
    (tmp_path / "set").mkdir()
    for number, line in enumerate(digits.read_text().splitlines()[1:13]):
        source = digits.parent / line.split(",")[0]
        folder = tmp_path / "set" / ("train" if number < 8 else "test") / str(number % 2)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.mp4").symlink_to(source.resolve())
    asked = ("--data", "folder", "--root", "set", "--modality", "video", "--protocol", "knn", "--views", 2)
    code, shown = xdc("eval", "run", *asked)
    assert code == 0, shown
    assert "given encoder.safetensors" in shown
    facts = json.loads((tmp_path / "run/rounds/000/evaluations/folder-video-knn/results.json").read_text())
    assert (facts["trials"][0]["train"], facts["trials"][0]["test"]) == (8, 4)
    assert facts["dataset"]["views"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--protocol", "svn", "--modality", "audio"), "'svn' is unknown. Did you mean 'svm'?"),
        (("--protocol", "fc"), "modality must be set if data is corpus"),
        (("--protocol", "fc", "--data", "esc10", "--modality", "audio"), "also needs --root"),
        (("--only", "nothing"), "has no evaluation 'nothing'. There are: none"),
        ((), "has no evaluations. Add one"),
        (("--table",), "has been evaluated yet"),
        (("--protocol", "fc", "--modality", "audio", "--round", 7), "has rounds 0 to 1"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_and_leaves_nothing(
    copy_run: MakeRun, arguments: tuple[object, ...], message: str
) -> None:
    run = copy_run()
    code, shown = xdc("eval", run.root, *arguments)
    assert code == 2
    assert message in shown
    assert "Traceback" not in shown
    assert not (run.root / EVALUATIONS_FILE).exists() or "--round" in arguments


def test_a_failed_evaluation_says_why_and_the_others_are_done(copy_run: MakeRun) -> None:
    good = {"protocol": "knn", "modality": "video", "label": "label_speaker"}
    run = copy_run(evaluate={"bad": good | {"label": "label_colour"}, "good": good})
    code, shown = xdc("eval", run.root)
    assert code == 1
    assert "1 of 2 evaluations failed" in shown
    assert "no label column 'label_colour'" in shown
    assert [results.evaluation for results in read_results([run])] == ["good"]


def test_a_run_whose_newest_encoder_is_stale_is_evaluated_at_the_last_that_is_not(copy_run: MakeRun) -> None:
    run = copy_run(evaluate={"probe": {"protocol": "fc", "modality": "audio"}})
    assert evaluations.newest_round(run, "probe") == 1
    other = copy_run(evaluate={"probe": {"protocol": "fc", "modality": "audio"}}, lr=0.5)
    assert evaluations.newest_round(other, "probe") == 0
    with pytest.raises(ConfigError, match="no encoder yet"):
        evaluations.newest_round(copy_run(evaluate={"probe": {"protocol": "fc", "modality": "audio"}}, seed=9), "probe")


def test_the_file_of_asked_evaluations_has_no_other_settings(copy_run: MakeRun) -> None:
    run = copy_run()
    (run.root / EVALUATIONS_FILE).write_text("train: {lr: 3}\n")
    with pytest.raises(ConfigError, match="'train' is not allowed here"):
        open_run(run.root)


def facts(method: str, number: int, layout: str | None, value: float, **more: object) -> ListedResults:
    plain: dict[str, object] = {
        "evaluation": "e",
        "run": "r",
        "round": number,
        "method": method,
        "control": False,
        "weights": None,
    }
    plain |= {"data": layout or "corpus", "layout": layout, "protocol": "all", "modality": "video"}
    spread = {"mean": value, "sd": 0.01, "n": 3, "min": value, "max": value}
    plain |= {"settings": {"label": "label"}, "metrics": {"accuracy": spread}, "path": "p", "stale": False}
    return ListedResults.model_validate(plain | more)


def test_the_papers_numbers_stand_in_rows_of_their_own_and_are_marked() -> None:
    found = [
        facts("xdc", 5, "ucf101", 0.5, row="xdc, r, round 5"),
        facts("xdc", 0, "ucf101", 0.25, row="scratch"),
        facts("xdc", 5, "esc50", 0.4, row="xdc, r, round 5", modality="audio"),
    ]
    lines = markdown_table(found).splitlines()
    assert lines[0] == "| | esc50 all audio | ucf101 all video |"
    assert lines[2] == "| scratch |  | 25.0 ± 1.0 (n=3) |"
    assert lines[3] == "| xdc, r, round 5 | 40.0 ± 1.0 (n=3) | 50.0 ± 1.0 (n=3) |"
    paper = [line for line in lines if "paper" in line]
    assert lines[4:] == paper
    assert "| *paper, from memory: xdc, pretrained on Kinetics* | *78.0* | *74.2* |" in paper
    assert all(cell.strip().startswith("*") for line in paper for cell in line.strip("|").split("|") if cell.strip())


def test_the_figures_of_the_published_files_stand_beside_their_own_evaluation_alone() -> None:
    file = "weights/r2plus1d_18_fs_kinetics-622bdad9.pth"
    given = facts("xdc", 0, "hmdb51", 0.5, row="given r2plus1d_18_fs_kinetics-622bdad9.pth", weights=file)
    trained = facts("xdc", 1, "hmdb51", 0.6, row="xdc, r, round 1", weights=file)
    other = facts("xdc", 0, "hmdb51", 0.5, row="given mine.pth", weights="mine.pth")
    unlabelled = facts("xdc", 0, "esc50", 0.5, row="given r2plus1d_18_fs_kinetics-622bdad9.pth", weights=file)
    row = (
        "| *README of the authors' repository: r2plus1d_18_fs_kinetics (32 frames, 224 pixels: unverified)* | *65.1* |"
    )
    assert [line for line in markdown_table([given]).splitlines() if "README" in line] == [row]
    assert not any("README" in markdown_table([result]) for result in (trained, other, unlabelled))


def test_fine_tunings_by_several_recipes_have_a_column_each() -> None:
    settings = {"label": "label", "finetune": {"recipe": "gdt"}}
    found = [
        facts("xdc", 5, "ucf101", 0.5, row="xdc, r, round 5"),
        facts("xdc", 5, "ucf101", 0.6, row="xdc, r, round 5", settings=settings),
    ]
    lines = markdown_table(found).splitlines()
    assert lines[0] == "| | ucf101 all video | ucf101 all video gdt |"
    assert lines[2] == "| xdc, r, round 5 | 50.0 ± 1.0 (n=3) | 60.0 ± 1.0 (n=3) |"


def test_a_recipe_that_is_asked_for_makes_an_evaluation_of_its_own(copy_run: MakeRun) -> None:
    run = copy_run()
    for recipe in (None, "gdt", "avid"):
        evaluations.ask(run.root, None, None, "all", "audio", "label", recipe)
    found = open_run(run.root).config.evaluate
    assert {name: entry.finetune.recipe for name, entry in found.items()} == {
        "corpus-audio-all": None,
        "corpus-audio-all-gdt": "gdt",
        "corpus-audio-all-avid": "avid",
    }
    assert found["corpus-audio-all-avid"].finetune.optimizer == "adam"
    before = (run.root / EVALUATIONS_FILE).read_text()
    with pytest.raises(ConfigError, match="--recipe gdt is for fine-tuning: use it with --protocol all, not fc"):
        evaluations.ask(run.root, None, None, "fc", "audio", "label", "gdt")
    with pytest.raises(ConfigError, match=r"finetune\.recipe.*'gtd' is unknown\. There are: gdt, avid, vmz"):
        evaluations.ask(run.root, None, None, "all", "audio", "label", "gtd")
    assert (run.root / EVALUATIONS_FILE).read_text() == before


def test_a_share_held_out_that_is_asked_for_makes_an_evaluation_and_a_column_of_its_own(copy_run: MakeRun) -> None:
    run = copy_run()
    names = [evaluations.ask(run.root, None, None, "all", "audio", "label", "gdt", share) for share in (None, 0, 0.1)]
    assert names == ["corpus-audio-all-gdt", "corpus-audio-all-gdt-held-out-0", "corpus-audio-all-gdt-held-out-0_1"]
    found = open_run(run.root).config.evaluate
    assert [found[name].held_out for name in names] == [0.2, 0, 0.1]
    with pytest.raises(ConfigError, match=r"held_out.*less than 1"):
        evaluations.ask(run.root, None, None, "all", "audio", "label", "gdt", 1.5)
    finetune = {"label": "label", "finetune": {"recipe": "gdt"}}
    results = [
        facts("xdc", 5, "ucf101", value, row="xdc, r, round 5", settings=finetune | {"held_out": share})
        for value, share in ((0.5, 0.2), (0.6, 0.0))
    ]
    assert markdown_table(results).splitlines()[0] == "| | ucf101 all video gdt | ucf101 all video gdt held out 0 |"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--recipe", "gdt", "--held-out", "0"), "--recipe, --held-out: only for an evaluation that --protocol adds"),
        (("--label", "label_speaker"), "--label: only for an evaluation that --protocol adds"),
        (("--protocol", "fc", "--modality", "audio", "--root", "."), "name its layout with --data"),
        (
            ("--protocol", "fc", "--modality", "audio", "--root", ".", "--data", "esc10", "--label", "label_speaker"),
            "--label label_speaker is for the run's own corpus",
        ),
    ],
)
def test_options_that_would_not_be_used_are_refused(copy_run: MakeRun, options: tuple[str, ...], message: str) -> None:
    run = copy_run()
    code, shown = xdc("eval", run.root, *options)
    assert code == 2
    assert message in shown
    assert not (run.root / EVALUATIONS_FILE).exists()


def test_the_paper_has_no_row_where_it_has_no_number() -> None:
    assert "paper" not in markdown_table([facts("xdc", 5, None, 0.5, row="xdc")])
