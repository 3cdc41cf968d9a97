"""Runs of features that somebody else computed: Parquet files instead of media and encoders."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.cli.running.evaluate import newest_round
from flows.cli.running.new_run import make_run as init_run
from shards.corpus.index import read_whole_index
from shards.errors import ConfigError, StageError
from shards.store.manifest import read_manifest
from tests.runs import changed, write_run
from xdc_core.config.load import parse_config
from xdc_core.config.schema import Config
from xdc_core.data.features import read_features
from xdc_core.documents.results import read_results as read_document
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.run_stage import run_stage
from xdc_core.graph.stages import all_nodes, evaluation_nodes
from xdc_core.graph.state import node_state
from xdc_core.inspection.verification import verify_run
from xdc_core.outside import take
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run, open_run

WIDTH = 6
RNG = np.random.default_rng(0)
# Numbers that float16 has, too.
NUMBERS = (RNG.integers(-64, 64, (30, WIDTH)) / 8).astype(np.float32)
KEYS = [f"clip-{number:02d}" for number in range(30)]


def written(
    file: Path,
    keys: Sequence[str | None] = KEYS,
    features: Sequence[Any] = tuple(NUMBERS.tolist()),
    kind: pa.DataType | None = None,
    **columns: Any,
) -> Path:
    """A file of features; by default of 30 clips, as fixed-size lists of float32."""
    file.parent.mkdir(parents=True, exist_ok=True)
    column = pa.array(list(features), kind or pa.list_(pa.float32(), WIDTH))
    table = pa.table({"key": pa.array(list(keys), pa.string()), "feature": column, **columns})
    pq.write_table(table, file, row_group_size=7)
    return file


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Path]:
    """Features of both modalities, those of the sound in another order and in two files."""
    written(tmp_path / "video" / "a.parquet", label=[f"l{number % 3}" for number in range(30)])
    order = np.random.default_rng(1).permutation(30)
    for name, part in (("a", order[:11]), ("b", order[11:])):
        written(tmp_path / "audio" / f"{name}.parquet", [KEYS[row] for row in part], (NUMBERS[part] + 1).tolist())
    return {"video": tmp_path / "video", "audio": tmp_path / "audio"}


def run_of(root: Path, features: dict[str, Path], tiny_config: Config, **changes: Any) -> Run:
    """A run of given features with the tests' settings, in shards of 8 clips."""
    corpus = {"path": "corpus", "videos": None, "clips_per_shard": 8}
    corpus["features"] = {name: str(folder) for name, folder in features.items()}
    own = {"rounds": 0, "pca": 4, "corpus": corpus, "modalities": list(features)}
    method = {} if len(features) > 1 else {"method": "sdc"}
    values = changed(changed(tiny_config.model_dump(), own | method), changes)
    return write_run(root, parse_config(values, "a test's settings"))


def features_of(run: Run, modality: str) -> dict[str, np.ndarray]:
    """The features of a run's first round by key, in order."""
    found: dict[str, np.ndarray] = {}
    for path in sorted(run.directory(Node("extract", modality, 0)).rglob("0*.parquet")):
        keys, features = read_features(path)
        found |= dict(zip(keys, features, strict=True))
    return found


def do(run: Run) -> Run:
    for node in all_nodes(run.config):
        run_stage(run, node)
    return run


