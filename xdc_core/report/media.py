"""The media of an example clip: a strip of pictures above the spectrogram, and the sound."""

import io
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from shards.corpus.reader import ClipReader
from shards.errors import MediaError
from shards.media.decode import decode_frames, decode_sound
from shards.store.checked_read import read_stored
from shards.store.files import new_file
from xdc_core.modalities.logmel import LogMel, log_mel

PICTURES, HEIGHT, SPECTROGRAM = 8, 72, 40  # Frames per strip; height of a frame and of the spectrogram in pixels.
WIDEST = 128  # Largest width of a frame in pixels.
OPUS_RATES = (8000, 12000, 16000, 24000, 48000)  # Sampling rates of Opus in Hz.


def write_media(reader: ClipReader, shard: str, row: Mapping[str, Any], folder: Path) -> str:
    """Write `<key>.webp` and, if the clip has sound, `<key>.ogg` into `folder`.

    Returns why pictures or sound could not be decoded; else "".
    """
    key, reason = row["key"], ""
    pictures, sound = None, None
    try:
        if row["mp4_size"]:
            pictures = decode_frames(reader.read(shard, row, "mp4"), 0, row["frames"])
        if row["flac_size"]:
            sound = decode_sound(reader.read(shard, row, "flac"))
    except MediaError as error:
        reason = str(error)
    if sound is not None:
        _write(folder / f"{key}.ogg", opus(sound, row["sample_rate"]))
    # The picture is written last: if it exists, the clip is complete.
    _write(folder / f"{key}.webp", strip(pictures, sound, row["sample_rate"]))
    return reason


def copy_media(key: str, before: Path, folder: Path) -> bool:
    """Copy a clip's files from an earlier report. Return whether it has them.

    The files are not linked, so that damage to one does not affect the other.

    Raises:
        StageError: a file differs from what was committed.
    """
    files = [path for suffix in (".ogg", ".webp") if (path := before / f"{key}{suffix}").exists()]
    for path in files:
        _write(folder / path.name, read_stored(path, "report"))
    return bool(files)


def _write(path: Path, data: bytes) -> None:
    with new_file(path) as temporary:
        temporary.write_bytes(data)


def strip(pictures: np.ndarray | None, sound: np.ndarray | None, sample_rate: int) -> bytes:
    """Return a WebP image: 8 equally spaced frames above the log-mel spectrogram, with low frequencies at the bottom.

    pictures: uint8 [frames, height, width, 3]. sound: float32 [samples]. The part for None stays black.
    """
    from PIL import Image

    width = HEIGHT
    if pictures is not None:
        height, wide = pictures.shape[1:3]
        width = max(16, min(WIDEST, round(HEIGHT * wide / height)))
    sheet = Image.new("RGB", (width * PICTURES, HEIGHT + SPECTROGRAM))
    if pictures is not None:
        for column, number in enumerate(np.linspace(0, len(pictures) - 1, PICTURES).round().astype(int)):
            picture = Image.fromarray(pictures[number]).resize((width, HEIGHT), Image.Resampling.LANCZOS)
            sheet.paste(picture, (column * width, 0))
    if sound is not None:
        sheet.paste(spectrogram(sound, sample_rate).resize((width * PICTURES, SPECTROGRAM)), (0, HEIGHT))
    file = io.BytesIO()
    sheet.save(file, "webp", quality=70)
    return file.getvalue()


def spectrogram(sound: np.ndarray, sample_rate: int) -> Any:
    """Return the log-mel spectrogram as a coloured PIL image: time to the right, low frequencies at the bottom."""
    from matplotlib import colormaps
    from PIL import Image

    values = log_mel(torch.from_numpy(sound), LogMel(sample_rate=sample_rate)).numpy().T[::-1]
    low, high = float(values.min()), float(values.max())
    shares = (values - low) / (high - low) if high > low else np.zeros_like(values)
    return Image.fromarray((colormaps["magma"](shares)[..., :3] * 255).astype(np.uint8))


def opus(sound: np.ndarray, sample_rate: int) -> bytes:
    """Return sound, float32 [samples] in [-1, 1), as Opus in Ogg at 32 kbit/s: a tenth of the FLAC."""
    rate = next((known for known in OPUS_RATES if known >= sample_rate), OPUS_RATES[-1])
    pcm = (np.clip(sound, -1, 1) * 32767).astype(np.int16)[None]
    frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = sample_rate, 0, Fraction(1, sample_rate)
    resampler, file = av.AudioResampler("s16", "mono", rate), io.BytesIO()
    # Without this flag the serial number is random, and the same clip would give different files.
    with av.open(file, "w", format="ogg", options={"fflags": "+bitexact"}) as output:
        stream = output.add_stream("libopus", rate=rate, layout="mono")
        stream.bit_rate = 32000
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            output.mux(stream.encode(part))
        output.mux(stream.encode(None))
    return file.getvalue()
