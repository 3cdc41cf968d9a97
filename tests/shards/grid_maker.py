"""Makes a small replica of the GRID corpus: videos of 3 s with sound, and align files, in the published layouts."""

import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from shards.layouts.grid_words import POSITIONS
from tests.shards.media_maker import Array, plain, tone, write_video

# Of the recording bbaf2n of talker s1.
ALIGN = """0 23750 sil
23750 29500 bin
29500 34000 blue
34000 35500 at
35500 41000 f
41000 47250 two
47250 53000 now
53000 74500 sil
"""


def moving_square(seconds: float, centre: tuple[int, int], size: tuple[int, int] = (120, 96)) -> list[Array]:
    """A grey picture with a bright square of 12 pixels that moves to and fro by 4 pixels; 25 frames a second."""
    frames = []
    for number in range(round(25 * seconds)):
        picture = plain((60, 60, 60), size)
        x, y = centre[0] + (2 if number % 2 else -2), centre[1]
        picture[y - 6 : y + 6, x - 6 : x + 6] = 220
        frames.append(picture)
    return frames


@cache
def recording(suffix: str = ".mpg", seconds: float = 3.0) -> bytes:
    """A video with sound, as the corpus has it but smaller."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        frames, sound = moving_square(seconds, (60, 64)), tone(300, seconds, 44100)
        write_video(path, frames, sound, sample_rate=44100, video_codec="mpeg1video", audio_codec="mp2")
        return path.read_bytes()


def put_recordings(root: Path, *names: str, seconds: float = 3.0) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(recording(path.suffix, seconds))


def put_align(root: Path, name: str, text: str | None = None) -> None:
    """Write an align file; without a text, one of the sentence that the name spells."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(align_of(path.stem) if text is None else text)


def align_of(stem: str, times: Sequence[int] = (0, 14500, 21000, 27750, 33000, 40500, 50750, 60500, 74500)) -> str:
    words = ["sil", *(words[code] for code, words in zip(stem, POSITIONS.values(), strict=True)), "sil"]
    return "".join(f"{start} {end} {word}\n" for start, end, word in zip(times[:-1], times[1:], words, strict=True))


def sentences(count: int, seed: int = 0) -> list[str]:
    """Names of different sentences."""
    rng = np.random.default_rng(seed)
    names: dict[str, None] = {}
    while len(names) < count:
        names["".join(rng.choice(list(words)) for words in POSITIONS.values())] = None
    return list(names)
