"""Features of the shards that a corpus had before it was appended to: they are kept where the encoder is the same."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shards.corpus.generation import Generation, earlier_generations
from shards.corpus.index import masked_keys, read_index, read_masks, shard_names
from shards.store.checked_read import read_rejects, rejected_keys
from shards.store.files import link_or_copy, part_among, part_name, part_path, write_json
from shards.store.manifest import Manifest, fingerprint, read_manifest
from shards.store.receipt import NewShard, new_shard
from shards.store.units import begin_units
from xdc_core.data.features import read_features, write_features

NOTES = ("width", "device", "views")  # What receipts of extraction say, and the summary of the stage.
KEPT = "kept"  # In the notes of a receipt: the features were not computed again.


def keepable_shards(corpus: Path, before: Manifest | None, encoder: tuple[str, str], about: Sequence[Any]) -> list[str]:
    """Return the shards whose features in an earlier directory are those that would be computed now.

    before: the manifest of the earlier directory. encoder: the name and fingerprint of the encoder as an input. about:
    version and hashed settings of the stage. The earlier directory must have been made with the same of all these, of
    an earlier generation of the corpus.
    """
    if before is None or before.inputs.get(encoder[0]) != encoder[1]:
        return []
    if fingerprint([before.version, before.settings]) != fingerprint(list(about)):
        return []
    for generation in earlier_generations(read_manifest(corpus)):
        if generation.read_as == before.inputs.get("shard"):
            names = shard_names(corpus)[: generation.shards]
            names = [shard for shard in names if part_among(before.files, shard)]
            return [shard for shard in names if not _has_more(corpus, shard, generation)]
    return []


def _has_more(corpus: Path, shard: str, generation: Generation) -> bool:
    """Return whether a shard has clips that were masked in an earlier generation, and are not any more."""
    return any(mask.holds(generation.number) and not mask.holds() for mask in read_masks(corpus, shard).values())


def keep_features(
    corpus: Path, target: Path, before: Manifest, out: Path, shards: Sequence[str], kept: list[str]
) -> None:
    """Store the features of the shards `kept` in `out`, with receipts, without the clips that are masked now.

    target: the earlier directory, with the manifest `before`. shards: all shards of the corpus. Files without masked
    clips are linked.

    Raises:
        StageError: a file is missing or damaged.
    """
    stored = begin_units(out, shards)
    for shard in kept:
        if shard in stored:
            continue
        names, rejects = {part_name(shard): str(part_among(before.files, shard))}, f"{shard}.rejects.json"
        names |= {rejects: rejects} if rejects in before.files else {}
        known = {name: (before.files[old].size, before.files[old].sha256) for name, old in names.items()}
        masked = bool(masked_keys(corpus, shard))
        with new_shard(out, shard, {} if masked else known) as new:
            if masked:
                _write_rest(new, corpus, target, shard)
            else:
                for name, old in names.items():
                    (new.folder / name).parent.mkdir(exist_ok=True)
                    link_or_copy(target / old, new.folder / name)
                new.rejects = len(rejected_keys(target, "extract", shard))
                new.rows = len(read_index(corpus, shard, ["key"])) - new.rejects
            new.notes = {name: before.summary[name] for name in NOTES if name in before.summary} | {KEPT: True}


def _write_rest(new: NewShard, corpus: Path, target: Path, shard: str) -> None:
    """Write the features and rejects of a shard of which some clips are masked."""
    live = set(read_index(corpus, shard, ["key"])["key"].to_pylist())
    keys, features = read_features(part_path(target, shard))
    rows = np.array([row for row, key in enumerate(keys) if key in live], np.int64)
    write_features(new.folder / part_name(shard), keys[rows].tolist(), features[rows])
    rejects = [entry for entry in read_rejects(target, "extract", shard) if entry["key"] in live]
    if rejects:
        write_json(new.folder / f"{shard}.rejects.json", rejects)
    new.rows, new.rejects = len(rows), len(rejects)
