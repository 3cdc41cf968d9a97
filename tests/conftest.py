"""What the tests share: one small corpus of audio-visual digits, runs on it, and one run that is worked off.

`make_run()` gives a fresh run, `copy_run()` a private copy of the run that is worked off, `copy_of(run)` one of
another; all take settings to change. `worked_run` and `uneven_run` themselves are for reading only.
"""

import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from shards.digits.corpus import write_digits
from shards.digits.settings import DigitsSettings
from shards.settings import stored_part
from tests.runs import MakeRun, changed, write_run
from tests.sharing import made_once
from xdc_core.config.load import load_preset, parse_config
from xdc_core.config.schema import Config
from xdc_core.graph.run_stage import run_stage
from xdc_core.graph.stages import all_nodes
from xdc_core.runs.node import SHARD
from xdc_core.runs.run import Run, open_run

CLIPS, TEST_CLIPS = 40, 8
ENGINES = "tests/engines/"


def pytest_configure() -> None:
    """Let SIGINT end what tests start, also if a shell without job control has started pytest in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where workers share the files, the longest come first, or one of them would be left with it at the end."""
    if hasattr(config, "workerinput"):
        seconds: Counter[Path] = Counter()
        for item in items:
            seconds[item.path] += 30 if item.get_closest_marker("slow") else 1
        items.sort(key=lambda item: (-seconds[item.path], item.path))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give all tests with a real Slurm or Ray to one worker: their clusters must not run at the same time."""
    from xdist.scheduler import LoadFileScheduling

    class OneClusterAtATime(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            scope: str = super()._split_scope(nodeid)
            return ENGINES if scope.startswith(ENGINES) else scope

    return OneClusterAtATime(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.fixture(autouse=True)
def environment_restored() -> Iterator[None]:
    """Undo what tested code sets in the environment, as `xdc` does for Prefect: later tests start processes in it."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of 48 raw videos; 8 of them have the split `test`."""
    settings = DigitsSettings(clips=CLIPS, test_clips=TEST_CLIPS, workers=2)
    made = made_once(tmp_path_factory, "digits", lambda out: write_digits(out / "digits", settings))
    return made / "digits" / "manifest.csv"


@pytest.fixture(scope="session")
def tiny_config(digits: Path) -> Config:
    """The preset `tiny`, made tinier, on one CPU thread, over the shared corpus (3 shards of 16 clips)."""
    values = parse_config(load_preset("tiny"), "preset tiny").model_dump()
    changes = {
        "rounds": 1,
        "corpus": {"path": str(digits.parents[1] / "corpus"), "videos": str(digits), "clips_per_shard": 16},
        "extract": {"batch": 16, "calibration_batches": 2},
        "k": {"video": 4, "audio": 4, "joint": 4},
        "train": {"clips": 128, "batch": 16, "checkpoint_every": 2},
        "runs_on": {"device": "cpu", "threads": 1},
    }
    return parse_config(changed(values, changes | {"corpus_workers": 2}), "the tests' settings")


@pytest.fixture(scope="session")
def tiny_corpus(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus that all runs share, committed. Not to be written to."""
    made_once(tmp_path_factory, "sharding", lambda root: run_stage(Run(root, tiny_config), SHARD))
    return Path(tiny_config.corpus.path)


@pytest.fixture
def make_run(tmp_path: Path, tiny_config: Config, tiny_corpus: Path) -> MakeRun:
    """Makes runs in which nothing is done but the sharding. With settings that store other clips, not even that."""
    count = 0

    def make(**changes: Any) -> Run:
        nonlocal count
        root = tmp_path / f"run-{count}"
        count += 1
        config = parse_config(changed(tiny_config.model_dump(), changes), "a test's settings")
        if stored_part(config.corpus) != stored_part(tiny_config.corpus) and "path" not in changes.get("corpus", {}):
            config = parse_config(changed(config.model_dump(), {"corpus": {"path": "corpus"}}), "a test's settings")
        return write_run(root, config)

    return make


@pytest.fixture(scope="session")
def worked_run(tmp_path_factory: pytest.TempPathFactory, tiny_config: Config, tiny_corpus: Path) -> Run:
    """A run of which every node is done: round 0 with training, and the last look, round 1. For reading only."""

    def make(root: Path) -> None:
        run = write_run(root / "run", tiny_config)
        for node in all_nodes(run.config):
            run_stage(run, node)

    return open_run(made_once(tmp_path_factory, "worked", make) / "run")


@pytest.fixture(scope="session")
def uneven_run(tmp_path_factory: pytest.TempPathFactory, tiny_config: Config, tiny_corpus: Path) -> Run:
    """A run that is ready for its first training, on shards of 20, 20 and 8 clips. For reading only."""

    def make(root: Path) -> None:
        changes = {"corpus": {"path": str(root / "corpus"), "clips_per_shard": 20}}
        run = write_run(root / "run", parse_config(changed(tiny_config.model_dump(), changes), "the tests' settings"))
        for node in all_nodes(run.config):
            if node.round in (None, 0) and node.stage not in ("train", "report"):
                run_stage(run, node)

    return open_run(made_once(tmp_path_factory, "uneven", make) / "run")


@pytest.fixture
def copy_of(tmp_path: Path) -> MakeRun:
    """Makes private copies of a run, with settings to change."""
    count = 0

    def copy(source: Run, **changes: Any) -> Run:
        nonlocal count
        root = tmp_path / f"copy-{count}"
        count += 1
        shutil.copytree(source.root, root)
        return write_run(root, parse_config(changed(source.config.model_dump(), changes), "a test's settings"))

    return copy


@pytest.fixture
def copy_run(copy_of: MakeRun, worked_run: Run) -> MakeRun:
    """Makes private copies of the run that is worked off, with settings to change."""
    return partial(copy_of, worked_run)
