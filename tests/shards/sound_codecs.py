"""Every sound codec that PyAV can encode and decode, in containers of every kind: is what is in the file stored?

    python -m tests.shards.sound_codecs [--most 99]

prints a line per codec and container, and exits with 1 where a stored sound is not like the stream decoded from its
beginning to its end without looking at times. The tests take at most three containers a codec.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from shards.errors import MediaError
from shards.media.cut import cut
from shards.media.decode import decode_sound
from shards.media.probe import probe
from shards.settings import CorpusSettings
from tests.shards.media_maker import Array
from tests.shards.sound_reference import Likeness, compare, decoded

RATE = 16000
SETTINGS = CorpusSettings(clip_seconds=60, min_seconds=0.1, sample_rate=RATE, modalities=("audio",))
# Those that keep no times come first. Whether one takes a codec at all is asked of FFmpeg.
CONTAINERS = """
    avi matroska:mkv wav mp4 asf:wma 3gp nut ogg:oga caf aiff au mpegts:ts flv mov webm w64 amr flac mp3 adts:aac tta wv
    ape ac3 eac3 dts mp2 voc ircam sox rm oma mpeg:mpg adx g722 g726 gsm ilbc sbc aptx wtv dv mxf
"""
SECONDS = 1.6
LEFT_OUT = {"anull", "vnull", "comfortnoise"}  # No codecs of their own.
# FFmpeg writes times for these that it cannot read: 0, 0.96, 1.056, 1.152 s, and back to 1.344.
WRITTEN_WRONG = {("flac", "asf"), ("flac", "wtv")}


def speech_like(sample_rate: int, channels: int) -> Array:
    """Bursts of two tones with pauses that are not silent: float32 [channels, samples]."""
    time_s = np.arange(round(SECONDS * sample_rate)) / sample_rate
    burst = 0.3 + 0.7 * (np.sin(2 * np.pi * 3 * time_s) > 0)
    noise = np.random.default_rng(0).standard_normal(len(time_s)) * 0.01
    sound = burst * (0.3 * np.sin(2 * np.pi * 440 * time_s) + 0.2 * np.sin(2 * np.pi * 1250 * time_s)) + noise
    return np.stack([sound.astype(np.float32)] * channels)


def codecs() -> Iterator[str]:
    """Names of encoders whose codec can be decoded too."""
    for name in sorted(av.codecs_available):
        try:
            encoder = av.codec.Codec(name, "w")
        except (av.codec.codec.UnknownCodecError, ValueError):
            continue
        if encoder.type == "audio" and name not in LEFT_OUT and not encoder.experimental:
            yield name


def written(folder: Path, codec: str, most: int) -> Iterator[Path]:
    """Files of this codec, in at most so many containers."""
    made = 0
    for container in CONTAINERS.split():
        name, _, suffix = container.partition(":")
        path = folder / f"{codec}.{name}.{suffix or name}"
        if made < most and (codec, name) not in WRITTEN_WRONG and write_sound(path, name, codec):
            made += 1
            yield path


def write_sound(path: Path, container: str, codec: str) -> bool:
    """Whether this container takes this codec, at any of the usual rates and channels."""
    encoder = av.codec.Codec(codec, "w")
    rates = list(encoder.audio_rates or ())
    for rate in [rate for rate in (48000, 44100, 16000, 8000) if not rates or rate in rates] or rates[:1]:
        for layout in ("stereo", "mono"):
            try:
                _write(path, container, codec, rate, layout)
            except (av.FFmpegError, ValueError, TypeError, OverflowError):
                path.unlink(missing_ok=True)
                continue
            if _decodes(path):
                return True
            path.unlink(missing_ok=True)
    return False


def _write(path: Path, container: str, codec: str, rate: int, layout: str) -> None:
    # PyAV leaves a file open that it opened itself, if the container does not take the codec.
    with path.open("wb") as file, av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, layout=layout)
        stream.bit_rate = 64000
        wanted = stream.codec_context.codec.audio_formats
        resampler = av.AudioResampler(wanted[0].name if wanted else "s16", layout, rate, frame_size=0)
        sound = speech_like(rate, 2 if layout == "stereo" else 1)
        block = av.AudioFrame.from_ndarray(sound, "fltp", layout)
        block.sample_rate, block.pts, block.time_base = rate, 0, Fraction(1, rate)
        for frame in [*resampler.resample(block), *resampler.resample(None)]:
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def _decodes(path: Path) -> bool:
    try:
        return len(decoded(path, RATE)) > 0.9 * SECONDS * RATE
    except (av.FFmpegError, StopIteration, ValueError):
        return False


def likeness(path: Path) -> Likeness:
    """Of what `cut` stores of the whole file, and of the stream as it decodes. Raises MediaError where nothing is."""
    clip = cut(path, 0, probe(path, ("audio",)).duration_s, SETTINGS)
    return compare(decode_sound(clip.flac), decoded(path, RATE), RATE)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=99)
    parser.add_argument("--keep", type=Path, help="a folder to keep the files in")
    arguments = parser.parse_args()
    bad = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for codec in codecs():
            for path in written(folder, codec, arguments.most):
                try:
                    found: Likeness | MediaError = likeness(path)
                except MediaError as error:
                    found = error
                good = isinstance(found, Likeness) and found.same
                bad += not good
                print("ok" if good else "WRONG", path.name, repr(found), flush=True)
    sys.exit(bad > 0)