def test_features_of_another_run_give_the_same_clusters_labels_and_a_report(
    tmp_path: Path, worked_run: Run, tiny_config: Config
) -> None:
    """Byte for byte: what follows does not see that nothing was computed here."""
    theirs = {name: worked_run.directory(Node("extract", name, 0)) for name in ("video", "audio")}
    same = {"pca": tiny_config.cluster.pca, "corpus": {"clips_per_shard": 16}}
    run = do(run_of(tmp_path / "run", theirs, tiny_config, **same))
    assert {node.stage for node in all_nodes(run.config)} == {"shard", "extract", "cluster", "label", "report"}
    for name in ("video", "audio"):
        for stage in ("extract", "cluster", "label"):
            node = Node(stage, name, 0)
            made, wanted = read_manifest(run.directory(node)), read_manifest(worked_run.directory(node))
            assert made is not None
            assert wanted is not None
            files = {file: entry.sha256 for file, entry in wanted.files.items() if not file.endswith(".json")}
            assert {file: made.files[file].sha256 for file in files} == files
    assert not (run.root / "init").exists()
    page = (run.directory(Node("report", None, 0)) / "report.html").read_text(encoding="utf-8")
    assert "the corpus has no media of it" in page
    assert verify_run(run) == []
    assert {node_state(run, node, Fingerprints(run))[0] for node in all_nodes(run.config)} == {"fresh"}


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.float16(), WIDTH),
        pa.list_(pa.float64(), WIDTH),
        pa.list_(pa.float32()),
        pa.list_(pa.float64()),
        pa.large_list(pa.float16()),
    ],
    ids=str,
)
def test_lists_of_all_kinds_of_floating_point_numbers_are_taken(
    tmp_path: Path, tiny_config: Config, kind: pa.DataType
) -> None:
    rows = NUMBERS.astype(np.float16) if kind.value_type == pa.float16() else NUMBERS
    written(
        tmp_path / "video" / "a.parquet", features=list(rows) if rows.dtype == np.float16 else rows.tolist(), kind=kind
    )
    run = run_of(tmp_path / "run", {"video": tmp_path / "video"}, tiny_config)
    for node in (SHARD, Node("extract", "video", 0)):
        run_stage(run, node)
    found = features_of(run, "video")
    assert list(found) == KEYS
    assert np.array_equal(np.stack(list(found.values())), NUMBERS)


def test_every_feature_belongs_to_its_key_whatever_the_order_of_the_files(
    tmp_path: Path, given: dict[str, Path], tiny_config: Config
) -> None:
    run = run_of(tmp_path / "run", given, tiny_config)
    for node in (SHARD, Node("extract", "video", 0), Node("extract", "audio", 0)):
        run_stage(run, node)
    for name, more in (("video", 0), ("audio", 1)):
        found = features_of(run, name)
        assert list(found) == KEYS
        assert np.array_equal(np.stack(list(found.values())), NUMBERS + more)
    manifest = read_manifest(run.directory(Node("extract", "audio", 0)))
    assert manifest is not None
    assert sorted(Path(name).name for name in manifest.files) == [f"00000{number}.parquet" for number in range(4)]


def test_clips_are_described_by_the_columns_of_the_first_file_that_has_them(
    tmp_path: Path, tiny_config: Config
) -> None:
    seconds = pa.array([*([2.0] * 29), None])
    written(tmp_path / "video" / "a.parquet", path=[f"film-{n}.mp4" for n in range(30)], duration_s=seconds)
    order = list(reversed(range(30)))
    own = {"label_kind": pa.array([n % 4 for n in order]), "split": ["test" if n > 24 else "train" for n in order]}
    written(tmp_path / "audio" / "a.parquet", [KEYS[n] for n in order], NUMBERS[order].tolist(), **own)
    features = {"video": tmp_path / "video", "audio": tmp_path / "audio"}
    run = run_of(tmp_path / "run", features, tiny_config, corpus={"learn_splits": ["train"]})
    run_stage(run, SHARD)
    index = read_whole_index(run.corpus).to_pylist()
    assert [row["key"] for row in index] == KEYS
    assert index[27] | {"source": "film-27.mp4", "split": "test", "label_kind": "3", "duration_s": 2.0} == index[27]
    assert (index[29]["duration_s"], index[29]["frames"]) == (0.0, 0)
    assert index[0]["frames"] == round(2 * run.config.corpus.fps)
    with pytest.raises(ConfigError, match="nothing in the files of features has the split 'other'"):
        run_stage(run_of(tmp_path / "other", features, tiny_config, corpus={"learn_splits": ["other"]}), SHARD)


