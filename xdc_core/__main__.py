"""One stage with nothing around it, or some of a stage's units as its worker.

python -m xdc_core STAGE RUN [MODALITY] [ROUND]
python -m xdc_core unit JOB_JSON [N ...]        units on lines N (from 0) of the units.jsonl beside it; all without N
"""

import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path

from shards.errors import ConfigError, XdcError
from shards.log_level import follow_log_level
from shards.workers.job_file import read_job, read_units
from shards.workers.worker import do_units, note_error, note_error_in
from xdc_core.graph.rounds import as_stopped
from xdc_core.graph.run_stage import run_stage
from xdc_core.graph.stages import check_node
from xdc_core.runs.node import Node
from xdc_core.runs.run import open_run


def main(arguments: list[str]) -> int:
    """Returns the exit code: 0 done, 1 the stage failed, 2 wrong arguments or configuration."""
    follow_log_level()
    if len(arguments) >= 2 and arguments[0] == "unit" and all(text.isdigit() for text in arguments[2:]):
        return do_some_units(Path(arguments[1]), [int(text) for text in arguments[2:]] or None)
    if not 2 <= len(arguments) <= 4:
        print(__doc__, file=sys.stderr)
        return 2
    stage, root, *rest = arguments
    number = int(rest.pop()) if rest and rest[-1].isdigit() else None
    try:
        run, node = as_stopped(open_run(root)), Node(stage, rest[0] if rest else None, number)
        check_node(run, node)
        record = run_stage(run, node)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except XdcError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(asdict(record)))
    return 0


def do_some_units(path: Path, numbers: list[int] | None) -> int:
    """Do units of a job in this process. SIGTERM ends it after the current shard.

    Returns the exit code: 0 done, 1 an error, which is also noted for the stage, 143 ended by SIGTERM.
    """
    terminated: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: terminated.append(number))
    log = os.environ.get("XDC_UNIT_LOG", "this process's output")
    try:
        job = read_job(path)
    except XdcError as error:
        note_error_in(path.parent, error, log)
        print(error, file=sys.stderr)
        return 1
    try:
        for receipt in do_units(job, read_units(path, numbers), lambda: bool(terminated)):
            print(f"{receipt.shard}: {receipt.rows} rows, {receipt.rejects} rejects", flush=True)
    except Exception as error:  # noqa: BLE001 - the boundary of the process: the stage raises what is noted
        noted = note_error(job, error, log)
        print(noted.raised(job.name), file=sys.stderr)
        return 1
    return 128 + signal.SIGTERM if terminated else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
