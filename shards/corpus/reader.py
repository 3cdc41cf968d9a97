"""Random access to the members of a corpus's tars, by the offsets in the index."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from shards.corpus.index import HASHED, NO_MEMBER
from shards.errors import StageError
from shards.media.decode import StoredFrames, group_mark
from shards.objects.cache import NAMED_BY, Cache
from shards.objects.tars import REMEDY, Part, open_tars


class Request(NamedTuple):
    """What is wanted of a clip: a member, or of its pictures only those from frame `first` to before frame `end`.

    row: of the shard's index. member: "mp4", "flac" or "json".
    """

    shard: str
    row: Mapping[str, Any]
    member: str
    span: tuple[int, int] | None = None


class ClipReader:
    """Read members of one corpus's clips, or groups of their pictures. At most 64 tars are open.

    Do not use it across a fork. cache: for tars in an object store. batched: whether `read_all` is faster than one
    `read` after the other.
    """

    def __init__(self, corpus: Path, cache: Cache | None = None) -> None:
        self.corpus = corpus
        self._tars = open_tars(corpus, cache)
        self.batched = self._tars.batched

    def read(self, shard: str, row: Mapping[str, Any], member: str) -> bytes:
        """Return the bytes of member "mp4", "flac" or "json" of the clip in `row` of the shard's index.

        The first two are checked against their sha256 in the index, so that no changed bytes are decoded. The json only
        repeats the index row and is not checked.

        Raises:
            StageError: the clip has no such member, or the tar is missing, shorter than its index says, or damaged.
        """
        return self._tars.read({shard: [self._member(row, member)]})[shard][0]

    def read_all(self, requests: Sequence[Request]) -> list[bytes | StoredFrames]:
        """Return what is requested of clips. What lies in the same tar is read at once; what several requests need is
        read once.

        Of pictures with a span these are the groups that show it, or the whole member if its groups are not in the
        index. The sha256 of every group is checked.

        Raises:
            StageError: as `read` does.
        """
        numbers = defaultdict[str, dict[Part, int]](dict)  # Of the parts of each tar, without repetitions.
        needed, headers = [], []
        for request in requests:
            groups = _groups_of(request)
            if groups is None:
                parts = [self._member(request.row, request.member)]
            else:
                parts, header, first = groups
            headers.append(None if groups is None else (header, first))
            own = numbers[request.shard]
            needed.append((request.shard, [own.setdefault(part, len(own)) for part in parts]))
        data = self._tars.read({shard: [*parts] for shard, parts in numbers.items()})
        joined = (b"".join(data[shard][number] for number in places) for shard, places in needed)
        return [
            found if given is None else StoredFrames(given[0], found, given[1])
            for found, given in zip(joined, headers, strict=True)
        ]

    def _member(self, row: Mapping[str, Any], member: str) -> Part:
        if int(row[f"{member}_offset"]) == NO_MEMBER:
            raise StageError(
                f"{self.corpus}: clip {row['key']} has no {member}, because of the corpus's setting `modalities`. "
                "Use a corpus that holds this modality too."
            )
        sha256 = bytes.fromhex(row[f"{member}_sha256"]) if member in HASHED else None
        what = f"{member} of clip {row['key']}"
        return Part(what, int(row[f"{member}_offset"]), int(row[f"{member}_size"]), sha256)

    def close(self) -> None:
        """Close all tars."""
        self._tars.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _groups_of(request: Request) -> tuple[list[Part], bytes, int] | None:
    """Return the groups of pictures that show a span, the header to decode them, and the number of their first frame.

    None: the whole member is wanted, or its groups are not in the index.
    """
    row, span = request.row, request.span
    if request.member != "mp4" or span is None or row.get("mp4_header") is None:
        return None
    frames, offsets, digests = (row[f"mp4_group_{what}"] for what in ("frame", "offset", "sha256"))
    what = f"mp4 of clip {row['key']}"
    if len(frames) == 2 < len(digests):  # As in columns.py: of groups of the same length, the first two.
        frames = range(0, len(digests) * int(frames[1]), int(frames[1]) or 1)
    fits = len(frames) == len(digests) == len(offsets) - 1 > 0 == frames[0] and offsets[-1] <= row["mp4_size"]
    if not fits or min(map(len, digests)) < NAMED_BY:
        raise StageError(f"shard {request.shard}: the groups of pictures in the index do not fit the {what}. {REMEDY}")
    first, last = bisect_right(frames, span[0]) - 1, bisect_right(frames, span[1] - 1)
    begin, ends = int(row["mp4_offset"]), [int(offset) for offset in offsets[first : last + 1]]
    parts = [
        Part(
            what, begin + start, end - start, bytes(digests[number]), group_mark(row["mp4_header"], int(frames[number]))
        )
        for number, (start, end) in enumerate(pairwise(ends), start=first)
    ]
    return parts, row["mp4_header"], int(frames[first])
