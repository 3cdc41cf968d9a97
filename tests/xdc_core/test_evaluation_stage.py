"""The eval stage on a run's own corpus: what it measures, what it keeps, and what bad input gets."""

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from shards.corpus.index import read_whole_index
from shards.errors import ConfigError, StageError
from shards.store.commit import partial_directory
from tests.commits import commit_as_it_is
from tests.runs import MakeRun
from tests.xdc_core.tasks import evaluation_task
from xdc_core.config.evaluation import EvaluationSettings
from xdc_core.config.load import parse_config
from xdc_core.data.features import read_features, write_features
from xdc_core.evaluation.recordings import read_recordings
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.run_stage import run_stage
from xdc_core.graph.stages import all_nodes, evaluation_nodes
from xdc_core.graph.state import node_state
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run
from xdc_core.stages.evaluate import due_evaluations

PROBE = {"protocol": "fc", "modality": "audio", "label": "label_speaker"}


def evaluation(**changes: Any) -> EvaluationSettings:
    return EvaluationSettings.model_validate(PROBE | changes)


def results(run: Run, name: str = "probe", number: int = 1) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.directory(Node("eval", name, number)) / "results.json").read_text())
    return found


def test_a_probe_is_what_scikit_learn_finds_on_the_same_features(copy_run: MakeRun) -> None:
    run = copy_run(evaluate={"probe": PROBE})
    record = run_stage(run, Node("eval", "probe", 1))
    index = read_whole_index(run.corpus, ["key", "split", "label_speaker"]).to_pydict()
    parts = sorted(run.directory(Node("extract", "audio", 1)).glob("data/*.parquet"))
    stored = [*map(read_features, parts)]
    assert np.concatenate([keys for keys, _ in stored]).tolist() == index["key"]
    features = np.concatenate([part for _, part in stored])
    train, test = (np.array(index["split"]) == name for name in ("train", "test"))
    labels = np.array(index["label_speaker"])
    facts = results(run)
    (trial,) = facts["trials"]
    scaler = StandardScaler().fit(features[train])
    model = LogisticRegression(C=trial["chosen"]["C"], max_iter=1000)
    model.fit(scaler.transform(features[train]), labels[train])
    expected = model.predict(scaler.transform(features[test]))
    predictions = pq.read_table(run.directory(Node("eval", "probe", 1)) / "predictions" / "test-0.parquet").to_pydict()
    sources = dict(zip(index["key"], read_whole_index(run.corpus, ["source"])["source"].to_pylist(), strict=True))
    by_source = dict(zip(predictions["source"], predictions["predicted"], strict=True))
    keys = np.array(index["key"])[test]
    assert [by_source[sources[key]] for key in keys] == expected.tolist()
    assert trial["metrics"]["accuracy"] == pytest.approx((expected == labels[test]).mean())
    assert (trial["train"], trial["test"]) == (40, 8)
    assert record.summary["accuracy"] == facts["metrics"]["accuracy"]["mean"]


@pytest.mark.parametrize("protocol", ["fc", "svm", "knn", "clusters", "all"])
def test_every_protocol_leaves_numbers_and_what_they_were_made_with(copy_run: MakeRun, protocol: str) -> None:
    settings = PROBE | {"protocol": protocol, "seeds": 2, "finetune": {"epochs": 2, "batch": 8, "warmup": 1.0}}
    run = copy_run(evaluate={"probe": settings})
    run_stage(run, Node("eval", "probe", 1))
    facts = results(run)
    metric = "nmi" if protocol == "clusters" else "accuracy"
    values = [trial["metrics"][metric] for trial in facts["trials"]]
    assert facts["metrics"][metric]["n"] == len(values) == 2
    assert facts["metrics"][metric]["mean"] == pytest.approx(np.mean(values))
    assert all(0 <= value <= 1 for value in values)
    assert (facts["round"], facts["method"], facts["encoder"]) == (1, "xdc", "audio_resnet_tiny")
    table = pq.read_table(run.directory(Node("eval", "probe", 1)) / "results.parquet").to_pylist()
    assert {(row["split"], row["seed"]) for row in table} == {("test", 0), ("test", 1)}
    assert [row["value"] for row in table if row["metric"] == metric] == values
    assert json.loads(table[0]["settings"])["protocol"] == protocol
    left = {path.name for path in run.directory(Node("eval", "probe", 1)).iterdir()}
    assert left <= {"results.json", "results.parquet", "predictions", "trials", "manifest.json"}


