"""`xdc deploy`: deployments of the installed package at a server, from any folder."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from flows.server.deployments import DEPLOYMENTS, deployments_for
from tests.flows.prefect_server import PrefectServer
from tests.flows.test_cli import xdc
from xdc_core.graph.stages import STAGES


def test_deployments_with_the_default_names_are_those_of_prefect_yaml() -> None:
    document = yaml.safe_load(DEPLOYMENTS.read_text())
    del document["definitions"]
    assert deployments_for("local", "local", None) == document


def test_pool_name_and_run_are_those_that_are_given() -> None:
    for deployment in deployments_for("gpus", "mine", "runs/first")["deployments"]:
        assert deployment["name"] == "mine"
        assert deployment["work_pool"]["name"] == "gpus"
        assert deployment["work_pool"]["job_variables"]["working_dir"] == "."
        assert deployment["parameters"] == {"run": "runs/first"}


@pytest.mark.parametrize(
    ("url", "code", "words"),
    [
        ("", 2, "PREFECT_API_URL is not set"),
        ("http://127.0.0.1:9/api", 1, "the Prefect server at http://127.0.0.1:9/api does not answer"),
    ],
)
def test_without_a_server_nothing_is_deployed(
    url: str, code: int, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: url} if url else {}, restore_defaults={PREFECT_API_URL}):
        assert_fails(xdc("deploy"), code, words)


def assert_fails(done: tuple[int, str], code: int, words: str) -> None:
    """The exit code, and words of the message."""
    assert done[0] == code
    assert words in done[1]


@pytest.mark.slow
def test_deploy_makes_pool_deployments_and_automation_and_a_second_time_nothing_new(
    server: PrefectServer, tmp_path: Path
) -> None:
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "__init__.py").write_text("raise ImportError('a folder of somebody else')")
    words = ("-P", "-m", "flows.cli", "deploy", "--pool", "gpus", "--name", "mine", "--run", "runs/first")

    def deploy(*more: str) -> "tuple[int, str]":
        done = subprocess.run(
            [sys.executable, *words, *more], cwd=tmp_path, env=server.environment, capture_output=True, text=True
        )
        return done.returncode, done.stdout + done.stderr

    first = deploy()
    assert first[0] == 0, first[1]
    assert f"{len(STAGES) + 2} deployments named mine, for the work pool gpus" in first[1]
    assert "prefect worker start --pool gpus" in first[1]
    made = there(server.ask)
    assert [len(found) for found in made] == [1, len(STAGES) + 2, 1]
    again = deploy()
    assert again[0] == 0, again[1]
    assert there(server.ask) == made
    for deployment in server.ask("/deployments/filter", {}):
        assert deployment["parameters"]["run"] == "runs/first"
        assert deployment["description"]
        assert "xdc" in deployment["tags"]

    server.ask("/work_pools/", {"name": "cluster", "type": "kubernetes"})
    assert_fails(deploy("--pool", "cluster"), 2, "this work pool is of type kubernetes")
    assert_fails(
        deploy("--pool", "a/b"), 1, f"the Prefect server at {server.environment['PREFECT_API_URL']}, --pool 'a/b'"
    )


def there(ask: Callable[..., list[dict[str, str]]]) -> list[list[str]]:
    """Ids and names of work pools, deployments and automations."""
    pages = ("/work_pools/filter", "/deployments/filter", "/automations/filter")
    return [sorted(f"{found['id']} {found['name']}" for found in ask(page, {})) for page in pages]
