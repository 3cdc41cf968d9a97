"""A corpus that version 0.1.0 made: it stays fresh; what that version damaged is named, and cut again by itself."""

import os
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from shards.corpus.index import read_whole_index
from shards.corpus.plan import make_plan
from shards.corpus.reader import ClipReader
from shards.corpus.recut import _merged, damaged_sources, recut
from shards.corpus.seen import corpus_fingerprint_now
from shards.corpus.stage import shard
from shards.errors import ConfigError, StageError
from shards.indexing.check import tar_faults
from shards.media.decode import decode_sound
from shards.settings import CorpusSettings
from shards.sources.source import Listing, Source
from shards.sources.surveyed import Surveyed, survey_columns
from shards.store.manifest import read_manifest

# Three MP4s and an AVI with AMR, of 2 s each, cut into 8 clips in 4 shards.
ARCHIVE = Path(__file__).parent / "corpus-of-0.1.0.tar.gz"
SETTINGS = CorpusSettings(
    clip_seconds=1.0, min_seconds=0.5, short_side=32, fps=10, gop=5, sample_rate=8000, clips_per_shard=2, workers=2
)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The folder with `corpus` and `videos`."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def zeros(corpus: Path) -> dict[str, float]:
    """The share of silent samples of each clip, by key."""
    with ClipReader(corpus) as reader:
        rows = read_whole_index(corpus).to_pylist()
        sounds = {row["key"]: decode_sound(reader.read(row["shard"], row, "flac")) for row in rows}
    return {key: float(np.mean(np.abs(sound) < 1e-5)) for key, sound in sounds.items()}


def test_a_corpus_of_0_1_0_is_fresh_and_reused(old: Path) -> None:
    before = (old / "corpus" / "manifest.json").read_bytes()
    found, _ = corpus_fingerprint_now(old / "corpus", old / "videos", SETTINGS)
    manifest = read_manifest(old / "corpus")
    assert manifest is not None
    assert found == manifest.fingerprint
    assert shard(old / "corpus", old / "videos", SETTINGS).reused
    assert (old / "corpus" / "manifest.json").read_bytes() == before


def test_what_it_damaged_is_named_by_its_codec(old: Path) -> None:
    assert list(damaged_sources(old / "corpus")) == ["speech.avi"]
    assert "amrnb" in damaged_sources(old / "corpus")["speech.avi"]
    assert max(zeros(old / "corpus").values()) > 0.8


def test_only_the_shards_of_damaged_sources_are_cut_again(old: Path) -> None:
    corpus = old / "corpus"
    before = {path.name: path.read_bytes() for path in corpus.rglob("0*")}
    rows = read_whole_index(corpus)
    accepted = shard(corpus, old / "videos", SETTINGS).summary["accepted"]
    record = recut(corpus, old / "videos", SETTINGS)
    after = {path.name: path.read_bytes() for path in corpus.rglob("0*")}
    changed = {name for name in before if before[name] != after[name] and not name.endswith(".parquet")}
    assert changed == {"000001.tar", "000003.tar"}
    # All indices have the columns of measures; version 0.1.0 measured nothing.
    index = read_whole_index(corpus)
    measured = {row["shard"] for row in index.to_pylist() if row["motion"] is not None}
    assert measured == {"000001", "000003"}
    kept = pc.is_in(index["shard"], pa.array(["000000", "000002"]))
    assert index.select(rows.column_names).filter(kept).equals(rows.filter(kept))
    assert max(zeros(corpus).values()) < 0.05
    assert damaged_sources(corpus) == {}
    assert [fault for name in ("000000", "000001") for fault in tar_faults(corpus, name)] == []
    # Still the corpus of the same settings and sources; what was made of it is not.
    assert record.fingerprint == corpus_fingerprint_now(corpus, old / "videos", SETTINGS)[0]
    assert record.summary["accepted"] != accepted
    assert recut(corpus, old / "videos", SETTINGS).reused


