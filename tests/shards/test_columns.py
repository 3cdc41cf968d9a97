"""The mapped columns of an index: those of the index, written once, by one process, and never half."""

import errno
import os
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.corpus.index import index_path, read_index, read_whole_index, shard_names
from shards.errors import StageError
from shards.indexing import columns
from shards.indexing.columns import COMPACT, column_faults, columns_of, open_columns
from shards.store import fault
from tests.commits import commit_as_it_is

FORK = get_context("fork")


@pytest.fixture
def corpus(built_corpus: Path, tmp_path: Path) -> Path:
    """A copy of a corpus with several shards."""
    return Path(shutil.copytree(built_corpus, tmp_path / "corpus"))


def hidden(corpus: Path) -> list[str]:
    return sorted(path.name for path in corpus.parent.iterdir() if path.name.startswith("."))


def test_the_columns_are_those_of_the_index_shard_after_shard(corpus: Path) -> None:
    found = open_columns(columns_of(corpus, corpus.parent))
    names = shard_names(corpus)
    assert len(names) > 1
    assert found.shards["name"].to_pylist() == names
    sizes = [len(read_index(corpus, name)) for name in names]
    assert found.shards["end"].to_pylist() == [sum(sizes[: n + 1]) for n in range(len(names))]
    whole = read_whole_index(corpus)
    assert {"key", "source", "split", "frames", "mp4_offset", "flac_sha256"} < set(found.rows.column_names)
    same = [name for name in found.rows.column_names if name not in COMPACT]
    assert found.rows.select(same).equals(whole.select(same))
    assert list(column_faults(corpus, columns_of(corpus, corpus.parent))) == []


def test_a_batch_ends_with_a_shard_and_all_rows_are_in_one(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "BATCH", 1)
    found = open_columns(columns_of(corpus, corpus.parent))
    assert found.rows["key"].num_chunks == len(shard_names(corpus))
    assert found.rows["key"].to_pylist() == read_whole_index(corpus, ["key"])["key"].to_pylist()


def test_they_are_written_once_and_again_after_somebody_has_deleted_them(corpus: Path) -> None:
    place = columns_of(corpus, corpus.parent)
    assert hidden(corpus) == [place.name]
    assert re.fullmatch(r"\.corpus\.[0-9a-f]{12}\.columns", place.name)
    number = (place / "rows.arrow").stat().st_ino
    assert columns_of(corpus, corpus.parent) == place
    assert (place / "rows.arrow").stat().st_ino == number
    (place / "shards.arrow").unlink()  # Half deleted.
    again = columns_of(corpus, corpus.parent)
    assert again == place
    assert len(open_columns(again).rows) == len(read_whole_index(corpus))
    assert hidden(corpus) == [place.name]


def test_a_changed_corpus_gets_new_columns_and_the_old_ones_are_removed(corpus: Path) -> None:
    before = columns_of(corpus, corpus.parent)
    path = index_path(corpus, shard_names(corpus)[0])
    table = pq.read_table(path)
    pq.write_table(table.slice(1), path)
    commit_as_it_is(corpus)
    (corpus.parent / ".corpus.of-another.columns").mkdir()  # The name of a corpus may have a dot.
    after = columns_of(corpus, corpus.parent)
    assert after != before
    assert hidden(corpus) == sorted([after.name, ".corpus.of-another.columns"])
    assert len(open_columns(after).rows) == len(read_whole_index(corpus))


def test_where_nothing_can_be_written_beside_the_corpus_they_are_elsewhere(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tests may run as root, who can write everywhere.
    real = columns.exclusive

    @contextmanager
    def read_only(target: Path) -> Iterator[None]:
        if target.parent == corpus.parent:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(target))
        with real(target):
            yield

    monkeypatch.setattr(columns, "exclusive", read_only)
    place = columns_of(corpus, tmp_path / "run")
    assert place.parent == tmp_path / "run"
    assert columns_of(corpus, tmp_path / "run") == place
    assert hidden(corpus) == []
    assert len(open_columns(place).rows) == len(read_whole_index(corpus))


@pytest.mark.parametrize("relative", [True, False])
def test_columns_of_a_corpus_of_links_are_beside_it(corpus: Path, relative: bool) -> None:
    store = corpus.with_name("store") / "deep"
    store.mkdir(parents=True)
    for path in corpus.glob("index/*.parquet"):
        path.rename(store / path.name)
        path.symlink_to(os.path.relpath(store / path.name, corpus) if relative else store / path.name)
    place = columns_of(corpus, corpus.parent)
    assert place.parent == corpus.parent
    assert list(column_faults(corpus, place)) == []
    assert [path.name for path in store.parent.iterdir()] == ["deep"]


def killed_while_writing(corpus: Path, when: str) -> None:
    fault.arm(f"kill:1:{when} rename .columns")
    columns_of(corpus, corpus.parent)


@pytest.mark.parametrize(("when", "left"), [("before", ".tmp"), ("after", ".lock")])
def test_after_a_kill_the_next_call_has_them_whole_and_leaves_nothing_else(corpus: Path, when: str, left: str) -> None:
    process = FORK.Process(target=killed_while_writing, args=(corpus, when))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert any(name.endswith(left) for name in hidden(corpus))
    place = columns_of(corpus, corpus.parent)
    assert hidden(corpus) == [place.name]
    assert list(column_faults(corpus, place)) == []


def columns_written(corpus: Path, trace: Path) -> None:
    fault.arm(f"trace:{trace}")
    columns_of(corpus, corpus.parent)


def test_of_several_processes_one_writes_and_the_others_wait(corpus: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    processes = [FORK.Process(target=columns_written, args=(corpus, trace)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert trace.read_text().splitlines().count("after rename .columns") == 1
    assert len(hidden(corpus)) == 1


def test_a_damaged_index_gets_no_columns(corpus: Path) -> None:
    path = index_path(corpus, shard_names(corpus)[-1])
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(StageError, match=rf"{path} cannot be read \(damaged"):
        columns_of(corpus, corpus.parent)
    assert hidden(corpus) == []


def test_an_index_with_other_types_is_named(corpus: Path) -> None:
    path = index_path(corpus, shard_names(corpus)[0])
    table = pq.read_table(path)
    wrong = pa.array(["many"] * len(table))
    pq.write_table(table.set_column(table.column_names.index("frames"), "frames", wrong), path)
    commit_as_it_is(corpus)
    with pytest.raises(StageError, match=f"{path} is not an index"):
        columns_of(corpus, corpus.parent)


def test_columns_that_were_cut_or_changed_are_found(corpus: Path) -> None:
    place = columns_of(corpus, corpus.parent)
    path = place / "rows.arrow"
    data = path.read_bytes()
    key = read_index(corpus, shard_names(corpus)[1], ["key"])["key"][0].as_py().encode()
    path.write_bytes(data.replace(key, key[:-1] + b"x"))
    assert list(column_faults(corpus, place)) == ["its rows of shard 000001 are not those of the index"]
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(StageError, match="delete it, and it is written again"):
        open_columns(place)
    (found,) = column_faults(corpus, place)
    assert "delete it" in found
