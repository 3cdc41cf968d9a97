"""Pictures and media of clips for viewers, which cannot read them out of tars."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from shards.corpus.reader import ClipReader
from shards.errors import MediaError
from shards.media.decode import decode_frames
from shards.store.files import new_file
from xdc_core.report.media import spectrogram

LONG_SIDE = 160  # Pixels of a picture in the table.
QUALITY = 80
MEMBERS = {"mp4": "video_path", "flac": "audio_path"}
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


class ClipMedia:
    """Media columns of a map. picture: a JPEG of the middle of each clip, in the table. folder: for the clips' files.

    `picture` is a struct of bytes and path, as `datasets` and Embedding Atlas have pictures; of a clip without pictures
    it is its spectrogram, and null without sound, too. `video_path` and `audio_path` are absolute: viewers look from
    where they are started. The files are the bytes in the corpus's tars: H.264 without sound, and FLAC.
    """

    def __init__(self, reader: ClipReader, picture: bool, folder: Path | None) -> None:
        self.reader, self.picture, self.folder = reader, picture, folder

    def columns(self, shard: str, index: pa.Table) -> dict[str, pa.Array]:
        """Return the columns of the clips of a shard, and write their files.

        Raises:
            StageError: a clip cannot be read, or its file cannot be trusted.
        """
        rows = index.to_pylist()
        columns: dict[str, pa.Array] = {}
        if self.picture:
            columns["picture"] = pa.array([self._picture(shard, row) for row in rows], PICTURE)
        if self.folder is not None:
            for member, column in MEMBERS.items():
                paths = [self._file(self.folder, shard, row, member) for row in rows]
                columns[column] = pa.array(paths, pa.string())
        return columns

    def _picture(self, shard: str, row: Mapping[str, Any]) -> dict[str, Any] | None:
        from PIL import Image

        from shards.media.decode import decode_sound

        try:
            if row["mp4_size"]:
                middle = row["frames"] // 2
                frames = decode_frames(self.reader.read(shard, row, "mp4"), middle, 1)
                image = Image.fromarray(frames[0])
            elif not row["flac_size"]:
                return None  # A clip of given features has no media.
            else:
                image = spectrogram(decode_sound(self.reader.read(shard, row, "flac")), row["sample_rate"])
        except MediaError:
            return None  # As in reports: a clip that does not decode has no picture, and its features are null.
        image.thumbnail((LONG_SIDE, LONG_SIDE))
        file = io.BytesIO()
        image.save(file, "jpeg", quality=QUALITY)
        return {"bytes": file.getvalue(), "path": f"{row['key']}.jpg"}

    def _file(self, folder: Path, shard: str, row: Mapping[str, Any], member: str) -> str | None:
        """Write a member of a clip, unless a file of its size is there. Return its path; None without the member."""
        size = row[f"{member}_size"]
        if not size:
            return None
        path = (folder / f"{row['key']}.{member}").resolve()
        if not path.exists() or path.stat().st_size != size:
            with new_file(path) as temporary:
                temporary.write_bytes(self.reader.read(shard, row, member))
        return str(path)
