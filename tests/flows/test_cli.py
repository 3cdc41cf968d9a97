"""The command line, as a person meets it."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli.app import app
from flows.cli.inspecting.status import read_status
from tests.runs import MakeRun
from xdc_core.config.load import load_config
from xdc_core.runs.run import Run

COMMANDS = (
    *(
        "init",
        "digits",
        "run",
        "round",
        "stage",
        "plan",
        "status",
        "report",
        "eval",
        "compare",
        "verify",
        "doctor",
        "export",
        "embed",
    ),
    *("export", "embed", "assign", "search", "duplicates", "curate", "map", "deploy"),
)


def xdc(*arguments: object) -> tuple[int, str]:
    """Exit code and all output of a command, in this process."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_help_names_every_command_and_loads_nothing_heavy() -> None:
    code = "import sys, flows.cli.app; flows.cli.app.main() if len(sys.argv) > 1 else print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True).stdout
    assert all(f"  {command} " in shown for command in COMMANDS)
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "faiss", "prefect", "av", "pyarrow", "pydantic", "sklearn"} & set(loaded)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    code, output = xdc(command, "--help")
    assert code == 0
    assert len(output.splitlines()) > 4


def test_init_writes_a_configuration_that_explains_every_key(tmp_path: Path) -> None:
    listed(tmp_path / "videos")
    code, _ = xdc("init", tmp_path / "run", "--videos", tmp_path / "videos", "--rounds", 3, "--method", "mdc")
    text = (tmp_path / "run" / "xdc.yaml").read_text()
    config = load_config(tmp_path / "run" / "xdc.yaml")
    assert code == 0
    assert (config.rounds, config.method, config.corpus.videos) == (3, "mdc", "../videos")
    assert all("#" in line for line in text.splitlines() if ": " in line)


def listed(folder: Path) -> None:
    """A folder of which a listing finds a video: `init` opens none."""
    folder.mkdir()
    (folder / "a.mp4").write_bytes(b"not looked into yet")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('path,label\na.mp4,"x\nb.mp4,y\n', "l.csv: line 2: a quote is opened and not closed"),
        ("path;label\na.mp4;x\n", "The separator must be a comma"),
        ("path,label\na.mp4,x\n./a.mp4,y\n", "row 1 and row 2 are both a.mp4, but label is 'x' and 'y'"),
        ("path\nhttp://host/a.mp4\n", "l.csv holds no video. http://host/a.mp4: row 1: only local files"),
    ],
)
def test_init_refuses_what_run_would_refuse(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "l.csv").write_text(text)
    code, output = xdc("init", tmp_path / "run", "--videos", tmp_path / "l.csv")
    assert code == 2
    assert words in output
    assert not (tmp_path / "run").exists()


def test_init_refuses_an_empty_folder_and_a_corpus_in_the_place_of_the_videos(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, output = xdc("init", tmp_path / "run", "--videos", tmp_path / "empty")
    assert (code, "holds no video. It is empty" in output) == (2, True)
    listed(tmp_path / "videos")
    code, output = xdc("init", tmp_path / "run", "--videos", tmp_path / "videos", "--corpus", tmp_path)
    assert (code, "the corpus would take its place" in output) == (2, True)
    assert not (tmp_path / "run").exists()


def test_init_does_not_overwrite_a_run(tmp_path: Path) -> None:
    assert xdc("init", tmp_path / "run")[0] == 0
    (tmp_path / "run" / "xdc.yaml").write_text("rounds: 9\n")
    code, output = xdc("init", tmp_path / "run")
    assert code == 2
    assert "exists already" in output
    assert xdc("init", tmp_path / "run", "--keep")[0] == 0
    assert (tmp_path / "run" / "xdc.yaml").read_text() == "rounds: 9\n"


def test_init_with_keep_refuses_other_videos_than_the_run_has(tmp_path: Path) -> None:
    for name in ("one", "two"):
        listed(tmp_path / name)
    xdc("init", tmp_path / "run", "--videos", tmp_path / "one")
    code, output = xdc("init", tmp_path / "run", "--videos", tmp_path / "two", "--keep")
    assert code == 2
    assert "Choose another directory" in output


def test_init_writes_weights_relative_to_the_run(tmp_path: Path) -> None:
    for name in ("v.pth", "a.safetensors"):
        (tmp_path / name).write_bytes(b"not looked into yet")
    code, _ = xdc("init", tmp_path / "run", "--init", tmp_path / "v.pth", "--init-audio", tmp_path / "a.safetensors")
    config = load_config(tmp_path / "run" / "xdc.yaml")
    assert code == 0
    assert (config.video.weights, config.audio.weights) == ("../v.pth", "../a.safetensors")
    assert (config.video.encoder, config.audio.encoder) == ("r2plus1d_tiny", "audio_resnet_tiny")


def test_init_takes_a_corpus_in_an_object_store(tmp_path: Path) -> None:
    code, output = xdc("init", tmp_path / "run", "--corpus", "s3://bucket/corpora/videos")
    assert code == 0, output
    run = Run(tmp_path / "run", load_config(tmp_path / "run" / "xdc.yaml"))
    assert run.config.corpus.path == "s3://bucket/corpora/videos"
    assert run.corpus.parent == tmp_path.resolve() / "run" / "corpora"


def test_init_with_keep_refuses_other_weights_than_the_run_has(tmp_path: Path) -> None:
    (tmp_path / "v.pth").write_bytes(b"not looked into yet")
    xdc("init", tmp_path / "run")
    code, output = xdc("init", tmp_path / "run", "--init", tmp_path / "v.pth", "--keep")
    assert code == 2
    assert "starts video from random weights, not from" in output
    xdc("init", tmp_path / "other", "--init", tmp_path / "v.pth")
    assert xdc("init", tmp_path / "other", "--init", tmp_path / "v.pth", "--keep")[0] == 0


def test_weights_that_went_missing_are_wrong_input(tmp_path: Path) -> None:
    (tmp_path / "v.pth").write_bytes(b"")
    xdc("init", tmp_path / "run", "--init", tmp_path / "v.pth")
    (tmp_path / "v.pth").unlink()
    code, output = xdc("status", tmp_path / "run")
    assert code == 2
    assert f"video.weights: {tmp_path}/v.pth cannot be read (No such file or directory). Put the file there" in output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--videos", "/no/such/folder"), "does not exist"),
        (("--init", "/no/such/file.pth"), "the video weights /no/such/file.pth do not exist"),
        (("--init-audio", "/no/such/file.pth"), "the audio weights /no/such/file.pth do not exist"),
        (("--init", __file__), "is not a file of weights. Allowed: .safetensors"),
        (("--preset", "tinny"), "Did you mean 'tiny'?"),
        (("--method", "xdd"), "Did you mean 'xdc'?"),
        (("--rounds", "-1"), "greater than or equal to 0"),
    ],
)
def test_init_explains_wrong_choices(tmp_path: Path, arguments: tuple[str, str], words: str) -> None:
    code, output = xdc("init", tmp_path / "run", *arguments)
    assert code == 2
    assert words in output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["run", "round", "status", "report"])
