"""Who learns from whom: what modalities share is measured without labels, and an encoder is protected from noise."""

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from shards.corpus.index import shard_names
from shards.store.parquet import read_parquet
from tests.commits import commit_as_it_is
from tests.runs import MakeRun
from tests.xdc_core.stage_process import start
from tests.xdc_core.tasks import targets_of
from tests.xdc_core.test_diagnostics import report
from xdc_core.config.load import parse_config
from xdc_core.data.labels import read_labels
from xdc_core.documents.report import KeptRow, Report, SharedRow, read_report
from xdc_core.documents.teachers import Pair, Teachers, read_teachers, write_teachers
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.run_stage import run_stage
from xdc_core.graph.stages import inputs, round_nodes, settings_of
from xdc_core.probes.shared import draw_sample, less_recordings, shared_information
from xdc_core.report.diagnostics import diagnostics
from xdc_core.report.page import history_charts
from xdc_core.report.shared import FILE_NAME
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run
from xdc_core.stages.teachers import decisive, learned

K, CLIPS = 8, 2000
ROUND = [Node(stage, name, 0) for stage in ("extract", "cluster", "label") for name in ("video", "audio")]


def clusters_and_features(signal: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    clusters = rng.integers(0, K, CLIPS)
    centres = rng.normal(size=(K, 16))
    return clusters, (signal * centres[clusters] + rng.normal(size=(CLIPS, 16))).astype(np.float32)


def test_features_that_tell_the_cluster_share_nearly_its_whole_entropy() -> None:
    clusters, features = clusters_and_features(signal=5)
    found = shared_information(features, clusters, np.arange(CLIPS))
    assert np.log(K) * 0.8 < found.nats < np.log(K)
    assert found.accuracy > 0.99
    assert found.chance == pytest.approx(1 / K, abs=0.02)


def test_features_without_a_relation_share_nothing() -> None:
    clusters, features = clusters_and_features(signal=0)
    found = shared_information(features, clusters, np.arange(CLIPS))
    assert abs(found.nats) < 0.01
    assert found.accuracy < found.chance + 0.03


def test_more_signal_is_more_that_is_shared() -> None:
    values = [
        shared_information(features, clusters, np.arange(CLIPS)).nats
        for clusters, features in map(clusters_and_features, (0, 0.2, 0.4, 0.8))
    ]
    assert values == sorted(values)
    assert values[1] > 0.005


def test_what_only_tells_the_recording_is_not_shared() -> None:
    rng = np.random.default_rng(0)
    sources = np.repeat(np.arange(40), 50)
    of_recording = rng.normal(size=(40, 16))[sources] * 3
    features = (of_recording + rng.normal(size=(2000, 16))).astype(np.float32)
    clusters = rng.permutation(np.repeat(np.arange(8), 5))[sources]  # A recording's clips are in one cluster.
    assert shared_information(features, clusters, np.arange(2000)).nats > 0.9  # With other clips of the recording.
    assert shared_information(features, clusters, sources).nats < 0.1


@pytest.mark.parametrize("quiet", [1e-2, 1e-4, 1e-6])
def test_a_unit_that_only_one_recording_excites_does_not_decide(quiet: float) -> None:
    clusters, features = clusters_and_features(signal=0.4)
    sources = np.arange(CLIPS) // 4
    plain = shared_information(features, clusters, sources).nats
    features[:, 3] = np.where(sources == 7, 1, quiet * features[:, 3])
    assert shared_information(features, clusters, sources).nats > plain / 2 > 0.02


def test_of_few_recordings_clips_are_held_out() -> None:
    clusters, features = clusters_and_features(signal=5)
    assert shared_information(features, clusters, np.zeros(CLIPS, int)).nats > 1


def test_the_standard_error_is_that_of_repetitions_and_recordings_count_once() -> None:
    found = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        clusters = rng.integers(0, 4, 600)
        features = (np.eye(4)[clusters] + rng.normal(size=(600, 4))).astype(np.float32)
        found.append(shared_information(features, clusters, np.arange(600)))
    spread = np.std([each.nats for each in found], ddof=1)
    assert 0.5 * spread < np.mean([each.error for each in found]) < 2 * spread
    copies = np.repeat(np.arange(600), 4)  # Four equal clips of a recording tell no more than one.
    repeated = shared_information(features[copies], clusters[copies], copies)
    assert repeated.error == pytest.approx(found[-1].error, rel=0.3)


def test_within_recordings_only_what_changes_in_them_is_shared() -> None:
    rng = np.random.default_rng(0)
    sources = np.repeat(np.arange(300), 6)
    slow, fast = rng.integers(0, 4, 300)[sources], rng.integers(0, 4, 1800)
    features = np.hstack([3 * np.eye(4)[slow], np.eye(4)[fast]]) + 0.3 * rng.normal(size=(1800, 8))
    inside = less_recordings(features.astype(np.float32), sources)
    assert inside is not None
    plain = [shared_information(features.astype(np.float32), clusters, sources).nats for clusters in (slow, fast)]
    within = [shared_information(inside, clusters, sources).nats for clusters in (slow, fast)]
    assert min(plain) > 1
    assert within[0] < 0.02 < 0.8 < within[1]


def test_without_several_clips_a_recording_nothing_is_measured_within() -> None:
    features = np.ones((10, 3), np.float32)
    assert less_recordings(features, np.arange(10)) is None
    assert less_recordings(features, np.array([0, 0, 0, 0, 0, *range(1, 6)])) is not None


def test_what_is_shared_within_recordings_decides_where_there_is_something() -> None:
    def pair(student: str, teacher: str, shared: float, within: float | None) -> Pair:
        values = {"shared": shared, "accuracy": 0.1, "chance": 0.1, "shared_error": 0.005}
        return Pair(student=student, teacher=teacher, **values, within=within, within_error=within and 0.004)

    # Talking faces, first round: light and noise are shared as much as words.
    both = [pair("video", "audio", 0.031, 0.105), pair("audio", "video", 0.032, 0.007)]
    assert learned("audio", ("video",), decisive(both), 0.9) == ("audio",)
    assert learned("video", ("audio",), decisive(both), 0.9) == ("audio",)
    without = [each.model_copy(update={"within": None, "within_error": None}) for each in both]
    assert learned("audio", ("video",), decisive(without), 0.9) == ("video",)
    nothing = [pair("video", "audio", 0.30, 0.005), pair("audio", "video", 0.10, -0.003)]
    assert learned("audio", ("video",), decisive(nothing), 0.9) == ("audio",)


PAIRS = {("video", "audio"): (0.04, 0.003), ("audio", "video"): (0.02, 0.003)}


@pytest.mark.parametrize(
    ("protect", "video", "audio"),
    [(0.9, ("audio",), ("audio",)), (0.5, ("audio",), ("video",)), (0.8, ("audio",), ("audio",))],
)
def test_an_encoder_learns_its_own_clusters_while_the_others_share_less(
    protect: float, video: tuple[str, ...], audio: tuple[str, ...]
) -> None:
    assert learned("video", ("audio",), PAIRS, protect) == video
    assert learned("audio", ("video",), PAIRS, protect) == audio


@pytest.mark.parametrize("error", [0.01, 0.05])
def test_a_difference_within_two_standard_errors_decides_nothing(error: float) -> None:
    close = {("video", "audio"): (0.04, error), ("audio", "video"): (0.02, error)}
    assert learned("audio", ("video",), close, 0.9) == ("video",)


def test_if_neither_shares_anything_the_plain_method_is_left() -> None:
    nothing = {("video", "audio"): (-0.01, 0.001), ("audio", "video"): (-0.03, 0.001)}
    assert learned("video", ("audio",), nothing, 0.9) == ("audio",)
    assert learned("audio", ("video",), nothing, 0.9) == ("video",)


def test_of_several_teachers_only_those_that_share_less_are_left_out() -> None:
    names = ("video", "audio", "flicker")
    shared = {(a, b): (0.1, 0.003) for a in names for b in names if a != b} | {("audio", "video"): (0.01, 0.003)}
    assert learned("audio", ("video", "flicker"), shared, 0.9) == ("flicker",)
    assert learned("audio", ("audio", "video", "flicker"), shared, 0.9) == ("audio", "flicker")  # MDC keeps its own.
    assert learned("video", ("audio", "flicker"), shared, 0.9) == ("audio", "flicker")


@pytest.mark.parametrize("method", ["sdc", "cdc", "supervised"])
def test_methods_that_do_not_learn_from_each_other_are_as_without_the_setting(method: str) -> None:
    plain, protected = (parse_config({"method": method, "train": {"protect": value}}, "a run") for value in (0, 0.9))
    assert round_nodes(plain, 0) == round_nodes(protected, 0)
    for node in round_nodes(plain, 0):
        assert settings_of(plain, node) == settings_of(protected, node)
        assert inputs(plain, node) == inputs(protected, node)


def test_a_number_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    pair = Pair(student="video", teacher="audio", shared=float("-inf"), accuracy=0.1, chance=0.1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_teachers(tmp_path, Teachers(protect=0.9, clips=8, pairs=(pair,), learns={}))
    assert not list(tmp_path.iterdir())


def test_without_the_setting_there_is_no_such_stage_and_no_other_fingerprint(make_run: MakeRun) -> None:
    plain, protected = make_run(), make_run(train={"protect": 0.9})
    assert Node("teachers", None, 0) not in round_nodes(plain.config, 0)
    assert Node("teachers", None, 0) in round_nodes(protected.config, 0)
    corpus = "0" * 64
    for node in ROUND:
        assert Fingerprints(plain, corpus).of(node) == Fingerprints(protected, corpus).of(node)
    train = Node("train", "audio", 0)
    assert Fingerprints(plain, corpus).of(train) != Fingerprints(protected, corpus).of(train)


@pytest.fixture
def protected(make_run: MakeRun) -> Run:
    """A run with the labels of its first round, in which encoders are protected."""
    run = make_run(train={"protect": 0.9})
    for node in [SHARD, Node("init", "video"), Node("init", "audio"), *ROUND, Node("teachers", None, 0)]:
        run_stage(run, node)
    return run


def test_an_encoder_is_trained_on_the_clusters_that_the_file_names(protected: Run) -> None:
    directory = protected.directory(Node("teachers", None, 0))
    found = read_teachers(directory)
    shared = decisive(found.pairs)
    assert found.learns == {
        "video": learned("video", ("audio",), shared, 0.9),
        "audio": learned("audio", ("video",), shared, 0.9),
    }
    for learns in (("audio",), ("video",), ("audio", "video")):
        write_teachers(directory, found.model_copy(update={"learns": found.learns | {"audio": learns}}))
        commit_as_it_is(directory)
        targets = targets_of(protected, Node("train", "audio", 0))
        assert tuple(targets.heads) == learns
        assert set(targets.targets) == set(learns)


def test_killed_at_any_point_it_names_the_same_teachers(protected: Run) -> None:
    node = Node("teachers", None, 0)
    directory = protected.directory(node)
    whole = (directory / "teachers.json").read_bytes()
    shutil.rmtree(directory)
    for point in ("before rename teachers.json", "after rename teachers.json", "before commit"):
        process = start(protected, node, os.environ | {"XDC_FAULT": f"kill:1:{point}"})
        said = process.communicate()[1]
        assert process.returncode == -signal.SIGKILL, said
        assert not directory.exists()
    run_stage(protected, node)
    assert (directory / "teachers.json").read_bytes() == whole


def test_clips_outside_the_splits_to_learn_from_are_not_measured(protected: Run) -> None:
    corpus = protected.directory(SHARD)
    labels = {name: protected.directory(Node("label", name, 0)) for name in ("video", "audio")}
    sample = draw_sample(corpus, labels, None, 1000, 0)
    for name, directory in labels.items():
        clusters = dict(
            pair
            for shard in shard_names(corpus)
            for pair in zip(*map(list, read_labels(directory, shard)), strict=True)
        )
        assert [clusters[key] for key in sample.keys.tolist()] == sample.clusters[name].tolist()
    assert len(draw_sample(corpus, labels, ["nowhere"], 1000, 0).keys) == 0
    assert len(draw_sample(corpus, labels, None, 7, 0).keys) == 7
    whole = draw_sample(corpus, labels, None, 7, 0, whole=True)
    assert len(whole.keys) == 7
    of_each = {name: (sample.sources == name).sum() for name in np.unique(sample.sources)}
    found = {name: (whole.sources == name).sum() for name in np.unique(whole.sources)}
    assert sum(found[name] < of_each[name] for name in found) <= 1  # All clips of a recording, but for the last one.


def test_a_training_step_learns_the_heads_of_the_file_and_no_other(protected: Run) -> None:
    directory = protected.directory(Node("teachers", None, 0))
    found = read_teachers(directory)
    write_teachers(directory, found.model_copy(update={"learns": {"video": ("audio",), "audio": ("audio",)}}))
    commit_as_it_is(directory)
    for name in ("video", "audio"):
        record = run_stage(protected, Node("train", name, 0))
        assert "accuracy_audio" in record.summary
        assert "accuracy_video" not in record.summary


def test_the_report_follows_the_same_clips_and_their_first_clusters_through_all_rounds(worked_run: Run) -> None:
    reports = [worked_run.directory(Node("report", None, number)) for number in (0, 1)]
    first, second = (read_parquet(path / FILE_NAME, "report").to_pydict() for path in reports)
    assert first == second
    now = read_report(reports[1])
    assert [(row.round, row.student, row.teacher) for row in now.shared_history] == [
        (number, *pair) for number in (0, 1) for pair in (("video", "audio"), ("audio", "video"))
    ]
    assert [(row.round, row.modality, row.since) for row in now.kept_history] == [
        (number, name, 0) for number in (0, 1) for name in ("video", "audio")
    ]


def kept(*audio: float, video: float = 1.8) -> Report:
    rounds = range(len(audio))
    pairs = [("video", "audio", 0.04), ("audio", "video", 0.02)]
    shared = [
        SharedRow(round=number, student=student, teacher=teacher, shared=nats)
        for number in rounds
        for student, teacher, nats in pairs
    ]
    rows = [
        KeptRow(round=number, modality=name, since=0, kept=nats if name == "audio" or not number else video)
        for number, nats in enumerate(audio)
        for name in ("video", "audio")
    ]
    return report({}).model_copy(update={"shared_history": shared, "kept_history": rows, "round": len(audio) - 1})


def test_a_better_teacher_that_forgets_is_named_with_what_to_set() -> None:
    (level, sentence), *_ = diagnostics(kept(1.76, 0.8, 0.36))
    assert level == "bad"
    assert sentence.startswith(
        "audio forgets: its features tell 0.36 nats per clip of its clusters of round 0, then 1.76"
    )
    assert "train.protect prevents this" in sentence
    protected = kept(1.76, 0.8, 0.36).model_copy(update={"learns": {"audio": ["audio"]}})
    assert "train.protect" not in diagnostics(protected)[0][1]


def test_the_page_draws_what_decides_within_recordings_and_what_is_kept() -> None:
    # As in a run that collapses: over all clips more and more is shared, and within recordings less and less.
    collapsing = kept(1.76, 0.8, 0.36)
    over_all = history_charts(collapsing)
    of_recordings = [row.model_copy(update={"shared": 0.3, "within": 0.2}) for row in collapsing.shared_history]
    charts = history_charts(collapsing.model_copy(update={"shared_history": of_recordings}))
    shared, keeps = (
        "What clusters share with another modality's features",
        "What features keep of their clusters of round 0",
    )
    assert [heading for heading in over_all if heading.startswith("What")] == [
        f"{shared} (nats per clip)",
        f"{keeps} (nats per clip)",
    ]
    assert "features of audio" in over_all[f"{keeps} (nats per clip)"]
    assert f"{shared} (nats per clip)" not in charts
    assert charts[f"{shared}, within recordings (nats per clip)"] != over_all[f"{shared} (nats per clip)"]
    nothing_inside = [row.model_copy(update={"within": 0.001}) for row in collapsing.shared_history]
    assert history_charts(collapsing.model_copy(update={"shared_history": nothing_inside})) == over_all


def test_a_teacher_that_keeps_half_is_not_named_nor_a_student_that_learns_better_clusters() -> None:
    nothing_shared = kept(1.76, 0.3)
    nothing_shared = nothing_shared.model_copy(
        update={"shared_history": [row.model_copy(update={"shared": 0.005}) for row in nothing_shared.shared_history]}
    )
    from_first = kept(1.76, 0.3).model_copy(update={"from_first": True})
    for found in (kept(1.76, 1.2, 0.94), kept(1.76), kept(1.76, 1.2, video=0.1), nothing_shared, from_first):
        assert not [text for _, text in diagnostics(found) if "forgets" in text]
