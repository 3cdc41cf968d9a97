"""A corpus of audio-visual digits that was interrupted: nothing under its name, and the next call cleans up."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shards.digits.corpus import write_digits
from shards.digits.settings import DigitsSettings
from tests.places import ROOT
from tests.processes import alive, wait_for


def test_an_error_on_the_way_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(done: int, total: int) -> None:
        raise RuntimeError("the listener broke")

    with pytest.raises(RuntimeError, match="the listener broke"):
        write_digits(tmp_path / "out", DigitsSettings(clips=60, workers=1), fail)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the workers through /proc")
def test_a_kill_leaves_nothing_under_the_name_and_the_next_call_cleans_up(tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = tmp_path / "draw.py"
    script.write_text(
        "from pathlib import Path\n"
        "from shards.digits.corpus import write_digits\n"
        "from shards.digits.settings import DigitsSettings\n"
        "if __name__ == '__main__':\n"
        f"    write_digits(Path({str(out)!r}), DigitsSettings(clips=20000, workers=2))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, str(script)], cwd=ROOT, env=environment)
    try:
        wait_for("the first clips", lambda: list(tmp_path.glob(".out.*.digits/videos/000/*.mp4")), of=process)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not out.exists()
    assert len(children) >= 2
    wait_for("the workers' end", lambda: not any(alive(int(pid)) for pid in children))
    left = next(tmp_path.glob(".out.*.digits"))

    write_digits(out, DigitsSettings(clips=3, workers=1))
    assert len(list(out.glob("videos/000/*.mp4"))) == 3
    assert not left.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["draw.py", "out"]


def test_the_left_over_of_a_neighbour_with_a_longer_name_is_left_alone(tmp_path: Path) -> None:
    neighbour = tmp_path / ".out.old.0123456789ab.digits"
    ours = tmp_path / ".out.0123456789ab.digits"
    neighbour.mkdir()
    ours.mkdir()
    write_digits(tmp_path / "out", DigitsSettings(clips=1, workers=1))
    assert neighbour.exists()
    assert not ours.exists()
