"""Shards of a stage in units: the first stored attempt counts, and a commit reads no file that has a receipt."""

import errno
import json
import os
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from shards.errors import StageError
from shards.progress import silent
from shards.store import receipt as receipts
from shards.store.build import Identity, Outcome, build
from shards.store.executor import IN_PROCESS, Advance, Job, run_units
from shards.store.files import part_name, parts_of, write_text
from shards.store.manifest import read_manifest
from shards.store.receipt import UNITS, Receipt, new_shard, receipts_of
from shards.store.units import add_up, begin_units, stored_files

SIZES = {f"{number:06d}": number + 1 for number in range(5)}


def write_shards(arguments: dict[str, Any], shards: list[str], advance: Advance) -> Iterator[Receipt]:
    """The work of a unit: a file per shard, whose name and content say which it is."""
    for shard in shards:
        with new_shard(Path(arguments["out"]), shard) as new:
            write_text(new.folder / f"{shard}.txt", shard * 3)
            new.rows, new.rejects = arguments["sizes"][shard], 0
        advance(new.rows, 0)
        yield new.stored


def reject_all(arguments: dict[str, Any], shards: list[str], advance: Advance) -> Iterator[Receipt]:
    """The work of a unit that rejects 100 clips a shard."""
    for shard in shards:
        with new_shard(Path(arguments["out"]), shard) as new:
            new.rejects = 100
        yield new.stored


class Noted:
    """A progress that keeps its notes."""

    def __init__(self, notes: set[str]) -> None:
        self.notes = notes

    def __call__(self, done: int, total: int, note: str = "") -> None:
        self.notes.add(note)


def job_in(out: Path, sizes: dict[str, int] = SIZES) -> Job:
    arguments = {"out": str(out), "sizes": sizes}
    return Job("a test", f"{__name__}:write_shards", arguments, str(out), str(out), "torch")


def stage_work(out: Path, sizes: dict[str, int] = SIZES) -> Outcome:
    run_units(IN_PROCESS, job_in(out, sizes), sizes, 2, silent)
    rows, rejects, notes = add_up(receipts_of(out, sizes), sizes)
    return Outcome(rows, rejects, notes, tuple(f"{shard}.txt" for shard in sizes))


def test_a_commit_of_1000_shards_takes_sizes_and_digests_from_receipts_and_opens_no_such_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    sizes = {f"{number:06d}": number % 50 for number in range(1000)}
    opened: list[str] = []
    watching = False

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event == "open" and isinstance(arguments[0], str | os.PathLike):
            opened.append(os.fspath(arguments[0]))

    sys.addaudithook(audit)

    def work(out: Path) -> Outcome:
        nonlocal watching
        outcome = stage_work(out, sizes)
        watching = True
        return outcome

    target = tmp_path / "made"
    record = build(target, Identity("test", 1, "f" * 64), work)
    watching = False
    assert record.rows == sum(sizes.values())
    assert any(name.endswith("000003.json") for name in opened)
    assert not [name for name in opened if name.endswith(".txt")]
    manifest = read_manifest(target)
    assert manifest is not None
    assert sorted(manifest.files) == [f"{shard}.txt" for shard in sizes]
    assert not (target / UNITS).exists()


def test_of_two_attempts_at_a_shard_the_first_stored_one_counts(tmp_path: Path) -> None:
    begin_units(tmp_path, {"000000": 1})
    with new_shard(tmp_path, "000000") as slow:
        write_text(slow.folder / "000000.txt", "of the slow worker")
        with new_shard(tmp_path, "000000") as fast:
            write_text(fast.folder / "000000.txt", "of the fast worker")
            fast.rows = 7
    assert slow.stored == fast.stored
    assert (tmp_path / "000000.txt").read_text() == "of the fast worker"
    assert [receipt.rows for receipt in receipts_of(tmp_path, ["000000"])] == [7]