def test_of_several_splits_of_a_corpus_the_last_one_counts(copy_run: MakeRun) -> None:
    run = copy_run(evaluate={"probe": PROBE | {"learn": ["train"], "test": ["train2", "test"]}})
    with pytest.raises(ConfigError, match="no labelled recording to test on in split 'train2'"):
        run_stage(run, Node("eval", "probe", 1))
    swapped = copy_run(evaluate={"probe": PROBE | {"learn": ["test"], "test": ["train"], "seeds": 2}})
    run_stage(swapped, Node("eval", "probe", 1))
    facts = results(swapped)
    assert set(facts["by_split"]) == {"train"}
    assert facts["by_split"]["train"] == facts["metrics"]
    assert facts["metrics"]["accuracy"]["n"] == 2


def test_retrieval_finds_pairs_both_ways_and_says_what_chance_gives(copy_run: MakeRun) -> None:
    run = copy_run(evaluate={"find": {"protocol": "retrieval"}})
    run_stage(run, Node("eval", "find", 1))
    metrics = results(run, "find")["trials"][0]["metrics"]
    for way in ("video_to_audio", "audio_to_video"):
        assert 0 <= metrics[f"{way}.pair.1"] <= metrics[f"{way}.pair.5"] <= metrics[f"{way}.pair.10"] <= 1
    assert metrics["chance.pair.1"] == pytest.approx(1 / 8)


@pytest.mark.slow
def test_fine_tuning_learns_its_training_recordings(copy_run: MakeRun) -> None:
    tuned = {"epochs": 25, "batch": 8, "warmup": 1.0, "milestones": (), "head_lr": 0.02, "body_lr": 0.02}
    settings = PROBE | {"protocol": "all", "label": "label_loudness", "finetune": tuned, "held_out": 0.1}
    run = copy_run(evaluate={"probe": settings})
    run_stage(run, Node("eval", "probe", 1))
    tried = results(run)["trials"][0]["chosen"]["tried"]
    assert [row["epoch"] for row in tried] == list(range(1, 26))
    assert tried[-1]["loss"] < 0.6 * tried[0]["loss"]
    best = max(row["accuracy"] for row in tried)
    chosen = results(run)["trials"][0]["chosen"]["epoch"]
    assert chosen == next(row["epoch"] for row in tried if row["accuracy"] == best)


def test_fine_tuning_that_was_stopped_goes_on_to_the_same_end(copy_run: MakeRun) -> None:
    settings = PROBE | {"protocol": "all", "finetune": {"epochs": 4, "batch": 8, "dropout": 0.3}}
    node = Node("eval", "probe", 1)
    run = copy_run(evaluate={"probe": settings})
    run_stage(run, node)

    class Stop(Exception):
        """Stands for a kill after two epochs."""

    def stop(done: int, total: int, note: str = "") -> None:
        if done == 2 and total == 4:
            raise Stop

    again = copy_run(evaluate={"probe": settings})
    with pytest.raises(Stop):
        run_stage(again, node, progress=stop)
    wanted = Fingerprints(again).of(node)
    assert wanted is not None
    assert list(partial_directory(again.directory(node), wanted).glob("test-0/checkpoint-*.pt"))
    run_stage(again, node)
    assert results(again)["trials"] == results(run)["trials"]


