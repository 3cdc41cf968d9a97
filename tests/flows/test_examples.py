"""The examples do what they say, on a run that is finished already."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

from shards.settings import clip_part, stored_part
from tests.flows.test_cli import xdc
from tests.processes import PATIENCE_S
from tests.runs import MakeRun
from xdc_core.runs.run import Run, open_run

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
pytestmark = pytest.mark.slow


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment of a user who has installed xdc: the command is found, and Prefect's files are his own."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, arguments in (("xdc", "-m flows.cli"), ("python", "")):
        (folder / name).write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n')
        (folder / name).chmod(0o755)
    return os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(EXAMPLES.parent)}


def said(environment: dict[str, str], *command: object) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def videos_of(run: Run) -> list[Path]:
    assert run.videos is not None
    return sorted(run.videos.parent.rglob("*.mp4"))


def test_a_folder_is_searched(environment: dict[str, str], copy_run: MakeRun) -> None:
    run = copy_run()
    query = videos_of(run)[0]
    printed = said(environment, EXAMPLES / "train_and_search.sh", run.videos, query, run.root)
    assert "rank" in printed
    for page in ("alike.html", "sounds-as-it-looks.html"):
        assert "<html" in (run.root / page).read_text()[:300]


def test_a_subset_is_learnt_from_again(environment: dict[str, str], copy_run: MakeRun, tmp_path: Path) -> None:
    run, again = copy_run(), tmp_path / "again"
    said(environment, EXAMPLES / "curate_and_train_again.sh", run.root, 8, again)
    rows = (tmp_path / "again.csv").read_text().splitlines()[1:]
    assert 0 < len(rows) <= 8 * 4
    assert (again / "rounds" / "001" / "report" / "report.html").is_file()
    new = open_run(again)
    assert new.videos == tmp_path / "again.csv"
    assert new.config.model_copy(update={"corpus": run.config.corpus}) == run.config
    assert clip_part(stored_part(new.config.corpus)) == clip_part(stored_part(run.config.corpus))


def test_an_exported_encoder_is_used_without_xdc(environment: dict[str, str], worked_run: Run, tmp_path: Path) -> None:
    exported = tmp_path / "exported"
    code, output = xdc("export", worked_run.root, "--to", exported, "--modality", "video", "--onnx")
    assert code == 0, output
    video = videos_of(worked_run)[0]
    without_xdc = {name: value for name, value in environment.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-I", EXAMPLES / "encoder_without_xdc.py", exported / "video", video]
    printed = said(without_xdc, *command)
    assert re.search(r"is in cluster \d\n", printed)
    from xdc_core.exports.load import feature

    (numbers,) = re.findall(r"feature \[64\]: (.*) \.\.\.", printed)
    mine, theirs = np.array(numbers.split(), float), feature(video, exported / "video")[:8]
    assert mine @ theirs / np.linalg.norm(mine) / np.linalg.norm(theirs) > 0.99


def test_the_notebook_reads_a_round(worked_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    mpl.use("agg")
    cells = json.loads((EXAMPLES / "look_into_a_round.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert 'RUN = Path("runs/example")' in code[0]
    code[0] = code[0].replace("runs/example", str(worked_run.root))
    names: dict[str, object] = {}
    for cell in code:
        exec(compile(cell, "look_into_a_round.ipynb", "exec"), names)
    assert len(names["nearest"]) > 0  # type: ignore[arg-type]
    assert names["plane"].shape == (48, 2)  # type: ignore[attr-defined]
