"""A source of a corpus, the listing of all sources, and the files of a folder as sources."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shards.media.source_file import EVERYWHERE
from shards.reject import Reject

_VIDEO = (
    "3g2 3gp asf avi dv f4v flv gif h264 h265 hevc ivf m2ts m2v m4v mjpeg mkv mov mp4 mpeg mpg mts mxf nut "
    "ogm ogv qt rm rmvb ts vob webm wmv y4m"
)


# Sound files are always listed. If pictures are needed they are rejected, so that every file is mentioned.
_SOUND = "aac aif aiff amr au flac m4a mka mp2 mp3 oga ogg opus wav weba wma"


SOUND_SUFFIXES = frozenset(f".{suffix}" for suffix in _SOUND.split())


MEDIA_SUFFIXES = SOUND_SUFFIXES | {f".{suffix}" for suffix in _VIDEO.split()}


@dataclass(frozen=True)
class Source:
    """A file, or its part from start_s to end_s (seconds), to be cut into clips.

    `path` is relative to the listing's root, with forward slashes. Names of labels start with `label`.
    """

    path: str
    start_s: float | None = None
    end_s: float | None = None
    split: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Listing:
    """All inputs of a corpus: sources, and inputs that are rejected without opening a file."""

    root: Path
    sources: Sequence[Source]
    rejects: tuple[Reject, ...]

    @property
    def label_names(self) -> list[str]:
        """Return the names of the label columns, sorted; `label` itself comes first."""
        return sorted({name for source in self.sources for name in source.labels})


def list_folder(folder: Path, label_from_folder: bool) -> Listing:
    """List every file below `folder` except hidden ones. Files without a media suffix are rejected, with a reason.

    A folder that cannot be read is rejected, too, and tried again whenever the sources are listed. Raises OSError if no
    file can be opened any more (too many open files, no memory).
    """
    sources, rejects = [], []
    is_folder_link: dict[Path, bool] = {}

    def reject_folder(error: OSError) -> None:
        if error.errno in EVERYWHERE:
            raise error
        name = Path(error.filename).relative_to(folder).as_posix()
        rejects.append(Reject(_shown(name), "list", "unreadable", f"the folder cannot be read: {error.strerror}"))

    for place, folders, files in os.walk(folder, onerror=reject_folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        is_folder_link |= {path: True for name in folders if (path := Path(place, name)).is_symlink()}
        is_folder_link |= {Path(place, name): False for name in files if not name.startswith(".")}
    for path in sorted(is_folder_link):
        name = path.relative_to(folder).as_posix()
        if not _is_unicode(name):
            rejects.append(Reject(_shown(name), "list", "unreadable", "the file's name is not valid UTF-8: rename it"))
        elif is_folder_link[path]:
            rejects.append(
                Reject(
                    name, "list", "unreadable", "a link to a folder is not followed: use a manifest for what is in it"
                )
            )
        elif path.suffix.lower() in MEDIA_SUFFIXES:
            labels = {"label": path.parent.name} if label_from_folder and path.parent != folder else {}
            sources.append(Source(name, labels=labels))
        else:
            rejects.append(
                Reject(name, "list", "not_media", f"not a media file by its name ({path.suffix or 'no suffix'})")
            )
    return Listing(folder, tuple(sources), tuple(rejects))


def _shown(name: str) -> str:
    """Return a printable form of a name that need not be UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _is_unicode(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
