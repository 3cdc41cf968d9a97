"""What of a machine works."""

import importlib.metadata
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any, Literal

from flows.prefect_defaults import set_defaults
from flows.temporary_server import answers, temporary_server
from shards.errors import XdcError

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


def finding(what: str, state: str, text: str) -> dict[str, str]:
    """`state`: works, absent (xdc does without) or broken (xdc cannot run)."""
    return {"what": what, "state": state, "text": text}


def examine() -> list[dict[str, str]]:
    """Look at everything; takes some seconds, for torch and faiss are loaded."""
    return [python(), *packages(), *codecs(), *torch_and_gpu(), faiss(), memory_and_disk(), prefect_server()]


def python() -> dict[str, str]:
    """The interpreter."""
    version = ".".join(map(str, sys.version_info[:3]))
    return finding("python", "works" if sys.version_info >= (3, 11) else "broken", f"{version} at {sys.executable}")


def packages() -> list[dict[str, str]]:
    """Versions; both faiss packages together overwrite each other."""
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
    """FFmpeg's libraries inside PyAV."""
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


def torch_and_gpu() -> list[dict[str, str]]:
    """PyTorch with torchaudio, and the GPUs it sees."""
    try:
        import torch
        import torchaudio  # noqa: F401 - whether it loads beside torch is the question
    except (ImportError, OSError) as error:
        return [finding("torch", "broken", f"does not load: {error}. Install with: make install")]
    if not torch.cuda.is_available():
        return [finding("GPU", "absent", f"torch {torch.__version__} finds none; the CPU is used")]
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return [finding("GPU", "works", f"{', '.join(names)}, CUDA {torch.version.cuda}")]


def faiss() -> dict[str, str]:
    """faiss in a process of its own, as the cluster stage has it."""
    import subprocess

    probe = "import faiss, numpy as np; faiss.Kmeans(4, 2, seed=1).train(np.eye(4, dtype='f4').repeat(40, 0)); "
    probe += "print(faiss.__version__, faiss.get_num_gpus())"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    if done.returncode:
        return finding("faiss", "broken", (done.stderr.strip().splitlines() or ["it crashed"])[-1])
    version, gpus = done.stdout.split()
    return finding("faiss", "works", f"{version}, k-means on {f'{gpus} GPUs' if gpus != '0' else 'the CPU'}")


def memory_and_disk() -> dict[str, str]:
    """Cores, memory, and the disk that holds this directory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    state = "works" if free > 1 else "broken"
    return finding("machine", state, f"{os.cpu_count()} cores, {memory:.0f} GiB memory, {free:.0f} GiB disk free here")


def prefect_server() -> dict[str, str]:
    """Whether a server is set, and answers."""
    set_defaults(quiet=True)
    try:
        from prefect.settings import PREFECT_API_URL
    except ImportError as error:
        return finding("Prefect", "broken", f"does not load: {error}. Install with: make install")
    if not (url := PREFECT_API_URL.value()):
        return temporary_prefect_server()
    if not answers(url):
        return finding("Prefect", "broken", f"the server at {url} does not answer: start it, or unset PREFECT_API_URL")
    return finding("Prefect", "works", f"server at {url}")


def temporary_prefect_server() -> dict[str, str]:
    """Start one, as a command without a server does: wrong versions of what it needs show only there."""
    started = time.monotonic()
    try:
        with temporary_server():
            seconds = time.monotonic() - started
            return finding("Prefect", "works", f"no server is set; a temporary one starts in {seconds:.0f} s")
    except XdcError as error:
        return finding("Prefect", "broken", str(error))


def print_findings(findings: list[dict[str, Any]]) -> None:
    """A line each."""
    marks = {"works": "ok", "absent": "--", "broken": "!!"}
    for row in findings:
        print(f"{marks[row['state']]}  {row['what']:<18} {row['text']}")
