"""Printed commands, quoted so that they can be copied into a shell."""

import shlex
from pathlib import Path


def command(*words: object) -> str:
    """Return words as a line for a shell. Words with spaces, quotes and the like are quoted."""
    return shlex.join(map(str, words))


def stage_command(
    stage: str,
    run: Path | str = "RUN",
    modality: str | None = None,
    round: int | None = None,
    force: bool = False,
) -> str:
    """Return the command that runs one stage of a run. `run` stays RUN if it is not known."""
    words: list[object] = ["xdc", "stage", stage, run]
    words += ["--modality", modality] if modality else []
    words += ["--round", round] if round is not None else []
    words += ["--force"] if force else []
    return command(*words)