def test_a_directory_that_is_no_run_is_told_so(tmp_path: Path, command: str) -> None:
    code, output = xdc(command, tmp_path)
    assert code == 2
    assert "xdc init" in output


def test_a_typo_in_the_configuration_names_the_nearest_key(tmp_path: Path) -> None:
    xdc("init", tmp_path / "run")
    file = tmp_path / "run" / "xdc.yaml"
    file.write_text(file.read_text().replace("  whiten:", "  whitn:"))
    code, output = xdc("status", tmp_path / "run")
    assert code == 2
    assert "cluster.whitn: this key is unknown. Did you mean 'whiten'?" in output


def test_status_of_a_new_run_has_a_row_for_every_node(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(b"not yet looked at")
    xdc("init", tmp_path / "run", "--rounds", 1, "--videos", tmp_path / "videos")
    code, output = xdc("status", tmp_path / "run", "--json")
    rows = json.loads(output)
    assert code == 0
    assert len(rows) == 3 + 9 + 7
    assert {row["state"] for row in rows} == {"missing"}
    assert xdc("status", tmp_path / "run", "--check")[0] == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("exract",), "there is no stage 'exract'"),
        (("extract", "--modality", "smell", "--round", 0), "no node extract.smell of round 0"),
        (("train", "--modality", "video", "--round", 99), "no node train.video of round 99"),
        (("cluster", "--modality", "video"), "Use --modality and --round"),
    ],
)
def test_stage_names_what_there_is(tmp_path: Path, arguments: tuple[object, ...], words: str) -> None:
    xdc("init", tmp_path / "run")
    code, output = xdc("stage", arguments[0], tmp_path / "run", *arguments[1:])
    assert code == 2
    assert words in output


def test_a_round_that_the_run_does_not_have_is_refused(tmp_path: Path) -> None:
    xdc("init", tmp_path / "run", "--rounds", 2)
    code, output = xdc("round", tmp_path / "run", "--round", 3)
    assert code == 2
    assert "has rounds 0 to 2" in output


def test_digits_explains_a_wrong_value(tmp_path: Path) -> None:
    code, output = xdc("digits", tmp_path / "digits", "--test-clips", -1)
    assert code == 2
    assert "--test-clips" in output


@pytest.mark.slow
def test_doctor_finds_this_environment_fit() -> None:
    code, output = xdc("doctor", "--json")
    findings = {row["what"]: row["state"] for row in json.loads(output)}
    assert code == 0
    assert findings["encodes libx264"] == "works"
    assert findings["faiss"] == "works"


def test_status_tells_the_problems_of_the_newest_round_that_the_report_tells(worked_run: Run) -> None:
    signs = json.loads(xdc("report", worked_run.root, "--round", 1, "--json")[1])["signs"]
    output = xdc("status", worked_run.root)[1]
    problems = [f"round 1, {level}: {text}" for level, text in signs if level != "good"]
    assert [line for line in output.splitlines() if line.startswith("round 1, ")] == problems
    assert "round 1, look: video: 8 principal components are kept, not 32: 48 clips are too few for more" in output


def test_status_has_a_row_a_round_and_says_of_what_is_stale_why(copy_run: MakeRun) -> None:
    run = copy_run(train={"lr": 0.5})
    shutil.rmtree(run.root / "rounds/001/labels/audio")
    code, output = xdc("status", run.root)
    assert code == 0
    lines = output.splitlines()
    assert re.match(r"shard [\d.]+ s, \d+ clips   init [\d.]+ s", lines[0]), lines[0]
    assert lines[1].split() == ["round", "extract", "cluster", "label", "train", "report"]
    assert re.fullmatch(r" *0 +[\d.]+ s +[\d.]+ s +[\d.]+ s +stale +stale", lines[2].rstrip()), lines[2]
    assert lines[3].split() == ["1", "stale", "stale", "1", "of", "2", "stale", "stale"]
    assert f"{run.root}/rounds/000/train/video is stale: lr: " in output
    assert f"To run the rest: xdc run {run.root}" in output
    by_node = xdc("status", run.root, "--nodes")[1]
    assert len(by_node.splitlines()) >= len(read_status(run.root))
    assert "label.audio" in by_node
