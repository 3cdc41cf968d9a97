"""What of a machine works, and which flow runs Prefect still holds for running although their process is gone."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from flows.cli.machine.finding import finding
from flows.cli.machine.gpus import faiss, torch_and_gpus
from flows.server.dead_runs import find_unfinished, known_dead, mark_crashed
from flows.server.prefect_defaults import set_defaults
from flows.server.temporary import answers, temporary_server
from shards.errors import ConfigError, XdcError
from shards.store.lock_check import AT_ONCE, check_locks
from xdc_core.config.load import FILE_NAME
from xdc_core.runs.run import open_run

PACKAGES = (
    "torch", "torchaudio", "torchvision", "faiss-gpu", "faiss-cpu", "av", "pyarrow", "webdataset", "prefect", "fastapi",
)  # fmt: skip
CODECS: tuple[tuple[str, Literal["r", "w"]], ...] = (
    ("libx264", "w"),
    ("flac", "w"),
    ("aac", "w"),
    ("h264", "r"),
    ("vp9", "r"),
    ("av1", "r"),
    ("opus", "r"),
)


# State of the finding and what to do, by the state of a flow run's process.
REMEDIES = {
    "alive": ("works", ""),
    "gone": ("dead", "To mark it as Crashed: xdc doctor --repair"),
    "elsewhere": ("unseen", "Ask there; if that will never be there again: xdc doctor --repair --dead {id}"),
    "starting": ("unseen", "If nothing is starting it: xdc doctor --repair --dead {id}"),
}
REPAIRED = "It has a final state now. To go on: prefect flow-run retry {id}, or start the same again"


def examine(folders: Sequence[Path] = (), repair: bool = False, dead: Sequence[str] = ()) -> list[dict[str, str]]:
    """Examine everything; takes some seconds, for torch and faiss are loaded.

    `folders`: see `lock_folders`. `repair` and `dead`: see `flow_runs`.

    Raises:
        ConfigError: as `lock_folders` and `flow_runs`.
    """
    looked_at = lock_folders(folders)
    machine = [python(), *packages(), *codecs(), *torch_and_gpus(), faiss(), memory_and_disk(), *locks(looked_at)]
    return [*machine, *prefect_server(repair, dead)]


def python() -> dict[str, str]:
    """Return the finding on the interpreter."""
    version = ".".join(map(str, sys.version_info[:3]))
    return finding("python", "works" if sys.version_info >= (3, 11) else "broken", f"{version} at {sys.executable}")


def packages() -> list[dict[str, str]]:
    """Return the packages' versions; both faiss packages together overwrite each other."""
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    rows = [finding(name, "works", version) for name, version in found.items() if not name.startswith("faiss")]
    missing = [name for name in PACKAGES if name not in found and not name.startswith("faiss")]
    rows += [finding(name, "broken", "not installed: make install") for name in missing]
    if "faiss-gpu" in found and "faiss-cpu" in found:
        rows.append(finding("faiss", "broken", "faiss-gpu and faiss-cpu are both installed: remove both, install one"))
    return rows


def codecs() -> list[dict[str, str]]:
    """Return findings on FFmpeg's libraries inside PyAV."""
    try:
        import av
    except (ImportError, OSError) as error:
        return [finding("FFmpeg", "broken", f"PyAV does not load: {error}. Install with: make install")]
    rows = [finding("FFmpeg", "works", f"libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}")]
    for name, mode in CODECS:
        verb = "encodes" if mode == "w" else "decodes"
        try:
            av.codec.Codec(name, mode)
            rows.append(finding(f"{verb} {name}", "works", ""))
        except av.codec.codec.UnknownCodecError:
            needed = mode == "w" and name != "aac"
            rows.append(finding(f"{verb} {name}", "broken" if needed else "absent", "not in this build of PyAV"))
    return rows