def tuned(copy_run: MakeRun, held_out: float, **finetune: Any) -> dict[str, Any]:
    """What a fine-tuning with these settings tried and chose."""
    settings = PROBE | {"protocol": "all", "held_out": held_out, "finetune": {"batch": 8} | finetune}
    run = copy_run(evaluate={"probe": settings})
    run_stage(run, Node("eval", "probe", 1))
    (trial,) = results(run)["trials"]
    return trial | trial["chosen"]  # type: ignore[no-any-return]


def test_with_nothing_held_out_all_recordings_are_trained_on_and_the_last_epoch_is_tested(copy_run: MakeRun) -> None:
    found = tuned(copy_run, 0.0, epochs=3)
    assert (found["epoch"], found["held_out"], found["train"]) == (3, 0, 40)
    assert [row.keys() for row in found["tried"]] == [{"epoch", "loss"}] * 3


def test_only_every_nth_epoch_and_the_last_are_checked_and_only_these_are_chosen(copy_run: MakeRun) -> None:
    every = tuned(copy_run, 0.2, epochs=5)
    found = tuned(copy_run, 0.2, epochs=5, check_every=2)
    assert [row["epoch"] for row in found["tried"] if "accuracy" in row] == [2, 4, 5]
    best = max(row["accuracy"] for row in found["tried"] if "accuracy" in row)
    assert found["epoch"] == next(row["epoch"] for row in found["tried"] if row.get("accuracy") == best)
    assert [row for row in found["tried"] if "accuracy" in row] == [every["tried"][number] for number in (1, 3, 4)]
    assert [row["loss"] for row in found["tried"]] == [row["loss"] for row in every["tried"]]


def test_a_head_alone_learns_first_and_an_interrupted_training_goes_on_in_both_parts(copy_run: MakeRun) -> None:
    node = Node("eval", "probe", 1)
    finetune = {"recipe": "avid", "batch": 8, "head_epochs": 2, "epochs": 2, "clips_per_recording": 1}
    settings = PROBE | {"protocol": "all", "finetune": finetune}

    class Stop(Exception):
        """Stands for a kill."""

    def stopping(at: int) -> Callable[..., None]:
        def stop(done: int, total: int, note: str = "") -> None:
            if (done, total) == (at, 4):
                raise Stop

        return stop

    whole, broken = (copy_run(evaluate={"probe": settings}) for _ in range(2))
    run_stage(whole, node)
    for at in (1, 2, 3):
        with pytest.raises(Stop):
            run_stage(broken, node, progress=stopping(at))
    run_stage(broken, node)
    assert results(broken)["trials"] == results(whole)["trials"]
    tried = results(whole)["trials"][0]["chosen"]["tried"]
    assert [row.get("head_alone", False) for row in tried] == [True, True, False, False]
    assert ["accuracy" in row for row in tried] == [False, False, True, True]
    assert results(whole)["trials"][0]["chosen"]["epoch"] > 2


def test_fine_tuning_warns_of_batch_norm_over_few_clips(copy_run: MakeRun) -> None:
    warning = "batch norm sees 8 clips at a time (finetune.batch counts all processes): noisy below 16. "
    assert warning + "Raise finetune.batch." in tuned(copy_run, 0.2, epochs=1)["warnings"]
    assert not any("batch norm" in text for text in tuned(copy_run, 0.2, epochs=1, batch=16)["warnings"])


def test_recordings_that_nobody_has_divided_need_a_share_to_test_on(copy_run: MakeRun, tmp_path: Path) -> None:
    run = with_corpus(copy_run(evaluate={"probe": PROBE}), tmp_path / "c", lambda number, row: row | {"split": "train"})
    with pytest.raises(ConfigError, match=r"no test split of corpus is given, and held_out is 0"):
        read_recordings(evaluation_task(run, evaluation(held_out=0.0), 1))


