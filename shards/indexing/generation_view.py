"""A corpus as it was in an earlier generation: a directory of links, which stages read like any corpus."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shards.corpus.generation import GENERATIONS, Generation, earlier_generations, generation_of
from shards.corpus.index import masked_file, masked_keys, read_masks, shard_name, write_masks
from shards.errors import StageError
from shards.objects.tars import TARS
from shards.store.checked_read import read_stored
from shards.store.commit import remove_tree
from shards.store.files import INDEX, part_among, sha256_of
from shards.store.manifest import MANIFEST, FileEntry, Manifest, read_manifest, write_manifest

FOLDER = ".corpus"  # In a partial directory.
PLACE = "place"  # In it, beside the view: a link to the corpus.


@contextmanager
def corpus_at(corpus: Path, wanted: str, folder: Path) -> Iterator[Path]:
    """Yield the path of a corpus as it was in a generation, or as it is now, in `folder`, until the block ends.

    wanted: the fingerprint as an input of other stages (`read_as`) that the corpus had in that generation.

    The view has the tars and indices of that generation, and the masks that held in it. Where `folder` is on the
    corpus's disk, they are hard links, and stay what they are. Elsewhere they are links by name: they are valid after
    clips were appended, too, because later generations have the same shards, but not between the two renames of an
    append's commit, nor for an index that `xdc index` has replaced; who opens a file then gets an error. What reads a
    view is made of one generation in any case.

    Raises:
        StageError: the corpus is not there, or never had this fingerprint: it was cut again as a whole.
    """
    remove_view(folder)
    place = folder / FOLDER
    view = place / corpus.name
    view.mkdir(parents=True)
    os.symlink(corpus.resolve(), place / PLACE)
    try:
        _link(corpus.resolve(), wanted, view)
        yield view
    finally:
        remove_view(folder)


def remove_view(folder: Path) -> None:
    """Remove the view of a corpus in `folder`, if a killed process has left one there."""
    remove_tree(folder / FOLDER)


def place_of(corpus: Path) -> Path:
    """Return the path of the corpus that a view shows; of another directory its own."""
    link = corpus.with_name(PLACE)
    return Path(os.readlink(link)) if corpus.parent.name == FOLDER and link.is_symlink() else corpus


def _link(corpus: Path, read_as: str, view: Path) -> None:
    manifest = read_manifest(corpus)
    if manifest is None:
        raise StageError(f"{corpus} is not there, or has no valid manifest.json. Build it: xdc stage shard RUN")
    present = generation_of(corpus, manifest)
    wanted = next((each for each in (present, *earlier_generations(manifest)) if each.read_as == read_as), None)
    if wanted is None:
        raise StageError(f"{corpus} was replaced by another process meanwhile. Nothing is lost: run this again.")
    for number in range(wanted.shards):
        shard = shard_name(number)
        for name in (f"{shard}.tar", part_among(manifest.files, shard, INDEX)):
            if name is not None and name in manifest.files:
                (view / name).parent.mkdir(exist_ok=True)
                _link_file(corpus / name, view / name)
        if wanted != present:
            masks = {key: mask.until(wanted.number) for key, mask in read_masks(corpus, shard).items()}
            write_masks(view, shard, {key: mask for key, mask in masks.items() if mask.since})
        elif masked_file(shard) in manifest.files:
            (view / masked_file(shard)).write_bytes(read_stored(corpus / masked_file(shard), "shard"))
    if TARS in manifest.files:  # In an object store. What is appended later does not change this file.
        (view / TARS).write_bytes(read_stored(corpus / TARS, "shard"))
    if wanted == present:
        with suppress(FileNotFoundError):
            shutil.copyfile(corpus / MANIFEST, view / MANIFEST)
        if read_manifest(view) != manifest:
            raise StageError(f"{corpus} was replaced by another process meanwhile. Nothing is lost: run this again.")
    else:
        write_manifest(view, _as_it_was(manifest, wanted, view))


def _link_file(path: Path, target: Path) -> None:
    """Link a file: by its name if it is itself a link by name, or on another disk."""
    if not path.is_symlink():
        with suppress(OSError):
            os.link(path, target)
            return
    os.symlink(path, target)


def _as_it_was(manifest: Manifest, generation: Generation, view: Path) -> Manifest:
    """Return a manifest that lists what the corpus had in an earlier generation, as far as it is known. Its fingerprint
    is the one that the corpus had as an input.
    """
    shards = [shard_name(number) for number in range(generation.shards)]
    masked = sum(len(masked_keys(view, shard)) for shard in shards)
    own = [name for name in (TARS, *map(masked_file, shards)) if (view / name).exists()]
    others = {GENERATIONS, "masked", "accepted"}
    summary = {name: value for name, value in manifest.summary.items() if name not in others}
    summary["clips"] = generation.clips
    if earlier := manifest.summary[GENERATIONS][: generation.number]:
        summary |= {GENERATIONS: earlier, "masked": masked} if masked else {GENERATIONS: earlier}
    files = {name: entry for name, entry in manifest.files.items() if (view / name).exists()}
    files |= {name: FileEntry(size=(view / name).stat().st_size, sha256=sha256_of(view / name)) for name in own}
    changes = {"fingerprint": generation.read_as, "rows": generation.clips, "summary": summary, "files": files}
    return manifest.model_copy(update=changes)