@pytest.fixture
def without_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that has no hard links."""

    def refused(*names: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    monkeypatch.setattr("shards.store.receipt.WRITTEN_S", 0.5)


@pytest.mark.usefixtures("without_links")
def test_without_hard_links_the_first_stored_attempt_counts_too(tmp_path: Path) -> None:
    test_of_two_attempts_at_a_shard_the_first_stored_one_counts(tmp_path)
    assert sorted(path.name for path in (tmp_path / UNITS / "receipts").iterdir()) == ["000000.json"]


@pytest.mark.usefixtures("without_links")
@pytest.mark.parametrize("content", ["", '{"shard": "000000", "fi'])
def test_a_receipt_whose_writer_died_in_the_middle_is_replaced(tmp_path: Path, content: str) -> None:
    begin_units(tmp_path, SIZES)
    (tmp_path / UNITS / "receipts" / "000000.json").write_text(content)
    with new_shard(tmp_path, "000000") as new:
        write_text(new.folder / "000000.txt", "of the second worker")
        new.rows = 7
    assert [receipt.rows for receipt in receipts_of(tmp_path, ["000000"])] == [7]
    assert (tmp_path / "000000.txt").read_text() == "of the second worker"
    assert sorted(path.name for path in (tmp_path / UNITS / "receipts").iterdir()) == ["000000.json"]


@pytest.mark.usefixtures("without_links")
def test_a_receipt_that_is_being_written_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin_units(tmp_path, SIZES)
    path = tmp_path / UNITS / "receipts" / "000000.json"
    first = Receipt("000000", {}, 3, 0, "another machine", "a")
    path.write_text("")
    monkeypatch.setattr(receipts.time, "sleep", lambda seconds: path.write_text(json.dumps(asdict(first))))
    with new_shard(tmp_path, "000000") as new:
        new.rows = 7
    assert new.stored == first


def test_receipts_that_cannot_be_read_again_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin_units(tmp_path, SIZES)
    monkeypatch.setattr(receipts, "WRITTEN_S", 0.0)
    monkeypatch.setattr(receipts, "_parsed", lambda path: None)
    with pytest.raises(StageError, match=r"000000\.json cannot be read"), new_shard(tmp_path, "000000"):
        pass


def test_the_progress_shows_rejects_only_where_sizes_count_the_same(tmp_path: Path) -> None:
    notes: dict[bool, set[str]] = {True: set(), False: set()}
    for shown, said in notes.items():
        out = tmp_path / str(shown)
        out.mkdir()
        job = replace(job_in(out), work=f"{__name__}:reject_all")
        progress = Noted(said)
        run_units(IN_PROCESS, job, dict.fromkeys(SIZES, 1), 2, progress, "shards labelled", with_rejects=shown)
    assert "shards labelled, 500 rejected" in notes[True]
    assert notes[False] == {"shards labelled"}


def test_a_worker_whose_directory_was_taken_over_fails_and_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / ".made.0123.partial"
    out.mkdir()
    begin_units(out, SIZES)

    def write_late() -> None:
        with new_shard(out, "000000") as new:
            write_text(new.folder / "000000.txt", "late")
            os.rename(out, tmp_path / ".made.0123-1.partial")

    with pytest.raises(StageError, match="another process"):
        write_late()
    assert not out.exists()
    assert not (tmp_path / ".made.0123-1.partial" / "000000.txt").exists()


@pytest.mark.parametrize("damage", ["cut", "gone", "shorter file"])
def test_a_damaged_receipt_or_file_costs_its_shard_only(tmp_path: Path, damage: str) -> None:
    stage_work(tmp_path)
    receipt = tmp_path / UNITS / "receipts" / "000002.json"
    if damage == "cut":
        receipt.write_bytes(receipt.read_bytes()[:20])
    elif damage == "gone":
        (tmp_path / "000002.txt").unlink()
    else:
        (tmp_path / "000002.txt").write_text("0")
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.txt")}
    stage_work(tmp_path)
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.txt")}
    assert {name for name in after if after[name] != before.get(name)} == {"000002.txt"}
    assert (tmp_path / "000002.txt").read_text() == "000002" * 3


def write_parts(out: Path, shards: Collection[str], name: Callable[[str], str]) -> None:
    for shard in shards:
        with new_shard(out, shard) as new:
            write_text(new.folder / name(shard), shard)


def test_parts_lie_in_their_folder_and_not_beside_those_of_an_earlier_version(tmp_path: Path) -> None:
    out = tmp_path / ".made.0123.partial"
    out.mkdir()
    begin_units(out, SIZES)
    write_parts(out, ["000000", "000001"], lambda shard: f"{shard}.parquet")
    write_parts(out, ["000002"], part_name)
    assert begin_units(out, SIZES) == {"000002"}
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*.parquet")) == ["data/000002.parquet"]
    write_parts(out, SIZES.keys() - {"000002"}, part_name)
    assert {*stored_files(out)} == {*map(part_name, SIZES)}
    assert parts_of(out) == [*SIZES]
    (out / part_name("000001")).write_text("damaged")
    assert begin_units(out, SIZES) == SIZES.keys() - {"000001"}
    assert not (out / part_name("000001")).exists()


def test_files_of_a_worker_that_died_after_its_receipt_are_put_in_place(tmp_path: Path) -> None:
    def work(out: Path) -> Outcome:
        outcome = stage_work(out)
        receipt = next(receipts_of(out, ["000001"]))
        attempt = out / UNITS / "attempts" / receipt.attempt
        attempt.mkdir()
        os.rename(out / "000001.txt", attempt / "000001.txt")
        return outcome

    build(tmp_path / "made", Identity("test", 1, "f" * 64), work)
    assert (tmp_path / "made" / "000001.txt").read_text() == "000001" * 3


def test_rows_and_rejects_that_do_not_add_up_are_an_error() -> None:
    receipt = Receipt("000000", {}, rows=3, rejects=1, host="here", attempt="a")
    with pytest.raises(StageError, match="3 rows and 1 rejects for 5 in"):
        add_up([receipt], {"000000": 5})
