"""Random access to the members of a corpus's tars, by the offsets in the index."""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from shards.corpus.index import HASHED, NO_MEMBER
from shards.errors import StageError

MAX_OPEN = 64
REMEDY = "Rebuild it: xdc stage shard RUN --force"


class ClipReader:
    """Read members of one corpus's clips. At most 64 tars are open. Do not use it across a fork."""

    def __init__(self, corpus: Path) -> None:
        self.corpus = corpus
        self._open: OrderedDict[str, int] = OrderedDict()

    def read(self, shard: str, row: Mapping[str, Any], member: str) -> bytes:
        """Return the bytes of member "mp4", "flac" or "json" of the clip in `row` of the shard's index.

        The first two are checked against their sha256 in the index, so that no changed bytes are decoded. The json only
        repeats the index row and is not checked.

        Raises:
            StageError: the clip has no such member, or the tar is missing, shorter than its index says, or damaged.
        """
        if int(row[f"{member}_offset"]) == NO_MEMBER:
            raise StageError(
                f"{self.corpus}: clip {row['key']} has no {member}, because of the corpus's setting `modalities`. "
                "Use a corpus that holds this modality too."
            )
        wanted = self._bytes(shard, row, member)
        if member in HASHED and hashlib.sha256(wanted).hexdigest() != row[f"{member}_sha256"]:
            raise StageError(
                f"{self.corpus / shard}.tar is damaged: the {member} of clip {row['key']} is not what was stored. "
                f"{REMEDY}"
            )
        return wanted

    def _bytes(self, shard: str, row: Mapping[str, Any], member: str) -> bytes:
        size = int(row[f"{member}_size"])
        data = os.pread(self._descriptor(shard), size, int(row[f"{member}_offset"]))
        if len(data) != size:
            raise StageError(
                f"{self.corpus / shard}.tar ends before the {member} of clip {row['key']} does: the file was cut. "
                f"{REMEDY}"
            )
        return data

    def _descriptor(self, shard: str) -> int:
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        path = self.corpus / f"{shard}.tar"
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError as error:
            raise StageError(f"{path} cannot be opened ({error.strerror}). {REMEDY}") from error
        self._open[shard] = descriptor
        if len(self._open) > MAX_OPEN:
            os.close(self._open.popitem(last=False)[1])
        return descriptor

    def close(self) -> None:
        """Close all tars."""
        while self._open:
            os.close(self._open.popitem()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
