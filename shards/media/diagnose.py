"""A hint for files that FFmpeg does not read, from their first bytes and their boxes."""

import struct
from collections.abc import Iterator
from pathlib import Path

HEAD = 1 << 16
_PLAYLISTS = (b"#extm3u", b"ffconcat", b"<mpd", b"[playlist]", b"<asx", b"<smil")
_PAGES = (b"<!doctype html", b"<html")
# The Matroska elements ContentEncoding and ContentEncryption.
_ENCRYPTED_MATROSKA = (b"\x62\x40", b"\x50\x35")


def what_it_is(path: Path) -> str:
    """Return " (it is ...)" to append to FFmpeg's error, or "" if nothing is known."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
        cause = _from_head(head) or _from_boxes(path, head)
    except OSError:
        return ""
    return f" ({cause})" if cause else ""


def _from_head(head: bytes) -> str:
    text = head[:4096].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not head[:4096].strip(b"\0"):
        return "it begins with zeros: a copy that was broken off"
    if text.startswith(_PLAYLISTS) or (text.startswith(b"<?xml") and b"<mpd" in text):
        return "it is a playlist; what it names is not read"
    if text.startswith(_PAGES):
        return "it is a web page"
    if head.startswith(b"\x1a\x45\xdf\xa3") and all(element in head for element in _ENCRYPTED_MATROSKA):
        return "it seems to be encrypted"
    return "it is a text" if _is_text(head[:4096]) else ""


def _is_text(head: bytes) -> bool:
    try:
        text = head[: max(16, len(head) - 3)].decode("utf-8")  # The last letter may be cut off.
    except UnicodeDecodeError:
        return False
    return len(text) >= 16 and all(letter.isprintable() or letter.isspace() for letter in text)


def _from_boxes(path: Path, head: bytes) -> str:
    """Return what is wrong with an MP4 or a related file; "" if nothing is known."""
    if head[4:8] not in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"styp"):
        return ""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - HEAD))
        tail = file.read()  # In some files the header follows the media.
    if any(tag in head or tag in tail for tag in (b"encv", b"enca", b"pssh")):
        return "it seems to be encrypted"
    boxes = list(_boxes(path, size))
    for name, end in boxes:
        if not name.isascii() or not name.isalnum():
            return "its boxes are damaged"
        if end > size:
            return f"its box {name} should end at byte {end}, but the file has {size}: a copy that was broken off"
    if "moov" not in (name for name, _ in boxes):
        return "it has no moov box: a recording or a copy that was broken off"
    return ""


def _boxes(path: Path, size: int) -> Iterator[tuple[str, int]]:
    """Yield the outermost boxes, at most 1,000: name, and the offset after the end in bytes."""
    with path.open("rb") as file:
        at = 0
        for _ in range(1000):
            file.seek(at)
            header = file.read(16)
            if len(header) < 8:
                return
            length, name = struct.unpack(">I4s", header[:8])
            if length == 1 and len(header) == 16:
                (length,) = struct.unpack(">Q", header[8:])
            elif length == 0:
                length = size - at
            if length < 8:
                return
            at += length
            yield name.decode("ascii", "replace"), at
            if at >= size:
                return
