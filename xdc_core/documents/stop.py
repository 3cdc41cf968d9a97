"""stop.json: what the stopping rule of a run has seen up to a round, and what it decided in this round."""

from pathlib import Path
from typing import Any

from pydantic import Field

from xdc_core.documents.document import Document, Number, read_document, write_document

FILE_NAME = "stop.json"


class Seen(Document):
    """The values of one round, None where a value is not defined: by label source the NMI of its clusters with those of
    the round before; or by evaluation its main metric on the split that counts.
    """

    round: int
    values: dict[str, Number | None]


class Decision(Document):
    """The decision of one round.

    stop: whether the rule ends the run in this round. why: a sentence with the values. best: for validation, the round
    with the best value so far. rule: its settings. seen: the values of this round and of all before, the first first.
    """

    round: int
    stop: bool
    why: str
    best: int | None = None
    rule: dict[str, Any]
    seen: list[Seen] = Field([])


def read_decision(directory: Path) -> Decision:
    """Read stop.json of a stop stage's directory. Raises StageError as `read_document` does."""
    return read_document(Decision, directory / FILE_NAME, "stop")


def write_decision(directory: Path, decision: Decision) -> None:
    """Write stop.json into a stop stage's directory."""
    write_document(directory / FILE_NAME, decision)
