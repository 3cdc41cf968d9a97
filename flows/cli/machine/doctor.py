"""Check what works on a machine, and which flow runs Prefect considers running although their process is gone."""

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
from flows.cli.machine.object_store import object_stores
from flows.executors.registry import check_executor
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
    "elsewhere": ("unseen", "Ask there; if that machine will never return: xdc doctor --repair --dead {id}"),
    "starting": ("unseen", "If nothing is starting it: xdc doctor --repair --dead {id}"),
}
REPAIRED = "It has a final state now. To continue: prefect flow-run retry {id}, or start the same flow again"


def examine(folders: Sequence[Path] = (), repair: bool = False, dead: Sequence[str] = ()) -> list[dict[str, str]]:
    """Run all checks. This takes some seconds, because torch and faiss are loaded.

    `folders`: see `lock_folders`. `repair` and `dead`: see `flow_runs`.

    Raises:
        ConfigError: as `lock_folders` and `flow_runs`.
    """
    looked_at = lock_folders(folders)
    machine = [python(), *packages(), *codecs(), *torch_and_gpus(), faiss(), memory_and_disk(), *locks(looked_at)]
    return [*machine, *executors(folders), *object_stores(folders), *prefect_server(repair, dead)]


def python() -> dict[str, str]:
    """Return the finding on the interpreter."""
    version = ".".join(map(str, sys.version_info[:3]))
    return finding("python", "works" if sys.version_info >= (3, 11) else "broken", f"{version} at {sys.executable}")


def packages() -> list[dict[str, str]]:
    """Return the packages' versions. The two faiss packages overwrite each other if both are installed."""
    versions: dict[str, str] = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    rows = [finding(name, "works", version) for name, version in versions.items() if not name.startswith("faiss")]
    missing = [name for name in PACKAGES if name not in versions and not name.startswith("faiss")]
    rows += [finding(name, "broken", "not installed: make install") for name in missing]
    if "faiss-gpu" in versions and "faiss-cpu" in versions:
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
    """Return the folders in which locks are tested: this one, `runs`, `corpora`, and the given ones.

    For a run also the folder of its corpus or, if that does not exist yet, the nearest existing one above it.

    Raises:
        ConfigError: a given folder does not exist, or a run's configuration is wrong.
    """
    folders = [Path.cwd(), *(path for path in (Path("runs"), Path("corpora")) if path.is_dir())]
    for folder in given:
        if not folder.is_dir():
            raise ConfigError(f"{folder} is not a folder. Give folders in which directories are built, or runs.")
        folders.append(folder)
        if (folder / FILE_NAME).exists():
            above = open_run(folder).corpus.absolute().parents
            folders.append(next(path for path in above if path.is_dir()))
    return folders


def locks(folders: Sequence[Path]) -> list[dict[str, str]]:
    """Return a finding per folder: whether locks hold between processes."""
    rows = []
    for folder in folders:
        try:
            check = check_locks(folder)
            rows.append(finding("locks", "works" if check.sure else "absent", f"{folder}: {check.text}"))
        except OSError as error:
            rows.append(finding("locks", "absent", f"{folder}: not tested, nothing can be written there ({error})"))
        except subprocess.TimeoutExpired as error:
            rows.append(finding("locks", "absent", f"{folder}: no answer within {error.timeout:.0f} s. {AT_ONCE}"))
    return rows


def executors(folders: Sequence[Path]) -> list[dict[str, str]]:
    """Return a finding per run among the folders: whether its executor can be used here."""
    rows = []
    for folder in folders:
        if not (folder / FILE_NAME).exists():
            continue
        runs_on = open_run(folder).config.runs_on
        try:
            check_executor(runs_on)
            rows.append(finding("executor", "works", f"{runs_on.executor}, of {folder}"))
        except ConfigError as error:
            rows.append(finding("executor", "broken", f"{folder}: {error}"))
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
    """Start a server, as a command does if none is set: only this shows wrong versions of its dependencies."""
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
    """Return findings on flow runs without a final state. `repair` sets one if the process is gone or in `dead`.

    Raises:
        ConfigError: `dead` names no such flow run, or one that is alive.
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
