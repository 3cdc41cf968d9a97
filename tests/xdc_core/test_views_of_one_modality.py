"""Views of clips that hold sound alone or pictures alone."""

from pathlib import Path

import av
import numpy as np
import pytest

from shards.corpus.stage import shard
from shards.errors import StageError
from shards.settings import CorpusSettings
from xdc_core.config.load import load_preset, parse_config
from xdc_core.config.schema import Config
from xdc_core.config.views import views_of
from xdc_core.data.clips import ClipItem, ClipViews
from xdc_core.data.rows import corpus_rows
from xdc_core.modalities.registry import MODALITIES


@pytest.fixture(scope="module")
def config() -> Config:
    values = load_preset("tiny")
    return parse_config(values | {"audio": values["audio"] | {"align": "span"}}, "preset tiny")


def write_noise(path: Path, seconds: float) -> None:
    samples = np.random.default_rng(0).integers(-9000, 9000, (1, round(8000 * seconds)), np.int16)
    with av.open(str(path), "w") as output:
        stream = output.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = 8000
        output.mux(stream.encode(frame))


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of sound alone: a clip with room for many frames, and one with room for a single one."""
    root = tmp_path_factory.mktemp("sounds")
    (root / "raw").mkdir()
    for name, seconds in (("long", 1.0), ("short", 0.2)):
        write_noise(root / "raw" / f"{name}.wav", seconds)
    settings = CorpusSettings(modalities=("audio",), min_seconds=0.1, fps=8, sample_rate=8000, workers=1)
    shard(root / "corpus", root / "raw", settings)
    return root / "corpus"


def test_sound_without_pictures_gives_views_of_the_same_shape_as_any_other(sounds: Path, config: Config) -> None:
    views = ClipViews(sounds, corpus_rows(sounds, MODALITIES["audio"], sounds.parent), views_of(config, "audio"))
    assert len(views) == 2
    for number in range(2):
        for seed in (None, 3):
            _, view, reason = views[ClipItem(number, seed=seed)]
            assert reason == ""
            assert view is not None
            assert view.shape == (1, 1, config.audio.frames, config.audio.mels)
            assert view.std() > 0.1


def test_training_views_begin_anywhere_in_a_sound_without_pictures(sounds: Path, config: Config) -> None:
    rows = corpus_rows(sounds, MODALITIES["audio"], sounds.parent)
    views = ClipViews(sounds, rows, views_of(config, "audio"))
    number = next(n for n in range(2) if rows[n][1]["frames"] == 8)
    seen = {views[ClipItem(number, seed=seed)][1].sum().item() for seed in range(12)}  # type: ignore[union-attr]
    # 8 frames, a view of 6 of them: three places.
    assert len(seen) == 3


def test_a_view_of_pictures_that_are_not_there_stops_the_work_with_the_reason(sounds: Path, config: Config) -> None:
    views = ClipViews(sounds, corpus_rows(sounds, MODALITIES["video"], sounds.parent), views_of(config, "video"))
    with pytest.raises(StageError, match="has no mp4, because of the corpus's setting `modalities`"):
        views[ClipItem(0)]
