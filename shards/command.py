"""Commands as they are printed for people: whatever a path looks like, they can be copied into a shell."""

import shlex
from pathlib import Path


def command(*words: object) -> str:
    """Words as a line for a shell: those with spaces, quotes and the like are quoted."""
    return shlex.join(map(str, words))


def stage_command(
    stage: str,
    run: Path | str = "RUN",
    modality: str | None = None,
    round: int | None = None,
    force: bool = False,
) -> str:
    """The command that does one stage of a run. `run` stays RUN where it is not known."""
    words: list[object] = ["xdc", "stage", stage, run]
    words += ["--modality", modality] if modality else []
    words += ["--round", round] if round is not None else []
    words += ["--force"] if force else []
    return command(*words)
