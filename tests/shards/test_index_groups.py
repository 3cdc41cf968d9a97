"""`xdc index`: the index of a corpus of an earlier version gets the groups of pictures, and nothing else changes."""

import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.cli.app import app
from shards.corpus.index import (
    GROUPS,
    Mask,
    index_name,
    index_path,
    read_index,
    read_stored_index,
    shard_names,
    with_later_columns,
    write_masks,
)
from shards.corpus.reader import ClipReader
from shards.errors import ConfigError, StageError
from shards.indexing import groups
from shards.indexing.check import tar_faults
from shards.indexing.columns import columns_of, hold_columns, open_columns
from shards.indexing.groups import index_groups
from shards.store import commit
from shards.store.build import Identity, Outcome, build, reusable
from shards.store.manifest import list_files, read_manifest, write_manifest
from shards.store.parquet import write_parquet
from tests.commits import commit_as_it_is


@pytest.fixture
def without_groups(built_corpus: Path, tmp_path: Path) -> Path:
    """A corpus as it was before the index had groups."""
    corpus = tmp_path / "corpora" / "videos"
    shutil.copytree(built_corpus, corpus)
    for name in shard_names(corpus):
        write_parquet(index_path(corpus, name), read_index(corpus, name).drop_columns(GROUPS.names))
    manifest = read_manifest(corpus)
    assert manifest is not None
    write_manifest(corpus, manifest.model_copy(update={"files": list_files(corpus)}))
    return corpus


def test_the_groups_of_a_finished_corpus_are_those_of_a_new_one(without_groups: Path, built_corpus: Path) -> None:
    before = read_manifest(without_groups)
    assert before is not None
    tars = {path.name: path.stat().st_ino for path in without_groups.glob("*.tar")}
    record = index_groups(without_groups)
    after = read_manifest(without_groups)
    assert after is not None
    assert (record.reused, record.fingerprint, record.summary) == (False, before.fingerprint, before.summary)
    assert {path.name: path.stat().st_ino for path in without_groups.glob("*.tar")} == tars
    assert {name for name, entry in after.files.items() if before.files[name] != entry} == {
        index_name(name) for name in shard_names(without_groups)
    }
    for name in shard_names(built_corpus):
        assert read_index(without_groups, name).equals(read_index(built_corpus, name))
        assert list(tar_faults(without_groups, name)) == []
    assert reusable(without_groups, before.fingerprint)
    assert index_groups(without_groups).reused