def memory_and_disk() -> dict[str, str]:
    """Return the finding on cores, memory, and the disk that holds this directory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    state = "works" if free > 1 else "broken"
    return finding("machine", state, f"{os.cpu_count()} cores, {memory:.0f} GiB memory, {free:.0f} GiB disk free here")


def lock_folders(given: Sequence[Path]) -> list[Path]:
    """Name the folders whose locks are tried: this one, `runs`, `corpora`, and the given ones.

    Of a run also the folder in which its corpus lies; where that is not there yet, the nearest one above it.

    Raises:
        ConfigError: a given folder is not there, or a run's configuration is wrong.
    """
    folders = [Path.cwd(), *(path for path in (Path("runs"), Path("corpora")) if path.is_dir())]
    for folder in given:
        if not folder.is_dir():
            raise ConfigError(f"{folder} is no folder. Give folders in which directories are built, or runs.")
        folders.append(folder)
        if (folder / FILE_NAME).exists():
            above = open_run(folder).corpus.absolute().parents
            folders.append(next(path for path in above if path.is_dir()))
    return folders


def locks(folders: Sequence[Path]) -> list[dict[str, str]]:
    """Return whether locks hold between processes, a finding per folder."""
    rows = []
    for folder in folders:
        try:
            found = check_locks(folder)
            rows.append(finding("locks", "works" if found.sure else "absent", f"{folder}: {found.text}"))
        except OSError as error:
            rows.append(finding("locks", "absent", f"{folder}: not tried, nothing can be written there ({error})"))
        except subprocess.TimeoutExpired as error:
            rows.append(finding("locks", "absent", f"{folder}: no answer within {error.timeout:.0f} s. {AT_ONCE}"))
    return rows


def prefect_server(repair: bool, dead: Sequence[str]) -> list[dict[str, str]]:
    """Return whether a server is set and answers, and findings on its unfinished flow runs."""
    set_defaults(quiet=True)
    try:
        from prefect.settings import PREFECT_API_URL
    except ImportError as error:
        return [finding("Prefect", "broken", f"does not load: {error}. Install with: make install")]
    if not (url := PREFECT_API_URL.value()):
        return temporary_prefect_server(repair, dead)
    if not answers(url):
        return [
            finding("Prefect", "broken", f"the server at {url} does not answer: start it, or unset PREFECT_API_URL")
        ]
    return [finding("Prefect", "works", f"server at {url}"), *flow_runs(repair, dead)]


def temporary_prefect_server(repair: bool, dead: Sequence[str]) -> list[dict[str, str]]:
    """Start a server, as a command without one does: wrong versions of what it needs show only there."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    started = time.monotonic()
    try:
        with temporary_server() as url, temporary_settings({PREFECT_API_URL: url}):
            seconds = time.monotonic() - started
            works = finding("Prefect", "works", f"no server is set; a temporary one starts in {seconds:.0f} s")
            return [works, *flow_runs(repair, dead)]
    except ConfigError:
        raise
    except XdcError as error:
        return [finding("Prefect", "broken", str(error))]


def flow_runs(repair: bool, dead: Sequence[str]) -> list[dict[str, str]]:
    """List flow runs without a final state. `repair` gives one to those whose process is gone or that `dead` names.

    Raises:
        ConfigError: `dead` names none, or one that is alive.
    """
    from prefect.client.orchestration import get_client

    rows = []
    with get_client(sync_client=True) as client:
        unfinished = find_unfinished(client)
        named = known_dead(unfinished, dead)
        for run in unfinished:
            state, text = REMEDIES[run.process_state]
            if repair and (run.process_state == "gone" or run in named):
                state, text = ("repaired", REPAIRED) if mark_crashed(client, run) else ("works", "changed just now")
            text = text.format(id=run.id)
            rows.append(finding("flow run", state, f"{run.name} ({run.id}): {run.text}. {text}".strip()))
    return rows


def print_findings(findings: list[dict[str, Any]]) -> None:
    """Print a line per finding."""
    marks = {"works": "ok", "absent": "--", "broken": "!!", "unseen": "??", "dead": "xx", "repaired": "ok"}
    for row in findings:
        print(f"{marks[row['state']]}  {row['what']:<18} {row['text']}")
