"""What is measured of a clip while it is cut, against videos whose motion and level are known."""

from pathlib import Path

import numpy as np
import pytest

from shards.corpus.index import MEASURES, read_whole_index
from shards.corpus.stage import shard
from shards.indexing.check import tar_faults
from shards.indexing.columns import SCHEMA
from shards.media.cut import cut
from shards.media.measures import QUIETEST_DB, Measures, level_db
from shards.settings import CorpusSettings
from tests.shards.media_maker import plain, tone, write_video
from tests.shards.test_shots import noisy, pan, still

SETTINGS = CorpusSettings(
    clip_seconds=2.0, min_seconds=0.5, short_side=32, fps=12.5, gop=5, sample_rate=8000, silence="keep", workers=2
)


def measured(path: Path, **changes: object) -> Measures:
    return cut(path, 0.0, 10.0, SETTINGS.model_copy(update=changes)).measures


@pytest.mark.parametrize("loudness", [1.0, 0.1, 0.001])
def test_the_level_is_the_root_mean_square_re_full_scale(loudness: float, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", still(1, 1), tone(300, 1.0, loudness=loudness), audio_codec="pcm_s16le")
    assert measured(path, fps=25).level_db == pytest.approx(20 * np.log10(loudness) - 3.01, abs=0.1)


def test_digital_silence_has_the_lowest_level(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", still(1, 1), np.zeros(48000, np.float32), audio_codec="pcm_s16le")
    assert measured(path).level_db == QUIETEST_DB
    assert level_db(np.zeros(0, np.int16)) == QUIETEST_DB
    assert level_db(np.full(100, -32768, np.int16)) == pytest.approx(0.0)
    assert level_db(np.tile(np.array([1, -1], np.int16), 8000)) == pytest.approx(20 * np.log10(1 / 32768))


def test_motion_is_the_change_of_luma_a_second(tmp_path: Path) -> None:
    """A picture that brightens by 40 levels a second; limited range has 219 levels in place of 255."""
    brightening = [plain((40 + round(40 * n / 25),) * 3) for n in range(50)]
    path = write_video(tmp_path / "a.mp4", brightening, None)
    for fps in (10, 12.5, 25, 30):
        found = measured(path, fps=fps, modalities=("video",))
        assert found.motion == pytest.approx(40 * 219 / 255, rel=0.08)
        assert found.shots == 1


def test_a_still_picture_has_no_motion_and_noise_has_little(tmp_path: Path) -> None:
    only = {"modalities": ("video",)}
    quiet = measured(write_video(tmp_path / "a.mp4", still(1, 2), None), **only).motion
    noise = measured(write_video(tmp_path / "b.mp4", noisy(still(1, 2), 6), None), **only).motion
    slow = measured(write_video(tmp_path / "c.mp4", pan(1, 2, 0.5), None), **only).motion
    fast = measured(write_video(tmp_path / "d.mp4", pan(1, 2, 3), None), **only).motion
    assert quiet is not None
    assert noise is not None
    assert slow is not None
    assert fast is not None
    assert quiet == pytest.approx(0.0, abs=0.5)
    assert quiet < noise < slow < fast


def test_cuts_between_still_pictures_are_no_motion(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", [*still(1, 1), *still(2, 1), *still(3, 1)], None)
    for fps in (12.5, 25, 30):
        found = measured(path, fps=fps, modalities=("video",))
        assert found.shots == 3
        assert found.motion == pytest.approx(0.0, abs=0.5)


def test_a_modality_that_is_not_stored_is_not_measured(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", pan(1, 1, 2), tone(300, 1.0))
    assert measured(path, modalities=("video",)).level_db is None
    sound = measured(path, modalities=("audio",))
    assert (sound.motion, sound.shots, sound.boundaries_s) == (None, None, None)
    assert sound.level_db is not None


def test_the_measures_are_columns_of_the_index_and_not_in_the_tars(tmp_path: Path) -> None:
    write_video(tmp_path / "videos" / "a.mp4", [*pan(1, 1, 2), *pan(2, 1, 2)], tone(300, 2.0))
    corpus = tmp_path / "corpus"
    shard(corpus, tmp_path / "videos", SETTINGS)
    index = read_whole_index(corpus)
    (row,) = index.to_pylist()
    expected = cut(tmp_path / "videos" / "a.mp4", 0.0, 2.0, SETTINGS).measures
    assert [index.schema.field(field.name).type for field in MEASURES] == MEASURES.types
    assert row["motion"] == pytest.approx(expected.motion)
    assert row["level_db"] == pytest.approx(expected.level_db)
    assert row["shots"] == 2
    assert row["boundaries_s"] == pytest.approx([1.0], abs=0.08)
    assert list(tar_faults(corpus, "000000")) == []
    assert b"level_db" not in (corpus / "000000.tar").read_bytes()
    assert {"motion", "level_db", "shots"} < set(SCHEMA.names)
