"""Cut a media file into clips as a corpus does, in child processes with limits."""

from collections.abc import Generator
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
from shards.reject import Kind
from shards.settings import CorpusSettings, for_streams
from shards.sources.look import look_at
from shards.sources.source import Listing, Source
from shards.sources.surveyed import survey_columns
from xdc_core.modalities.modality import Modality

# Reasons for which a file or a clip is no clip of both modalities, but may be one of one of them.
WITHOUT_A_MODALITY: tuple[Kind, ...] = ("no_sound", "no_picture", "silent")


class CutClip(NamedTuple):
    """A clip of a file: its span in seconds, and the bytes and numbers that a corpus would store."""

    start_s: float
    end_s: float
    clip: Clip
    row: dict[str, Any]

    def member(self, modality: Modality) -> bytes:
        """Return the bytes of the member that a modality reads."""
        return {"mp4": self.clip.mp4, "flac": self.clip.flac}[modality.member]


class LeftOut(NamedTuple):
    """A clip of a file that cannot be used: its span in seconds, the kind of the reason, and the reason in words."""

    start_s: float
    end_s: float
    kind: Kind
    reason: str


def cut_media(path: Path, settings: CorpusSettings, modality: Modality) -> Generator[CutClip | LeftOut, None, None]:
    """Cut a file into the clips that a corpus with these settings has of it, in order; at most 8 are held in memory.

    Those that cannot be used are yielded when all others have been. If a file, or every clip of it, lacks another
    modality of the corpus, the file is cut for `modality` alone.

    Raises:
        ConfigError: there is no such file.
        MediaError: it cannot be used, or has no clip; the text has the reason.
    """
    path = path.resolve()
    if not path.is_file():
        raise ConfigError(f"{path} is not a file. Give the path of a video or of a sound.")
    single = for_streams(settings, {modality.stored})
    for attempt in (settings, single) if len(settings.modalities) > 1 else (single,):
        left_out, some = [], False
        try:
            for made in _cut(path, attempt):
                if isinstance(made, LeftOut):
                    left_out.append(made)
                else:
                    some = True
                    yield made
        except MediaError as error:
            if attempt is single or error.kind not in WITHOUT_A_MODALITY:
                raise
        else:
            if attempt is single or some or any(clip.kind not in WITHOUT_A_MODALITY for clip in left_out):
                yield from left_out
                return


def _cut(path: Path, settings: CorpusSettings) -> Generator[CutClip | LeftOut, None, None]:
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
        for span, clip in zip(jobs, made, strict=True):
            yield _clip((span[2], span[3]), clip, settings)


def _clip(span: tuple[float, float], clip: Any, settings: CorpusSettings) -> CutClip | LeftOut:
    if isinstance(clip, MediaError | SourceError):
        return LeftOut(*span, clip.kind if isinstance(clip, MediaError) else "unreadable", str(clip))
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
