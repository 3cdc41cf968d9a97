"""One rank, as torchrun's agent starts it: `python -m xdc_core.training RUN MODALITY ROUND OUT`.

The run's configuration is read from OUT/config.json, where the stage has written it.
"""

import json
import os
import signal
import sys
import traceback
from pathlib import Path

from shards.errors import XdcError
from xdc_core.compute.parent_death import die_with_parent
from xdc_core.training.agent import AGENT


def main() -> int:
    """Returns the exit code."""
    # The agent may have died before we came so far; then nobody would end us.
    die_with_parent(signal.SIGKILL, int(os.environ.get(AGENT) or os.getppid()))
    from xdc_core.config.load import parse_config
    from xdc_core.runs.node import Node
    from xdc_core.runs.run import Run
    from xdc_core.stages.train import CONFIG, ERROR_PREFIX, METRICS_PREFIX
    from xdc_core.training.process_rank import place_from_environment
    from xdc_core.training.rank import train_rank

    root, modality, number, out = sys.argv[1:]
    values = json.loads((Path(out) / CONFIG).read_text(encoding="utf-8"))
    node = Node("train", modality, int(number))
    try:
        train_rank(
            Run(Path(root), parse_config(values, f"{out}/{CONFIG}")),
            node,
            Path(out),
            place_from_environment(),
            lambda line: tell(METRICS_PREFIX, line),
        )
    except XdcError as error:
        tell(ERROR_PREFIX, [type(error).__name__, str(error)[:2000]])
        return 1
    except Exception:  # noqa: BLE001 - the boundary of the process: whole in train.log
        traceback.print_exc()
        return 1
    return 0


def tell(prefix: str, value: object) -> None:
    """One line to the stage, in one write: all ranks have the same pipe, and their lines must not mix."""
    os.write(1, f"{prefix}{json.dumps(value)}\n".encode())


if __name__ == "__main__":
    code = 1
    try:
        code = main()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # See `leave_ranks`: destructors may hang.
