"""One rank, as torchrun starts it: `python -m xdc_core.training RUN MODALITY ROUND OUT`."""

import json
import signal
import sys
from pathlib import Path

from shards.errors import XdcError
from xdc_core.parent_death import die_with_parent


def main() -> int:
    """Returns the exit code."""
    die_with_parent(signal.SIGKILL)
    from xdc_core.run import Node, open_run
    from xdc_core.training.rank import place_from_environment, train_rank
    from xdc_core.training.stage import METRICS_PREFIX

    root, modality, number, out = sys.argv[1:]
    node = Node("train", modality, int(number))
    try:
        train_rank(
            open_run(root),
            node,
            Path(out),
            place_from_environment(),
            lambda line: print(METRICS_PREFIX + json.dumps(line), flush=True),
        )
    except XdcError as error:
        print(error, file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
