"""Valid videos that are damaged at random: each becomes clips or a reject with its reason, and nothing else happens.

The long version is a program: python tests/shards/mutants.py --mutants 2000
"""

from pathlib import Path

import pytest

from shards.errors import MediaError
from shards.media.cut import cut
from shards.media.probe import probe
from tests.shards.mutants import KINDS, NO_REASON, SETTINGS, mutate, shard_mutants, valid_videos


def test_what_is_not_damaged_is_used(tmp_path: Path) -> None:
    for suffix in valid_videos(tmp_path):
        found = probe(tmp_path / f"a.{suffix}")
        clip = cut(tmp_path / f"a.{suffix}", 0.0, found.duration_s, SETTINGS)
        assert abs(clip.duration_s - 1.2) < 0.11, suffix


def test_a_seed_gives_the_same_mutant_and_another_seed_another(tmp_path: Path) -> None:
    data = bytes(range(256)) * 40
    assert mutate(data, (0, 1)) == mutate(data, (0, 1)) != mutate(data, (0, 2))
    assert len({mutate(data, (0, number)) for number in range(200)}) > 190


def test_every_mutant_becomes_clips_or_a_reject_with_a_reason(tmp_path: Path) -> None:
    used, reasons, names = shard_mutants(tmp_path, 104, seed=0)
    assert len(names) == 104 >= 13 * len(KINDS)
    assert used | set(reasons) == names
    # Damage that hurts, and damage that does not: else the mutants would show nothing.
    assert len(used) > 10
    assert len(set(reasons) - used) > 10
    for name, why in reasons.items():
        assert not [reason for reason in why if NO_REASON.search(reason)], name


@pytest.mark.parametrize("size", [0, 1, 7, 100])
def test_the_beginning_of_a_file_alone_is_rejected_with_a_reason(tmp_path: Path, size: int) -> None:
    for suffix, data in valid_videos(tmp_path).items():
        path = tmp_path / f"beginning.{suffix}"
        path.write_bytes(data[:size])
        with pytest.raises(MediaError) as caught:
            cut(path, 0.0, probe(path).duration_s, SETTINGS)
        assert not NO_REASON.search(str(caught.value))


def test_a_stream_that_begins_in_the_middle_of_a_file_disturbs_nothing(tmp_path: Path) -> None:
    """Broadcasts do that; here a damaged number of a stream does."""
    path = tmp_path / "a.ts"
    path.write_bytes(mutate(valid_videos(tmp_path / "valid")["ts"], (1, 61)))
    try:
        made = cut(path, 0.0, probe(path).duration_s, SETTINGS)
    except MediaError:
        return  # What the damage left may be too little; any other error is ours.
    assert made.frames > 0
