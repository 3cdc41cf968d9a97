"""An executor of an installed package: it does units in this process, the last first."""

from pathlib import Path

import pytest

from flows.executors.registry import check_executor, executor_of
from flows.runners.in_process import InProcess
from shards.errors import ConfigError
from shards.store.files import part_path, parts_of
from tests.installed_package import install_package
from tests.runs import MakeRun
from xdc_core.config.schema import RunsOn
from xdc_core.runs.node import Node

INIT, EXTRACT = Node("init", "video"), Node("extract", "video", 0)

DECLARED = """
from flows.executors.kind import ExecutorKind
from shards.errors import ConfigError
from shards.section import Section

class Settings(Section):
    host: str = "nowhere"

def check(settings, runs_on):
    if settings.host == "nowhere":
        raise ConfigError("backward: there is no cluster at nowhere.")

def make(settings, runs_on):
    from backward_executor import Backward

    return Backward(settings.host)

BACKWARD = ExecutorKind("backward", Settings, check, make)
"""
WORK = """
from pathlib import Path
from shards.workers.worker import do_units

class Backward:
    def __init__(self, host):
        self.host = host

    def run(self, job, units, received, advance):
        Path(job.logs).mkdir(parents=True, exist_ok=True)
        for unit in reversed(list(units)):
            for receipt in do_units(job, [unit]):
                with Path(job.logs, self.host).open("a") as log:
                    log.write(receipt.shard + "\\n")
                received(receipt)
"""


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is installed."""
    modules = {"backward_declared.py": DECLARED, "backward_executor.py": WORK}
    points = {"xdc.executors": {"backward": "backward_declared:BACKWARD"}}
    monkeypatch.syspath_prepend(install_package(tmp_path / "site", "backward", modules, points))


def test_it_is_chosen_by_its_name_and_changes_no_byte(make_run: MakeRun) -> None:
    plain, run = make_run(), make_run(executor="backward", executor_settings={"host": "node7"})
    runner = InProcess()
    for each in (plain, run):
        for node in (INIT, EXTRACT):
            runner.run_stage(each, node)
    done = (run.root / "logs" / "units" / "node7").read_text().split()
    assert done == sorted(done, reverse=True)
    assert sorted(done) == parts_of(plain.directory(EXTRACT))
    for shard in done:
        made, expected = (part_path(each.directory(EXTRACT), shard).read_bytes() for each in (run, plain))
        assert made == expected


def test_its_settings_are_checked_and_so_is_what_it_needs() -> None:
    with pytest.raises(ConfigError, match=r"the executor 'bakward' is unknown\. Did you mean 'backward'\?"):
        check_executor(RunsOn(executor="bakward"))
    with pytest.raises(ConfigError, match="there is no cluster at nowhere"):
        check_executor(RunsOn(executor="backward"))
    with pytest.raises(ConfigError, match=r"executor_settings of the executor backward: hosts: "):
        executor_of(RunsOn(executor="backward", executor_settings={"hosts": "node7"}))
