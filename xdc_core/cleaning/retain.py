"""The section `retain` of a run's configuration: what is removed after each round."""

from typing import Any

from shards.errors import XdcError
from xdc_core.cleaning.clean import clean
from xdc_core.config.schema import Config, RetainSettings
from xdc_core.runs.run import Run, open_run


def retain(run: Run) -> str:
    """Remove what `retain` in a run's xdc.yaml says now. Return a line on what was removed and what stays, with the
    first reason; "" without such settings, and if there was nothing to look at.

    An error here fails no round. If other settings have been edited since the round began, nothing is removed: what is
    needed now is for the next round to say.
    """
    try:
        now = open_run(run.root)
        settings = now.config.retain
        if not _is_on(settings):
            return ""
        if _decides_what_is_needed(now.config) != _decides_what_is_needed(run.config.as_given):
            return "retain: nothing is removed, because xdc.yaml has changed since the round began."
        keep = now.config.last_round + 1 if settings.rounds is None else settings.rounds
        cleaning = clean(now, keep, settings.stale, automatic=True)
    except (OSError, XdcError) as error:
        return f"warning: retain: not everything could be removed: {error}" if _is_on(run.config.retain) else ""
    said = []
    if cleaning.removed:
        said.append(f"freed {cleaning.freed / 1e6:,.1f} MB in {_directories(len(cleaning.removed))}.")
    if cleaning.kept:
        first, stay = cleaning.kept[0], "stays" if len(cleaning.kept) == 1 else "stay, the first is"
        said += [] if said else ["nothing is removed."]
        said.append(f"{_directories(len(cleaning.kept))} {stay} {first.path}: {first.why}")
    return f"retain: {' '.join(said)}" if said else ""


def _is_on(settings: RetainSettings) -> bool:
    return settings.rounds is not None or settings.stale


def _decides_what_is_needed(config: Config) -> dict[str, Any]:
    return config.model_dump(exclude={"retain", "runs_on"})


def _directories(number: int) -> str:
    return f"{number} {'directory' if number == 1 else 'directories'}"
