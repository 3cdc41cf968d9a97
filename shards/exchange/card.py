"""The dataset card of a corpus: README.md, with the metadata by which `datasets.load_dataset` reads the clips."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from shards.settings import CorpusSettings, stored_part
from shards.store.files import CARD, INDEX, write_text

CLIPS = "clips"  # The name of the tars as a configuration of a data set.
MEMBERS = {"video": ("mp4", "the picture, H.264, without sound"), "audio": ("flac", "the sound, mono")}
TEXT = """\
# {name}

{clips:,} clips of {sources:,} files, {hours} hours, cut by xdc. Each clip is a sample in the format of WebDataset:

{members}
- `json`: the clip's row of the index, without what was measured

The folder `{index}` has one Parquet file per tar, with one row per clip in the tar's order. xdc's docs/format.md \
describes every column and file.

## Read it

```python
from datasets import load_dataset

clips = load_dataset("FOLDER", split="train", streaming=True)
rows = load_dataset("parquet", data_dir="FOLDER/{index}", split="train")
```

The members are bytes; `clips.cast_column("mp4", datasets.Video())` and `("flac", datasets.Audio())` decode them. \
`train` is all of the corpus: a clip's own split is the column `split`, because every tar has clips of all splits. \
{masked}

## How it was cut

| setting | value |
|---|---|
{settings}

## Left out

{rejects}

## Labels

{labels}

## Licence

The clips have the licence of the files that they were cut from, which xdc does not know.

manifest.json does not list this file: it can be edited. When clips are added or cut again, it is written again.
"""


def write_card(
    folder: Path,
    name: str,
    settings: CorpusSettings,
    summary: Mapping[str, Any],
    labels: Sequence[str],
    row: Mapping[str, str],
) -> None:
    """Write README.md into the directory of a corpus. It depends on its arguments only, and names no place on a disk.

    name: of the corpus. summary: that of its manifest. labels: the names of its columns of labels. row: names and
    types, in the words of Apache Arrow, of what a clip's json has.
    """
    types = {"double": "float64"}
    fields = [{"name": name, "dtype": types.get(kind, kind)} for name, kind in row.items()]
    members = [MEMBERS[modality] for modality in settings.modalities]
    metadata = {
        "license": "unknown",
        "tags": ["webdataset", *settings.modalities],
        "configs": [{"config_name": CLIPS, "data_files": "*.tar"}],
        # Without it, types are derived from the first clips, whose labels may all be null.
        "dataset_info": {
            "config_name": CLIPS,
            "features": [
                *({"name": member, "dtype": "binary"} for member, _ in members),
                {"name": "json", "struct": fields},
                *({"name": name, "dtype": "string"} for name in ("__key__", "__url__")),
            ],
        },
    }
    masked = summary.get("masked", 0)
    text = TEXT.format(
        name=_cell(name),
        clips=summary["clips"],
        sources=summary["sources"],
        hours=summary["hours"],
        index=INDEX,
        members="\n".join(f"- `{member}`: {what}" for member, what in members),
        masked=f"{masked:,} clips of the tars are masked (`*.masked.json` has their keys): leave them out."
        if masked
        else "",
        settings="\n".join(f"| {_cell(key)} | {_cell(value)} |" for key, value in stored_part(settings).items()),
        rejects=_table("reason", "inputs", summary["reasons"]) or "No input was rejected.",
        labels="\n".join(f"- `{label}`" for label in labels) or "The clips have no labels.",
    )
    write_text(folder / CARD, f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---\n\n{text}")


def _table(key: str, value: str, rows: Mapping[str, Any]) -> str:
    lines = [f"| {_cell(name)} | {_cell(count)} |" for name, count in rows.items()]
    return "\n".join([f"| {key} | {value} |", "|---|---|", *lines]) if lines else ""


def _cell(value: object) -> str:
    """Return a value as text of a cell, in which nothing is markup."""
    text = "" if value is None else str(value)
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in " ".join(text.split()))
