"""Runs are found in folders, and described by what they left; two of them are compared."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.errors import ConfigError
from tests.commits import commit_as_it_is
from tests.runs import MakeRun
from xdc_core.inspection.catalogue import describe_run, find_runs
from xdc_core.inspection.difference import difference, differing_settings
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run, open_run


def test_runs_are_found_at_any_depth_and_what_they_hold_is_not_searched(tmp_path: Path, worked_run: Run) -> None:
    for name in ("b/deep", "a", ".hidden"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "xdc.yaml").write_text("{}")
    shutil.copytree(worked_run.root, tmp_path / "c")
    assert list((tmp_path / "c" / "rounds").rglob("xdc.yaml")), "reports have copies of the configuration"
    assert find_runs(tmp_path) == [tmp_path / name for name in ("a", "b/deep", "c")]
    assert find_runs(tmp_path / "a") == [tmp_path / "a"]
    with pytest.raises(ConfigError, match="is not a folder"):
        find_runs(tmp_path / "none")


def test_a_run_is_described_by_its_newest_report(worked_run: Run, make_run: MakeRun) -> None:
    found = describe_run(worked_run.root)
    assert (found["method"], found["rounds"], found["reported"], found["problem"]) == ("xdc", 1, 1, None)
    assert found["clips"] == 48
    assert found["agreement"].keys() == {"video", "audio"}
    fresh = describe_run(make_run().root)
    assert (fresh["reported"], fresh["clips"], fresh["agreement"]) == (None, None, {})


def test_a_run_that_cannot_be_read_is_listed_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "xdc.yaml").write_text("clusterr: {}")
    found = describe_run(tmp_path)
    assert found["run"] == str(tmp_path)
    assert "xdc.yaml" in found["problem"]


def test_a_run_does_not_differ_from_its_copy(worked_run: Run, copy_run: MakeRun) -> None:
    found = difference(worked_run, copy_run())
    assert found["settings"] == {}
    assert found["data"]["clips"] == [48, 48]
    assert (found["data"]["shared"], found["data"]["same"]) == (48, True)
    assert {row["round"] for row in found["results"]} == {0, 1}
    assert all(row["a"] == row["b"] for row in found["results"])
    assert [(row["source"], row["round"], row["clips"], row["nmi"]) for row in found["clusters"]] == [
        ("video", 1, 48, 1.0),
        ("audio", 1, 48, 1.0),
    ]


def test_clusters_that_moved_and_settings_that_changed_are_told(worked_run: Run, copy_run: MakeRun) -> None:
    other = copy_run(seed=7)
    for path in other.directory(Node("label", "video", 1)).glob("data/[0-9]*.parquet"):
        table = pq.read_table(path)
        moved = pa.array([0] * len(table), pa.int32())
        pq.write_table(table.set_column(table.column_names.index("cluster"), "cluster", moved), path)
    commit_as_it_is(other.directory(Node("label", "video", 1)))
    found = difference(worked_run, open_run(other.root))
    assert found["settings"] == {"seed": [0, 7]}
    by_source = {row["source"]: row for row in found["clusters"]}
    assert by_source["video"]["nmi"] is None or by_source["video"]["nmi"] < 0.01
    assert by_source["audio"]["nmi"] == 1.0


def test_a_clip_of_the_same_key_with_other_bytes_is_not_shared(
    worked_run: Run, copy_run: MakeRun, tmp_path: Path
) -> None:
    shutil.copytree(worked_run.corpus, tmp_path / "corpus")
    path = tmp_path / "corpus" / "index" / "000000.parquet"
    table = pq.read_table(path)
    hashes = ["0" * 64, *table["sha256"].to_pylist()[1:]]
    pq.write_table(table.set_column(table.column_names.index("sha256"), "sha256", pa.array(hashes)), path)
    commit_as_it_is(tmp_path / "corpus")
    found = difference(worked_run, copy_run(corpus={"path": str(tmp_path / "corpus")}))
    assert (found["data"]["clips"], found["data"]["shared"]) == ([48, 48], 47)
    assert {row["clips"] for row in found["clusters"]} == {47}


def test_runs_without_a_round_in_common_are_compared_as_far_as_they_go(worked_run: Run, make_run: MakeRun) -> None:
    found = difference(worked_run, make_run(rounds=2))
    assert found["settings"] == {"rounds": [1, 2]}
    assert (found["results"], found["clusters"]) == ([], [])


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ({"x": {"y": 1, "z": 2}}, {"x": {"y": 1, "z": 3}}, {"x.z": [2, 3]}),
        ({"x": 1}, {}, {"x": [1, None]}),
        ({}, {"x": {"y": 1}}, {"x": [None, {"y": 1}]}),
        ({"x": [1, 2]}, {"x": [1, 2]}, {}),
    ],
)
def test_settings_are_named_by_their_path(a: dict[str, Any], b: dict[str, Any], expected: dict[str, Any]) -> None:
    assert dict(differing_settings(a, b)) == expected
