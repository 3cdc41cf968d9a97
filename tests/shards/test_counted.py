"""What a stage in units shows as progress."""

from shards.store.executor import Counted


def test_what_an_executor_waits_for_is_shown_until_it_no_longer_waits() -> None:
    shown: list[tuple[int, int, str]] = []
    counted = Counted(0, 40, lambda done, total, note="": shown.append((done, total, note)))
    counted.advance(0, 0, "Slurm: 2 pending priority")
    counted.advance(0, 0, "Slurm: 2 pending priority")
    counted.advance(0, 0)
    counted.advance(0, 0)
    counted.store(16, 1)
    assert shown == [
        (0, 40, "clips"),
        (0, 40, "clips; Slurm: 2 pending priority"),
        (0, 40, "clips; Slurm: 2 pending priority"),
        (0, 40, "clips"),
        (16, 40, "clips, 1 rejected"),
    ]
