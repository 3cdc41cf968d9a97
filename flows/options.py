"""Options that commands have in common, and how their errors become exit codes."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="the run's directory (it holds xdc.yaml)")]
RunOrExportArgument = Annotated[
    Path,
    typer.Argument(metavar="RUN", help="the run's directory, or the folder of an export or of one of its encoders"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON, for scripts")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="write a setting to RUN/xdc.yaml first, such as train.lr=0.01; may be repeated",
    ),
]
RoundOption = Annotated[int | None, typer.Option("--round", help="number of the round; the first is 0")]
EncodersOption = Annotated[
    int | None,
    typer.Option(
        "--round",
        help="the encoders at the start of this round and what was made with them; 0: untrained or given  [default: "
        "the newest round whose encoders are up to date]",
    ),
]


@contextmanager
def errors_as_exit_codes() -> Iterator[None]:
    """Turn errors that a user can correct into a message and an exit code, without a traceback."""
    from shards.errors import Busy, ConfigError, XdcError

    try:
        yield
    except XdcError as error:
        print(f"xdc: {error}", file=sys.stderr)
        raise typer.Exit(3 if isinstance(error, Busy) else 2 if isinstance(error, ConfigError) else 1) from None
    except OSError as error:  # Of the machine: a full disk, a missing permission, too many open files.
        where = f" ({error.filename})" if error.filename else ""
        print(
            f"xdc: cannot read or write: {error.strerror or error}{where}. Correct this and run the command again.",
            file=sys.stderr,
        )
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        print("\nxdc: interrupted. Finished work is kept; the same command continues from there.", file=sys.stderr)
        raise typer.Exit(130) from None
