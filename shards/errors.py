"""Errors whose text is written for the user."""

from shards.reject import Kind


class XdcError(Exception):
    """Report something that the user can correct. The text says what, where, which value, and what to do."""


class ConfigError(XdcError):
    """Report a wrong configuration, manifest or command-line value."""


class StageError(XdcError):
    """Report that a stage could not finish its work; the finished parts are kept."""


class MachineError(StageError):
    """Report trouble of one machine, such as a full disk or too little memory. Another one may not have it."""


class NoPictures(StageError):
    """Report that too many files or clips were rejected, and most of them because they have no pictures."""


class NoSounds(StageError):
    """Report that too many files or clips were rejected, and most of them because they have no sound."""


class Busy(XdcError):
    """Report that another process is building the same directory."""


class MediaError(XdcError):
    """Report an unusable media file or clip: one row in rejects.parquet with this `kind`. It never ends a run."""

    def __init__(self, text: str, kind: Kind = "damaged") -> None:
        super().__init__(text)
        self.kind: Kind = kind


class SourceError(XdcError):
    """Report that the operating system cannot read a source file. `at`: offset of the first unreadable byte."""

    def __init__(self, text: str, at: int = 0) -> None:
        super().__init__(text)
        self.at = at


class Killed(MediaError):
    """Report that the process that worked on a file was killed from outside, twice."""

    def __init__(self, text: str) -> None:
        super().__init__(text, "killed")