def test_clips_that_were_not_planned_before_go_into_shards_of_their_own(old: Path, tmp_path: Path) -> None:
    """As where the old version had believed a header that tells of 1 s of two sources."""
    table = pq.read_table(old / "corpus" / "plan.parquet")
    sources = {row["source"] for row in table.to_pylist()}
    found = survey_columns(
        Surveyed(name, 1, 1, "x", duration_s=2.0, sound_duration_s=2.0, probe_version=2) for name in sources
    )
    listing = Listing(old / "videos", tuple(Source(name) for name in sorted(sources)), ())
    later = [key for key in table["key"].to_pylist() if key.endswith("1000") and key[0] in "ab"]
    (tmp_path / "before").mkdir()
    pq.write_table(
        table.filter(pa.array(~np.isin(table["key"].to_numpy().astype(str), later))),
        tmp_path / "before" / "plan.parquet",
    )
    merged = _merged(tmp_path / "before", make_plan(SETTINGS, listing, found), SETTINGS)
    placed = {clip.key: clip.shard for clip in merged.clips()}
    before = dict(zip(table["key"].to_pylist(), table["shard"].to_pylist(), strict=True))
    assert placed == before | dict.fromkeys(later, 4)


def test_other_settings_or_sources_are_no_case_for_it(old: Path) -> None:
    with pytest.raises(StageError, match="Make it as a whole"):
        recut(old / "corpus", old / "videos", SETTINGS.model_copy(update={"crf": 30}))
    with (old / "videos" / "a.mp4").open("ab") as file:
        file.write(b"more")
    with pytest.raises(StageError, match=r"a\.mp4 has changed"):
        recut(old / "corpus", old / "videos", SETTINGS)
    with pytest.raises(ConfigError, match=r"no source 'nobody\.mp4'"):
        recut(old / "corpus", old / "videos", SETTINGS, ["nobody.mp4"])
    shutil.rmtree(old / "videos")
    with pytest.raises(ConfigError, match="its video is needed"):
        recut(old / "corpus", old / "videos", SETTINGS)


def test_files_that_0_1_0_probed_are_probed_again_for_other_settings(old: Path) -> None:
    shard(old / "corpus", old / "videos", SETTINGS.model_copy(update={"crf": 30}))
    sources = pq.read_table(old / "corpus" / "sources.parquet").to_pylist()
    assert {row["probe_version"] for row in sources} == {2}
    assert max(zeros(old / "corpus").values()) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("point", ["before commit", "after set_aside"])
def test_a_killed_recut_leaves_nothing_fresh_of_the_old_clips(old: Path, point: str) -> None:
    corpus, videos = old / "corpus", old / "videos"
    accepted = shard(corpus, videos, SETTINGS).summary["accepted"]
    work = (
        "from pathlib import Path\nfrom shards.corpus.recut import recut\nfrom shards.settings import CorpusSettings\n"
    )
    work += f"recut(Path({str(corpus)!r}), Path({str(videos)!r}), CorpusSettings(**{SETTINGS.model_dump()!r}))"
    script = old / "work.py"
    script.write_text("if __name__ == '__main__':\n    " + work.replace("\n", "\n    "))
    environment = os.environ | {"XDC_FAULT": f"kill:1:{point}", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run([sys.executable, str(script)], env=environment, check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    record = shard(corpus, videos, SETTINGS)
    assert record.summary["accepted"] != accepted
    assert max(zeros(corpus).values()) < 0.05


def test_a_corpus_that_is_forced_and_has_other_clips_is_another_for_its_readers(old: Path) -> None:
    corpus, videos = old / "corpus", old / "videos"
    accepted = shard(corpus, videos, SETTINGS).summary["accepted"]
    forced = shard(corpus, videos, SETTINGS, force=True).summary["accepted"]
    assert forced != accepted
    assert shard(corpus, videos, SETTINGS, force=True).summary["accepted"] == forced
