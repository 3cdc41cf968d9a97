"""The errors that are written for the person who reads them."""

from shards.reject import Kind


class XdcError(Exception):
    """Something a person can put right. The text says what, where, which value, and what to do."""


class ConfigError(XdcError):
    """The configuration, a manifest or a command-line value is wrong."""


class StageError(XdcError):
    """A stage could not keep its contract; what it had finished is kept."""


class Busy(XdcError):
    """Another process is building the same directory."""


class MediaError(XdcError):
    """One media file or clip is of no use. Costs one row in rejects.parquet, never a run. `kind` is that of the row."""

    def __init__(self, text: str, kind: Kind = "damaged") -> None:
        super().__init__(text)
        self.kind: Kind = kind


class SourceError(XdcError):
    """A source file cannot be read, by the system's account: trouble of the machine. `at`: from which byte on."""

    def __init__(self, text: str, at: int = 0) -> None:
        super().__init__(text)
        self.at = at


class Killed(MediaError):
    """Somebody else killed the process that worked on a file, twice: the file's fault, or the machine's."""

    def __init__(self, text: str) -> None:
        super().__init__(text, "killed")