def test_a_finished_trial_is_not_done_again(copy_run: MakeRun) -> None:
    node = Node("eval", "probe", 1)
    run = copy_run(evaluate={"probe": PROBE | {"seeds": 3}})
    seen: list[int] = []

    class Stop(Exception):
        """Stands for a kill after the first trial."""

    def stop(done: int, total: int, note: str = "") -> None:
        raise Stop

    with pytest.raises(Stop):
        run_stage(run, node, progress=stop)
    wanted = Fingerprints(run).of(node)
    assert wanted is not None
    kept = partial_directory(run.directory(node), wanted) / "trials" / "test-0.json"
    changed = json.loads(kept.read_text()) | {"warnings": ["kept"]}
    kept.write_text(json.dumps(changed))
    run_stage(run, node, progress=lambda done, total, note="": seen.append(done))
    assert seen == [1, 2, 3]
    assert "test, seed 0: kept" in results(run)["warnings"]


def test_evaluations_of_rounds_are_part_of_the_graph_and_of_the_report(copy_run: MakeRun) -> None:
    run = copy_run(evaluate={"every": PROBE | {"when": "rounds"}, "last": PROBE | {"when": "end"}, "never": PROBE})
    nodes = [node for node in all_nodes(run.config) if node.stage == "eval"]
    assert nodes == [Node("eval", "every", 0), Node("eval", "every", 1), Node("eval", "last", 1)]
    for node in all_nodes(run.config):
        run_stage(run, node)
    report = json.loads((run.directory(Node("report", None, 1)) / "report.json").read_text())
    assert set(report["evaluations"]) == {"every", "last"}
    history = [(row["round"], row["evaluation"]) for row in report["evaluation_history"]]
    assert history == [(0, "every"), (1, "every"), (1, "last")]
    page = (run.directory(Node("report", None, 1)) / "report.html").read_text()
    assert "every: accuracy" in page


def test_an_evaluation_of_every_so_many_rounds_is_also_made_after_the_last_training(copy_run: MakeRun) -> None:
    probes = {"often": PROBE | {"when": "rounds", "every": 2}, "seldom": PROBE | {"when": "rounds", "every": 9}}
    config = copy_run(rounds=5, evaluate=probes).config
    rounds = {name: [number for number in range(6) if name in due_evaluations(config, number)] for name in probes}
    assert rounds == {"often": [0, 2, 4, 5], "seldom": [0, 5]}


def test_an_evaluation_becomes_stale_with_its_settings_and_its_features_alone(copy_run: MakeRun) -> None:
    run = copy_run(evaluate={"probe": PROBE})
    node = Node("eval", "probe", 1)
    run_stage(run, node)

    def state(**changes: Any) -> tuple[str, str]:
        values = run.config.model_dump() | changes
        other = Run(run.root, parse_config(values, "a test"))
        return node_state(other, node, Fingerprints(other))

    assert state()[0] == "fresh"
    assert state(evaluate={"probe": PROBE | {"when": "rounds"}})[0] == "fresh"
    assert state(evaluate={"probe": PROBE | {"when": "rounds", "every": 3}})[0] == "fresh"
    assert state(evaluate={"probe": PROBE | {"seeds": 2}}) == ("stale", "seeds: 1 -> 2")
    assert state(evaluate={"probe": PROBE | {"finetune": {"epochs": 3}}})[0] == "fresh"
    assert state(seed=5)[0] == "stale"
    assert evaluation_nodes(run.config, ["probe"], 1) == [node]