def test_rows_that_cannot_be_used_are_rejects_with_a_reason(tmp_path: Path, tiny_config: Config) -> None:
    rows: list[Any] = NUMBERS.tolist()
    rows[1][2], rows[2], rows[3][0], rows[4][5] = float("nan"), None, None, 1e300
    keys: list[str | None] = list(KEYS)
    keys[5], keys[6], keys[7] = "a/b.mp4", None, KEYS[8]
    written(tmp_path / "video" / "a.parquet", keys, rows, pa.list_(pa.float64()))
    written(tmp_path / "audio" / "a.parquet", [*KEYS[:9], *KEYS[10:], "more"], NUMBERS.tolist())
    run = run_of(tmp_path / "run", {"video": tmp_path / "video", "audio": tmp_path / "audio"}, tiny_config)
    record = run_stage(run, SHARD)
    reasons = {
        (row["source"], row["key"]): (row["kind"], row["reason"])
        for row in pq.read_table(run.corpus / "rejects.parquet").to_pylist()
    }
    video, finite = "video/a.parquet", "the feature has a number that is not finite in float32"
    key = "a key has 1 to 128 letters, digits, - and _. Other names belong into the column source"
    assert reasons == {
        (video, KEYS[1]): ("damaged", f"row 1: {finite}"),
        (video, KEYS[2]): ("missing", "row 2: the feature is null or empty"),
        (video, KEYS[3]): ("damaged", f"row 3: {finite}"),
        (video, KEYS[4]): ("damaged", f"row 4: {finite}"),
        (video, "a/b.mp4"): ("bad_row", f"row 5: {key}"),
        (video, ""): ("bad_row", "row 6: the key is null"),
        (video, KEYS[8]): ("duplicate", "row 8: the key occurred before"),
        ("video", KEYS[9]): ("missing", "no feature of audio has this key"),
        ("audio", KEYS[5]): ("missing", "no feature of video has this key"),
        ("audio", KEYS[6]): ("missing", "no feature of video has this key"),
        ("audio", KEYS[7]): ("missing", "no feature of video has this key"),
        ("audio", "more"): ("missing", "no feature of video has this key"),
    }
    assert (record.rows, record.rejects) == (22, 12)
    assert record.summary["kinds"] == {"damaged": 3, "missing": 6, "bad_row": 2, "duplicate": 1}
    run_stage(run, Node("extract", "video", 0))
    assert np.array_equal(features_of(run, "video")[KEYS[8]], NUMBERS[7])  # The first row of the key.
    few = replace(run, config=run.config.model_copy(update={"corpus": _share(run, 0.1)}))
    with pytest.raises(StageError, match=r"12 rows were rejected and 22 clips are good: .*max_reject_share \(0\.1\)"):
        run_stage(few, SHARD, force=True)


def _share(run: Run, share: float) -> Any:
    return run.config.corpus.model_copy(update={"max_reject_share": share})


@pytest.mark.parametrize(
    ("features", "kind", "why"),
    [
        ([[1.0] * WIDTH] * 29 + [[1.0] * 4], pa.list_(pa.float32()), "have 4 to 6 numbers"),
        ([[1] * WIDTH] * 30, pa.list_(pa.int32(), WIDTH), "but lists of floating-point numbers are needed"),
        ([1.0] * 30, pa.float32(), "the column feature is float, but lists of"),
        ([None] * 30, pa.list_(pa.float32(), WIDTH), "has no feature with any number"),
        ([[]] * 30, pa.list_(pa.float32()), "has no feature with any number"),
    ],
)
def test_features_of_other_widths_or_types_are_refused(
    tmp_path: Path, tiny_config: Config, features: list[Any], kind: pa.DataType, why: str
) -> None:
    written(tmp_path / "video" / "a.parquet", features=features, kind=kind)
    with pytest.raises(ConfigError, match=why):
        run_stage(run_of(tmp_path / "run", {"video": tmp_path / "video"}, tiny_config), SHARD)


def test_empty_features_and_times_that_are_none_are_rejects(tmp_path: Path, tiny_config: Config) -> None:
    rows: list[Any] = NUMBERS.tolist()
    rows[:9] = [[]] * 9  # All of the first row group.
    seconds = [2.0] * 30
    seconds[10:14] = float("nan"), -1.0, float("inf"), 1e12
    starts = [0] * 29 + [-3]
    written(tmp_path / "video" / "a.parquet", KEYS, rows, pa.list_(pa.float32()), duration_s=seconds, start_s=starts)
    run = run_of(tmp_path / "run", {"video": tmp_path / "video"}, tiny_config)
    assert run_stage(run, SHARD).rows == 16
    rejects = pq.read_table(run.corpus / "rejects.parquet").to_pylist()
    assert [row["reason"].split(": ")[1] for row in rejects] == [
        *["the feature is null or empty"] * 9,
        *["start_s or duration_s is not a number of seconds from 0 on, or is too large"] * 5,
    ]
    assert set(read_whole_index(run.corpus, ["frames"])["frames"].to_pylist()) == {2 * run.config.corpus.fps}
    run_stage(run, Node("extract", "video", 0))
    assert np.array_equal(features_of(run, "video")[KEYS[9]], NUMBERS[9])


