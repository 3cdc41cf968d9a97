"""What the methods are compared with: labels as supervision, and pseudo-labels that mean nothing."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from shards.corpus.index import index_path, read_whole_index
from shards.errors import ConfigError
from tests.commits import commit_as_it_is
from tests.runs import MakeRun
from tests.xdc_core.tasks import targets_of
from xdc_core.config.methods import TRUTH
from xdc_core.graph.run_stage import run_stage
from xdc_core.graph.stages import all_nodes
from xdc_core.runs.node import SHARD, Node

TRUTH_0 = Node("label", TRUTH, 0)


def test_the_baseline_labels_every_clip_with_the_number_of_its_label(make_run: MakeRun) -> None:
    run = make_run(method="supervised")
    record = run_stage(run, TRUTH_0)
    index = read_whole_index(run.corpus, ["key", "label"])
    truth = dict(zip(index["key"].to_pylist(), index["label"].to_pylist(), strict=True))
    classes = sorted(set(truth.values()))
    scores = json.loads((run.directory(TRUTH_0) / "scores.json").read_text())
    assert (scores["k"], scores["classes"], scores["unlabelled"]) == (len(classes), classes, 0)
    assert scores["labels"]["label"]["nmi"] == 1
    rows = [row for path in run.directory(TRUTH_0).glob("data/*.parquet") for row in pq.read_table(path).to_pylist()]
    assert len(rows) == record.rows == len(truth)
    assert all(classes[row["cluster"]] == truth[row["key"]] for row in rows)


def test_a_round_of_the_baseline_trains_on_the_labels(make_run: MakeRun) -> None:
    run = make_run(method="supervised", truth="label_speaker", learn_splits=["train"])
    for node in all_nodes(run.config):
        run_stage(run, node)
    task = targets_of(run, Node("train", "audio", 0))
    assert task.heads == {TRUTH: [TRUTH]}
    speakers = read_whole_index(run.corpus, ["label_speaker"])["label_speaker"].to_pylist()
    assert task.classes == {TRUTH: len(set(speakers))}
    known = sorted(set(speakers))
    assert all(known[task.targets[TRUTH][row]] == speakers[row] for row in task.draws)
    report = json.loads((run.directory(Node("report", None, 1)) / "report.json").read_text())
    assert report["method"] == "supervised"
    assert report["sources"] == {}


def test_the_baseline_says_which_label_columns_there_are(make_run: MakeRun) -> None:
    run = make_run(method="supervised", truth="label_colour")
    with pytest.raises(ConfigError, match=r"no such label column\. There are: label, label_background"):
        run_stage(run, TRUTH_0)


def test_clips_without_a_label_are_not_learnt_from(make_run: MakeRun) -> None:
    run = make_run(method="supervised", corpus={"path": "corpus"})
    run_stage(run, SHARD)
    # As if the manifest had given no label for them. The index is read by the baseline.
    path = index_path(run.corpus, "000000")
    table = pq.read_table(path)
    column = ["" if n else None for n in range(len(table))]
    labels = [None if blank is None else label for blank, label in zip(column, table["label"].to_pylist(), strict=True)]
    pq.write_table(table.set_column(table.column_names.index("label"), "label", [labels]), path)
    commit_as_it_is(run.corpus)
    facts = json.loads((run.corpus / "manifest.json").read_text())
    record = run_stage(run, TRUTH_0)
    assert record.rejects == 1
    assert record.rows == facts["rows"] - 1
    assert json.loads((run.directory(TRUTH_0) / "scores.json").read_text())["unlabelled"] == 1


def test_the_control_learns_the_same_labels_at_the_wrong_clips(copy_run: MakeRun) -> None:
    node = Node("train", "audio", 0)
    plain, control = (targets_of(copy_run(shuffle_labels=on), node) for on in (False, True))
    before, after = plain.targets["video"], control.targets["video"]
    assert np.bincount(before).tolist() == np.bincount(after).tolist()
    assert 0.1 < (before == after).mean() < 0.6  # With 4 clusters a quarter or so stays by chance.
    again = targets_of(copy_run(shuffle_labels=True), node)
    assert (again.targets["video"] == after).all()
    other = targets_of(copy_run(shuffle_labels=True), Node("train", "video", 0))
    assert (other.targets["audio"] != plain.targets["video"]).any()


def test_the_control_touches_no_clip_that_is_not_learnt_from(copy_run: MakeRun) -> None:
    run = copy_run(shuffle_labels=True, learn_splits=["train"])
    plain = targets_of(copy_run(), Node("train", "audio", 0)).targets["video"]
    task = targets_of(run, Node("train", "audio", 0))
    held_out = np.setdiff1d(np.arange(len(task.rows)), np.flatnonzero(task.rows.in_splits(["train"])))
    assert len(held_out) == 8
    assert (task.targets["video"][held_out] == plain[held_out]).all()
