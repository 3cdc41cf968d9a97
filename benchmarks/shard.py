"""Cutting clips: the shard stage, the `ffmpeg` program doing the same, and decoding alone.

    PYTHONPATH=. python benchmarks/shard.py FOLDER [--clips 48] [--preset tiny]

FOLDER holds videos (searched recursively). Everyone cuts the same clips and has as many processes as there are
cores; ours has its sandbox, and writes tars, indices and rejects besides. `ffmpeg` is called once a clip and gets the
same scale, frame rate, encoders and their settings. Ours is timed from its first clip on; what comes before (probing,
hashing and the children's start) is printed apart. "decoding" is the limit: the frames and the sound, thrown away.
"""

import contextlib
import shutil
import statistics
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from side_by_side import Pace, contest, parser, record, show

from shards.cores import core_count
from shards.corpus.plan import make_plan
from shards.corpus.stage import shard
from shards.corpus.survey import survey
from shards.errors import MediaError
from shards.media.container import decode_from
from shards.media.cut import cut
from shards.media.encode import X264
from shards.media.limits import limits_of
from shards.media.sandbox import ordered_map
from shards.progress import silent
from shards.settings import CorpusSettings
from shards.sources.source import list_folder
from shards.store.parquet import write_parquet
from xdc_core.config.load import load_preset, parse_config


def decode_only(root: str, source: str, start_s: float, end_s: float) -> int:
    """Everything that cutting this clip decodes; returns the number of frames."""
    path, frames = Path(root) / source, 0
    for kind in ("video", "audio"):
        with decode_from(path, kind, start_s, end_s) as decoding:
            for time_s, _ in decoding.frames:
                if time_s >= end_s:
                    break
                frames += 1
    return frames


def ffmpeg(program: str, job: tuple[str, str, float, float], settings: CorpusSettings, out: Path) -> None:
    """The same clip by the program: one process, two files."""
    root, source, start_s, end_s = job
    side = settings.short_side
    scale = f"scale='if(lt(iw,ih),{side},-2)':'if(lt(iw,ih),-2,{side})':flags=area:out_color_matrix=bt601:out_range=tv"
    x264 = [text for name, value in X264.items() for text in (f"-{name}", value)]
    command = [program, "-v", "error", "-nostdin", "-y", "-threads", "1", "-filter_threads", "1"]
    command += ["-ss", f"{start_s}", "-t", f"{end_s - start_s}", "-i", str(Path(root) / source)]
    command += ["-map", "0:v:0", "-vf", f"fps={settings.fps:g},{scale},format=yuv420p", "-c:v", "libx264"]
    command += [*x264, "-crf", str(settings.crf), "-g", str(settings.gop), "-threads", "1", str(out) + ".mp4"]
    command += ["-map", "0:a:0", "-ac", "1", "-ar", str(settings.sample_rate), "-c:a", "flac", str(out) + ".flac"]
    subprocess.run(command, check=True, capture_output=True)


def main() -> None:
    """Print the table, the time before the first clip, and the rate with one worker."""
    arguments = parser(__doc__)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--clips", type=int, default=48)
    arguments.add_argument("--preset", default="tiny", help="whose corpus settings to take")
    given = arguments.parse_args()
    program = shutil.which("ffmpeg")
    cores = core_count()
    settings = parse_config(load_preset(given.preset), given.preset).corpus.model_copy(update={"silence": "keep"})
    listing = list_folder(given.folder, label_from_folder=False)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        found = survey(listing, [], root / "notes", settings, silent)
        jobs = chosen(settings, listing, found, given.clips)
        manifest = root / "clips.parquet"
        write_parquet(manifest, rows(jobs))
        starts: list[float] = []

        def ours(workers: int = cores) -> float:
            pace, corpus = Pace(), root / "corpus"
            limited = settings.model_copy(update={"workers": workers})
            shard(corpus, manifest, limited, lambda done, _, note="": pace.note(done if "clips" in note else 0))
            starts.append(pace.start_s)
            shutil.rmtree(corpus)
            return pace.seconds(len(jobs))

        def decoding() -> float:
            pace = Pace()
            for done, _ in enumerate(ordered_map(decode_only, jobs, cores, limits_of(settings)), start=1):
                pace.note(done)
            return pace.seconds(len(jobs))

        def by_program() -> None:
            assert program is not None
            with ThreadPoolExecutor(cores) as pool:
                numbered = enumerate(jobs)
                list(pool.map(lambda job: ffmpeg(program, job[1], settings, root / f"{job[0]}"), numbered))

        contestants: dict[str, Any] = {f"xdc shard, {cores} workers": ours}
        if program:
            contestants |= {f"ffmpeg, {cores} at a time": by_program}
        else:
            print("The program ffmpeg is not installed: left out.")
        contestants |= {"decoding alone": decoding, "xdc shard, 1 worker": lambda: ours(1)}
        found_rates = contest("cutting clips", "clips", len(jobs), contestants, given.turns)
    show(found_rates, f"xdc shard, {cores} workers")
    print(f"  before the first clip: {statistics.median(starts):.1f} s (median)")
    record(given.out, contests=[found_rates], clips=len(jobs), start_s=starts)


def chosen(settings: CorpusSettings, listing: Any, found: Any, most: int) -> list[tuple[str, str, float, float]]:
    """Jobs for clips that can be cut, spread over all files."""
    planned = make_plan(settings, listing, found).clips()
    good: list[tuple[str, str, float, float]] = []
    for clip in planned:
        with contextlib.suppress(MediaError):
            cut(Path(listing.root) / clip.source, clip.start_s, clip.end_s, settings)
            good.append((str(listing.root), clip.source, clip.start_s, clip.end_s))
        if len(good) == most:
            break
    return good


def rows(jobs: list[tuple[str, str, float, float]]) -> Any:
    """A manifest of these clips."""
    import pyarrow as pa

    paths = [str(Path(root).resolve() / source) for root, source, _, _ in jobs]
    return pa.table({"path": paths, "start_s": [job[2] for job in jobs], "end_s": [job[3] for job in jobs]})


if __name__ == "__main__":
    main()
