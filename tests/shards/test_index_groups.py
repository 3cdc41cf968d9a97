"""`xdc index`: the index of a corpus of an earlier version gets the groups of pictures, and nothing else changes."""

import json
import os
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli.app import app
from shards.corpus.index import GROUPS, read_index, shard_names
from shards.errors import ConfigError
from shards.indexing.check import tar_faults
from shards.indexing.columns import columns_of, open_columns
from shards.indexing.groups import index_groups
from shards.store.build import reusable
from shards.store.manifest import list_files, read_manifest, write_manifest
from shards.store.parquet import write_parquet


@pytest.fixture
def without_groups(built_corpus: Path, tmp_path: Path) -> Path:
    """A corpus as it was before the index had groups."""
    corpus = tmp_path / "corpora" / "videos"
    shutil.copytree(built_corpus, corpus)
    for name in shard_names(corpus):
        write_parquet(corpus / f"{name}.parquet", read_index(corpus, name).drop_columns(GROUPS.names))
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
        f"{name}.parquet" for name in shard_names(without_groups)
    }
    for name in shard_names(built_corpus):
        assert read_index(without_groups, name).equals(read_index(built_corpus, name))
        assert list(tar_faults(without_groups, name)) == []
    assert reusable(without_groups, before.fingerprint)
    assert index_groups(without_groups).reused


def test_columns_of_a_corpus_of_which_some_shards_have_groups(without_groups: Path, built_corpus: Path) -> None:
    """As after shards were added to a corpus of an earlier version."""
    last = shard_names(built_corpus)[-1]
    shutil.copy(built_corpus / f"{last}.parquet", without_groups / f"{last}.parquet")
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
