"""The errors that are written for the person who reads them."""


class XdcError(Exception):
    """Something a person can put right. The text says what, where, which value, and what to do."""


class ConfigError(XdcError):
    """The configuration, a manifest or a command-line value is wrong."""


class StageError(XdcError):
    """A stage could not keep its contract; what it had finished is kept."""


class Busy(XdcError):
    """Another process is building the same directory."""


class MediaError(XdcError):
    """One media file or clip is of no use. Costs one row in rejects.parquet, never a run."""
