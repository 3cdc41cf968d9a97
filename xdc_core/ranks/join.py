"""Take part in a run's trainings from another machine: `python -m xdc_core.ranks.join RUN`, until SIGTERM or Ctrl-C."""

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

from shards.errors import XdcError
from xdc_core.ranks.agent import JOIN
from xdc_core.ranks.job import FOLDER, JOB, read_values

LOOK_S = 2.0  # Between two looks for trainings.
ANSWER_S = 5.0  # For a connection with a stage.


def join(root: Path, ended: threading.Event, look: float = LOOK_S) -> None:
    """Start an agent for every training of a run that waits for machines, until `ended` is set.

    An agent whose training has ended or whose stage is gone ends by itself. One that ended otherwise, because it was
    killed for example, is started again as long as its training waits.
    """
    agents: dict[Path, subprocess.Popen[bytes]] = {}
    environment = os.environ | {JOIN: str(os.getpid())}
    while not ended.wait(look):
        for path in root.glob(f"{FOLDER}/*/{JOB}"):
            if path in agents and agents[path].poll() is None:
                continue
            try:
                values = read_values(path)
            except XdcError:  # It has just ended.
                continue
            # A stage that was killed leaves its job file.
            if values.get("machines", 1) > 1 and _answers(values["host"], values["port"]):
                print(f"{values.get('name')}: joining", flush=True)
                command = [sys.executable, "-m", "xdc_core.ranks.agent", str(path)]
                agents[path] = subprocess.Popen(command, env=environment, process_group=0)
    for agent in agents.values():
        agent.terminate()  # The ranks write a checkpoint.
    for agent in agents.values():
        agent.wait()


def _answers(host: str, port: int) -> bool:
    """Return whether a process listens there."""
    try:
        socket.create_connection((host, port), timeout=ANSWER_S).close()
    except OSError:
        return False
    return True


def main(arguments: list[str]) -> int:
    """Return the exit code: 0 after SIGTERM or Ctrl-C, 2 with wrong arguments."""
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        print(__doc__, file=sys.stderr)
        return 2
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    join(Path(arguments[0]), ended)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
