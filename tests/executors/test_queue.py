"""What a queue of units gives to workers after one of them has failed."""

from flows.executors.queue import Queue
from shards.store.executor import Unit


def numbers(units: list[Unit]) -> list[int]:
    return [unit.number for unit in units]


def test_of_a_lost_batch_only_the_unit_at_which_its_worker_failed_comes_alone() -> None:
    queue = Queue([Unit(number, (f"{number:06d}",)) for number in range(20)])
    lost = queue.take(8)
    assert numbers(lost) == [*range(8)]
    assert queue.put_back(lost[2:]) == 1
    assert numbers(queue.take(8)) == [2]
    assert numbers(queue.take(8)) == [3, 4, 5, 6, 7, 8, 9, 10][: len(lost)]
    assert len(queue) == 9


def test_a_unit_that_fails_again_is_counted_and_those_behind_it_are_not() -> None:
    queue = Queue([Unit(number, (f"{number:06d}",)) for number in range(3)])
    lost = queue.take(2)
    assert queue.put_back(lost) == 1
    assert queue.put_back(queue.take(9)) == 2
    assert queue.put_back(queue.take(9)) == 3
    assert numbers(queue.take(9)) == [0]
    assert numbers(queue.take(9)) == [1]
