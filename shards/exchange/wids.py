"""wids.json: the tars of a corpus with their numbers of clips, for random access with webdataset's wids."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from shards.store.files import write_json

FILE_NAME = "wids.json"
KIND, VERSION = "wids-shard-index-v1", 1  # As `widsindex create` writes them.


class Tar(NamedTuple):
    """A tar of a corpus: its name, its number of clips (with masked ones), and its size in bytes."""

    name: str
    clips: int
    size: int


def write_wids(folder: Path, name: str, tars: Iterable[Tar]) -> None:
    """Write wids.json beside tars. name: of the corpus.

    The URLs are names of files: wids resolves them from the folder that it is given as `base`.

    Source: https://github.com/webdataset/webdataset, wids/wids_index.py and wids/wids_specs.py.
    """
    shards = [{"url": tar.name, "nsamples": tar.clips, "filesize": tar.size} for tar in tars]
    write_json(folder / FILE_NAME, {"__kind__": KIND, "wids_version": VERSION, "name": name, "shardlist": shards})
