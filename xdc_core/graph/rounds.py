"""The number of the next round, and its check."""

from shards.errors import ConfigError
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.run_stage import all_fresh
from xdc_core.graph.stages import round_nodes
from xdc_core.runs.run import Run


def next_round(run: Run) -> int:
    """Return the first round that is not finished; the last one if all are."""
    fingerprints = Fingerprints(run)
    for number in range(run.config.rounds):
        if not all_fresh(run, round_nodes(run.config, number), fingerprints):
            return number
    return run.config.rounds


def check_round(run: Run, number: int) -> int:
    """Raise ConfigError for a round that the configuration does not have."""
    if not 0 <= number <= run.config.rounds:
        raise ConfigError(
            f"round {number}: {run.root} has rounds 0 to {run.config.rounds} (the last one without training). "
            "Raise `rounds` in its xdc.yaml for more."
        )
    return number
