"""What becomes stale when a setting changes, why, and what a stage says when something is missing."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from shards.errors import ConfigError, StageError
from shards.store.commit import partial_directory
from shards.store.manifest import read_manifest
from tests.runs import MakeRun
from xdc_core.config.load import parse_config
from xdc_core.config.schema import Config
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.run_stage import all_fresh, reuse, run_stage
from xdc_core.graph.stages import all_nodes, check_node, settings_of
from xdc_core.graph.state import node_state
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run

EVERYTHING_OF_ROUND_1 = {
    f"{name} of round 1"
    for name in (
        "extract.video",
        "extract.audio",
        "cluster.video",
        "cluster.audio",
        "label.video",
        "label.audio",
        "report",
    )
}
AFTER_TRAINING_AUDIO, AFTER_TRAINING_VIDEO = (
    {
        f"train.{name} of round 0",
        "report of round 0",
        f"extract.{name} of round 1",
        f"cluster.{name} of round 1",
        f"label.{name} of round 1",
        "report of round 1",
    }
    for name in ("audio", "video")
)


def with_setting(run: Run, name: str, value: Any) -> Run:
    """The same directory seen with another setting; nothing is written."""
    values = run.config.model_dump()
    *parents, key = name.split(".")
    section = values
    for parent in parents:
        section = section[parent]
    section[key] = value
    return Run(run.root, parse_config(values, "a test's settings"))


def states(run: Run) -> dict[str, tuple[str, str]]:
    fingerprints = Fingerprints(run)
    return {str(node): node_state(run, node, fingerprints) for node in all_nodes(run.config)}


def not_fresh(run: Run) -> dict[str, str]:
    return {name: state for name, (state, _) in states(run).items() if state != "fresh"}


def in_round_0(*names: str) -> set[str]:
    return {f"{name} of round 0" for name in names}


def test_a_run_that_is_worked_off_is_fresh(worked_run: Run) -> None:
    assert set(states(worked_run).values()) == {("fresh", "")}
    assert len(states(worked_run)) == 19


def test_a_run_that_is_not_begun_is_missing_but_for_the_shared_corpus(make_run: MakeRun) -> None:
    found = states(make_run())
    assert found.pop("shard") == ("fresh", "")
    assert set(found.values()) == {("missing", "")}


def test_another_k_for_video_touches_what_follows_from_video_clusters_only(worked_run: Run) -> None:
    found = states(with_setting(worked_run, "cluster.k.video", 5))
    # Audio learns from video clusters; from its new encoder follows all of audio in the next round.
    stale = in_round_0("cluster.video", "label.video", "train.audio", "report") | {
        "extract.audio of round 1",
        "cluster.audio of round 1",
        "label.audio of round 1",
        "cluster.video of round 1",
        "label.video of round 1",
        "report of round 1",
    }
    assert {name for name, (state, _) in found.items() if state != "fresh"} == stale
    assert {state for state, _ in found.values()} == {"fresh", "stale"}
    assert found["cluster.video of round 0"] == ("stale", "k: 4 -> 5")
    assert found["cluster.video of round 1"] == ("stale", "k: 4 -> 5")
    assert found["label.video of round 0"] == ("stale", "cluster.video of round 0 changed")
    assert found["train.audio of round 0"] == ("stale", "label.video of round 0 changed")


@pytest.mark.parametrize(
    ("name", "value", "stale"),
    [
        ("train.lr", 0.001, in_round_0("train.video", "train.audio", "report") | EVERYTHING_OF_ROUND_1),
        (
            "audio.align",
            "span",
            {"init.audio"}
            | in_round_0("extract.audio", "cluster.audio", "label.audio", "train.audio", "train.video", "report")
            | EVERYTHING_OF_ROUND_1,
        ),
        ("method", "sdc", in_round_0("train.video", "train.audio", "report") | EVERYTHING_OF_ROUND_1),
        # What training alone draws of a clip leaves the features of the encoder that is there as they are.
        ("audio.mask_frames", 20, AFTER_TRAINING_AUDIO),
        ("audio.mask_mels", 5, AFTER_TRAINING_AUDIO),
        ("video.flip", False, AFTER_TRAINING_VIDEO),
        ("video.short_edges", [36, 40], AFTER_TRAINING_VIDEO),
        ("train.precision", "bfloat16", in_round_0("train.video", "train.audio", "report") | EVERYTHING_OF_ROUND_1),
        (
            "corpus.learn_splits",
            ["train"],
            {"init.video", "init.audio"}
            | in_round_0("extract.video", "extract.audio", "cluster.video", "cluster.audio")
            | in_round_0("label.video", "label.audio", "train.video", "train.audio", "report")
            | EVERYTHING_OF_ROUND_1,
        ),
        (
            "extract.precision",
            "bfloat16",
            in_round_0("extract.video", "extract.audio", "cluster.video", "cluster.audio")
            | in_round_0("label.video", "label.audio", "train.video", "train.audio", "report")
            | EVERYTHING_OF_ROUND_1,
        ),
    ],
)
def test_a_setting_makes_stale_what_depends_on_it(worked_run: Run, name: str, value: Any, stale: set[str]) -> None:
    found = not_fresh(with_setting(worked_run, name, value))
    assert set(found) == stale
    assert set(found.values()) == {"stale"}


def test_the_reason_names_the_setting_with_its_old_and_new_value(worked_run: Run) -> None:
    old = worked_run.config
    reasons = states(with_setting(worked_run, "train.lr", 0.001))
    assert reasons["train.video of round 0"][1] == f"lr: {old.train.lr} -> 0.001"
    assert reasons["extract.video of round 1"][1] == "train.video of round 0 changed"
    reasons = states(with_setting(worked_run, "audio.align", "span"))
    assert reasons["init.audio"][1] == "view.align: centre -> span"
    reasons = states(with_setting(worked_run, "method", "sdc"))
    assert reasons["train.video of round 0"][1] == "sources: ['audio'] -> ['video']"
    reasons = states(with_setting(worked_run, "seed", 1))
    assert reasons["init.video"][1] == "seed: 0 -> 1"


def test_the_reason_names_a_setting_of_the_corpus_that_older_corpora_do_not_have(worked_run: Run) -> None:
    assert states(with_setting(worked_run, "corpus.layout", "manifest"))["shard"] == (
        "stale",
        "layout: None -> manifest",
    )
    reason = "modalities: video, audio -> audio"
    assert states(with_setting(worked_run, "corpus.modalities", ["audio"]))["shard"] == ("stale", reason)


def test_the_weight_of_its_own_head_counts_where_there_are_two(worked_run: Run) -> None:
    def settings(run: Run) -> dict[str, Any]:
        return settings_of(run.config, Node("train", "audio", 0))

    mdc = with_setting(worked_run, "method", "mdc")
    assert settings(mdc)["own_head_weight"] == 1.0
    assert settings(with_setting(mdc, "train.own_head_weight", 2.0))["own_head_weight"] == 2.0
    assert "own_head_weight" not in settings(worked_run)


def test_what_a_training_was_done_with_stands_in_its_manifest(worked_run: Run) -> None:
    manifest = read_manifest(worked_run.directory(Node("train", "audio", 0)))
    assert manifest is not None
    elsewhere = {
        "checkpoint_every",
        "log_every",
        "workers",
        "own_head_weight",
        "protect",
    }  # protect: only if it is set.
    settings = worked_run.config.train.model_dump(mode="json", exclude=elsewhere)
    assert {name: manifest.settings[name] for name in settings} == settings
    assert manifest.settings["view"]["mask_frames"] == 0


def test_only_evaluations_on_data_sets_with_originals_have_them_among_their_inputs(
    worked_run: Run, tmp_path: Path
) -> None:
    for folder in ("001 - Dog bark", "002 - Rain"):
        (tmp_path / folder).mkdir()
        for fold in range(1, 6):
            (tmp_path / folder / f"{fold}-10{fold}-A.ogg").write_bytes(b"not looked into")
    layouts = ("esc50", "esc10", "folder")
    changes = {
        "datasets": {name: {"layout": name, "root": str(tmp_path), "modality": "audio"} for name in layouts},
        "evaluate": {name: {"data": name, "protocol": "svm"} for name in layouts}
        | {"own": {"protocol": "svm", "modality": "audio"}}
        | {f"clusters-{name}": {"data": name, "protocol": "clusters"} for name in layouts},
    }
    run = Run(worked_run.root, parse_config(worked_run.config.model_dump() | changes, "a test"))
    fingerprints = Fingerprints(run)
    inputs = {name: fingerprints.inputs_of(Node("eval", name, 1)) for name in run.config.evaluate}
    assert {name: "originals" in found for name, found in inputs.items()} == {
        "esc50": True,
        "esc10": True,
        "folder": False,
        "own": False,
        # They have official test parts: nothing is held out.
        "clusters-esc50": False,
        "clusters-esc10": False,
        "clusters-folder": False,
    }


def test_another_seed_leaves_nothing_but_the_corpus(worked_run: Run) -> None:
    found = states(with_setting(worked_run, "seed", 1))
    assert {name for name, (state, _) in found.items() if state == "fresh"} == {"shard"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("runs_on.threads", 2),
        ("runs_on.threads", None),
        ("runs_on.device", "auto"),
        ("runs_on.parallel", False),
        ("extract.workers", 3),
        ("train.workers", 3),
        ("train.checkpoint_every", 7),
        ("train.log_every", 3),
        ("train.own_head_weight", 2.0),  # There is no second head.
        ("corpus.workers", 1),
        ("corpus.clip_timeout_s", 5.0),
        ("corpus.clip_cpu_s", 5.0),
        ("corpus.clip_memory_mb", 500),
        ("cluster.k.joint", 9),
    ],
)
def test_where_and_how_fast_the_work_is_done_makes_nothing_stale(worked_run: Run, name: str, value: Any) -> None:
    assert not_fresh(with_setting(worked_run, name, value)) == {}


def test_another_round_adds_nodes_and_touches_the_last_report_only(worked_run: Run) -> None:
    found = states(with_setting(worked_run, "rounds", 2))
    missing = {name for name, (state, _) in found.items() if state == "missing"}
    assert missing == {"train.video of round 1", "train.audio of round 1"} | {
        name.replace("round 1", "round 2") for name in EVERYTHING_OF_ROUND_1
    }
    # What was the last look now tells of a training, too.
    assert {name for name, (state, _) in found.items() if state == "stale"} == {"report of round 1"}


def test_a_round_less_keeps_what_was_before(worked_run: Run) -> None:
    assert not_fresh(with_setting(worked_run, "rounds", 0)) == {"report of round 0": "stale"}


def test_begun_work_is_partial(copy_run: MakeRun) -> None:
    run, node = copy_run(), Node("label", "audio", 1)
    wanted = Fingerprints(run).of(node)
    assert wanted is not None
    shutil.rmtree(run.directory(node))
    assert states(run)[str(node)] == ("missing", "")
    partial_directory(run.directory(node), wanted).mkdir()
    assert states(run)[str(node)] == ("partial", "will be continued")


def test_begun_work_beside_an_old_result_is_partial_and_says_so(copy_run: MakeRun) -> None:
    node = Node("cluster", "video", 0)
    run = copy_run(k={"video": 5, "audio": 4})
    wanted = Fingerprints(run).of(node)
    assert wanted is not None
    partial_directory(run.directory(node), wanted).mkdir()
    assert states(run)[str(node)] == ("partial", "a newer one is begun; the old one is stale")


def test_a_lost_file_makes_a_node_stale(copy_run: MakeRun) -> None:
    run = copy_run()
    (run.directory(Node("cluster", "video", 0)) / "centroids.npy").unlink()
    assert states(run)["cluster.video of round 0"] == ("stale", "files are missing or of another size")
    assert list(not_fresh(run)) == ["cluster.video of round 0"]


def test_a_directory_without_a_manifest_is_missing(copy_run: MakeRun) -> None:
    run = copy_run()
    (run.directory(Node("train", "audio", 0)) / "manifest.json").unlink()
    assert states(run)["train.audio of round 0"] == ("missing", "")


def test_a_changed_video_makes_everything_stale_and_names_it(copy_run: MakeRun, digits: Path, tmp_path: Path) -> None:
    videos = tmp_path / "digits"
    shutil.copytree(digits.parent, videos)
    run = copy_run(corpus={"videos": str(videos / digits.name)})
    assert not_fresh(run) == {}
    changed = sorted(videos.rglob("*.mp4"))[3]
    changed.write_bytes(changed.read_bytes() + b"\0")
    found = states(run)
    assert {state for state, _ in found.values()} == {"stale"}
    assert found["shard"][1] == f"new or changed source {changed.relative_to(videos)}"
    assert found["init.video"][1] == "shard changed"


def test_a_video_with_a_new_time_is_left_to_the_stage_and_is_known_afterwards(
    worked_run: Run, digits: Path, tmp_path: Path
) -> None:
    videos, corpus = tmp_path / "digits", tmp_path / "corpus"
    shutil.copytree(digits.parent, videos)
    shutil.copytree(worked_run.corpus, corpus)
    run = with_setting(with_setting(worked_run, "corpus.videos", str(videos / digits.name)), "corpus.path", str(corpus))
    own = Fingerprints(run).of(SHARD)
    assert own is not None
    assert all_fresh(run, [SHARD])
    os.utime(sorted(videos.rglob("*.mp4"))[3], ns=(1, 10**18))
    assert not all_fresh(run, [SHARD])
    assert Fingerprints(run, compare=False).of(SHARD) is None
    record = run_stage(run, SHARD)
    assert (record.reused, record.fingerprint) == (True, own)
    assert all_fresh(run, all_nodes(run.config))


def test_a_run_goes_on_when_its_videos_are_gone(copy_run: MakeRun) -> None:
    assert not_fresh(copy_run(corpus={"videos": "nowhere"})) == {}
    assert not_fresh(copy_run(corpus={"videos": None})) == {}


def test_a_moved_run_is_as_fresh_as_before(copy_run: MakeRun, tmp_path: Path) -> None:
    run = copy_run()
    shutil.move(run.root, tmp_path / "elsewhere")
    assert not_fresh(Run(tmp_path / "elsewhere", run.config)) == {}


@pytest.fixture
def given(copy_run: MakeRun, worked_run: Run, tmp_path: Path) -> tuple[Run, Path]:
    """A run whose video encoder starts from a file, as far as that start; and the file."""
    weights = tmp_path / "weights.safetensors"
    shutil.copy(worked_run.directory(Node("train", "video", 0)) / "encoder.safetensors", weights)
    run = copy_run(video={"weights": "../weights.safetensors"})
    run_stage(run, Node("init", "video"))
    return run, weights


AFTER_INIT_VIDEO = (
    in_round_0("extract.video", "cluster.video", "label.video", "train.video", "train.audio", "report")
    | EVERYTHING_OF_ROUND_1
)


def test_weights_of_a_file_make_stale_what_follows_from_random_ones(worked_run: Run, given: tuple[Run, Path]) -> None:
    _, weights = given
    found = states(with_setting(worked_run, "video.weights", str(weights)))
    assert found["init.video"] == ("stale", "random weights -> weights of a file")
    assert found["extract.video of round 0"] == ("stale", "init.video changed")
    assert {name for name, (state, _) in found.items() if state == "stale"} == AFTER_INIT_VIDEO | {"init.video"}


def test_going_back_to_random_weights_is_told_as_such(given: tuple[Run, Path]) -> None:
    found = states(with_setting(given[0], "video.weights", None))
    assert found["init.video"] == ("stale", "weights of a file -> random weights")


def test_another_content_of_the_file_makes_the_start_and_all_that_follows_stale(given: tuple[Run, Path]) -> None:
    run, weights = given
    assert set(not_fresh(run)) == AFTER_INIT_VIDEO
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    found = states(run)
    assert found["init.video"] == ("stale", "weights changed")
    assert set(not_fresh(run)) == AFTER_INIT_VIDEO | {"init.video"}


def test_the_name_and_the_place_of_the_file_do_not_matter(given: tuple[Run, Path], tmp_path: Path) -> None:
    run, weights = given
    (tmp_path / "elsewhere").mkdir()
    weights.rename(tmp_path / "elsewhere" / "other.safetensors")
    moved = with_setting(run, "video.weights", "../elsewhere/other.safetensors")
    assert states(moved)["init.video"] == ("fresh", "")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", 1),
        ("corpus.learn_splits", ["train"]),
        ("corpus.clip_seconds", 1.05),
        ("extract.calibration_batches", 7),
        ("video.frames", 5),
    ],
)
def test_what_only_random_weights_use_does_not_touch_given_ones(given: tuple[Run, Path], name: str, value: Any) -> None:
    found = states(with_setting(given[0], name, value))
    assert found["init.video"] == ("fresh", "")
    assert found["init.audio"][0] == "stale"


def test_another_encoder_touches_given_weights(given: tuple[Run, Path]) -> None:
    found = states(with_setting(given[0], "video.encoder", "r2plus1d_18"))
    assert found["init.video"] == ("stale", "encoder: r2plus1d_tiny -> r2plus1d_18")


def test_a_run_without_weights_has_the_settings_it_had_before_there_were_any(worked_run: Run) -> None:
    for node in all_nodes(worked_run.config):
        assert "weights" not in str(settings_of(worked_run.config, node))


@pytest.mark.parametrize("there", [False, True])
def test_weights_that_are_no_file_are_told_with_what_to_do(worked_run: Run, tmp_path: Path, there: bool) -> None:
    path = tmp_path / "nowhere.pth"
    if there:
        path.mkdir()
    run = with_setting(worked_run, "audio.weights", str(path))
    with pytest.raises(ConfigError) as caught:
        states(run)
    assert str(caught.value) == (
        f"audio.weights: {path} cannot be read ({'Is a directory' if there else 'No such file or directory'}). Put "
        f"the file there, correct the path in {run.root}/xdc.yaml (it is relative to that file), or set it to null for "
        "random weights."
    )


def test_a_missing_input_is_named_with_the_command_that_makes_it(make_run: MakeRun) -> None:
    run = make_run()
    with pytest.raises(StageError) as caught:
        run_stage(run, Node("extract", "audio", 0))
    assert str(caught.value) == (
        "extract.audio of round 0 needs init.audio, which is missing or stale. "
        f"Build it with: xdc stage init {run.root} --modality audio   "
        f"(or everything that is missing: xdc run {run.root})"
    )
    assert not run.directory(Node("extract", "audio", 0)).exists()


def test_a_stale_input_is_as_bad_as_a_missing_one(copy_run: MakeRun) -> None:
    run = copy_run(k={"video": 5, "audio": 4})
    with pytest.raises(
        StageError, match=r"needs cluster\.video of round 0.*stage cluster .* --modality video --round 0"
    ):
        run_stage(run, Node("label", "video", 0))


def test_what_is_fresh_is_reused_and_what_was_set_aside_comes_back(copy_run: MakeRun) -> None:
    run, node = copy_run(), Node("cluster", "video", 0)
    first = run_stage(run, node)
    assert first.reused
    other = run_stage(with_setting(run, "cluster.k.video", 5), node)
    assert not other.reused
    assert other.summary["k"] == 5
    back = run_stage(run, node)
    assert back.reused
    assert back.fingerprint == first.fingerprint
    assert reuse(run, node) == first


def test_force_makes_it_anew(copy_run: MakeRun) -> None:
    run, node = copy_run(), Node("cluster", "audio", 0)
    before = (run.directory(node) / "centroids.npy").read_bytes()
    assert not run_stage(run, node, force=True).reused
    assert (run.directory(node) / "centroids.npy").read_bytes() == before


@pytest.mark.parametrize(
    ("node", "rounds", "message"),
    [
        (Node("trian", "video", 0), 1, r"there is no stage 'trian'\. There are: shard, data, init, extract"),
        (Node("train", "video", 1), 1, r"no node train\.video of round 1\. There is: train\.video of round 0, train"),
        (Node("cluster", "joint", 0), 1, r"no node cluster\.joint of round 0\. There is: cluster\.video of round 0"),
        (Node("extract", "video"), 1, r"no node extract\.video\. .*Use --modality and --round"),
        (Node("train", "video", 0), 0, r"no node train\.video of round 0\. There is: none, for rounds is 0"),
    ],
)
def test_a_node_that_is_not_in_the_graph_is_refused_with_those_that_are(node: Node, rounds: int, message: str) -> None:
    config: Config = parse_config({"rounds": rounds}, "a test")
    with pytest.raises(ConfigError, match=message):
        check_node(Run(Path("runs/a"), config), node)


def test_every_node_of_the_graph_is_accepted(worked_run: Run) -> None:
    for node in all_nodes(worked_run.config):
        check_node(worked_run, node)
    assert SHARD in all_nodes(worked_run.config)
