"""Options that several commands have: the version, completion, log messages, and settings by --set."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli.app import app
from flows.cli.running.change import change_run
from flows.server.prefect_defaults import set_defaults
from shards.log_level import VARIABLE
from shards.store.lock import exclusive
from shards.version import DISTRIBUTION, package_version
from tests.flows.test_cli import xdc
from tests.runs import MakeRun
from xdc_core.config.load import load_config
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run


def test_version_names_the_distribution() -> None:
    assert xdc("--version") == (0, f"xdc {package_version()} ({DISTRIBUTION})\n")


def test_completion_of_a_shell_names_the_commands() -> None:
    environment = {"_XDC_COMPLETE": "complete_bash", "COMP_WORDS": "xdc ro", "COMP_CWORD": "1"}
    shown = CliRunner().invoke(app, [], prog_name="xdc", env=environment)
    assert shown.output.split() == ["round"]
    assert "--install-completion" in xdc("--help")[1]


def test_a_log_level_holds_for_the_command_its_processes_and_prefect(tmp_path: Path) -> None:
    code = (
        "import logging, os, sys; from flows.cli.app import app; app(sys.argv[1:], standalone_mode=False); "
        "logging.getLogger('of a library').info('heard'); logging.getLogger('of a library').debug('not heard')"
    )
    words = ["--log-level", "info", "init", str(tmp_path / "run")]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stderr.endswith(" INFO of a library: heard\n")
    assert done.stderr.count("heard") == 1

    assert xdc(*words[:3], tmp_path / "another")[0] == 0
    assert (os.environ[VARIABLE], os.environ["PREFECT_LOGGING_LEVEL"]) == ("info", "INFO")
    set_defaults(quiet=True)
    assert "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL" not in os.environ, "the terminal shows them"
    code, output = xdc("--log-level", "loud", "init", tmp_path / "other")
    assert code == 2
    assert "'loud' is not one of 'debug', 'info'" in output


@pytest.mark.slow
def test_a_stage_writes_its_log_messages_to_its_log(copy_run: MakeRun) -> None:
    run = copy_run()
    words = ["--log-level", "info", "stage", "init", str(run.root), "--modality", "video", "--force"]
    done = subprocess.run([sys.executable, "-m", "flows.cli", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("init.video: 1 encoder, ")
    assert "INFO xdc.stage: init.video of " in (run.root / "logs" / "init.video.log").read_text()


def test_init_without_clips_says_what_is_lacking(tmp_path: Path, digits: Path) -> None:
    code, output = xdc("init", tmp_path / "run")
    assert code == 0, output
    assert "It needs corpus.videos, or corpus.path of clips that there are, then: xdc run" in output
    assert "Check it, then: xdc run" in xdc("init", tmp_path / "other", "--videos", digits)[1]


def test_init_sets_any_setting(tmp_path: Path) -> None:
    code, output = xdc("init", tmp_path / "run", "--rounds", 3, "--set", "train.lr=0.5", "--set", "rounds=2")
    assert code == 0, output
    config = load_config(tmp_path / "run" / "xdc.yaml")
    assert (config.train.lr, config.rounds) == (0.5, 2)
    assert xdc("init", tmp_path / "run", "--keep", "--set", "train.lr=0.5")[0] == 0
    code, output = xdc("init", tmp_path / "run", "--keep", "--set", "train.lr=0.25")
    assert code == 2
    assert "has other settings than --set (train.lr: 0.5 -> 0.25)" in output


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train.lrr=0.5", "train.lrr: this key is unknown. Did you mean 'lr'?"),
        ("train.lr", "NAME=VALUE was expected"),
        ("train.lr=fast", "train.lr"),
        ("seed=1 seed=2", "seed is given twice"),
        ("rounds.first=1", "rounds has no settings"),
        ("modalities=audio", "method xdc has no label source for audio"),
        ("modalities=video,audi", "Did you mean 'audio'?"),
        ("cluster.k=8", "write {video: 8, audio: 8}; with --set, cluster.k.video=8."),
        ("corpus.videos=nope", "run/nope"),
        ("video.weights=nope.pt", "video.weights: 'nope.pt' does not exist: a path is relative to the folder of"),
    ],
)
@pytest.mark.parametrize("command", ["init", "run"])
def test_a_wrong_setting_is_explained_and_nothing_is_written(
    tmp_path: Path, command: str, text: str, words: str
) -> None:
    if command == "run":
        xdc("init", tmp_path / "run")
    before = sorted((path, path.read_bytes()) for path in tmp_path.rglob("*") if path.is_file())
    code, output = xdc(command, tmp_path / "run", *(word for each in text.split(" ") for word in ("--set", each)))
    assert code == 2
    assert words in output
    assert sorted((path, path.read_bytes()) for path in tmp_path.rglob("*") if path.is_file()) == before


def test_run_and_round_write_settings_to_the_configuration_and_say_so(copy_run: MakeRun) -> None:
    run, file = copy_run(), "xdc.yaml"
    before = (run.root / file).read_text()
    _, output = xdc("run", run.root, "--set", "runs_on.threads=2", "--set", "train.workers=1")
    assert f"{run.root}/xdc.yaml: train.workers: " in output
    assert "runs_on.threads: 1 -> 2" in output
    assert "Everything is fresh" in output
    changed = (run.root / file).read_text()
    differing = [line for line, was in zip(changed.splitlines(), before.splitlines(), strict=True) if line != was]
    assert [line.split("#")[0].strip() for line in differing] == ["workers: 1", "threads: 2"]
    assert f"{run.root}/xdc.yaml: has these settings already" in xdc("round", run.root, "--set", "train.workers=1")[1]
    assert not (run.root / "xdc.yaml.old").exists()


def test_comments_of_a_person_and_evaluations_of_another_file_survive_a_change(copy_run: MakeRun) -> None:
    run = copy_run()
    file = run.root / "xdc.yaml"
    file.write_text(f"{file.read_text()}# Asked for by the group.\n")
    (run.root / "evaluate.yaml").write_text("evaluate: {probe: {protocol: knn, modality: video, when: asked}}\n")
    own = file.read_text()
    assert xdc("run", run.root, "--set", "runs_on.threads=2")[0] == 0
    assert (run.root / "xdc.yaml.old").read_text() == own
    assert "probe" not in file.read_text()
    (run.root / "xdc.yaml.old").unlink()
    assert xdc("run", run.root, "--set", "runs_on.threads=1")[0] == 0
    assert not (run.root / "xdc.yaml.old").exists(), "nothing was lost this time"
    assert list(load_config(file).evaluate) == ["probe"]
    for number, comment in enumerate(("# First.", "# Second."), start=1):
        file.write_text(f"{file.read_text()}{comment}\n")
        assert xdc("run", run.root, "--set", f"runs_on.threads={number + 1}")[0] == 0
    assert "# First." in (run.root / "xdc.yaml.old").read_text()
    assert "# Second." in (run.root / "xdc.yaml.old-2").read_text()


def test_a_path_that_is_not_there_is_named_as_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert xdc("init", "run")[0] == 0
    (tmp_path / "videos").mkdir()
    code, output = xdc("run", "run", "--set", "corpus.videos=videos")
    assert code == 2
    assert f"so it is {tmp_path}/run/videos. From there it is ../videos." in output
    assert change_run(Path("run"), ["corpus.videos=../videos"]) == ["corpus.videos: None -> ../videos"]


def test_settings_of_evaluations_are_changed_where_they_are_or_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert xdc("init", run, "--set", "evaluate.mine={protocol: knn, modality: video}")[0] == 0
    assert change_run(run, ["evaluate.mine.every=2"]) == ["evaluate.mine.every: 1 -> 2"]
    assert load_config(run / "xdc.yaml").evaluate["mine"].every == 2
    assert "# evaluations of the encoders" in (run / "xdc.yaml").read_text()
    (run / "evaluate.yaml").write_text("evaluate: {probe: {protocol: knn, modality: video, when: asked}}\n")
    for text in ("evaluate.probe.every=2", "evaluate={probe: {protocol: fc}}"):
        code, output = xdc("run", run, "--set", text)
        assert code == 2
        assert f"evaluate.probe is in {run}/evaluate.yaml, and --set changes xdc.yaml only" in output


def test_a_linked_configuration_is_written_where_the_link_leads(tmp_path: Path) -> None:
    run, kept = tmp_path / "run", tmp_path / "kept.yaml"
    assert xdc("init", run)[0] == 0
    (run / "xdc.yaml").rename(kept)
    (run / "xdc.yaml").symlink_to("../kept.yaml")
    assert change_run(run, ["seed=7"]) == ["seed: 0 -> 7"]
    assert (run / "xdc.yaml").is_symlink()
    assert "seed: 7 " in kept.read_text()


def test_settings_of_several_processes_are_all_written(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert xdc("init", run)[0] == 0
    code = (
        "import sys, pathlib; from flows.cli.running.change import change_run; "
        "[change_run(pathlib.Path(sys.argv[1]), [f'{sys.argv[2]}={n}']) for n in range(2, 22)]"
    )
    names = ("rounds", "seed", "train.log_every")
    processes = [subprocess.Popen([sys.executable, "-c", code, str(run), name]) for name in names]
    assert [process.wait() for process in processes] == [0, 0, 0]
    config = load_config(run / "xdc.yaml")
    assert (config.rounds, config.seed, config.train.log_every) == (21, 21, 21)
    assert sorted(path.name for path in run.iterdir()) == ["xdc.yaml"]


def test_status_tells_what_is_in_progress_and_by_which_process(worked_run: Run) -> None:
    with (
        exclusive(worked_run.directory(Node("train", "audio", 0))),
        exclusive(worked_run.directory(Node("maps", None, 1))),
    ):
        rows = json.loads(xdc("status", worked_run.root, "--json")[1])
        output = xdc("status", worked_run.root)[1]
        assert xdc("status", worked_run.root, "--check")[0] == 0, "the maps are no work of the run"
    assert "missing" not in output
    building = {(row["stage"], row["modality"], row["round"]): row["in_progress"] for row in rows if row["in_progress"]}
    assert set(building) == {("train", "audio", 0), ("maps", None, 1)}
    process = building["train", "audio", 0]
    assert (process["pid"], process["host"], process["certain"]) == (os.getpid(), platform.node(), True)
    line = f"in progress: train.audio of round 0, pid {os.getpid()} on {platform.node()}, since {process['since']}"
    assert line in output.splitlines()
    assert "in progress" not in xdc("status", worked_run.root)[1]


def test_each_stage_counts_what_it_makes(worked_run: Run) -> None:
    made = {row["stage"]: row["made"] for row in json.loads(xdc("status", worked_run.root, "--json")[1])}
    assert (made["shard"], made["init"], made["cluster"], made["train"]) == (
        "48 clips",
        "1 encoder",
        "4 clusters",
        "128 samples",
    )
    assert made["report"].endswith(" example clips")
