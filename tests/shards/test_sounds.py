"""What is stored of a sound is what is in the file: every codec, the shared cases, and odd files of other projects."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from scipy.signal import resample_poly

from shards.media.cut import cut
from shards.media.decode import decode_sound
from shards.media.probe import probe
from shards.settings import CorpusSettings
from tests.places import DATA, needs
from tests.shards.media_maker import Array, plain, tone, write_video
from tests.shards.sound_codecs import RATE, codecs, likeness, written
from tests.shards.sound_reference import Likeness, compare, decoded, placed
from tests.shards.torture import VERDICTS, Sound

CASES, TORTURE = DATA / "cases" / "media", DATA / "torture"
needs_cases = needs(CASES)
needs_torture = needs(TORTURE)
# Encoders that no container takes together with the frames that PyAV makes.
UNWRITTEN = {
    "adpcm_argo",
    "adpcm_ima_alp",
    "adpcm_ima_amv",
    "adpcm_ima_apm",
    "adpcm_ima_ssi",
    "aptx_hd",
    "g723_1",
    "pcm_bluray",
    "pcm_s24daud",
    "pcm_vidc",
    "roq_dpcm",
}
ALONE = CorpusSettings(clip_seconds=60, min_seconds=0.04, sample_rate=RATE, modalities=("audio",), silence="keep")


def stored(path: Path, start_s: float = 0.0, end_s: float | None = None) -> Array:
    """The sound of a clip: float32 [samples]. Without an end it is the whole file's."""
    end_s = probe(path, ("audio",)).duration_s if end_s is None else end_s
    return decode_sound(cut(path, start_s, end_s, ALONE).flac)


@pytest.mark.slow
@pytest.mark.parametrize("codec", list(codecs()))
def test_what_is_stored_of_a_codec_is_the_stream_from_beginning_to_end(codec: str, tmp_path: Path) -> None:
    files = list(written(tmp_path, codec, most=3))
    assert files or codec in UNWRITTEN
    found = {path.name: likeness(path) for path in files}
    assert {name: wrong for name, wrong in found.items() if not wrong.same} == {}


def test_the_codecs_whose_frames_have_no_times_are_among_those_tried() -> None:
    assert {"adpcm_ms", "adpcm_ima_wav", "adpcm_ima_qt", "alac", "wmav1", "wmav2", "real_144"} <= set(codecs())


@needs_cases
@pytest.mark.parametrize(
    ("name", "zeros"),
    [
        ("sample.3gp", 0.07),
        ("traveling.wav", 0.00),
        ("alac-in-matroska-short.mka", 0.01),
        ("streaming_CBR-7K.wav", 0.00),
        ("ergon_xwma.wav", 0.00),
    ],
)
def test_frames_without_a_time_of_their_own_are_heard(name: str, zeros: float) -> None:
    sound = stored(CASES / name)
    found = compare(sound, decoded(CASES / name, RATE), RATE)
    assert found.same, found
    assert found.zeros == pytest.approx(zeros, abs=0.006)


@needs_cases
@pytest.mark.parametrize("name", ["sample.3gp", "traveling.wav", "alac-in-matroska-short.mka", "ergon_xwma.wav"])
def test_a_later_clip_of_such_a_file_has_the_sound_of_its_span(name: str) -> None:
    sound, whole = stored(CASES / name, 1.5, 3.5), decoded(CASES / name, RATE)
    assert compare(sound, whole[round(1.5 * RATE) : round(3.5 * RATE)], RATE).same


@needs_torture
@pytest.mark.slow
def test_odd_files_are_heard_where_their_containers_place_them() -> None:
    """As FFmpeg decodes them: silence before the first sample, gaps and an end where the container states them."""
    wrong: dict[str, Likeness] = {}
    for name, verdict in VERDICTS.items():
        if not isinstance(verdict.sound, Sound) or not (TORTURE / name).exists():
            continue
        # Placed before it is resampled: a filter would reach from one side of a gap to the other.
        rate = 48000 if verdict.sound.gaps else RATE
        reference = placed(decoded(TORTURE / name, rate), rate, verdict.sound.begins_s, verdict.sound.gaps)
        reference = resample_poly(reference, RATE, rate)[: round(verdict.sound.seconds * RATE)]
        found = compare(stored(TORTURE / name), reference, RATE)
        if not found.same:
            wrong[name] = found
    assert wrong == {}


def test_channels_that_cancel_each_other_are_heard_by_the_loudest(tmp_path: Path) -> None:
    how: dict[str, Any] = {"audio_codec": "pcm_s16le"}
    one = tone(440, 1.2, loudness=0.3)
    path = write_video(tmp_path / "a.mkv", [plain((9, 9, 9))] * 30, np.stack([one, -one]), **how)
    both = CorpusSettings(short_side=48, fps=25, sample_rate=RATE)
    sound = decode_sound(cut(path, 0, 1.2, both).flac)
    assert np.abs(sound[1600:17600]).max() == pytest.approx(0.3, abs=0.01)
    lossy = write_video(tmp_path / "b.mp4", [plain((9, 9, 9))] * 30, np.stack([one, -one]))
    assert np.abs(decode_sound(cut(lossy, 0, 1.2, both).flac)[1600:17600]).max() == pytest.approx(0.3, abs=0.02)


def test_a_quiet_sound_of_two_channels_is_mixed_as_ever(tmp_path: Path) -> None:
    quiet = np.stack([tone(440, 1.2, loudness=0.004), tone(700, 1.2, loudness=0.004)])
    path = write_video(tmp_path / "a.mkv", [plain((9, 9, 9))] * 30, quiet, audio_codec="pcm_s16le")
    sound = decode_sound(cut(path, 0, 1.2, CorpusSettings(short_side=48, fps=25, sample_rate=RATE)).flac)
    spectrum = np.abs(np.fft.rfft(sound[1600:17600]))
    assert {int(n) for n in np.argsort(spectrum)[-2:]} == {440, 700}  # Each of 1 s: bins are Hz.


def test_a_gap_that_an_mp4_states_stays_a_gap(tmp_path: Path) -> None:
    """Two seconds without packets; in MP4 the packet before them is told to last for as long."""
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream("aac", rate=48000, layout="mono")
        packets = []
        for begin_s, hz in ((0.0, 440.0), (4.0, 440.0)):
            block = av.AudioFrame.from_ndarray(tone(hz, 2.0)[None], "fltp", "mono")
            block.sample_rate, block.time_base, block.pts = 48000, Fraction(1, 48000), round(begin_s * 48000)
            packets += stream.encode(block)
        output.mux([*packets, *stream.encode(None)])
    sound = stored(path)
    loud = np.flatnonzero(np.abs(sound) > 0.3) / RATE
    assert loud[-1] == pytest.approx(6.0, abs=0.06)
    assert not ((loud > 2.1) & (loud < 3.9)).any()
    later = np.flatnonzero(np.abs(stored(path, 3.0, 5.0)) > 0.3) / RATE
    assert later[0] == pytest.approx(1.0, abs=0.06)
