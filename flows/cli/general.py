"""The options of `xdc` itself, before the name of a command."""

from typing import Annotated, Literal

import typer

Level = Literal["debug", "info", "warning", "error", "critical"]


def _show_version(wanted: bool) -> None:
    if wanted:
        from shards.version import DISTRIBUTION, package_version

        print(f"xdc {package_version()} ({DISTRIBUTION})")
        raise typer.Exit


def general(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="show the version and exit")
    ] = False,
    log_level: Annotated[
        Level | None,
        typer.Option(
            help="show log messages of this level and above: of this command and Prefect on stderr, of stages' "
            "processes in RUN/logs  [default: none on stderr]",
        ),
    ] = None,
) -> None:
    """Set what holds for every command."""
    if log_level:
        from flows.server.log_level import set_log_level

        set_log_level(log_level)
