"""One stage with the executor of its run: `python -m tests.engines.coordinator RUN STAGE MODALITY ROUND`."""

import json
import sys
from dataclasses import asdict

from flows.executors.registry import check_executor, executor_of
from shards.errors import XdcError
from xdc_core.graph.run_stage import run_stage
from xdc_core.runs.node import Node
from xdc_core.runs.run import open_run


def main(root: str, stage: str, modality: str = "", number: str = "") -> int:
    """Return the exit code: 1 after an error, whose text is printed."""
    run = open_run(root)
    try:
        check_executor(run.config.runs_on)
        executor = executor_of(run.config.runs_on)
        record = run_stage(run, Node(stage, modality or None, int(number) if number else None), executor=executor)
    except XdcError as error:
        print(f"{type(error).__name__}: {error}")
        return 1
    print(json.dumps(asdict(record)))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
