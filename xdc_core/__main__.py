"""`python -m xdc_core STAGE RUN [MODALITY] [ROUND]`: one stage, with nothing around it."""

import json
import sys
from dataclasses import asdict

from shards.errors import ConfigError, XdcError
from xdc_core.graph.run_stage import run_stage
from xdc_core.graph.stages import check_node
from xdc_core.runs.node import Node
from xdc_core.runs.run import open_run


def main(arguments: list[str]) -> int:
    """Returns the exit code: 0 done, 1 the stage failed, 2 wrong arguments or configuration."""
    if not 2 <= len(arguments) <= 4:
        print(__doc__, file=sys.stderr)
        return 2
    stage, root, *rest = arguments
    number = int(rest.pop()) if rest and rest[-1].isdigit() else None
    try:
        run, node = open_run(root), Node(stage, rest[0] if rest else None, number)
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