@pytest.mark.parametrize("name", ["plan.parquet", "000000.tar"])
def test_damage_that_was_there_before_is_found_as_before(without_groups: Path, name: str) -> None:
    """A file that does not change keeps its sha256: it is not read."""
    before = read_manifest(without_groups)
    assert before is not None
    data = bytearray((without_groups / name).read_bytes())
    flac = read_index(without_groups, "000000")["flac_offset"][0].as_py()
    data[flac + 20 if name.endswith(".tar") else len(data) // 2] ^= 1
    (without_groups / name).write_bytes(data)
    index_groups(without_groups)
    after = read_manifest(without_groups)
    assert after is not None
    assert after.files[name] == before.files[name] != list_files(without_groups)[name]


def test_a_corpus_that_lacks_a_file_is_not_indexed(without_groups: Path) -> None:
    (without_groups / "plan.parquet").unlink()
    with pytest.raises(StageError, match=r"plan\.parquet missing or cut off\. Bring the files back"):
        index_groups(without_groups)


def test_columns_of_nulls_are_filled(without_groups: Path, built_corpus: Path) -> None:
    """As in shards that an append kept from an earlier version."""
    names = shard_names(without_groups)
    for name in names:
        path = index_path(without_groups, name)
        write_parquet(path, with_later_columns(pq.read_table(path)))
    commit_as_it_is(without_groups)
    assert not index_groups(without_groups).reused
    assert all(read_index(without_groups, name).equals(read_index(built_corpus, name)) for name in names)
    assert index_groups(without_groups).reused


def test_pictures_without_groups_are_looked_at_once(without_groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "find_groups", lambda mp4: None)  # As of clips with B-frames.
    assert not index_groups(without_groups).reused
    assert read_index(without_groups, "000000")["mp4_header"].null_count
    assert index_groups(without_groups).reused


def test_a_killed_call_goes_on_with_the_next_shard(
    without_groups: Path, built_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, looked_at = shard_names(without_groups), list[str]()
    assert len(names) > 1

    def with_groups(reader: ClipReader, shard: str) -> pa.Table:
        if looked_at:
            raise KeyboardInterrupt
        looked_at.append(shard)
        return found(reader, shard)

    found = groups._with_groups
    monkeypatch.setattr(groups, "_with_groups", with_groups)
    with pytest.raises(KeyboardInterrupt):
        index_groups(without_groups)
    monkeypatch.setattr(groups, "_with_groups", lambda reader, shard: looked_at.append(shard) or found(reader, shard))
    index_groups(without_groups)
    assert looked_at == names
    assert all(read_index(without_groups, name).equals(read_index(built_corpus, name)) for name in names)


@pytest.mark.parametrize("by_index", [True, False])
def test_a_call_that_is_killed_between_its_last_renames_is_finished_by_the_next(
    without_groups: Path, built_corpus: Path, monkeypatch: pytest.MonkeyPatch, by_index: bool
) -> None:
    manifest = read_manifest(without_groups)
    assert manifest is not None

    def killed(point: str, *_: str) -> None:
        if point == "after set_aside":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(commit, "fault_point", killed)
        with pytest.raises(KeyboardInterrupt):
            index_groups(without_groups)
    assert not without_groups.exists()
    if by_index:
        assert index_groups(without_groups).reused
    else:
        assert build(without_groups, Identity("shard", manifest.version, manifest.fingerprint), cut_again).reused
    assert read_index(without_groups, "000000").equals(read_index(built_corpus, "000000"))


def cut_again(out: Path) -> Outcome:
    raise AssertionError(f"{out} is cut again")


def test_masked_clips_get_their_groups_too(without_groups: Path) -> None:
    """They lie in the tar, which `xdc verify` compares with the index."""
    key = read_index(without_groups, "000000")["key"][0].as_py()
    write_masks(without_groups, "000000", {key: Mask((1,), 1.0, "")})
    commit_as_it_is(without_groups)
    index_groups(without_groups)
    stored = read_stored_index(without_groups, "000000")
    assert len(stored) == len(read_index(without_groups, "000000")) + 1
    assert stored["mp4_header"].null_count == 0
    assert list(tar_faults(without_groups, "000000")) == []


def test_columns_that_a_process_reads_are_kept_when_the_index_gets_more(without_groups: Path) -> None:
    class Reader:
        pass

    place, reader = columns_of(without_groups, without_groups.parent), Reader()
    hold_columns(place, reader)
    index_groups(without_groups)
    newer = columns_of(without_groups, without_groups.parent)
    assert newer != place
    assert len(open_columns(place).rows) == len(open_columns(newer).rows)
    del reader
    shutil.rmtree(newer)
    columns_of(without_groups, without_groups.parent)
    assert not place.exists()


def test_columns_of_a_corpus_of_which_some_shards_have_groups(without_groups: Path, built_corpus: Path) -> None:
    """As after shards were added to a corpus of an earlier version."""
    last = shard_names(built_corpus)[-1]
    shutil.copy(index_path(built_corpus, last), index_path(without_groups, last))
    manifest = read_manifest(without_groups)
    assert manifest is not None
    write_manifest(without_groups, manifest.model_copy(update={"files": list_files(without_groups)}))
    rows = open_columns(columns_of(without_groups, without_groups.parent)).rows
    count = len(read_index(built_corpus, last))
    assert rows["mp4_header"].null_count == len(rows) - count
    added = read_index(built_corpus, last)["mp4_group_offset"].to_pylist()
    assert rows["mp4_group_offset"].to_pylist()[-count:] == added


def test_a_corpus_that_is_not_finished_has_no_index_to_add_to(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no finished corpus"):
        index_groups(tmp_path)


def test_the_command_says_what_it_did(without_groups: Path, tmp_path: Path) -> None:
    (tmp_path / "xdc.yaml").write_text("corpus: {path: corpora/videos}\n")
    said = CliRunner().invoke(app, ["index", str(tmp_path)])
    assert (said.exit_code, said.output.count("has the groups of pictures now")) == (0, 1), said.output
    again = CliRunner().invoke(app, ["index", str(tmp_path), "--json"])
    assert [entry["reused"] for entry in json.loads(again.output)] == [True]
    assert os.listdir(tmp_path / "corpora").count("videos") == 1


def test_the_command_leaves_out_a_corpus_in_an_object_store(tmp_path: Path) -> None:
    (tmp_path / "xdc.yaml").write_text("corpus: {path: 's3://bucket/videos', videos: null}\n")
    said = CliRunner().invoke(app, ["index", str(tmp_path)])
    assert (said.exit_code, said.output.count("is left out: its tars are in an object store")) == (0, 1), said.output
