"""Render one clip: draw its factors, render its picture and sound, and write both as an mp4 file."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from shards.digits.factors import Factors, Voices, clip_generator, draw_factors, labels_of
from shards.digits.handwriting import Handwriting
from shards.digits.scene import draw_scene
from shards.digits.settings import SAMPLE_RATE, DigitsSettings
from shards.digits.sound import mix_sound
from shards.digits.speech import Recording, read_recording
from shards.digits.voice import synthesise
from shards.media.encode import X264

CRF = 18
AUDIO_BITS = 64_000  # Per second.
# With more threads the same frames give other bytes.
_X264 = X264 | {"crf": str(CRF), "threads": "1"}
# The default coder takes four times as long and has larger maximal errors on these sounds; noise substitution would
# replace part of the noise by other noise.
_AAC = {"aac_coder": "fast", "aac_tns": "0", "aac_pns": "0"}


@dataclass(frozen=True)
class Material:
    """The material of clips. `voices` by split; `recordings` is empty for synthesised voices."""

    settings: DigitsSettings
    handwriting: Handwriting
    voices: dict[str, Voices]
    recordings: dict[tuple[int, str, int], Recording]


def clip_path(split: str, index: int) -> str:
    """Return the path of a clip in the corpus: `videos/000/000000.mp4`, `videos/test-000/test-000000.mp4`."""
    prefix = "" if split == "train" else f"{split}-"
    return f"videos/{prefix}{index // 1000:03d}/{prefix}{index:06d}.mp4"


def render_clip(material: Material, split: str, index: int) -> tuple[Factors, NDArray[np.uint8], NDArray[np.float32]]:
    """Return a clip's factors, frames (uint8 [T, H, W, 3], RGB) and sound (float32 [N], 16 kHz)."""
    settings, handwriting = material.settings, material.handwriting
    generator = clip_generator(settings.seed, split, index)
    factors = draw_factors(
        generator,
        settings,
        lambda digit: handwriting.samples(digit, split, settings.validated),
        material.voices[split],
    )
    frames = draw_scene(
        factors,
        handwriting.pictures[factors.writing],
        generator,
        frames=settings.frames,
        fps=settings.fps,
        side=settings.side,
        nuisance=settings.nuisance,
    )
    if factors.take is None:
        voice = synthesise(factors.spoken, factors.speaker, generator)
    else:
        voice = read_recording(material.recordings[factors.spoken, factors.speaker, factors.take])
    sound = mix_sound(voice, settings.samples, factors.gain_db, factors.snr_db, generator)
    return factors, frames, sound


def write_video(path: Path, frames: NDArray[np.uint8], fps: int, sound: NDArray[np.float32]) -> None:
    """Write H.264 (yuv420p) and AAC (mono, 16 kHz), without a date, so that the same input gives the same bytes."""
    with av.open(str(path), "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=fps, options=_X264)
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt = "yuv420p"
        video.thread_count = 1
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono", options=_AAC)
        audio.bit_rate = AUDIO_BITS
        audio.codec_context.thread_count = 1
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        samples = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
        samples.sample_rate, samples.pts, samples.time_base = SAMPLE_RATE, 0, Fraction(1, SAMPLE_RATE)
        container.mux(audio.encode(samples))
        container.mux(audio.encode(None))


def write_clip(material: Material, split: str, index: int, folder: Path) -> dict[str, str]:
    """Render a clip into `folder` and return its row of the manifest."""
    factors, frames, sound = render_clip(material, split, index)
    name = clip_path(split, index)
    path = folder / name
    for part in (path.parent.parent, path.parent):
        part.mkdir(exist_ok=True)  # Without parents: if `folder` is gone, another process has deleted it.
    write_video(path, frames, material.settings.fps, sound)
    return {"path": name, **labels_of(factors, material.settings), "split": split}
