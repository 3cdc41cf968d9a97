"""Cut a span of a raw video file and encode it as a clip (PyAV)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from shards.errors import MediaError
from shards.media.container import Decoding, decode_from
from shards.media.crop import Cropper, aspect_of, cropper_of, turns_of
from shards.media.decode import PictureGroups, find_groups
from shards.media.encode import encode_picture, encode_sound
from shards.media.limits import allowed_frames, check_bytes
from shards.media.measures import UNMEASURED, Measures, PictureMeter, level_db
from shards.media.timing import JUMP_S
from shards.settings import CorpusSettings

SETTLING_S = 0.1  # Seconds of sound before a span that the resampler gets.
# A mix that is quieter than this (root mean square, full scale 1) is compared with the single channels.
QUIET = 0.01


@dataclass(frozen=True)
class Clip:
    """An encoded clip: H.264 in MP4 without sound, and mono FLAC. For absent modalities the bytes are empty, numbers 0.

    Without a picture, `frames` is the number of frames that fit into the sound.

    groups: where the groups of pictures lie in the MP4.
    """

    mp4: bytes
    flac: bytes
    frames: int
    width: int
    height: int
    duration_s: float
    samples: int
    measures: Measures = UNMEASURED
    groups: PictureGroups | None = None


def cut(path: Path, start_s: float, end_s: float, settings: CorpusSettings) -> Clip:
    """Decode [start_s, end_s) of a file and encode it again with `settings`.

    With `settings.crop` a part of every picture is used instead of the whole (shards/media/crop.py).

    The picture gets a constant frame rate (each output frame is the last source frame at or before its time),
    is turned upright, and scaled to square pixels with an even width and height. Sound that is missing inside
    the span is silence. The clip ends where the picture ends; without a picture among `settings.modalities`, where
    the sound ends.

    A picture that changes its size is scaled to the size with which the clip begins.

    Raises:
        MediaError: nothing or too little decodes; the clip is shorter than `min_seconds`; there is no sound in the
            span, or it is digital silence and `settings.silence` is "reject"; a picture, the frame rate, or the
            encoded clip is larger than the settings allow; `settings.crop` is not inside the picture; or too many
            packets of the span do not decode.
    """
    mp4, frames, size, duration_s = b"", 0, (0, 0), end_s - start_s
    sound: np.ndarray | None = None
    measures = UNMEASURED
    try:
        if "video" in settings.modalities:
            cropper = cropper_of(path, start_s, end_s, settings)
            with decode_from(path, "video", start_s, end_s) as decoding:
                mp4, frames, size, measures = _recode_picture(decoding, start_s, end_s, settings, cropper)
                decoding.damage.check("picture")
            duration_s = frames / settings.fps
            _check_length(duration_s, "picture", start_s, settings)
        if "audio" in settings.modalities:
            sound, end = _sound_of(path, start_s, duration_s, settings.sample_rate)
            if "video" not in settings.modalities:
                if len(sound) - end > JUMP_S * settings.sample_rate:  # Less may be the timestamps' rounding.
                    sound = sound[:end]
                duration_s = len(sound) / settings.sample_rate
                _check_length(duration_s, "sound", start_s, settings)
                frames = max(1, math.floor(duration_s * settings.fps + 1e-6))
    except MemoryError:
        raise
    except av.FFmpegError as error:
        raise MediaError(f"FFmpeg cannot make a clip of it: {error.strerror}") from error
    groups = find_groups(mp4) if mp4 else None
    if sound is None:
        return Clip(mp4, b"", frames, *size, duration_s=duration_s, samples=0, measures=measures, groups=groups)
    flac, level = _recode_sound(sound, settings)
    check_bytes(len(mp4) + len(flac), settings.max_clip_mb)
    measures = replace(measures, level_db=level)
    return Clip(mp4, flac, frames, *size, duration_s=duration_s, samples=len(sound), measures=measures, groups=groups)


def _check_length(duration_s: float, what: str, start_s: float, settings: CorpusSettings) -> None:
    """Raise MediaError if nothing was decoded, or less than `min_seconds` by more than half a frame."""
    if duration_s == 0 or duration_s < settings.min_seconds - 0.5 / settings.fps:
        raise MediaError(
            f"only {duration_s:.2f} s of {what} decoded from {start_s:.2f} s on "
            f"(min_seconds is {settings.min_seconds:g})",
            "too_short",
        )


def _recode_sound(sound: np.ndarray, settings: CorpusSettings) -> tuple[bytes, float]:
    """Encode float32 [samples] as FLAC. Return the bytes and the level in dB.

    Raises:
        MediaError: it is digital silence, and the settings reject it.
    """
    if settings.high_pass_hz:
        sound = _high_pass(sound, settings.high_pass_hz, settings.sample_rate)
    pcm = np.clip(np.round(sound * 32767.0), -32768, 32767).astype(np.int16)
    if settings.silence == "reject" and not pcm.any():
        raise MediaError("the sound is digital silence (keep such clips with silence: keep)", "silent")
    return encode_sound(pcm, settings.sample_rate), level_db(pcm)


def _frames_at(
    decoding: Decoding, frames: Iterator[tuple[float, av.VideoFrame]], start_s: float, end_s: float, fps: float
) -> Iterator[av.VideoFrame]:
    """Yield, for each output time start_s + n / fps before end_s, the last frame at or before it."""
    slot, slots = 0, max(1, round((end_s - start_s) * fps))
    slack_s = min(0.25 / fps, 0.01)  # Time bases are coarse: a frame that is slightly late counts as on time.
    current, current_end = None, 0.0
    for time_s, frame in frames:
        while slot < slots and start_s + slot / fps < time_s - slack_s:
            if current is not None:
                yield current
            elif slot == 0 and time_s >= end_s:
                return
            else:
                yield frame  # The stream begins late: its first picture is repeated for the missing time.
            slot += 1
        if slot >= slots:
            return
        current, current_end = frame, time_s + (decoding.clock.shown_s(frame) or 1 / fps)
    while current is not None and slot < slots and start_s + slot / fps < current_end - slack_s:
        yield current
        slot += 1


def _output_size(frame: av.VideoFrame, video: av.VideoStream, short_side: int) -> tuple[int, int]:
    """Return an even width and height, before rotation, with square pixels and the wanted shorter side."""
    width, height = frame.width * aspect_of(video), float(frame.height)
    scale = short_side / min(width, height)
    even = [max(16, 2 * round(side * scale / 2)) for side in (width, height)]
    if max(even) > 16 * short_side:
        raise MediaError(f"the picture is {frame.width}x{frame.height}: too narrow to be useful", "too_large")
    return even[0], even[1]


def _recode_picture(
    decoding: Decoding, start_s: float, end_s: float, settings: CorpusSettings, cropper: Cropper | None
) -> tuple[bytes, int, tuple[int, int], Measures]:
    pictures = _frames_at(decoding, allowed_frames(decoding.frames, settings), start_s, end_s, settings.fps)
    scaler, meter = VideoReformatter(), PictureMeter(settings.fps)

    def upright() -> Iterator[av.VideoFrame]:
        before, picture = None, None
        for frame in pictures:
            repeated = frame is before
            if not repeated:
                part = cropper(frame, aspect_of(decoding.stream)) if cropper else frame
                picture = _upright(part, _output_size(part, decoding.stream, settings.short_side), scaler)
                before = frame
            assert picture is not None
            meter.add(picture, repeated)
            yield picture

    encoded = encode_picture(upright(), settings.fps, settings.gop, settings.crf, settings.max_clip_mb)
    motion, boundaries_s = meter.finish()
    return *encoded, Measures(motion, boundaries_s)


def _upright(frame: av.VideoFrame, size: tuple[int, int], scaler: VideoReformatter) -> av.VideoFrame:
    quarter_turns, mirrored = turns_of(frame)
    if quarter_turns == 0 and not mirrored:
        # Stored pictures carry no colour tags: without these two, full-range and BT.709 video gets wrong colours.
        return scaler.reformat(
            frame,
            *size,
            format="yuv420p",
            interpolation="AREA",
            dst_colorspace=Colorspace.ITU601,
            dst_color_range=ColorRange.MPEG,
            threads=1,
        )
    rgb: np.ndarray = scaler.reformat(frame, *size, format="rgb24", interpolation="AREA", threads=1).to_ndarray()
    turned: Any = np.ascontiguousarray(np.rot90(rgb[:, ::-1] if mirrored else rgb, quarter_turns))
    return av.VideoFrame.from_ndarray(turned, format="rgb24")


def _sound_of(path: Path, start_s: float, duration_s: float, sample_rate: int) -> tuple[np.ndarray, int]:
    """Return float32 [round(duration_s * sample_rate)], mono in [-1, 1], and its samples before the final silence.

    If channels cancel each other in the mix, the loudest channel is returned.

    Raises:
        MediaError: there is no sample in the span, or too many packets do not decode.
    """
    sound, end, layout = _place_sound(path, start_s, duration_s, sample_rate)
    if end == 0:
        span = f"{start_s:.2f} s and {start_s + duration_s:.2f} s"
        raise MediaError(f"no sound between {span}", "no_sound")
    mix = _loudness(sound[0])
    if mix < QUIET and layout != "mono":
        channels, channels_end, _ = _place_sound(path, start_s, duration_s, sample_rate, layout)
        loudest = max(channels, key=_loudness)
        if mix < QUIET * _loudness(loudest):
            return loudest, channels_end
    return sound[0], end


def _loudness(sound: np.ndarray) -> float:
    """Return the root mean square of a sound; 0 for an empty one."""
    return float(np.sqrt(np.mean(np.square(sound, dtype=np.float64)))) if len(sound) else 0.0


def _place_sound(
    path: Path, start_s: float, duration_s: float, sample_rate: int, layout: str = "mono"
) -> tuple[np.ndarray, int, str]:
    """Return float32 [channels of `layout`, round(duration_s * sample_rate)]: sound placed by time, silence elsewhere.

    Also return the number of samples before the final silence, and the layout of the first frame. Frames of another
    layout than `layout` are mixed to mono. If the times of the frames are inconsistent, they are counted from the
    beginning of the stream.

    Raises:
        MediaError: too many packets do not decode.
    """
    # First from near the span; if times turn out to be inconsistent, again from the beginning of the stream.
    for from_s in (start_s, -math.inf):
        # Counted times may be much later than those of the packets.
        end_s = start_s + duration_s if from_s == start_s else math.inf
        with decode_from(path, "audio", from_s, end_s) as decoding:
            placed = _place_frames(decoding, start_s, duration_s, sample_rate, layout)
            decoding.damage.check("sound")
            if decoding.from_beginning or not decoding.clock.unsteady:
                break
    return placed


def _place_frames(
    decoding: Decoding, start_s: float, duration_s: float, sample_rate: int, layout: str
) -> tuple[np.ndarray, int, str]:
    # Frames without a gap between them are resampled as one piece, whose samples follow each other from `position` on.
    channels = av.AudioLayout(layout).nb_channels
    sound = np.zeros((channels, round(duration_s * sample_rate)), np.float32)
    first_layout = layout
    position: int | None = None  # Position of the next resampled sample.
    expected_s, end = 0.0, 0
    make: tuple[str, str, int] | None = None
    resampler = _resampler(sample_rate, layout)

    def place(frames: list[av.AudioFrame]) -> None:
        # Write resampled frames into `sound`; parts outside of the span are dropped.
        nonlocal position, end
        for frame in frames:
            samples = frame.to_ndarray().reshape(-1, frame.layout.nb_channels).T / np.float32(2**31)
            assert position is not None
            first, last = max(position, 0), min(position + samples.shape[1], sound.shape[1])
            if last > first:
                sound[:, first:last] = samples[:, first - position : last - position]
                end = max(end, last)
            position += samples.shape[1]

    for time_s, frame in decoding.frames:
        lasts_s = frame.samples / frame.sample_rate
        if time_s >= start_s + duration_s:
            break
        if position is None and time_s + lasts_s < start_s - SETTLING_S:
            continue  # Ends before the part that the resampler needs.
        before, make = make, (frame.format.name, frame.layout.name, frame.sample_rate)
        if position is None or make != before or abs(time_s - expected_s) > 1e-6:
            # The first frame, another format, or a jump in time: flush the resampler, and continue at the new position.
            if position is not None:
                place(resampler.resample(None))
            else:
                first_layout = frame.layout.name
            resampler = _resampler(sample_rate, layout if frame.layout.name == layout else "mono")
            position = math.floor((time_s - start_s) * sample_rate + 0.5)
        expected_s = time_s + lasts_s
        frame.pts = None  # With times the resampler would fill gaps itself.
        place(resampler.resample(frame))
    if position is not None:
        place(resampler.resample(None))
    return sound, end, first_layout


def _resampler(sample_rate: int, layout: str) -> av.AudioResampler:
    # Integers: only then does FFmpeg mix channels so that the sum of full-scale channels does not clip. Not planar:
    # with eight planes PyAV reads invalid memory.
    return av.AudioResampler(format="s32", layout=layout, rate=sample_rate)


def _high_pass(sound: np.ndarray, cutoff_hz: float, sample_rate: int) -> np.ndarray:
    """Apply a second-order Butterworth high-pass, forward only, to float32 [samples]."""
    from scipy.signal import butter, sosfilt

    return sosfilt(butter(2, cutoff_hz, "highpass", fs=sample_rate, output="sos"), sound).astype(np.float32)
