"""What is stored of a stage that is done in units: its receipts all together, at its beginning and at its commit."""

import os
import shutil
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from shards.errors import StageError
from shards.store.files import PARTS, taken_away
from shards.store.receipt import (
    ATTEMPTS,
    ERRORS,
    RECEIPTS,
    UNITS,
    Receipt,
    read_receipt,
    receipt_path,
    receipts_of,
    settle,
)


def add_up(receipts: Iterable[Receipt], sizes: Mapping[str, int]) -> tuple[int, int, dict[str, Any]]:
    """Return the sums of rows and rejects, and the notes: values that differ between receipts are joined by commas.

    sizes: shard -> its inputs.

    Raises:
        StageError: rows and rejects of a shard do not add up to its inputs.
    """
    rows = rejects = 0
    notes: dict[str, dict[Any, None]] = {}
    for receipt in receipts:
        if receipt.rows + receipt.rejects != sizes[receipt.shard]:
            raise StageError(
                f"shard {receipt.shard}: {receipt.rows} rows and {receipt.rejects} rejects for {sizes[receipt.shard]} "
                "in. Nothing is committed. This is a defect of xdc; please report it."
            )
        rows, rejects = rows + receipt.rows, rejects + receipt.rejects
        for name, value in receipt.notes.items():
            notes.setdefault(name, {})[value] = None
    return (
        rows,
        rejects,
        {
            name: next(iter(values)) if len(values) == 1 else ", ".join(sorted(map(str, values)))
            for name, values in notes.items()
        },
    )


def stored_shards(out: Path) -> set[str]:
    """Return the names of all shards that have a receipt."""
    try:
        with os.scandir(out / UNITS / RECEIPTS) as entries:
            return {entry.name.removesuffix(".json") for entry in entries if not entry.name.startswith(".")}
    except FileNotFoundError as error:
        raise taken_away(out) from error


def begin_units(out: Path, shards: Collection[str]) -> set[str]:
    """Make the folder `.units` of a stage that begins or continues; return the shards that are stored.

    Files that receipts describe are put in place. Damaged receipts, unfinished attempts, errors, and files of shards
    without a receipt (they may be of an older version) are removed. So are shards whose part an older version has
    stored beside the other files: a directory has all of its parts in one folder.
    """
    units = out / UNITS
    for folder in (units, *(units / name for name in (RECEIPTS, ATTEMPTS, ERRORS))):
        folder.mkdir(exist_ok=True)  # Not `out`: another process may have renamed it.
    stored = set()
    for shard in stored_shards(out):
        receipt = read_receipt(out, shard)
        is_usable = receipt is not None and shard in shards and f"{shard}.parquet" not in receipt.files
        if receipt is not None and is_usable and settle(out, receipt):
            stored.add(shard)
        else:
            receipt_path(out, shard).unlink(missing_ok=True)
    for name in (ATTEMPTS, ERRORS):
        shutil.rmtree(units / name)
        (units / name).mkdir()
    if missing := set(shards) - stored:
        for folder in (out, *(out / name for name in PARTS if (out / name).is_dir())):
            for name in os.listdir(folder):
                if name.split(".", 1)[0] in missing:
                    (folder / name).unlink()
    return stored


def stored_files(out: Path) -> Mapping[str, tuple[int, str]]:
    """Return size and sha256 of all files that receipts describe, by name. Reads the receipts only.

    Raises:
        StageError: a file is not in place, or has another size.
    """
    files: dict[str, tuple[int, str]] = {}
    if not (out / UNITS).is_dir():
        return files
    for receipt in receipts_of(out, sorted(stored_shards(out))):
        if not settle(out, receipt):
            raise StageError(
                f"{out}: files of shard {receipt.shard} are missing or have another size than its receipt says. "
                "Nothing is committed: run this again."
            )
        files.update(receipt.files)
    return files
