"""GRID: sentences of six words, spoken in front of a camera by 34 talkers, 1,000 each, with the time of every word.

Cooke, Barker, Cunningham, Shao: An audio-visual corpus for speech perception and automatic speech recognition, JASA
120(5), 2006; Zenodo record 3625687.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from shards.datasets.dataset import Dataset, Role, Split, make_dataset
from shards.datasets.files import certain_modalities, find_files, wrong_root
from shards.layouts.grid_words import read_words
from shards.reject import Reject
from shards.sources.source import SOUND_SUFFIXES, Source

LAYOUT = (
    "recordings such as s1/bbaf2n.mpg and their word times, such as alignments/s1/bbaf2n.align or "
    "s1/align/bbaf2n.align; a folder such as s1 names the talker"
)
UNSEEN = ("s1", "s2", "s20", "s22")  # LipNet's talkers for testing.
# Folders of align files are taken for another talker's from this many common names on, and this share of all names.
EXCHANGED_NAMES, EXCHANGED_SHARE = 10, 0.9
_TALKER = re.compile(r"(?:s|talker|speaker)[ _-]?0*(\d+)(?:[ ._-].*)?", re.IGNORECASE)


def read_grid(root: Path) -> Dataset:
    """Read every word of the recordings as a source with the word's own span.

    It is cut as it is, or with `corpus.segment_seconds` in a window of this length round its middle: 0.64 s are 16
    frames. Labels: `label` is the word (letters as letter_f), `label_position` is command, colour, preposition, letter,
    digit or adverb, `label_talker` is s1 to s34, from the folder's name; from the root's
    own name if no folder in it names a talker.

    Lines of an align file are `start end word`, in 1/25,000 s: samples of the corpus's sound at 25 kHz, and thousandths
    of a frame at 25 frames a second (established: a recording has 75 frames, and its last silence ends at about 74,500;
    public readers for LipNet divide by 1,000 to get frames. Readers that take the numbers for milliseconds are wrong).
    sil and sp are silences.

    One split. With talkers of LipNet's test (s1, s2, s20, s22; Assael et al., arXiv 1611.01599) and others it is
    `talkers`: the former are the test part (established); of the others' recordings a tenth is for validation (ours).
    Otherwise it is `recordings`: 70 % for training, 10 % for validation, 20 % for test (ours). The part of a recording
    depends on its name only: it does not change with other files, and a sentence has one part for all talkers.

    Whose align files a folder has is checked by their names, because every talker speaks other sentences. A folder
    whose names are those of another talker's recordings is used for that talker: in the Zenodo record some are said to
    be exchanged (unverified; an issue of a public reader says so and corrects it).

    Rejects: recordings without an align file; align files without a recording; lines that are not of the form, that
    are no word of the corpus, that contradict the file's name, or that end after 3 s; words that an align file lacks;
    other recordings of the same talker with the same name (a video is preferred to sound alone); recordings in no
    talker's folder, if others are in one.

    Raises:
        ConfigError: another layout, or there are no words.
    """
    found = _find(root)
    aligned = _align_files(found)
    sources, rejects = [], list(found.rejects)
    for talker, recordings in found.recordings.items():
        for stem, path in recordings.items():
            if stem not in aligned[talker]:
                rejects.append(Reject(path, "list", "missing", "there is no align file of it"))
                continue
            for word in read_words(root, aligned[talker][stem], path, stem):
                if isinstance(word, Reject):
                    rejects.append(word)
                else:
                    start_s, end_s, labels = word
                    sources.append(Source(path, start_s, end_s, labels=labels | _talker_label(talker)))
    rejects += _without_recording(found, aligned)
    return _dataset("grid", root, found, sources, rejects)


def read_grid_recordings(root: Path) -> Dataset:
    """Read the recordings of GRID as wholes, without the times of words: only `label_talker`, and the same split.

    With `corpus.clip_seconds` they are cut into windows of fixed length, which no alignment has chosen. See read_grid.

    Raises:
        ConfigError: another layout.
    """
    found = _find(root)
    sources = [
        Source(path, labels=_talker_label(talker))
        for talker, recordings in found.recordings.items()
        for path in recordings.values()
    ]
    return _dataset("grid_recordings", root, found, sources, list(found.rejects))


Names = defaultdict[str, dict[str, str]]


@dataclass(frozen=True)
class _Found:
    """Recordings and align files of a root: talker -> name without suffix -> path. A talker may be ""."""

    recordings: Names = field(default_factory=lambda: defaultdict(dict))
    aligns: Names = field(default_factory=lambda: defaultdict(dict))
    rejects: list[Reject] = field(default_factory=list)


def _find(root: Path) -> _Found:
    files, found = find_files(root), _Found()
    named = any(map(_talker_of, [*files.names, *(reject.source for reject in files.rejects)]))
    # Of a folder of one talker, given alone, the name is the root's own.
    only = "" if named else _talker_of(f"{root.name}/")
    for path in sorted(files.names, key=lambda path: (PurePosixPath(path).suffix.lower() in SOUND_SUFFIXES, path)):
        own = found.recordings[_talker_of(path) or only]
        if (twin := own.setdefault(_stem(path), path)) != path:
            reason = f"{twin} is of the same talker, has the same name and was used"
            found.rejects.append(Reject(path, "list", "duplicate", reason))
    if len(found.recordings) > 1:
        reason = "it is in no folder of a talker such as s1"
        found.rejects.extend(Reject(path, "list", "unlisted", reason) for path in found.recordings.pop("", {}).values())
    if not found.recordings:
        raise wrong_root(root, "no recording", LAYOUT)
    for reject in files.rejects:
        if reject.kind == "not_media" and reject.source.lower().endswith(".align"):
            own = found.aligns[_talker_of(reject.source) or only]
            if (twin := own.setdefault(_stem(reject.source), reject.source)) != reject.source:
                reason = f"{twin} is of the same talker, has the same name and was used"
                found.rejects.append(Reject(reject.source, "list", "duplicate", reason))
        else:
            found.rejects.append(reject)
    return found


def _stem(path: str) -> str:
    return PurePosixPath(path).stem.lower()


def _talker_of(path: str) -> str:
    """Return the talker that the innermost folder with such a name means, such as s1; "" if none does."""
    for folder in reversed(path.split("/")[:-1]):
        if match := _TALKER.fullmatch(folder):
            return f"s{match[1]}"
    return ""


def _talker_label(talker: str) -> dict[str, str]:
    return {"label_talker": talker} if talker else {}


def _align_files(found: _Found) -> dict[str, Mapping[str, str]]:
    """Return the align files of every talker with recordings, by name without suffix."""
    chosen: dict[str, Mapping[str, str]] = {}
    for talker, recordings in found.recordings.items():
        names = set(recordings)
        own = found.aligns.get(talker, {})
        if not own and len(found.recordings) == 1:
            own = found.aligns.get("", {})
        common = {other: len(names & set(aligns)) for other, aligns in found.aligns.items()}
        best = max(common, key=lambda other: common[other], default="")
        enough = max(EXCHANGED_NAMES, EXCHANGED_SHARE * len(names))
        exchanged = common.get(best, 0) >= enough and 2 * len(names & set(own)) < common[best]
        chosen[talker] = found.aligns[best] if exchanged else own
    return chosen


def _without_recording(found: _Found, aligned: Mapping[str, Mapping[str, str]]) -> Iterator[Reject]:
    """Yield a reject for every align file without a recording; for a talker without any recording, one for all."""
    used = {align for aligns in aligned.values() for align in aligns.values()}
    recorded = {
        aligned[talker][stem]
        for talker, recordings in found.recordings.items()
        for stem in recordings
        if stem in aligned[talker]
    }
    for aligns in found.aligns.values():
        others = [align for align in aligns.values() if align not in recorded]
        if others and used.isdisjoint(others):
            reason = f"it has {len(others)} align files, but there are no recordings of them"
            yield Reject(others[0].rpartition("/")[0] or others[0], "list", "missing", reason)
        else:
            yield from (
                Reject(align, "list", "missing", "it is of a recording, but there is no such file") for align in others
            )


def _dataset(name: str, root: Path, found: _Found, sources: list[Source], rejects: list[Reject]) -> Dataset:
    used = {source.path for source in sources}
    talkers = {talker for talker, recordings in found.recordings.items() if not used.isdisjoint(recordings.values())}
    by_talker = bool(talkers & set(UNSEEN)) and not talkers <= set(UNSEEN)
    roles: dict[str, Role] = {}
    for talker, recordings in found.recordings.items():
        for stem, path in recordings.items():
            if path in used:
                roles[path] = _role(stem, talker, by_talker)
    split = Split("talkers" if by_talker else "recordings", roles)
    return make_dataset(name, certain_modalities(used), root, sources, rejects, [split])


def _role(stem: str, talker: str, by_talker: bool) -> Role:
    place = int.from_bytes(hashlib.sha256(stem.encode()).digest()[:8]) / (1 << 64)
    if by_talker:
        return "test" if talker in UNSEEN else "validation" if place < 0.1 else "train"
    return "test" if place < 0.2 else "validation" if place < 0.3 else "train"
