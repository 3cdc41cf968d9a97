"""Commands that are printed can be copied into a shell, whatever the run's folder is called."""

import itertools
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prefect.cli._utilities import load_json_key_values
from typer.testing import CliRunner

from flows.cli.app import app
from flows.cli.inspecting.summary import _count_clusters
from flows.orchestration.failure import deployment_command, stage_commands
from shards.errors import StageError
from tests.runs import MakeRun
from xdc_core.graph.run_stage import run_stage
from xdc_core.inspection.verification import verify_run
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run, open_run

NAME = "it's [a] run"


@pytest.fixture
def run(make_run: MakeRun) -> Run:
    """In a folder whose name no shell takes as it is."""
    made = make_run()
    return open_run(made.root.rename(made.root.with_name(NAME)))


def test_every_command_of_the_terminal_names_the_run_as_one_word(run: Run, tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "a.mp4").write_bytes(b"listed, and not opened")
    new, nowhere = tmp_path / f"new {NAME}", tmp_path / f"no {NAME}"
    for arguments, expected in (
        (["init", new, "--videos", videos], ["xdc", "run", new]),
        (["status", run.root], ["xdc", "run", run.root]),
        (["report", run.root], ["xdc", "round", run.root]),
        (["report", run.root, "--round", "1"], ["xdc", "round", run.root, "--round", "1"]),
        (["eval", run.root], ["xdc", "eval", run.root, "--protocol", "fc"]),
        (["eval", run.root, "--table"], ["xdc", "eval", run.root]),
        (["status", nowhere], ["xdc", "init", nowhere]),
    ):
        told = CliRunner().invoke(app, list(map(str, arguments))).output
        assert shlex.join(map(str, expected)) in told, told
        assert not re.search(rf"xdc \w+ {re.escape(str(tmp_path))}", told), told
    (new / "xdc.yaml").unlink()
    told = CliRunner().invoke(app, ["runs", str(new)]).output
    assert shlex.join(["xdc", "init", str(new / "first"), "--videos", "FOLDER"]) in told


def test_the_notes_of_a_configuration_name_the_run_as_one_word(tmp_path: Path) -> None:
    root = tmp_path / NAME
    assert CliRunner().invoke(app, ["init", str(root)]).exit_code == 0
    head = (root / "xdc.yaml").read_text()
    assert f"then: {shlex.join(['xdc', 'status', str(root)])} shows" in head
    assert f"# {shlex.join(['xdc', 'run', str(root)])} does" in head


def test_remedies_name_the_run_as_one_word(run: Run) -> None:
    make_it = shlex.join(["xdc", "stage", "init", str(run.root), "--modality", "video"])
    everything = shlex.join(["xdc", "run", str(run.root)])
    with pytest.raises(StageError) as caught:
        run_stage(run, Node("extract", "video", 0))
    assert f"Build it with: {make_it}   (or everything that is missing: {everything})" in str(caught.value)
    run_stage(run, Node("init", "video"))
    (run.directory(Node("init", "video")) / "encoder.safetensors").write_bytes(b"damaged")
    damaged = [finding for finding in verify_run(run) if finding.kind == "damaged"]
    assert damaged[0].remedy == f"{make_it} --force"


def test_the_commands_for_a_failed_stage_are_those_of_its_flow() -> None:
    alone, deployed = stage_commands("runs/a b", Node("eval", "my probe", 2), force=True)
    assert shlex.split(alone) == [
        "xdc",
        "stage",
        "eval",
        "runs/a b",
        "--modality",
        "my probe",
        "--round",
        "2",
        "--force",
    ]
    pairs = [f"run={Path.cwd()}/runs/a b", "name=my probe", "round=2", "force=true"]
    start = ["prefect", "deployment", "run", "eval/local"]
    assert shlex.split(deployed) == [*start, *(word for pair in pairs for word in ("-p", pair))]
    assert deployment_command("xdc-round", run="/r", round=None) == "prefect deployment run xdc-round/local -p run=/r"
    assert stage_commands("/r", SHARD, force=False)[1] == "prefect deployment run shard/local -p run=/r"


@pytest.mark.parametrize(
    "name",
    [
        "plain",
        "a b",
        "2024",
        "true",
        "null",
        "1e5",
        "",
        "-",
        'a "b"',
        '"b"',
        "a\\b",
        "{a",
        "[1",
        "[a",
        "a\nb",
        "é",
        "NaN",
        "x=y",
    ],
)
def test_the_parameters_of_a_deployment_reach_prefect_as_they_are_meant(name: str) -> None:
    words = shlex.split(deployment_command("embed", "/r", name=name, round=3, force=True))
    given = [value for option, value in itertools.pairwise(words) if option == "-p"]
    assert load_json_key_values(given, "parameter") == {"run": "/r", "name": name, "round": 3, "force": True}


def test_a_flow_run_names_its_own_deployment_for_its_own_flow_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__NAME", "first")
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__FLOW_NAME", "xdc-round")
    assert deployment_command("xdc-round", "/r") == "prefect deployment run xdc-round/first -p run=/r"
    assert deployment_command("train", "/r") == "prefect deployment run train/local -p run=/r"
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__PARENT_FLOW_RUN_ID", "of a flow run of xdc/first")
    assert deployment_command("xdc-round", "/r") == "prefect deployment run xdc-round/local -p run=/r"


@pytest.mark.parametrize("name", ["plain", 'it\'s a "run" for $5 in `back\\slash`'])
def test_the_query_of_the_summary_reaches_duckdb_as_it_is_meant(tmp_path: Path, name: str) -> None:
    # In the place of DuckDB, which is optional: what was asked, as a file.
    (tmp_path / "duckdb.py").write_text("def sql(query):\n    return query\n")
    command = _count_clusters(Path(name), "rounds/001/labels/video/*.parquet").removeprefix("python")
    line = f"{shlex.quote(sys.executable)}{command}"
    done = subprocess.run(line, shell=True, cwd=tmp_path, env={}, capture_output=True, text=True, check=True)
    path = f"{name}/rounds/001/labels/video/*.parquet".replace("'", "''")
    assert done.stdout == f"select cluster, count(*) clips from '{path}' group by 1 order by 2\n"


@pytest.mark.parametrize("name", ["plain", NAME, "a*", "a?", "[!b]", "**"])
def test_the_query_of_the_summary_finds_the_labels_of_this_run_alone(tmp_path: Path, name: str) -> None:
    duckdb = pytest.importorskip("duckdb")
    for folder, cluster in ((name, 3), ("ab", 4), ("it's a run", 5)):
        (tmp_path / folder).mkdir(exist_ok=True)
        pq.write_table(pa.table({"cluster": [cluster]}), tmp_path / folder / "labels.parquet")
    code = shlex.split(_count_clusters(tmp_path / name, "*.parquet"))[-1]
    query = json.loads(code.removeprefix("import duckdb; print(duckdb.sql(").removesuffix("))"))
    assert duckdb.sql(query).fetchall() == [(3, 1)]
