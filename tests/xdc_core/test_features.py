"""Features on disk, and the shards of a label source that is made of several modalities."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from shards.errors import StageError
from tests.runs import MakeRun
from tests.xdc_core.tasks import features_of
from xdc_core.data.features import feature_width, read_features, source_keys, source_part, source_rows, write_features
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run


def random_features(rows: int, width: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    features, keys = random_features(7), [f"clip-{n}" for n in range(7)]
    write_features(tmp_path / "000000.parquet", keys, features)
    read_keys, read = read_features(tmp_path / "000000.parquet")
    assert read_keys.tolist() == keys
    assert read.dtype == np.float32
    assert (read == features).all()


def test_features_that_are_not_contiguous_are_written_right(tmp_path: Path) -> None:
    features = random_features(8, 12)[::2, ::3]
    write_features(tmp_path / "a.parquet", list("abcd"), features)
    assert (read_features(tmp_path / "a.parquet")[1] == features).all()


def test_a_shard_without_any_good_clip_keeps_its_width(tmp_path: Path) -> None:
    write_features(tmp_path / "a.parquet", [], random_features(0))
    keys, features = read_features(tmp_path / "a.parquet")
    assert len(keys) == 0
    assert features.shape == (0, 6)


def test_other_programs_see_a_row_a_clip_with_a_list_of_fixed_size(tmp_path: Path) -> None:
    write_features(tmp_path / "000000.parquet", ["a", "b"], random_features(2))
    schema = pq.read_schema(tmp_path / "000000.parquet")
    assert schema.names == ["key", "feature"]
    assert str(schema.field("feature").type).startswith("fixed_size_list")
    assert len(pq.read_table(tmp_path / "000000.parquet")["feature"].to_pylist()[1]) == 6


def test_the_width_is_that_in_the_footer(tmp_path: Path) -> None:
    write_features(tmp_path / "000000.parquet", ["a"], random_features(1, 5))
    assert feature_width(tmp_path / "000000.parquet") == 5
    with pytest.raises(StageError, match=r"000001\.parquet cannot be read .*xdc stage extract"):
        feature_width(tmp_path / "000001.parquet")


@pytest.mark.parametrize("content", [None, b"", b"PAR1 no parquet PAR1"])
def test_a_missing_or_damaged_file_tells_how_to_make_it_anew(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "000000.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StageError, match=r"000000\.parquet cannot be read .*xdc stage extract"):
        read_features(path)


def store(run: Run, modality: str, shard: str, keys: list[str], features: np.ndarray) -> None:
    directory = run.directory(Node("extract", modality, 0))
    directory.mkdir(parents=True, exist_ok=True)
    write_features(directory / f"{shard}.parquet", keys, features)


def test_one_modality_alone_is_taken_as_it_is(make_run: MakeRun) -> None:
    run, features = make_run(), random_features(3)
    store(run, "audio", "000000", ["a", "b", "c"], features)
    keys, parts = source_part(features_of(run, 0, "audio"), "000000")
    assert keys.tolist() == ["a", "b", "c"]
    assert len(parts) == 1
    assert (parts[0] == features).all()


def test_joint_keeps_the_clips_that_both_have_in_order_and_side_by_side(make_run: MakeRun) -> None:
    run = make_run(method="cdc")
    keys = ["d", "a", "c", "b", "e"]
    video, audio = random_features(5), random_features(5, 3, seed=1)
    # No sound of the clip `a`, no picture of the clip `b`; names are not in alphabetical order.
    store(run, "video", "000000", ["d", "a", "c", "e"], video[[0, 1, 2, 4]])
    store(run, "audio", "000000", ["d", "c", "b", "e"], audio[[0, 2, 3, 4]])
    found, parts = source_part(features_of(run, 0, "joint"), "000000")
    assert found.tolist() == source_keys(features_of(run, 0, "joint"), "000000") == ["d", "c", "e"]
    assert source_rows(features_of(run, 0, "joint"), "000000") == 3
    assert (parts[0] == video[[0, 2, 4]]).all()
    assert (parts[1] == audio[[0, 2, 4]]).all()
    assert [keys[n] for n in (0, 2, 4)] == found.tolist()


def test_joint_with_all_clips_in_both_changes_nothing(make_run: MakeRun) -> None:
    run = make_run(method="cdc")
    video, audio = random_features(3), random_features(3, 2, seed=1)
    store(run, "video", "000000", ["b", "a", "c"], video)
    store(run, "audio", "000000", ["b", "a", "c"], audio)
    found, parts = source_part(features_of(run, 0, "joint"), "000000")
    assert found.tolist() == ["b", "a", "c"]
    assert (parts[0] == video).all()
    assert (parts[1] == audio).all()


def test_joint_without_any_clip_in_both_is_empty(make_run: MakeRun) -> None:
    run = make_run(method="cdc")
    store(run, "video", "000000", ["a"], random_features(1))
    store(run, "audio", "000000", ["b"], random_features(1, 3))
    found, parts = source_part(features_of(run, 0, "joint"), "000000")
    assert [len(found), *(part.shape for part in parts)] == [0, (0, 6), (0, 3)]


def test_modalities_in_different_orders_are_refused(make_run: MakeRun) -> None:
    run = make_run(method="cdc")
    store(run, "video", "000000", ["a", "b"], random_features(2))
    store(run, "audio", "000000", ["b", "a"], random_features(2))
    with pytest.raises(StageError, match="shard 000000: the features of the modalities are in different orders"):
        source_part(features_of(run, 0, "joint"), "000000")
