"""The function with which a stage reports its progress."""

from typing import Protocol


class Progress(Protocol):
    """A function that receives the finished part, the whole, and a short note."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


def silent(done: int, total: int, note: str = "") -> None:
    """Ignore progress."""