def test_files_that_change_after_the_corpus_was_made_are_not_taken_over(
    tmp_path: Path, given: dict[str, Path], tiny_config: Config
) -> None:
    run = run_of(tmp_path / "run", given, tiny_config)
    run_stage(run, SHARD)
    file = given["video"] / "a.parquet"
    size = file.stat().st_size
    written(file, features=(NUMBERS * 2).tolist(), label=[f"l{number % 3}" for number in range(30)])
    assert file.stat().st_size == size
    (tmp_path / "out").mkdir()
    with pytest.raises(StageError, match="have changed since"):
        take.take_features("video", given["video"], run.corpus, tmp_path / "out", lambda *_: None)


def test_files_that_do_not_fit_are_named(tmp_path: Path, given: dict[str, Path], tiny_config: Config) -> None:
    run, video = run_of(tmp_path / "run", given, tiny_config), given["video"]
    wider = written(video / "b.parquet", ["x"], [[1.0] * 9], pa.list_(pa.float32(), 9))
    with pytest.raises(ConfigError, match=r"b\.parquet have 9 numbers, those before them 6"):
        run_stage(run, SHARD)
    pq.write_table(pa.table({"id": ["x"], "feature": [[1.0]]}), wider)
    with pytest.raises(ConfigError, match=r"b\.parquet has no column key\. Its columns are: id, feature"):
        run_stage(run, SHARD)
    pq.write_table(pa.table({"key": [3], "feature": [[1.0]]}), wider)
    with pytest.raises(ConfigError, match="the column key is int64, but text is needed"):
        run_stage(run, SHARD)
    written(wider, label=[["a", "b"]] * 30)
    with pytest.raises(ConfigError, match=r"the column label is list.*one value per clip"):
        run_stage(run, SHARD)
    written(wider, start_s=pa.array([0] * 30, pa.timestamp("s")))
    with pytest.raises(ConfigError, match=r"the column start_s is timestamp.*, but numbers are needed"):
        run_stage(run, SHARD)
    table = pq.read_table(written(wider, label=["a"] * 30))
    pq.write_table(table.append_column("label", table["label"]), wider)
    with pytest.raises(ConfigError, match=r"b\.parquet has several columns with the name label"):
        run_stage(run, SHARD)
    written(wider, label=pa.array([b"\xff"] * 30, pa.binary()).view(pa.string()))
    with pytest.raises(ConfigError, match=r"b\.parquet: the column key cannot be read: .*UTF8"):
        run_stage(run, SHARD)
    wider.write_bytes(b"PAR1 no")
    with pytest.raises(ConfigError, match="cannot be read as Parquet"):
        run_stage(run, SHARD)
    shutil.rmtree(video)
    video.mkdir()
    with pytest.raises(ConfigError, match=r"corpus\.features\.video: .* has no \*\.parquet"):
        run_stage(run, SHARD)


def test_only_other_content_makes_the_run_stale(tmp_path: Path, given: dict[str, Path], tiny_config: Config) -> None:
    run = run_of(tmp_path / "run", given, tiny_config)
    nodes = [SHARD, Node("extract", "video", 0), Node("cluster", "video", 0)]
    for node in nodes:
        run_stage(run, node)
    (given["video"] / "a.parquet").touch()
    moved = given["audio"].rename(tmp_path / "elsewhere")
    states = [node_state(run, node, Fingerprints(run)) for node in nodes]
    assert states == [("fresh", "")] * 3  # A finished corpus counts while a folder is gone.
    with pytest.raises(ConfigError, match=r"corpus\.features\.audio: .*audio does not exist"):
        run_stage(run, Node("extract", "audio", 0))
    moved.rename(given["audio"])
    assert [node_state(run, node, Fingerprints(run)) for node in nodes] == [("fresh", "")] * 3
    written(given["video"] / "a.parquet", features=(NUMBERS * 2).tolist())
    assert [node_state(run, node, Fingerprints(run))[0] for node in nodes] == ["stale"] * 3
    for node in nodes:
        assert not run_stage(run, node).reused
    assert np.array_equal(features_of(run, "video")[KEYS[3]], NUMBERS[3] * 2)


