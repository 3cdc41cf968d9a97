"""One rank of a training, which an agent starts: `python -m xdc_core.ranks.process JOB-FILE`."""

import os
import pkgutil
import platform
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from shards.errors import XdcError
from shards.log_level import follow_log_level
from xdc_core.compute.parent_death import die_with_parent
from xdc_core.ranks.agent import AGENT, log_of
from xdc_core.ranks.channel import Message, connect_channel
from xdc_core.ranks.job import job_of, read_values


def work_as_rank(path: Path) -> None:
    """Do the work of a job as one of its ranks. What it raises is sent to the stage first.

    All ranks are ended if the exception would come again. Otherwise the agents start them again.
    """
    job = job_of(read_values(path))
    channel = connect_channel(job.host, job.port, job.identity)
    host, log = platform.node(), str(log_of(job) or "")
    try:
        work = pkgutil.resolve_name(job.work)
        work(job.document, job.arguments, lambda value: channel.send(Message("value", value)))
    except XdcError as error:
        channel.send(Message("error", type(error).__name__, str(error)[:2000], host, log))
        channel.stop()
        raise
    except Exception as error:
        text = traceback.format_exception_only(error)[-1].strip()
        with suppress(RuntimeError):  # The stage may be gone.
            start = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
            value = {"rank": int(os.environ["RANK"]), "start": start, "killed": False}
            channel.send(Message("failure", value, text[:2000], host, log))
            if not may_pass(error):
                channel.stop()
        raise


def may_pass(error: Exception) -> bool:
    """Return whether the same work may succeed at another try.

    That is so for what torch raises if an exchange with another rank fails, a RuntimeError (without a class of its own
    in gloo), and for errors of the system. It is not so for a GPU without enough memory, or a defect of the program.
    """
    import torch

    return isinstance(error, RuntimeError | OSError) and not isinstance(error, torch.OutOfMemoryError)


def main() -> NoReturn:
    """End the process with 0, or 1 after an error."""
    code = 1
    follow_log_level()
    try:
        # The agent may already have died; then nothing else would end this process.
        die_with_parent(signal.SIGKILL, int(os.environ.get(AGENT) or os.getppid()))
        work_as_rank(Path(sys.argv[1]))
        code = 0
    except XdcError as error:
        print(error, file=sys.stderr)
    except Exception:  # noqa: BLE001 - the boundary of the process: the traceback goes to the log
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # See `leave_ranks`: destructors may hang.


if __name__ == "__main__":
    main()
