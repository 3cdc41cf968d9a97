"""What tests of flows share: a server, and a run that nobody interrupted with copies that lack their last training."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.interrupted import INTERRUPTED
from tests.flows.prefect_server import PrefectServer
from tests.sharing import made_once
from xdc_core.config.load import FILE_NAME, parse_config
from xdc_core.config.write import commented_yaml
from xdc_core.graph.run_stage import reuse, run_stage
from xdc_core.graph.stages import all_nodes
from xdc_core.runs.run import Run, open_run


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A server without workers: `xdc run` does the work itself."""
    running = PrefectServer(tmp_path_factory.mktemp("prefect"))
    try:
        running.start_server()
        yield running
    finally:
        running.end()


@pytest.fixture(scope="session")
def whole(worked_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run whose trainings had two ranks under torchrun, and were long enough to be interrupted."""

    def make(directory: Path) -> None:
        root = directory / "run"
        shutil.copytree(worked_run.root, root)
        values = worked_run.config.model_dump()
        values["train"] |= {"processes": 2, "clips": 1280, "checkpoint_every": 4}
        config = parse_config(values, "the tests' settings")
        (root / FILE_NAME).write_text(commented_yaml(config), encoding="utf-8")
        run = open_run(root)
        for node in all_nodes(run.config):
            if reuse(run, node) is None:
                run_stage(run, node)

    return open_run(made_once(tmp_path_factory, "whole", make) / "run")


@pytest.fixture
def half_done(whole: Run, tmp_path: Path) -> Run:
    """The same run, without its training of sound and all that comes from it."""
    root = tmp_path / f"run-{tmp_path.name}"  # The flow runs are named after it.
    shutil.copytree(whole.root, root)
    for directory in INTERRUPTED:
        shutil.rmtree(root / directory)
    return open_run(root)
