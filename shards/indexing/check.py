"""Check a tar, member by member, against the index beside it."""

import hashlib
import json
import tarfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from shards.corpus.index import GROUPS, HASHED, MEMBERS, NO_MEMBER, group_columns, read_stored_index
from shards.errors import MachineError, StageError
from shards.media.decode import find_groups
from shards.objects.tars import local_tar


def tar_faults(corpus: Path, shard: str) -> Iterator[str]:
    """Yield the faults of `<shard>.tar`, one sentence each; nothing if it agrees with its index.

    A tar in an object store is fetched, and checked against its sha256.

    Every member must be a plain file named after its clip, with the offset and size in the index, in the index's order.
    There must be no other members, and every clip's bytes must have the sha256 in the index. Nothing is extracted, and
    at most one clip is in memory.

    Raises:
        StageError: the index cannot be read, or an object store does not answer.
    """
    rows = read_stored_index(corpus, shard).to_pylist()  # Masked clips are in the tar, too.
    try:
        with local_tar(corpus, shard) as path:
            yield from _faults(path, rows)
    except MachineError:
        raise
    except StageError as error:  # Of a tar in an object store.
        yield str(error)


def _faults(path: Path, rows: list[dict[str, Any]]) -> Iterator[str]:
    if rows and not path.exists() and not any(_members(row) for row in rows):
        return  # A corpus of features has no tars.
    expected = [(f"{row['key']}.{member}", row, member) for row in rows for member in _members(row)]
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            members = list(archive)
            yield from _wrong_members(members, expected)
            if not _ends_well(file, archive.offset):
                yield "its end is missing: the file was cut, at the end of a member or within one"
    except FileNotFoundError:
        yield "the file is missing"
        return
    except (tarfile.TarError, OSError, ValueError) as error:
        yield f"it is not a tar that can be read: {error}"
        return
    with path.open("rb") as file:
        for row in rows:
            yield from _wrong_clip(file, row)


def _members(row: dict[str, Any]) -> list[str]:
    """Return the members of a clip in the order of their offsets."""
    there = [member for member in MEMBERS if row[f"{member}_offset"] != NO_MEMBER]
    return sorted(there, key=lambda member: row[f"{member}_offset"])


def _wrong_members(members: list[tarfile.TarInfo], expected: list[tuple[str, dict[str, Any], str]]) -> Iterator[str]:
    names = [name for name, _, _ in expected]
    for member in members:
        if member.name.startswith("/") or ".." in member.name.split("/"):
            yield f"member {member.name!r} points out of the archive"
        elif not member.isfile():
            yield f"member {member.name!r} is a link, a folder or a device, not a plain file"
    if [member.name for member in members] != names:
        there = {member.name for member in members}
        lost, more = [name for name in names if name not in there], sorted(there - set(names))
        doubled = len(members) - len(there)
        yield (
            f"its members are not those of the index, in its order: {len(lost)} are missing{_first(lost)}, "
            f"{len(more)} do not belong there{_first(more)}, {doubled} are there twice"
        )
        return
    for member, (name, row, kind) in zip(members, expected, strict=True):
        if (member.offset_data, member.size) != (row[f"{kind}_offset"], row[f"{kind}_size"]):
            yield f"member {name} lies at byte {member.offset_data} with {member.size} bytes, not where the index says"


def _first(names: list[str]) -> str:
    return f" ({names[0]!r} first)" if names else ""


def _ends_well(file: Any, offset: int) -> bool:
    """Return whether a tar has only zeros, at least two blocks, from `offset`, the end of its last member, on."""
    file.seek(offset)
    rest = file.read()
    return len(rest) >= 2 * tarfile.BLOCKSIZE and not rest.strip(b"\0")


def _wrong_clip(file: Any, row: dict[str, Any]) -> Iterator[str]:
    data = {}
    for member in _members(row):
        file.seek(row[f"{member}_offset"])
        data[member] = file.read(row[f"{member}_size"])
    there = [member for member in HASHED if member in data]
    hashes = [hashlib.sha256(data[member]) for member in there]
    whole = hashes[0].copy() if there else hashlib.sha256()  # The first member's bytes are hashed once.
    for member in there[1:]:
        whole.update(data[member])
    wrong = [name for name, digest in zip(there, hashes, strict=True) if digest.hexdigest() != row[f"{name}_sha256"]]
    for member in wrong:
        yield f"the {member} of clip {row['key']} is not what was stored (sha256)"
    if not wrong and whole.hexdigest() != row["sha256"]:
        yield f"clip {row['key']} is what was stored, but its sha256 in the index is another"
    if row.get("mp4_header") is not None and not wrong and group_columns(find_groups(data["mp4"])) != _groups(row):
        yield f"the groups of pictures of clip {row['key']} are not where the index says"
    try:
        stored = json.loads(data.get("json", b""))
    except ValueError:
        stored = None
    if not isinstance(stored, dict) or any(row.get(name) != value for name, value in stored.items()):
        yield f"the json of clip {row['key']} is not what the index says"


def _groups(row: dict[str, Any]) -> dict[str, Any]:
    values = {name: row[name] for name in GROUPS.names}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def key_faults(keys: list[str], rejected: Collection[str], wanted: list[str], what: str) -> Iterator[str]:
    """Yield the faults of a table's rows: each of `wanted` must be among `keys`, in this order, or `rejected`."""
    present, known = set(keys), set(wanted)
    if len(present) < len(keys):
        yield f"{len(keys) - len(present)} {what} are there twice"
    if more := present - known:
        yield f"{len(more)} {what} are of clips that are not in the corpus's index ({min(more)!r} first)"
    if lost := known - present - set(rejected):
        yield f"{len(lost)} {what} are missing ({min(lost)!r} first)"
    if not more and len(present) == len(keys) and keys != [key for key in wanted if key in present]:
        yield f"the {what} are not in the order of the corpus's index"
