"""Cut the videos of a folder into a corpus in a bucket: `python -m tests.engines.bucket_job FOLDER CORPUS URL`.

A process of its own, because the client of object stores does not survive a fork. It is killed where XDC_FAULT says.
"""

import os
import subprocess
import sys
from pathlib import Path

from shards.corpus.stage import shard
from shards.store.build import Record
from tests.places import ROOT
from tests.shards.test_append import SETTINGS


def cut(videos: Path, corpus: Path, url: str, **changes: object) -> Record:
    """Cut them in this process."""
    settings = SETTINGS.model_copy(update={"path": url, "append": False, **changes})
    return shard(corpus, videos, settings)


def started(
    videos: Path, corpus: Path, url: str, log: Path, fault: str = "", append: bool = False
) -> subprocess.Popen[bytes]:
    """Start the same in another process, whose output goes to `log`."""
    words = [sys.executable, "-m", "tests.engines.bucket_job", videos, corpus, url, *(["append"] if append else [])]
    with log.open("ab") as file:
        environment = {**os.environ, "XDC_FAULT": fault}
        return subprocess.Popen([str(word) for word in words], stdout=file, stderr=file, cwd=ROOT, env=environment)


if __name__ == "__main__":
    cut(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], append="append" in sys.argv)
