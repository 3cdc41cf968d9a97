"""Reading every source file once, and remembering what was found."""

import errno
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from shards.corpus.listing import list_corpus
from shards.corpus.survey import read_survey, survey
from shards.media.source_file import stat_of
from shards.progress import silent
from shards.settings import CorpusSettings
from shards.store.files import sha256_of
from tests.places import ROOT

COUNT = 8
TWO = CorpusSettings(workers=2)


def run(videos: Path, notes: Path) -> tuple[list[str], int]:
    """Names in the order of the findings, and how many files were read."""
    read: list[int] = []
    found = survey(list_corpus(videos), [], notes, TWO, lambda done, total, note="": read.append(done))
    return list(found), len(read)


def test_a_survey_finds_what_every_file_holds_or_why_it_is_no_use(raw_videos: Path, tmp_path: Path) -> None:
    found = survey(list_corpus(raw_videos), [], tmp_path / "notes.jsonl", TWO, silent)
    assert list(found) == sorted(found)
    assert len(found) == COUNT
    good = found["dog/bark.mp4"]
    assert (good.size, good.mtime_ns) == stat_of(raw_videos / "dog/bark.mp4")
    assert good.sha256 == sha256_of(raw_videos / "dog/bark.mp4")
    assert good.duration_s == pytest.approx(3.0, abs=0.03)
    assert (good.width, good.height, good.fps, good.reason) == (64, 48, 25.0, "")
    assert (good.video_codec, good.audio_codec, good.sample_rate) == ("h264", "aac", 48000)
    bad = found["broken.mp4"]
    assert bad.sha256 == sha256_of(raw_videos / "broken.mp4")
    assert bad.reason.startswith("FFmpeg cannot open it")
    assert (bad.duration_s, bad.width, bad.video_codec) == (0.0, 0, "")


def test_what_is_noted_is_not_read_again(raw_videos: Path, tmp_path: Path) -> None:
    names, read = run(raw_videos, tmp_path / "notes.jsonl")
    assert read == COUNT
    assert run(raw_videos, tmp_path / "notes.jsonl") == (names, 0)


SCRIPT = """
from pathlib import Path
from shards.corpus.listing import list_corpus
from shards.corpus.survey import survey
from shards.progress import silent
from shards.settings import CorpusSettings
{guard}survey(list_corpus(Path({videos!r})), [], Path({notes!r}), CorpusSettings(workers=2), silent)
"""


def test_a_script_whose_child_processes_cannot_start_makes_no_file_unusable(raw_videos: Path, tmp_path: Path) -> None:
    notes = tmp_path / "notes.jsonl"
    script = tmp_path / "script.py"
    # Without the guard each child runs the script again, and ends with an error.
    script.write_text(SCRIPT.format(guard="", videos=str(raw_videos), notes=str(notes)))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    failed = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert failed.returncode == 1
    assert "did not get to its first file, 3 times: the decoding process ended by itself (exit 1)." in failed.stderr
    assert 'outside of `if __name__ == "__main__":`' in failed.stderr
    assert list(read_survey(notes)) == []
    guard = "if __name__ == '__main__':\n    "
    script.write_text(SCRIPT.format(guard=guard, videos=str(raw_videos), notes=str(notes)))
    subprocess.run([sys.executable, script], env=environment, check=True)
    found = list(read_survey(notes))
    assert len(found) == COUNT
    assert [entry.path for entry in found if entry.kind == "crashed"] == []


def test_a_file_whose_process_ended_by_itself_is_probed_again(raw_videos: Path, tmp_path: Path) -> None:
    notes = tmp_path / "notes.jsonl"
    run(raw_videos, notes)
    before = {entry.path: asdict(entry) for entry in read_survey(notes)}
    name = next(path for path, entry in before.items() if not entry["reason"])
    why = {"kind": "crashed", "reason": "the decoding process ended by itself (exit 1)"}
    notes.write_text("\n".join(json.dumps(entry | (why if path == name else {})) for path, entry in before.items()))
    assert run(raw_videos, notes)[1] == 1
    assert [entry.reason for entry in read_survey(notes) if entry.path == name] == [why["reason"], ""]


def test_a_line_that_a_kill_cut_short_costs_one_file(raw_videos: Path, tmp_path: Path) -> None:
    notes = tmp_path / "notes.jsonl"
    run(raw_videos, notes)
    text = notes.read_text()
    notes.write_text(text[: -len(text.split("\n")[-1]) // 2])
    _, read = run(raw_videos, notes)
    assert read == 1
    assert run(raw_videos, notes)[1] == 0


def test_lines_that_are_no_finding_are_passed_over(tmp_path: Path) -> None:
    notes = tmp_path / "notes.jsonl"
    good = {"path": "a.mp4", "size": 1, "mtime_ns": 2, "sha256": "x"}
    notes.write_text("\n".join(["", "{", "[]", '{"path": "b.mp4"}', json.dumps(good | {"odd": 1}), json.dumps(good)]))
    assert [entry.path for entry in read_survey(notes)] == ["a.mp4"]
    assert list(read_survey(tmp_path / "nothing")) == []


def test_a_file_that_is_not_there_has_a_reason_and_is_looked_for_again_once_it_is(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path\na.mp4\n")
    notes = tmp_path / "notes.jsonl"
    assert run(tmp_path / "list.csv", notes) == (["a.mp4"], 1)
    (gone,) = read_survey(notes)
    assert (gone.size, gone.mtime_ns, gone.reason) == (-1, -1, "the file does not exist")
    assert run(tmp_path / "list.csv", notes) == (["a.mp4"], 0)
    (tmp_path / "a.mp4").write_bytes(b"x")
    assert run(tmp_path / "list.csv", notes) == (["a.mp4"], 1)


def test_a_name_too_long_for_the_system_is_a_reason_not_a_crash(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(f"path\n{'a' * 300}.mp4\n")
    notes = tmp_path / "notes.jsonl"
    assert run(tmp_path / "list.csv", notes)[1] == 1
    (found,) = read_survey(notes)
    assert found.reason == f"cannot be read: {os.strerror(errno.ENAMETOOLONG)}"
    assert run(tmp_path / "list.csv", notes)[1] == 0
