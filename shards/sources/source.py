"""A source of a corpus, the listing of all sources, and the files of a folder as sources."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from shards.reject import Reject
from shards.sources.walk import Found, is_unicode, shown, walk

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
    sources: tuple[Source, ...]
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
    sources, unreadable, rejects = list[Source](), list[Reject](), list[Reject]()
    for found in walk(folder, ordered=True):
        entry = source_or_reject(found, label_from_folder)
        if isinstance(entry, Source):
            sources.append(entry)
        else:
            (unreadable if found.kind == "unreadable" else rejects).append(entry)
    return Listing(folder, tuple(sources), (*unreadable, *rejects))


def source_or_reject(found: Found, label_from_folder: bool) -> Source | Reject:
    """Return what was found in a folder as a source, or as a reject with the reason."""
    name = found.name
    if not is_unicode(name) and found.kind != "unreadable":
        return Reject(shown(name), "list", "unreadable", "the file's name is not valid UTF-8: rename it")
    if found.kind == "unreadable":
        return Reject(shown(name), "list", "unreadable", f"the folder cannot be read: {found.error}")
    if found.kind == "link":
        reason = "a link to a folder is not followed: use a manifest for what is in it"
        return Reject(name, "list", "unreadable", reason)
    above, _, last = name.rpartition("/")
    suffix = os.path.splitext(last)[1]
    if suffix.lower() not in MEDIA_SUFFIXES:
        suffix = PurePosixPath(last).suffix or "no suffix"
        return Reject(name, "list", "not_media", f"not a media file by its name ({suffix})")
    return Source(name, labels={"label": above.rpartition("/")[2]} if label_from_folder and above else {})