def test_clips_of_one_source_and_label_are_one_recording(copy_run: MakeRun) -> None:
    found = read_recordings(evaluation_task(copy_run(evaluate={}), evaluation(), 1))
    assert len(found.names) == len(found.of_clip) == 48
    assert (len(found.part("test", "train")), len(found.part("test", "test"))) == (40, 8)
    assert found.missing == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": "label_colour"}, r"no label column 'label_colour'\. There are: label, label_background"),
        ({"test": ["validation"]}, r"no labelled recording to test on in split 'validation'.*'test', 'train'"),
        ({"learn": ["trian"]}, r"no labelled recording to learn from in split 'test'"),
        ({"learn": ["train"], "test": ["train"]}, r"train is in both learn and test"),
    ],
)
def test_labels_and_splits_that_are_not_there_are_told_with_those_that_are(
    copy_run: MakeRun, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        read_recordings(evaluation_task(copy_run(), evaluation(**changes), 1))


def spoil(run: Run, modality: str, change: Callable[[np.ndarray], None]) -> None:
    """Change the features of round 1 as if they had been committed so."""
    directory = run.directory(Node("extract", modality, 1))
    for path in directory.glob("data/[0-9]*.parquet"):
        keys, features = read_features(path)
        features = features.copy()
        change(features)
        write_features(path, keys.tolist(), features)
    commit_as_it_is(directory)


def test_features_that_are_not_finite_are_an_error_that_counts_them(copy_run: MakeRun) -> None:
    run = copy_run(evaluate={"probe": PROBE})

    def to_nan(features: np.ndarray) -> None:
        features[0, 0] = np.nan

    spoil(run, "audio", to_nan)
    with pytest.raises(StageError, match=r"\d+ of 40 features have numbers that are not finite"):
        run_stage(run, Node("eval", "probe", 1))


def test_a_collapsed_encoder_gets_a_score_and_a_warning_not_a_crash(copy_run: MakeRun) -> None:
    run = copy_run(evaluate={"probe": PROBE})

    def to_one(features: np.ndarray) -> None:
        features[:] = 1.0

    spoil(run, "audio", to_one)
    run_stage(run, Node("eval", "probe", 1))
    assert results(run)["trials"][0]["metrics"]["accuracy"] <= 0.5
    (warning,) = [text for text in results(run)["warnings"] if "collapsed" in text]
    assert (
        warning
        == "test, seed 0: all training features are the same: the encoder has collapsed, and nothing can be learnt"
    )


def test_more_clusters_than_views_to_learn_from_is_a_configuration_error(copy_run: MakeRun) -> None:
    run = copy_run(evaluate={"probe": PROBE | {"protocol": "clusters", "k": 41}})
    with pytest.raises(ConfigError, match=r"40 views to learn from are fewer than k \(41\)"):
        run_stage(run, Node("eval", "probe", 1))


def test_the_files_of_an_evaluation_open_without_us(copy_run: MakeRun, tmp_path: Path) -> None:
    run = copy_run(evaluate={"probe": PROBE})
    run_stage(run, Node("eval", "probe", 1))
    predictions = pq.read_table(run.directory(Node("eval", "probe", 1)) / "predictions" / "test-0.parquet")
    assert predictions.column_names == ["source", "label", "predicted", "scores"]
    scores = np.stack(predictions["scores"].to_numpy(zero_copy_only=False))
    assert np.allclose(scores.sum(axis=1), 1, atol=1e-4)
    classes = results(run)["classes"]
    assert [classes[best] for best in scores.argmax(axis=1)] == predictions["predicted"].to_pylist()


def with_corpus(run: Run, root: Path, change: Callable[[int, dict[str, Any]], dict[str, Any]]) -> Run:
    """The run on a copy of its corpus in which `change`, given a row's number, has changed the index."""
    shutil.copytree(run.corpus, root)
    for path in sorted(root.glob("index/*.parquet")):
        table = pq.read_table(path)
        rows = [change(number, row) for number, row in enumerate(table.to_pylist())]
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    commit_as_it_is(root)
    values = run.config.model_dump()
    values["corpus"]["path"] = str(root)
    return Run(run.root, parse_config(values, "a test"))


QUICK = {"k": 2, "finetune": {"epochs": 1, "batch": 12}}
OVER_LABELS = pytest.mark.parametrize("protocol", ["fc", "svm", "knn", "clusters", "all"])


@OVER_LABELS
def test_a_class_without_test_recordings_is_a_warning(copy_run: MakeRun, tmp_path: Path, protocol: str) -> None:
    def rarely_tested(number: int, row: dict[str, Any]) -> dict[str, Any]:
        label = f"{number % 2}" if row["split"] == "test" else f"{number % 3}"
        return row | {"label_speaker": label}

    run = with_corpus(
        copy_run(evaluate={"probe": PROBE | QUICK | {"protocol": protocol}}), tmp_path / "c", rarely_tested
    )
    run_stage(run, Node("eval", "probe", 1))
    assert any("no test recording of class 2" in text for text in results(run)["warnings"])
    assert not any("collapsed" in text for text in results(run)["warnings"])


@OVER_LABELS
def test_a_test_part_with_one_class_is_a_warning(copy_run: MakeRun, tmp_path: Path, protocol: str) -> None:
    def alike(number: int, row: dict[str, Any]) -> dict[str, Any]:
        return row | {"label_speaker": "0" if row["split"] == "test" else f"{number % 2}"}

    run = with_corpus(copy_run(evaluate={"probe": PROBE | QUICK | {"protocol": protocol}}), tmp_path / "c", alike)
    run_stage(run, Node("eval", "probe", 1))
    assert any("all test recordings are of class 0" in text for text in results(run)["warnings"])


@OVER_LABELS
def test_clips_without_a_label_are_left_out_and_counted(copy_run: MakeRun, tmp_path: Path, protocol: str) -> None:
    def partly(number: int, row: dict[str, Any]) -> dict[str, Any]:
        return row | {"label_speaker": None if number % 8 == 0 else f"{number % 2}"}

    run = with_corpus(copy_run(evaluate={"probe": PROBE | QUICK | {"protocol": protocol}}), tmp_path / "c", partly)
    run_stage(run, Node("eval", "probe", 1))
    facts = results(run)
    assert "6 recordings: no label" in facts["warnings"]
    assert facts["trials"][0]["train"] + facts["trials"][0]["test"] == 42


def test_a_corpus_that_nobody_has_divided_is_divided_by_lot_and_says_so(copy_run: MakeRun, tmp_path: Path) -> None:
    undivided = copy_run(evaluate={"probe": PROBE})
    run = with_corpus(undivided, tmp_path / "c", lambda number, row: row | {"split": "train"})
    run_stage(run, Node("eval", "probe", 1))
    assert results(run)["metrics"]["accuracy"]["n"] == 1
    found = read_recordings(evaluation_task(run, evaluation(), 1))
    (split,) = found.splits
    assert split == "divided"
    tested = found.part(split, "test")
    assert set(found.labels[tested]) == set(range(len(found.classes)))
    assert len(tested) + len(found.part(split, "train")) == 48
    held_out = f"{len(tested)} of 48 recordings were held out at random, stratified by class"
    assert found.notes[0] == f"No test split is given: {held_out}."
    again = read_recordings(evaluation_task(run, evaluation(protocol="svm"), 0))
    assert (again.splits[split] == found.splits[split]).all()


def test_encoders_that_have_seen_the_test_clips_are_told_of(copy_run: MakeRun) -> None:
    seen = "the encoders have seen 8 of the 8 test recordings, without labels"
    assert read_recordings(evaluation_task(copy_run(), evaluation(), 1)).notes[0].startswith(seen)
    assert read_recordings(evaluation_task(copy_run(), evaluation(), 0)).notes == ()
    assert read_recordings(evaluation_task(copy_run(corpus={"learn_splits": ["train"]}), evaluation(), 1)).notes == ()


def test_a_test_on_what_a_supervised_encoder_has_learnt_is_refused(copy_run: MakeRun) -> None:
    supervised = copy_run(method="supervised")
    assert read_recordings(evaluation_task(supervised, evaluation(), 0)).notes == ()
    with pytest.raises(ConfigError, match=r"trained on the labels of 8 of the 8 test recordings.*corpus\.learn_splits"):
        read_recordings(evaluation_task(supervised, evaluation(), 1))
    apart = copy_run(method="supervised", corpus={"learn_splits": ["train"]})
    assert read_recordings(evaluation_task(apart, evaluation(), 1)).notes == ()


def test_retrieval_needs_no_labels(copy_run: MakeRun) -> None:
    run = copy_run(evaluate={"find": {"protocol": "retrieval", "label": "label_nothing", "held_out": 0.5}})
    run_stage(run, Node("eval", "find", 1))
    (trial,) = results(run, "find")["trials"]
    assert "video_to_audio.pair.10" in trial["metrics"]
    assert not any("class" in name for name in trial["metrics"])
    assert trial["chosen"]["held_out"] == 20


def of_originals(run: Run, root: Path, split: Callable[[int], str]) -> Run:
    """The run on a corpus that is named like UCF101: two classes, and four recordings of every original."""

    places = itertools.count()

    def named(_: int, row: dict[str, Any]) -> dict[str, Any]:
        place, label = divmod(next(places), 2)
        path = f"c{label}/v_c{label}_g{place // 4:02d}_c{place % 4}.avi"
        return row | {"source": path, "split": split(place // 4), "label_speaker": f"{label}"}

    return with_settings(with_corpus(run, root, named), layout="ucf101", videos=None)


def with_settings(run: Run, **changes: Any) -> Run:
    """The run with other settings of its corpus."""
    corpus = run.config.corpus.model_copy(update=changes)
    return Run(run.root, run.config.model_copy(update={"corpus": corpus}))


@pytest.mark.parametrize("protocol", ["fc", "svm", "knn", "all", "retrieval"])
def test_recordings_of_one_original_are_held_out_together(copy_run: MakeRun, tmp_path: Path, protocol: str) -> None:
    settings = QUICK | {"protocol": protocol, "held_out": 0.35}
    settings |= {} if protocol == "retrieval" else PROBE | {"protocol": protocol}
    undivided = copy_run(evaluate={"probe": settings})
    run = of_originals(undivided, tmp_path / "c", lambda original: "train" if original < 5 else "test")
    run_stage(run, Node("eval", "probe", 1))
    (trial,) = results(run)["trials"]
    # Four originals. Of recordings by themselves it would be 14.
    assert trial["chosen"]["held_out"] == 16


def test_recordings_of_one_original_are_divided_together(copy_run: MakeRun, tmp_path: Path) -> None:
    run = of_originals(copy_run(), tmp_path / "c", lambda original: "")
    found = read_recordings(evaluation_task(run, evaluation(held_out=0.3), 1))
    assert found.originals is not None
    sides = {name.rsplit("_", 1)[0]: set[str]() for name in found.names}
    for name, side in zip(found.names, found.splits["divided"], strict=True):
        sides[name.rsplit("_", 1)[0]].add(side)
    assert len(sides) == 12
    assert sorted(map(sorted, sides.values())) == [["test"]] * 4 + [["train"]] * 8


def test_splits_of_an_evaluation_are_compared_without_space_and_case(copy_run: MakeRun, tmp_path: Path) -> None:
    def spelt(number: int, row: dict[str, Any]) -> dict[str, Any]:
        return row | {"split": row["split"].title() if number % 2 else f" {row['split']}"}

    plain = read_recordings(evaluation_task(copy_run(), evaluation(), 0))
    run = with_corpus(copy_run(), tmp_path / "c", spelt)
    found = read_recordings(evaluation_task(run, evaluation(learn=[" TRAIN"], test=["Test"]), 0))
    assert (found.splits["Test"] == plain.splits["test"]).all()
    assert (
        read_recordings(evaluation_task(run, evaluation(), 1)).notes
        == read_recordings(evaluation_task(copy_run(), evaluation(), 1)).notes
    )
    apart = with_settings(run, learn_splits=["TRAIN "])
    assert read_recordings(evaluation_task(apart, evaluation(), 1)).notes == ()
    with pytest.raises(ConfigError, match=r"test is in both learn and test"):
        read_recordings(evaluation_task(run, evaluation(learn=["train", "Test"]), 0))
