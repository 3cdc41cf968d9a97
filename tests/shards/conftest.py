"""A folder of raw videos such as people have them, and the corpus made of it. Both for reading only."""

from pathlib import Path

import numpy as np
import pytest

from shards.corpus.stage import shard
from shards.settings import CorpusSettings
from tests.shards.media_maker import Array, plain, tone, write_video
from tests.sharing import made_once


def moving(seconds: float, shade: int) -> list[Array]:
    """A picture that grows brighter, 25 frames a second."""
    return [plain((shade, 2 * n + 20, 255 - shade)) for n in range(round(25 * seconds))]


@pytest.fixture(scope="session")
def raw_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten clips' worth of good videos, and one of each kind that is no use."""
    return made_once(tmp_path_factory, "raw", write_raw_videos) / "videos"


def write_raw_videos(root: Path) -> None:
    """The folder `videos` of the fixture `raw_videos`."""
    folder = root / "videos"
    write_video(folder / "dog/bark.mp4", moving(3.0, 40), tone(300, 3.0))
    write_video(folder / "dog/two v1.0.mkv", moving(2.4, 80), tone(400, 2.4), audio_codec="pcm_s16le")
    stereo = np.stack([tone(500, 3.0, 44100), tone(700, 3.0, 44100)])
    write_video(folder / "cat/miaow é.mp4", moving(3.0, 120), stereo, sample_rate=44100)
    write_video(folder / "cat/purr.avi", moving(2.0, 160), tone(50, 2.0), video_codec="mpeg4", audio_codec="mp2")
    write_video(folder / "cat/mute.mp4", moving(1.0, 200), None)
    write_video(folder / "silent.mkv", moving(1.0, 240), np.zeros(48000, np.float32), audio_codec="pcm_s16le")
    write_video(folder / "short.mp4", moving(0.28, 10), tone(300, 0.28))
    (folder / "broken.mp4").write_bytes(np.random.default_rng(0).bytes(3000))
    (folder / "notes.txt").write_text("the dog's name is Rex\n")


@pytest.fixture(scope="session")
def corpus_settings() -> CorpusSettings:
    """Clips of 1 s, four a shard: three shards."""
    return CorpusSettings(
        label_from_folder=True,
        clip_seconds=1.0,
        min_seconds=0.5,
        short_side=32,
        fps=12.5,
        gop=4,
        sample_rate=8000,
        clips_per_shard=4,
        workers=2,
    )


@pytest.fixture(scope="session")
def built_corpus(raw_videos: Path, corpus_settings: CorpusSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus of `raw_videos`, made in one go."""
    made = made_once(tmp_path_factory, "built", lambda root: shard(root / "corpus", raw_videos, corpus_settings))
    return made / "corpus"
