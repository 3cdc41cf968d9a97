"""What `xdc doctor` says of the locks of a directory's file system."""

import fcntl
from pathlib import Path

import pytest

from flows.cli.machine.doctor import lock_folders, locks
from shards.errors import ConfigError
from shards.store import lock_check
from shards.store.lock_check import check_locks, file_system_of


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table of mounts, to be filled; what is tried for real is the file system below."""
    table = tmp_path / "mounts"
    monkeypatch.setattr(lock_check, "MOUNTS", table)
    return table


def test_on_a_disk_of_this_machine_locks_hold_and_nothing_is_left(tmp_path: Path, mounted: Path) -> None:
    mounted.write_text(f"disk {tmp_path} ext4 rw 0 0\n")
    found = check_locks(tmp_path)
    assert (found.file_system, found.here, found.sure) == ("ext4", True, True)
    assert [path.name for path in tmp_path.iterdir()] == ["mounts"]


@pytest.mark.parametrize(
    ("kind", "options", "sure", "said"),
    [
        ("nfs4", "rw,vers=4.2,local_lock=none", True, "and between machines"),
        ("nfs", "rw,local_lock=flock", False, "the option local_lock=flock makes them local to each machine"),
        ("nfs", "rw,nolock,local_lock=all", False, "local_lock=all"),
        ("lustre", "rw,flock,lazystatfs", True, "and between machines"),
        ("lustre", "rw,localflock", False, "localflock"),
        ("lustre", "rw", False, "its option flock is not set"),
        ("beegfs", "rw,cfgFile=/etc/beegfs", False, "tuneUseGlobalFileLocks"),
        ("gpfs", "rw", True, "and between machines"),
        ("fuse.sshfs", "rw", False, "not known for this type"),
        ("9p", "rw", False, "not known for this type"),
    ],
)
def test_what_is_known_of_a_shared_file_system_is_said(
    tmp_path: Path, mounted: Path, kind: str, options: str, sure: bool, said: str
) -> None:
    mounted.write_text(f"server:/x {tmp_path} {kind} {options} 0 0\n")
    found = check_locks(tmp_path)
    assert (found.file_system, found.here, found.sure) == (kind, True, sure)
    assert said in found.text
    assert ("do not build one directory from two machines" in found.text) is not sure


def test_a_file_system_whose_locks_refuse_nobody_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mounted: Path
) -> None:
    mounted.write_text(f"disk {tmp_path} ext4 rw 0 0\n")
    monkeypatch.setattr(fcntl, "flock", lambda file, how: None)  # Here; the second process asks the kernel.
    found = check_locks(tmp_path)
    assert not found.here
    assert not found.sure
    assert "a second process gets the same lock" in found.text


def test_the_innermost_mount_counts_and_of_two_at_one_place_the_later_one(tmp_path: Path, mounted: Path) -> None:
    inner = tmp_path / "a b" / "c"
    inner.mkdir(parents=True)
    name = str(tmp_path / "a b").replace(" ", "\\040")
    mounted.write_text(
        f"x / ext4 rw 0 0\nx {name} xfs rw 0 0\nx {name} nfs4 ro,hard 0 0\nx {tmp_path}/a tmpfs rw 0 0\n"
    )
    assert file_system_of(inner) == ("nfs4", frozenset({"ro", "hard"}))
    assert file_system_of(tmp_path)[0] == "ext4"
    mounted.unlink()
    assert file_system_of(inner)[0] == "unknown"


def test_the_doctor_looks_here_and_at_runs_and_corpora(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mounted: Path
) -> None:
    (tmp_path / "runs").mkdir()
    mounted.write_text(f"x {tmp_path} ext4 rw 0 0\nx {tmp_path}/runs beegfs rw 0 0\n")
    monkeypatch.chdir(tmp_path)
    here, runs = locks(lock_folders([]))
    assert (here["what"], here["state"], runs["state"]) == ("locks", "works", "absent")
    assert here["text"].startswith(f"{tmp_path}: on ext4")
    assert runs["text"].startswith("runs: on beegfs locks hold on this machine; ")


def test_the_doctor_looks_at_given_folders_and_of_a_run_at_its_corpus_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    disk, run = tmp_path / "disk", tmp_path / "run"
    disk.mkdir()
    run.mkdir()
    (run / "xdc.yaml").write_text("corpus: {path: ../disk/not yet/clips}\n")
    assert [folder.resolve() for folder in lock_folders([run])] == [tmp_path, run, disk]
    (disk / "not yet" / "clips").mkdir(parents=True)
    assert lock_folders([run])[-1].resolve() == disk / "not yet", "the corpus's lock lies beside it"
    assert lock_folders([disk]) == [tmp_path, disk]
    with pytest.raises(ConfigError, match="nowhere is not a folder"):
        lock_folders([Path("nowhere")])


def test_locks_that_hang_are_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_check, "TRY", "import time; time.sleep(60)")
    monkeypatch.setattr(lock_check, "TIMEOUT_S", 0.2)
    (found,) = locks([tmp_path])
    assert found["state"] == "absent"
    assert found["text"].startswith(f"{tmp_path}: no answer within 0 s. ")
