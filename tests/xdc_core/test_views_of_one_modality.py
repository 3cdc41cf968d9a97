"""Views of clips that hold sound alone or pictures alone."""

from pathlib import Path

import av
import numpy as np
import pytest

from shards.corpus.stage import shard
from shards.errors import ConfigError, StageError
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


@pytest.fixture(scope="module")
def clicks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of one sound of 4 s with ten clicks a second."""
    root = tmp_path_factory.mktemp("clicks")
    (root / "raw").mkdir()
    samples = np.zeros((1, 4 * 8000), np.int16)
    for begin in range(0, samples.shape[1], 800):
        samples[0, begin : begin + 40] = np.random.default_rng(begin).integers(-20000, 20000, 40)
    with av.open(str(root / "raw" / "clicks.wav"), "w") as output:
        stream = output.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = 8000
        output.mux(stream.encode(frame))
    settings = CorpusSettings(modalities=("audio",), clip_seconds=4.0, fps=8, sample_rate=8000, workers=1)
    shard(root / "corpus", root / "raw", settings)
    return root / "corpus"


def log_mel_frames_between_clicks(corpus: Path, config: Config, frames: int | None) -> tuple[int, float]:
    """The log-mel frames of a view of `frames` video frames, and those from one click to the next."""
    views = views_of(config, "audio", frames)
    _, view, _ = ClipViews(corpus, corpus_rows(corpus, MODALITIES["audio"], corpus.parent), views)[ClipItem(0)]
    assert view is not None
    energy = view[0, 0].mean(1).numpy()
    loud = energy > (energy.min() + energy.max()) / 2
    begins = np.flatnonzero(loud[1:] & ~loud[:-1])
    return len(energy), float(np.diff(begins).mean())


def test_views_of_any_number_of_frames_keep_the_time_scale_of_the_sound(clicks: Path, config: Config) -> None:
    found = {frames: log_mel_frames_between_clicks(clicks, config, frames) for frames in (None, 12, 24)}
    assert [length for length, _ in found.values()] == [100, 200, 400]
    for _, between in found.values():  # 6 frames of 8 a second last 0.75 s, and have 100 log-mel frames.
        assert between == pytest.approx(100 / 7.5, rel=0.05)
    centred = config.model_copy(update={"audio": config.audio.model_copy(update={"align": "centre"})})
    for frames in (None, 24):
        assert log_mel_frames_between_clicks(clicks, centred, frames) == (100, pytest.approx(10, rel=0.05))


def evaluated_at(wanted: int, **audio: object) -> Config:
    values = load_preset("paper-kinetics")
    values["audio"] |= audio
    values["datasets"] = {"esc": {"layout": "esc50", "root": "x", "modality": "audio", "frames": wanted}}
    values["evaluate"] = {"esc-svm": {"data": "esc", "protocol": "svm"}}
    return parse_config(values, "a test")


def test_a_number_of_frames_that_cannot_keep_the_time_scale_is_refused() -> None:
    config = evaluated_at(60)
    assert views_of(config, "audio", 60).settings.frames == 750  # type: ignore[attr-defined]
    assert views_of(config, "audio", 8) == views_of(config, "audio")
    assert views_of(config, "audio", 5).settings.frames == 62  # type: ignore[attr-defined]
    with pytest.raises(
        ConfigError, match=r"datasets\.esc\.frames: 3 frames cannot keep .* have 37\.5, .* Give 4 frames"
    ):
        evaluated_at(3)
    with pytest.raises(ConfigError, match=r"at least 8, and whole to 1 %\. Give 3 frames"):
        evaluated_at(1, frames=24)
    assert views_of(evaluated_at(3, align="start"), "audio", 3).settings.frames == 100  # type: ignore[attr-defined]
