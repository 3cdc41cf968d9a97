"""The section `retain` of a run's configuration: what is removed after each round."""

from shards.errors import XdcError
from xdc_core.cleaning.clean import clean
from xdc_core.runs.run import Run, open_run


def retain(run: Run) -> str:
    """Remove what `retain` in a run's xdc.yaml says. Return a line on what was removed, or why nothing was; "" without
    such settings, and if nothing was to be removed.

    An error here fails no round. If xdc.yaml has been edited since the round began, nothing is removed: what is needed
    now is for the next round to say.
    """
    settings = run.config.retain
    if settings.rounds is None and not settings.stale:
        return ""
    try:
        now = open_run(run.root)
        if now.config.model_dump() != run.config.as_given.model_dump():
            return "retain: nothing is removed, because xdc.yaml has changed since the round began."
        keep = run.config.last_round + 1 if settings.rounds is None else settings.rounds
        cleaning = clean(now, keep, settings.stale, automatic=True)
    except (OSError, XdcError) as error:
        return f"warning: retain: not everything could be removed: {error}"
    if not cleaning.removed:
        return ""
    return f"retain: freed {cleaning.freed / 1e6:,.1f} MB in {len(cleaning.removed)} directories."
