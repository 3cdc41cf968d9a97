"""Thresholds on what was measured of clips: which clips are learnt from, what becomes stale, and what is told."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from flows.cli.inspecting.status import print_status, read_status
from shards.corpus.index import MEASURES, index_path, read_whole_index, shard_names
from shards.corpus.stage import shard
from shards.errors import ConfigError
from shards.store.files import sha256_of
from shards.store.stage import Task
from tests.commits import commit_as_it_is
from tests.runs import MakeRun
from tests.xdc_core.tasks import BACKWARDS, targets_of, task_for
from xdc_core.config.selection import SelectSettings
from xdc_core.data.selection import count_left_out
from xdc_core.documents.scores import Balance
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.run_stage import run_stage
from xdc_core.graph.stages import all_nodes, settings_of
from xdc_core.graph.state import node_state
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run
from xdc_core.stages.balance import balance
from xdc_core.stages.sample import Learnable, count_learnable, read_sample

VIDEO = Node("train", "video", 0)


def middle(corpus: Path, column: str) -> float:
    """The median of a measure, so that half of the clips have less."""
    return float(np.median(read_whole_index(corpus, [column])[column].to_numpy()))


def less_than(corpus: Path, column: str, value: float) -> set[str]:
    return {row["key"] for row in read_whole_index(corpus).to_pylist() if row[column] < value}


def without_measures(corpus: Path, copy: Path) -> Path:
    """The same corpus as an earlier version would have made it."""
    shutil.copytree(corpus, copy)
    for name in shard_names(copy):
        path = index_path(copy, name)
        pq.write_table(pq.read_table(path).drop_columns(MEASURES.names), path, compression="zstd")
    commit_as_it_is(copy)
    return copy


def test_clips_below_a_threshold_get_labels_and_are_not_learnt_from(copy_run: MakeRun, tiny_corpus: Path) -> None:
    least = middle(tiny_corpus, "motion")
    left_out = less_than(tiny_corpus, "motion", least)
    assert 0 < len(left_out) < 48
    run = copy_run(select={"min_motion": least})
    cluster = Node("cluster", "audio", 0)
    task = task_for(run, cluster)
    features = task.directories("extract")
    learnable = count_learnable(run.corpus, features, None, task.settings.select)
    assert learnable.total == 48 - len(left_out)
    (here,) = read_sample(task, learnable, 100.0, 0)
    everything = count_learnable(run.corpus, features, None)
    kept = [row["key"] not in left_out for row in read_whole_index(run.corpus).to_pylist()]
    (all_points,) = read_sample(task, everything, 100.0, 0)
    assert np.array_equal(here, all_points[kept])
    for node in all_nodes(run.config):
        if node.round == 0 and node.stage in ("cluster", "label"):
            run_stage(run, node)
    targets = targets_of(run, VIDEO)
    keys = np.array(targets.rows.keys.to_pylist())
    assert set(keys[np.unique(targets.draws)]) == set(keys) - left_out
    assert (targets.targets["audio"] >= 0).all()  # The others get labels all the same.


def test_workers_leave_out_the_same_clips(
    copy_run: MakeRun, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xdc_core.stages.sample.PER_GROUP", 1)
    run = copy_run(select={"min_level_db": middle(tiny_corpus, "level_db")})
    task = task_for(run, Node("cluster", "video", 0))
    task.out.mkdir()
    learnable = count_learnable(run.corpus, task.directories("extract"), None, task.settings.select)
    (here,) = read_sample(task, learnable, 100.0, 0)
    (there,) = read_sample(replace(task, executor=BACKWARDS), learnable, 100.0, 0)
    assert 0 < len(here) < 48
    assert np.array_equal(here, there)


def test_labels_are_balanced_over_the_clips_that_are_learnt_from(
    copy_run: MakeRun, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copy_run(
        select={"min_level_db": middle(tiny_corpus, "level_db")}, label={"assign": "balanced", "iterations": 2}
    )
    run_stage(run, Node("cluster", "video", 0))
    balanced = []

    def noted(task: Task[Any], learnable: Learnable, *more: Any) -> list[Balance]:
        balanced.append(learnable.total)
        return balance(task, learnable, *more)

    monkeypatch.setattr("xdc_core.stages.label.balance", noted)
    record = run_stage(run, Node("label", "video", 0))
    kept = 48 - len(less_than(tiny_corpus, "level_db", run.config.select.min_level_db or 0))
    assert balanced == [kept]
    assert record.rows == 48


def states(run: Run) -> dict[str, str]:
    fingerprints = Fingerprints(run)
    return {
        node.stage: node_state(run, node, fingerprints)[0] for node in all_nodes(run.config) if node.round in (None, 0)
    }


def test_a_threshold_leaves_corpus_and_features_fresh(copy_run: MakeRun) -> None:
    before = dict.fromkeys(("shard", "init", "extract", "cluster", "label", "train", "report"), "fresh")
    assert states(copy_run()) == before
    assert states(copy_run(select={"max_shots": 3})) == before | dict.fromkeys(
        ("cluster", "label", "train", "report"), "stale"
    )
    # Written, but at its default, it changes no fingerprint.
    assert states(copy_run(select={"max_shots": None})) == before


def test_thresholds_enter_the_settings_only_where_they_are_set(make_run: MakeRun) -> None:
    plain, changed = make_run().config, make_run(select={"min_motion": 1.0, "max_shots": 1}).config
    for node in (Node("cluster", "video", 0), VIDEO):
        assert settings_of(changed, node) == settings_of(plain, node) | {"select": {"min_motion": 1.0, "max_shots": 1}}
    for stage in ("init", "extract"):
        number = 0 if stage == "extract" else None
        assert settings_of(changed, Node(stage, "video", number)) == settings_of(plain, Node(stage, "video", number))


def test_the_status_tells_how_many_clips_each_threshold_leaves_out(
    copy_run: MakeRun, tiny_corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = {"min_motion": middle(tiny_corpus, "motion"), "min_level_db": middle(tiny_corpus, "level_db")}
    still = less_than(tiny_corpus, "motion", limits["min_motion"])
    quiet = less_than(tiny_corpus, "level_db", limits["min_level_db"])
    run = copy_run(select={**limits, "max_shots": 1})
    expected = {"min_motion": len(still), "min_level_db": len(quiet), "max_shots": 0}
    rows = read_status(run.root)
    assert [row["left_out"] for row in rows if "left_out" in row] == [
        {**expected, "together": len(still | quiet), "clips": 48}
    ]
    print_status(run.root, rows)
    words = f"select leaves out {len(still | quiet)} of 48 clips (min_motion {len(still)}, min_level_db {len(quiet)}, "
    assert f"{words}max_shots 0): {48 - len(still | quiet)} to learn from" in capsys.readouterr().out
    assert not any("left_out" in row for row in read_status(copy_run().root))


def test_only_clips_to_learn_from_are_counted(tiny_corpus: Path) -> None:
    found = count_left_out(tiny_corpus, ["test"], SelectSettings(min_motion=1e6))
    assert found == ({"min_motion": 8}, 8, 8)


def test_a_corpus_that_was_not_measured_is_readable_and_says_how_to_measure_it(
    make_run: MakeRun, tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = without_measures(tiny_corpus, tmp_path / "old")
    run = make_run(corpus={"path": str(old)})
    assert node_state(run, SHARD, Fingerprints(run))[0] == "fresh"
    for node in (Node("init", "video"), Node("extract", "video", 0)):
        run_stage(run, node)
    assert count_learnable(old, [run.directory(Node("extract", "video", 0))], None).total == 48
    limited = make_run(corpus={"path": str(old)}, select={"min_motion": 1.0})
    shutil.copytree(run.root / "rounds", limited.root / "rounds")
    error = (
        r"select\.min_motion needs the column motion of .*old, which 16 of 16 clips lack\. If an earlier version cut "
        r"them, `xdc stage shard RUN --force` cuts the same clips again"
    )
    with pytest.raises(ConfigError, match=error):
        run_stage(limited, Node("cluster", "video", 0))
    print_status(limited.root, read_status(limited.root))
    assert "`xdc stage shard RUN --force`" in capsys.readouterr().out


def test_what_was_learnt_stays_fresh_when_the_clips_are_measured_later(
    make_run: MakeRun, tiny_corpus: Path, tmp_path: Path
) -> None:
    old = without_measures(tiny_corpus, tmp_path / "old")
    run = make_run(corpus={"path": str(old)})
    for node in (Node("init", "video"), Node("extract", "video", 0)):
        run_stage(run, node)
    before = {path.name: sha256_of(path) for path in old.glob("*.tar")}
    shard(run.corpus, run.videos, run.config.corpus, force=True)
    assert {path.name: sha256_of(path) for path in old.glob("*.tar")} == before
    assert read_whole_index(old)["motion"].null_count == 0
    for node in (SHARD, Node("init", "video"), Node("extract", "video", 0)):
        assert node_state(run, node, Fingerprints(run))[0] == "fresh", node


def test_the_overview_shows_what_was_measured_with_the_thresholds(copy_run: MakeRun, worked_run: Run) -> None:
    plain = (worked_run.root / "overview.html").read_text(encoding="utf-8")
    for heading in ("Motion of the clips", "Level of their sound", "Shots in them"):
        assert f"<h3>{heading}</h3><svg" in plain
    run = copy_run(select={"max_shots": 3})
    for node in all_nodes(run.config):
        run_stage(run, node)
    page = (run.root / "overview.html").read_text(encoding="utf-8")
    assert "<h3>Shots in them (select.max_shots: 3)</h3>" in page
    assert "<h3>Motion of the clips</h3>" in page


@pytest.mark.parametrize("wrong", [{"min_motion": -1}, {"min_level_db": 3}, {"max_shots": 0}, {"max_cuts": 1}])
def test_thresholds_that_keep_nothing_or_everything_are_refused(wrong: dict[str, Any], make_run: MakeRun) -> None:
    with pytest.raises(ConfigError, match=r"select\."):
        make_run(select=wrong)
