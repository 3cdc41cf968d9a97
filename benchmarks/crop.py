"""Cutting clips of whole pictures, of a rectangle, and of a square round the motion inside it.

    PYTHONPATH=. python benchmarks/crop.py [FOLDER] [--clips 48]

FOLDER holds videos (searched recursively); without it, recordings of 3 s with 360x288 pixels in MPEG-1 are made, as
the GRID corpus has them. Everyone cuts the same clips of 0.64 s in this process, one file after the other, so that the
motion of a recording is measured once for its clips. Rates are by processor time. The rectangle is the middle of the
lower half of the picture.
"""

import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from side_by_side import contest, parser, record, show

from shards.corpus.plan import make_plan
from shards.corpus.survey import survey
from shards.media.crop import centre_in_file
from shards.media.cut import cut
from shards.progress import silent
from shards.settings import CorpusSettings
from shards.sources.source import list_folder

RECTANGLE = {"unit": "shares", "x": 0.25, "y": 0.5, "width": 0.5, "height": 0.5}
CROPS = {
    "the whole picture": None,
    "a rectangle": RECTANGLE,
    "a square, motion of the clip": RECTANGLE | {"square": 0.3, "motion_of": "clip"},
    "a square, motion of the recording": RECTANGLE | {"square": 0.3},
}


def main() -> None:
    """Print clips per second of each."""
    arguments = parser(__doc__)
    arguments.add_argument("folder", type=Path, nargs="?")
    arguments.add_argument("--clips", type=int, default=48)
    given = arguments.parse_args()
    shared = {"clip_seconds": 0.64, "min_seconds": 0.64, "fps": 25, "short_side": 96, "silence": "keep"}
    settings = {name: CorpusSettings.model_validate(shared | {"crop": crop}) for name, crop in CROPS.items()}
    with tempfile.TemporaryDirectory() as made:
        listing = list_folder(given.folder or recordings(Path(made), given.clips // 4), label_from_folder=False)
        whole = settings["the whole picture"]
        found = survey(listing, [], Path(made) / "notes", whole, silent)
        planned = sorted(make_plan(whole, listing, found).clips(), key=lambda clip: (clip.source, clip.start_s))

        def cutting(asked: CorpusSettings) -> float:
            centre_in_file.cache_clear()
            began = time.process_time()
            for clip in planned[: given.clips]:
                cut(Path(listing.root) / clip.source, clip.start_s, clip.end_s, asked)
            return time.process_time() - began

        contestants = {name: (lambda asked=asked: cutting(asked)) for name, asked in settings.items()}
        rates = contest("cutting clips", "clips", min(given.clips, len(planned)), contestants, given.turns)
    show(rates, "the whole picture")
    record(given.out, contests=[rates], clips=given.clips)


def recordings(folder: Path, count: int) -> Path:
    """Write recordings of a moving square before noise, with a tone."""
    rng = np.random.default_rng(0)
    still = rng.integers(60, 120, (288, 360, 3), np.uint8)
    sound = (0.3 * np.sin(2 * np.pi * 300 * np.arange(3 * 44100) / 44100)).astype(np.float32)
    for number in range(count):
        (folder / "videos").mkdir(exist_ok=True)
        with av.open(str(folder / f"videos/{number:03d}.mpg"), "w") as output:
            video = output.add_stream("mpeg1video", rate=25, options={"b": "1500000"})
            video.width, video.height, video.pix_fmt = 360, 288, "yuv420p"
            audio = output.add_stream("mp2", rate=44100, layout="mono")
            packets = []
            for step in range(75):
                picture = still.copy()
                x = 170 + 4 * (step % 3)
                picture[190:220, x : x + 40] = 220
                shown = av.VideoFrame.from_ndarray(picture, format="rgb24")
                shown.pts, shown.time_base = step, Fraction(1, 25)
                packets += video.encode(shown)
            heard = av.AudioFrame.from_ndarray((sound[None] * 32767).astype(np.int16), "s16", "mono")
            heard.sample_rate, heard.pts, heard.time_base = 44100, 0, Fraction(1, 44100)
            packets += [*video.encode(None), *audio.encode(heard), *audio.encode(None)]
            packets.sort(key=lambda packet: packet.dts * packet.time_base)
            output.mux(packets)
    return folder / "videos"


if __name__ == "__main__":
    main()
