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
from xdc_core.compute.parent_death import die_with_parent
from xdc_core.ranks.agent import AGENT, log_of
from xdc_core.ranks.job import read_job
from xdc_core.ranks.mailbox import Letter, connect_mailbox


def work_as_rank(path: Path) -> None:
    """Do the work of a job as one of its ranks. What it raises is sent to the stage first.

    An XdcError would come again: all ranks are then ended. After another exception the agent starts them again.
    """
    job = read_job(path)
    mailbox = connect_mailbox(job.host, job.port)
    host, log = platform.node(), str(log_of(job) or "")
    try:
        work = pkgutil.resolve_name(job.work)
        work(job.document, job.arguments, lambda value: mailbox.send(Letter("value", value)))
    except XdcError as error:
        mailbox.send(Letter("error", type(error).__name__, str(error)[:2000], host, log))
        mailbox.stop()
        raise
    except Exception as error:
        text = traceback.format_exception_only(error)[-1].strip()
        with suppress(RuntimeError):  # The stage may be gone.
            where = {"rank": int(os.environ["RANK"]), "restart": int(os.environ["TORCHELASTIC_RESTART_COUNT"])}
            mailbox.send(Letter("failure", where, text[:2000], host, log))
        raise


def main() -> NoReturn:
    """End the process with 0, or 1 after an error."""
    code = 1
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
