"""Files and directories that are whole, or do not exist."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from shards.errors import ConfigError, StageError
from shards.store.commit import (
    begin,
    commit,
    partial_directories,
    partial_directory,
    restore,
    set_aside,
    stale_directory,
)
from shards.store.files import new_file, sha256_of, write_json, write_text
from shards.store.manifest import MANIFEST, Manifest, fingerprint, missing_files, read_manifest

OLD, NEW = fingerprint("old"), fingerprint("new")


def manifest(mark: str, **more: int) -> Manifest:
    return Manifest(stage="test", version=1, fingerprint=mark, seconds=0.5, started="then", finished="now", **more)


def committed(target: Path, mark: str, text: str = "content") -> Manifest:
    partial = partial_directory(target, mark)
    partial.mkdir(parents=True)
    (partial / "a.txt").write_text(text)
    return commit(partial, target, manifest(mark))


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_fingerprint_does_not_depend_on_the_order_of_keys_but_on_every_value() -> None:
    assert fingerprint({"a": 1, "b": [1.5, None]}) == fingerprint({"b": [1.5, None], "a": 1})
    assert fingerprint({"a": 1, "b": [1.5, None]}) != fingerprint({"a": 1, "b": [1.5, 0]})
    assert fingerprint(["é"]) != fingerprint(["e"])
    assert len(fingerprint(0)) == 64


def test_a_fingerprint_of_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        fingerprint({"lr": float("nan")})


def test_the_sha256_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_new_file_appears_whole_under_its_name(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    with new_file(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        assert temporary.parent == path.parent
    assert path.read_text() == "half"
    assert names(path.parent) == ["file"]


def test_a_new_file_that_fails_leaves_the_old_one_and_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail() -> None:
        with new_file(path) as temporary:
            temporary.write_text("half of the n")
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_json_with_nan_is_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    write_json(path, {"name": "Œuvre", "loss": 1.5})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"loss": float("inf")})
    assert json.loads(path.read_text(encoding="utf-8")) == {"name": "Œuvre", "loss": 1.5}
    assert names(tmp_path) == ["facts.json"]


def test_a_committed_directory_lists_every_file_with_size_and_hash(tmp_path: Path) -> None:
    target = tmp_path / "out"
    partial = partial_directory(target, NEW)
    (partial / "sub").mkdir(parents=True)
    (partial / "a.txt").write_bytes(b"abc")
    (partial / "sub" / "b.bin").write_bytes(b"\x00" * 7)
    returned = commit(partial, target, manifest(NEW, rows=3))
    read = read_manifest(target)
    assert read == returned
    assert read is not None
    assert read.rows == 3
    assert {name: entry.size for name, entry in read.files.items()} == {"a.txt": 3, "sub/b.bin": 7}
    assert read.files["a.txt"].sha256 == sha256_of(target / "a.txt")
    assert missing_files(target, read) == []
    assert names(tmp_path) == ["out"]


def test_a_killed_writers_temporary_file_is_not_committed(tmp_path: Path) -> None:
    target = tmp_path / "out"
    partial = partial_directory(target, NEW)
    partial.mkdir()
    (partial / "a.txt").write_text("whole")
    (partial / ".b.txt.4711.tmp").write_text("ha")
    assert list(commit(partial, target, manifest(NEW)).files) == ["a.txt"]
    assert names(target) == ["a.txt", MANIFEST]


@pytest.mark.parametrize("name", ["a.txt", "trials/deep/a.txt"])
def test_nothing_makes_a_partial_directory_again_that_is_gone(tmp_path: Path, name: str) -> None:
    partial = partial_directory(tmp_path / "out", NEW)
    with pytest.raises(StageError, match=rf"{partial} has changed or is gone"):
        write_text(partial / name, "late")
    partial.mkdir()

    def write_while_it_is_taken() -> None:
        with new_file(partial / name) as temporary:
            temporary.write_text("in the middle")
            partial.rename(tmp_path / "taken")

    with pytest.raises(StageError, match="Nothing is lost: run this again"):
        write_while_it_is_taken()
    assert not partial.exists()
    (tmp_path / "taken").rename(partial)
    write_text(partial / name, "in time")
    assert (partial / name).read_text() == "in time"


def test_a_summary_that_json_changes_is_committed_all_the_same(tmp_path: Path) -> None:
    partial = begin(tmp_path / "out", NEW)
    told = manifest(NEW).model_copy(update={"summary": {"pair": (1, 2)}})
    commit(partial, tmp_path / "out", told)
    read = read_manifest(tmp_path / "out")
    assert read is not None
    assert read.summary == {"pair": [1, 2]}


def test_a_directory_that_lacks_a_file_it_must_have_is_not_committed(tmp_path: Path) -> None:
    target = tmp_path / "out"
    committed(target, OLD)
    partial = partial_directory(target, NEW)
    partial.mkdir()
    (partial / "a.txt").write_text("there")
    with pytest.raises(StageError, match=r"2 of the 3 files that it must have are not there \(b\.txt first\)"):
        commit(partial, target, manifest(NEW), files=["c.txt", "b.txt", "a.txt"])
    kept = read_manifest(target)
    assert kept is not None
    assert kept.fingerprint == OLD
    assert names(partial) == ["a.txt"]


def test_who_goes_on_with_a_partial_directory_gives_it_a_name_of_its_own(tmp_path: Path) -> None:
    target = tmp_path / "out"
    first = begin(target, NEW)
    assert first == partial_directory(target, NEW)
    (first / "a.txt").write_text("finished")
    second = begin(target, NEW)
    third = begin(target, NEW)
    assert len({first, second, third}) == 3
    assert partial_directories(target, NEW) == [third]
    assert partial_directories(target, OLD) == []
    assert names(third) == ["a.txt"]


def test_a_commit_that_comes_too_late_puts_back_what_it_had_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    committed(target, OLD, "of the other process")
    partial = begin(target, NEW)
    (partial / "a.txt").write_text("late")

    def taken(when: str, step: str = "") -> None:
        if when == "before commit":
            begin(target, NEW)

    monkeypatch.setattr("shards.store.commit.fault_point", taken)
    with pytest.raises(StageError, match="another process"):
        commit(partial, target, manifest(NEW))
    assert (target / "a.txt").read_text() == "of the other process"


def test_a_file_that_is_gone_or_of_another_size_is_missing(tmp_path: Path) -> None:
    target = tmp_path / "out"
    made = committed(target, NEW, "content")
    (target / "a.txt").write_text("conten")
    assert missing_files(target, made) == ["a.txt"]
    (target / "a.txt").unlink()
    assert missing_files(target, made) == ["a.txt"]
    (target / "a.txt").write_text("CONTENT")
    assert missing_files(target, made) == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 3}', '{"stage": "x", "unknown": 1}', "\xff"])
def test_a_directory_whose_manifest_is_no_manifest_counts_as_not_there(tmp_path: Path, text: str) -> None:
    committed(tmp_path / "out", NEW)
    (tmp_path / "out" / MANIFEST).write_bytes(text.encode("latin-1"))
    assert read_manifest(tmp_path / "out") is None


def test_a_manifest_with_an_unknown_key_or_a_changed_format_is_not_taken(tmp_path: Path) -> None:
    committed(tmp_path / "out", NEW)
    good = json.loads((tmp_path / "out" / MANIFEST).read_text())
    for change in ({"format": 3}, {"format": 2}, {"surprise": 1}):
        write_text(tmp_path / "out" / MANIFEST, json.dumps(good | change))
        assert read_manifest(tmp_path / "out") is None
    write_text(tmp_path / "out" / MANIFEST, json.dumps(good))
    assert read_manifest(tmp_path / "out") is not None


def sealed(content: dict[str, Any]) -> str:
    return json.dumps(content | {"seal": fingerprint(content)})


def test_a_directory_of_a_newer_format_is_refused_and_stays(tmp_path: Path) -> None:
    committed(tmp_path / "out", NEW)
    content = json.loads((tmp_path / "out" / MANIFEST).read_text())
    del content["seal"]
    text = sealed(content | {"format": 3, "surprise": 1})
    write_text(tmp_path / "out" / MANIFEST, text)
    with pytest.raises(ConfigError, match=rf"{tmp_path}/out/manifest\.json has format 3, .* up to 2: .*upgrade xdc"):
        read_manifest(tmp_path / "out")
    with pytest.raises(ConfigError, match="has format 3"):
        committed(tmp_path / "out", NEW)
    assert (tmp_path / "out" / MANIFEST).read_text() == text


def test_the_format_says_whether_parts_have_a_folder(tmp_path: Path) -> None:
    for name, number in (("data/000000.parquet", 2), ("index/000000.parquet", 2), ("000000.parquet", 1)):
        partial = begin(tmp_path / "out", NEW)
        write_text(partial / name, "content")
        assert commit(partial, tmp_path / "out", manifest(NEW)).format == number


@pytest.mark.parametrize("number", [{}, {"format": 1}])
def test_a_manifest_without_a_number_is_of_format_1(tmp_path: Path, number: dict[str, int]) -> None:
    committed(tmp_path / "out", NEW)
    content = json.loads((tmp_path / "out" / MANIFEST).read_text())
    del content["seal"], content["format"]
    write_text(tmp_path / "out" / MANIFEST, sealed(content | number))
    found = read_manifest(tmp_path / "out")
    assert found is not None
    assert (found.format, found.fingerprint) == (1, content["fingerprint"])


def test_no_directory_and_a_file_in_its_place_have_no_manifest(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert read_manifest(tmp_path / "nothing") is None
    assert read_manifest(tmp_path / "file") is None


def test_what_stood_there_before_a_commit_is_set_aside_not_deleted(tmp_path: Path) -> None:
    target = tmp_path / "out"
    committed(target, OLD, "the old")
    committed(target, NEW, "the new")
    assert (target / "a.txt").read_text() == "the new"
    assert (stale_directory(target, OLD) / "a.txt").read_text() == "the old"


def test_a_directory_without_a_manifest_is_set_aside_too(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "mine.txt").write_text("by hand")
    committed(target, NEW)
    assert [path.read_text() for path in (tmp_path / ".stale").rglob("mine.txt")] == ["by hand"]


def test_setting_nothing_aside_is_nothing(tmp_path: Path) -> None:
    assert set_aside(tmp_path / "nothing") is None
    assert names(tmp_path) == []


def test_restoring_changes_places_with_what_is_there(tmp_path: Path) -> None:
    target = tmp_path / "out"
    committed(target, OLD, "the old")
    committed(target, NEW, "the new")
    for wanted, other, text in ((OLD, NEW, "the old"), (NEW, OLD, "the new"), (OLD, NEW, "the old")):
        back = restore(target, wanted)
        assert back is not None
        assert back.fingerprint == wanted
        assert (target / "a.txt").read_text() == text
        assert names(tmp_path / ".stale") == [f"out-{other[:12]}"]
    assert names(tmp_path) == [".stale", "out"]


def test_what_was_damaged_while_set_aside_is_not_restored(tmp_path: Path) -> None:
    target = tmp_path / "out"
    committed(target, OLD)
    committed(target, NEW)
    (stale_directory(target, OLD) / "a.txt").write_text("short")
    assert restore(target, OLD) is None
    assert read_manifest(target) is not None
    assert restore(target, fingerprint("never made")) is None


def test_a_directory_with_the_same_first_digits_of_its_fingerprint_is_not_restored(tmp_path: Path) -> None:
    target = tmp_path / "out"
    committed(target, OLD)
    committed(target, NEW)
    assert restore(target, OLD[:12] + "0" * 52) is None


@pytest.mark.parametrize("kill_after_setting_aside", [False, True])
def test_a_restoring_that_was_killed_halfway_is_done_by_the_next(
    tmp_path: Path, kill_after_setting_aside: bool
) -> None:
    target = tmp_path / "out"
    committed(target, OLD, "the old")
    committed(target, NEW, "the new")
    os.rename(stale_directory(target, OLD), tmp_path / f".out.{OLD[:12]}.returning")
    if kill_after_setting_aside:
        set_aside(target)
    assert restore(target, OLD) is not None
    assert (target / "a.txt").read_text() == "the old"
    assert names(tmp_path / ".stale") == [f"out-{NEW[:12]}"]
    assert names(tmp_path) == [".stale", "out"]


def test_a_commit_removes_its_own_other_partials_and_no_neighbours(tmp_path: Path) -> None:
    target = tmp_path / "out"
    mine, neighbours = partial_directory(target, OLD), partial_directory(tmp_path / "out.v2", OLD)
    for directory in (mine, neighbours):
        directory.mkdir()
        (directory / "half").write_text("work")
    committed(target, NEW)
    assert not mine.exists()
    assert (neighbours / "half").read_text() == "work"
    assert target.is_dir()