def test_a_take_over_that_was_interrupted_goes_on_and_leaves_nothing_behind(
    tmp_path: Path, given: dict[str, Path], tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, node = run_of(tmp_path / "run", given, tiny_config), Node("extract", "audio", 0)
    run_stage(run, SHARD)
    real, shards = take.new_shard, []

    def dies(out: Path, shard: str) -> Any:
        shards.append(shard)
        if len(shards) == 3:
            raise KeyboardInterrupt
        return real(out, shard)

    with monkeypatch.context() as patch:
        patch.setattr(take, "new_shard", dies)
        with pytest.raises(KeyboardInterrupt):
            run_stage(run, node)
    assert node_state(run, node, Fingerprints(run))[0] == "partial"
    run_stage(run, node)
    assert np.array_equal(np.stack(list(features_of(run, "audio").values())), NUMBERS + 1)
    assert verify_run(run) == []


def test_what_needs_media_or_an_encoder_is_refused_in_a_line(
    tmp_path: Path, given: dict[str, Path], tiny_config: Config
) -> None:
    for wrong, why in (
        ({"rounds": 2}, r"rounds needs media and encoders, and this run only has features"),
        ({"last_training": "from_first"}, "last_training needs media and encoders"),
        ({"evaluate": {"x": {"protocol": "all", "modality": "video"}}}, r"evaluate\.x needs media and encoders"),
        ({"corpus": {"videos": "videos"}}, "features are given instead of media: set videos to the default"),
        ({"corpus": {"append": True}}, "features are given instead of media: set append to the default"),
        ({"corpus": {"path": "s3://a/b"}}, "features are given instead of media: set path to the default"),
        ({"corpus": {"features": {"video": "v"}}}, r"corpus\.features has video, and modalities is video, audio"),
    ):
        with pytest.raises(ConfigError, match=why):
            run_of(tmp_path / "run", given, tiny_config, **wrong)


def test_frozen_features_are_evaluated_as_those_of_an_encoder(
    tmp_path: Path, given: dict[str, Path], tiny_config: Config
) -> None:
    own = {"split": ["test" if number % 5 == 0 else "train" for number in range(30)]}
    labels = [f"l{number % 3}" for number in range(30)]
    written(given["video"] / "a.parquet", features=np.eye(6)[np.arange(30) % 3].tolist(), label=labels, **own)
    evaluations = {"near": {"protocol": "knn", "modality": "video", "when": "asked"}}
    run = run_of(tmp_path / "run", given, tiny_config, evaluate=evaluations)
    assert newest_round(run, "near") == 0
    nodes = evaluation_nodes(run.config, ["near"], 0)
    for node in (SHARD, Node("extract", "video", 0), *nodes):
        run_stage(run, node)
    results = read_document(run.directory(nodes[-1]))
    assert results.metrics["accuracy"].mean == 1.0
    assert (results.encoder, results.weights) == (None, str(given["video"]))


def test_xdc_init_writes_such_a_run(tmp_path: Path, given: dict[str, Path]) -> None:
    root = tmp_path / "runs" / "x"
    assert init_run(root, None, "tiny", tmp_path / "corpus", {}, {}, False, given)
    config = open_run(root).config
    assert (config.rounds, config.method, config.cluster.pca) == (0, "xdc", WIDTH)
    assert open_run(root).features == given
    assert not init_run(root, None, "tiny", None, {}, {}, True, given)
    with pytest.raises(ConfigError, match="is not a run on these features"):
        init_run(root, None, "tiny", None, {}, {}, True, {"video": tmp_path})
    alone = tmp_path / "runs" / "alone"
    init_run(alone, None, "tiny", None, {}, {}, False, {"audio": given["audio"]})
    assert (open_run(alone).config.method, open_run(alone).config.modalities) == ("sdc", ("audio",))
    with pytest.raises(ConfigError, match="--features is instead of --videos"):
        init_run(tmp_path / "y", tmp_path, "tiny", None, {}, {}, False, given)
    with pytest.raises(ConfigError, match=r"does not exist\. Give a folder of Parquet files"):
        init_run(tmp_path / "y", None, "tiny", None, {}, {}, False, {"video": tmp_path / "none"})
