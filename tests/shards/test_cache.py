"""The cache of what was read from object stores: it keeps its limit and never gives wrong bytes, whatever happens."""

import hashlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from shards.objects.cache import FOLDERS, Cache
from tests.places import ROOT

KB = 1024


def entry(number: int, size: int = 10 * KB) -> tuple[bytes, bytes]:
    data = np.random.default_rng(number).bytes(size)
    return hashlib.sha256(data).digest(), data


def on_disk(folder: Path) -> int:
    """Return the bytes of all files, in whole blocks, as they take up a disk."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return sum(-(-size // 4096) * 4096 for size in sizes)


def test_what_was_put_is_got_until_the_limit_is_reached(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 64 * KB * FOLDERS)
    entries = [entry(number) for number in range(200)]
    for sha256, data in entries:
        assert cache.get(sha256) is None
        cache.put(sha256, data)
        cache.put(sha256, data)
    assert [cache.get(sha256) for sha256, _ in entries] == [data for _, data in entries]
    folders = len({sha256[:1] for sha256, _ in entries})
    assert on_disk(tmp_path / "cache") == (200 * 12 + folders * 4) * KB


def in_one_folder(count: int) -> list[tuple[bytes, bytes]]:
    """Entries of 10 KB that share a folder of the cache."""
    made = (n.to_bytes(8, "big") * 1280 for n in itertools.count())
    hashed = ((hashlib.sha256(data).digest(), data) for data in made)
    return list(itertools.islice((pair for pair in hashed if pair[0][0] == 0), count))


def test_a_cache_half_as_large_as_what_is_read_again_and_again_keeps_its_limit_and_is_of_use(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", (30 * 12 + 4) * KB * FOLDERS)
    entries = in_one_folder(60)
    found = 0
    for _ in range(10):
        for sha256, data in entries:
            got = cache.get(sha256)
            assert got in (None, data)
            found += got is not None
            if got is None:
                cache.put(sha256, data)
            assert on_disk(tmp_path / "cache") <= (30 * 12 + 4) * KB
    assert found > 60  # The entries used last would never be found again.


def test_an_entry_larger_than_a_folder_may_be_is_not_kept(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 8 * KB * FOLDERS)
    sha256, data = entry(0)
    cache.put(sha256, data)
    assert cache.get(sha256) is None
    assert not (tmp_path / "cache").exists()


def test_a_damaged_entry_is_removed_and_not_given(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 64 * KB * FOLDERS)
    sha256, data = entry(0)
    cache.put(sha256, data)
    (path,) = (path for path in (tmp_path / "cache").rglob("*") if path.name == sha256[:12].hex())
    path.write_bytes(data[:-1])
    assert cache.get(sha256) is None
    assert not path.exists()
    cache.put(sha256, data)
    assert cache.get(sha256) == data


WRITER = """
import sys
from pathlib import Path
from shards.objects.cache import Cache
from tests.shards.test_cache import entry

cache = Cache(Path(sys.argv[1]), int(sys.argv[2]))
number = int(sys.argv[3])
print("begun", flush=True)
while True:
    sha256, data = entry(number)
    assert cache.get(sha256) in (None, data)
    cache.put(sha256, data)
    number += 1
"""


@pytest.mark.slow
def test_processes_that_are_killed_leave_a_cache_that_keeps_its_limit(tmp_path: Path) -> None:
    limit = 28 * KB * FOLDERS
    folder = tmp_path / "cache"
    words = [sys.executable, "-c", WRITER, str(folder), str(limit)]
    for turn in range(3):
        processes = [
            subprocess.Popen([*words, str(10_000 * turn + 1000 * each)], stdout=subprocess.PIPE, cwd=ROOT)
            for each in range(3)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begun\n"
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            assert on_disk_while_others_write(folder) <= limit
        for process in processes:
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        assert on_disk(folder) <= limit
    left = folder / "00"
    left.mkdir(exist_ok=True)
    (left / ".abandoned").write_bytes(bytes(20 * KB))  # As of a process that was killed while it wrote.
    cache = Cache(folder, limit)
    for sha256, data in in_one_folder(4):
        cache.put(sha256, data)
    assert on_disk(folder) <= limit
    assert not (left / ".abandoned").exists()


def on_disk_while_others_write(folder: Path) -> int:
    total = 0
    for place in folder.glob("??"):
        with os.scandir(place) as entries:
            for each in entries:
                try:
                    total += -(-each.stat().st_size // 4096) * 4096
                except FileNotFoundError:
                    continue
    return total


def test_a_full_disk_is_said_once_and_done_without(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", folder], capture_output=True).returncode:
        pytest.skip("no permission to mount a small disk")
    try:
        cache = Cache(folder / "cache", 2**30)
        entries = [entry(number) for number in range(40)]
        for sha256, data in entries:
            cache.put(sha256, data)
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1
        assert "takes nothing more (No space left on device)" in said[0]
        got = [cache.get(sha256) for sha256, _ in entries]
        assert any(got)
        assert all(one in (None, data) for one, (_, data) in zip(got, entries, strict=True))
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("not a folder")
    cache = Cache(tmp_path / "file" / "cache", 2**30)
    cache.put(*entry(0))
    assert cache.get(entry(0)[0]) is None
    assert "takes nothing more (Not a directory)" in capsys.readouterr().err


def test_what_is_too_large_for_a_folder_s_share_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = Cache(tmp_path / "cache", 64 * KB * FOLDERS)
    for number in range(2):
        cache.put(*entry(number, 100 * KB))
    said = capsys.readouterr().err
    assert said.count("does not take what has 102400 bytes") == 1
    assert "Set runs_on.cache_gb to 0.03 or more" in said
    cache.put(*entry(2))
    assert cache.get(entry(2)[0]) == entry(2)[1]


def test_an_entry_that_a_reader_removes_while_room_is_made_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, entries = Cache(tmp_path / "cache", 28 * KB * FOLDERS), in_one_folder(4)
    for sha256, data in entries[:2]:
        cache.put(sha256, data)
    gone = tmp_path / "cache" / "00" / entries[0][0][:12].hex()
    assert gone.exists()
    scandir = os.scandir

    @contextmanager
    def seen_before_removal(folder: Path) -> Iterator[list[os.DirEntry[str]]]:
        with scandir(folder) as found:
            seen = list(found)
        gone.unlink(missing_ok=True)
        yield seen

    monkeypatch.setattr(os, "scandir", seen_before_removal)
    for sha256, data in entries[2:]:
        cache.put(sha256, data)
    assert cache.get(entries[3][0]) == entries[3][1]
    assert capsys.readouterr().err == ""
