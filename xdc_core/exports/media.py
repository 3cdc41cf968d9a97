"""Cut a media file into clips as a corpus does, in child processes with limits."""

from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from shards.corpus.cut import cut_clip
from shards.corpus.plan import make_plan
from shards.errors import ConfigError, MediaError, SourceError
from shards.media.cut import Clip
from shards.media.limits import limits_of
from shards.media.sandbox import ordered_map
from shards.settings import CorpusSettings
from shards.sources.look import look_at
from shards.sources.source import Listing, Source
from shards.sources.surveyed import survey_columns
from xdc_core.modalities.modality import Modality


class CutClip(NamedTuple):
    """A clip of a file: its span in seconds, and the bytes and numbers that a corpus would store."""

    start_s: float
    end_s: float
    clip: Clip
    row: dict[str, Any]

    def member(self, modality: Modality) -> bytes:
        """Return the bytes of the member that a modality reads."""
        return {"mp4": self.clip.mp4, "flac": self.clip.flac}[modality.member]


def cut_media(path: Path, settings: CorpusSettings, modality: Modality) -> list[CutClip]:
    """Cut a file into the clips that a corpus with these settings has of it, in order.

    A file that lacks another modality of the corpus is cut for `modality` alone.

    Raises:
        ConfigError: there is no such file.
        MediaError: it cannot be used, or has no clip; the text has the reason.
    """
    path = path.resolve()
    if not path.is_file():
        raise ConfigError(f"{path} is not a file. Give the path of a video or of a sound.")
    single = settings.model_copy(
        update={
            "modalities": (modality.stored,),
            "cut_at_shots": settings.cut_at_shots and modality.stored == "video",
        }
    )
    if len(settings.modalities) > 1:
        try:
            return _cut(path, settings)
        except MediaError as error:
            if error.kind not in ("no_sound", "no_picture", "silent"):
                raise
    return _cut(path, single)


def _cut(path: Path, settings: CorpusSettings) -> list[CutClip]:
    settings = settings.model_copy(update={"workers": 1, "layout": None, "learn_splits": None})
    with TemporaryDirectory() as copies, closing(look_at(path.parent, [path.name], settings, Path(copies))) as looks:
        entry, _ = next(looks)
    listing = Listing(path.parent, [Source(path.name)], ())
    plan = make_plan(settings, listing, survey_columns([entry]))
    planned = sorted(plan.clips(), key=lambda clip: clip.start_s)
    if not planned:
        rejects = plan.rejects.to_pylist()
        reason = rejects[0]["reason"] if rejects else "it has no clip"
        raise MediaError(f"{path}: {reason}", rejects[0]["kind"] if rejects else "damaged")
    jobs = [(str(path.parent), path.name, clip.start_s, clip.end_s, settings) for clip in planned]
    with closing(ordered_map(cut_clip, jobs, 1, limits_of(settings))) as made:
        return [_row(path, (span[2], span[3]), clip, settings) for span, clip in zip(jobs, made, strict=True)]


def _row(path: Path, span: tuple[float, float], clip: Any, settings: CorpusSettings) -> CutClip:
    if isinstance(clip, MediaError | SourceError):
        kind = clip.kind if isinstance(clip, MediaError) else "unreadable"
        raise MediaError(f"{path}, {span[0]:.2f} to {span[1]:.2f} s: {clip}", kind)
    row = {
        "start_s": span[0],
        "duration_s": clip.duration_s,
        "fps": settings.fps,
        "frames": clip.frames,
        "width": clip.width,
        "height": clip.height,
        "sample_rate": settings.sample_rate,
        "samples": clip.samples,
    }
    return CutClip(span[0], span[0] + clip.duration_s, clip, row)
