"""Everything that XDC does on a GPU, run once: for a machine with one, in at most 8 minutes.

    make gpu                     install, then run it
    make gpu PYTHON=python3      with this interpreter and the packages that it has

    python benchmarks/gpu_check.py [--out runs/gpu] [--limit 480] [--device cuda] [--quick] [--without figures]

Every part is a process of its own. After each, OUT/gpu.json is written; what a part printed is in OUT/logs. A part
whose packages are missing is `not run: needs X`; when the time is over the part that runs is stopped, and the rest is
`not run: out of time`. --without leaves out the parts whose names begin with this word. Ends with 0, with 1 if a part
failed, with 2 if there is no GPU that PyTorch can use.
--device cpu --quick tries the script itself. Needs nothing beyond the standard library.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
GRACE_S = 5.0  # Between SIGTERM and SIGKILL.
METHOD = ("torch", "torchaudio", "av", "numpy", "pyarrow", "pydantic", "yaml", "safetensors")
# Variables that name a server, its database, or how to log in.
USERS_PREFECT = (
    "PREFECT_API_",
    "PREFECT_SERVER_API_",
    "PREFECT_SERVER_DATABASE_",
    "PREFECT_PROFILE",
    "PREFECT_CLIENT_CUSTOM_",
)
CLUSTERING = ("faiss", "numpy", "pyarrow", "pydantic", "yaml", "sklearn")
FINDINGS = "import json; from flows.cli.machine.gpus import {0}; found = {0}(); print(json.dumps(found))"
PROBE = (
    "import json, torch; from xdc_core.compute.device import find_gpus; found = find_gpus(1); "
    "name = torch.cuda.get_device_name(found.working[0]) if found.working else None; "
    "print(json.dumps({'gpu': name, 'refused': found.refused, 'torch': torch.__version__, 'cuda': torch.version.cuda}))"
)


@dataclass(frozen=True)
class Part:
    """Commands (arguments of Python) that are run one after the other, and what they need: packages, and other parts.

    `wrong` says of the JSON that they printed last what is not as it should be on a GPU ("": nothing).
    """

    name: str
    commands: list[list[str]]
    packages: tuple[str, ...]
    after: tuple[str, ...] = ()
    wrong: Callable[[list[Any]], str] = lambda _: ""


@dataclass
class Result:
    """`state`: works, failed, stopped, or not run. `facts`: the last JSON that each command printed."""

    name: str
    state: str
    why: str = ""
    seconds: float = 0.0
    facts: list[Any] = field(default_factory=list)


def parts(work: Path, device: str, quick: bool) -> Iterator[Part]:
    """What matters most comes first."""
    run, demo = work / "run", work / "demo"

    def stage(*words: str) -> list[str]:
        return ["-m", "xdc_core", words[0], str(run), *words[1:]]

    yield Part(
        "doctor: GPU", [["-c", FINDINGS.format("torch_and_gpus")]], ("torch", "torchaudio", "numpy"), wrong=not_broken
    )
    yield Part("doctor: k-means", [["-c", FINDINGS.format("faiss")]], ("faiss", "numpy"), wrong=doctor_clustered)
    small = ["--set", f"runs_on.device={device}", "cluster.k={video: 8, audio: 8}"]
    encoders = [] if quick else ["video.encoder=r2plus1d_18", "audio.encoder=audio_resnet_18"]
    half = ["train.precision=bfloat16", "extract.precision=bfloat16", "train.workers=2", "extract.workers=2"]
    clips = 60 if quick else 400
    half += [f"train.clips={160 if quick else 3200}", *encoders]
    made = ["benchmarks/small_run.py", str(run), "--clips", str(clips), "--stages"]
    yield Part("digits and shard", [[*made, "shard", *small, *half]], (*METHOD, "webdataset"))
    both = ("video", "audio")
    yield Part("init", [stage("init", name) for name in both], METHOD, ("digits and shard",))
    yield Part("extract", [stage("extract", name, "0") for name in both], METHOD, ("init",))
    yield Part("cluster", [stage("cluster", name, "0") for name in both], CLUSTERING, ("extract",), clustered)
    yield Part("label", [stage("label", name, "0") for name in both], CLUSTERING, ("cluster",))
    yield Part("train: bfloat16, channels last", [stage("train", "audio", "0")], METHOD, ("label",))
    compiling = [*made, "none", *small, *half, "train.compile=true"]
    yield Part(
        "train: bfloat16, channels last, compiled", [compiling, stage("train", "video", "0")], METHOD, ("label",)
    )
    gpu = ["benchmarks/gpu.py", "--device", device, "--out", str(work.parent / "figures.json")]
    yield Part("figures: quick", [[*gpu, "--quick", "--no-compile"]], ("torch",))
    rounds = ["--set", f"runs_on.device={device}", "rounds=2", f"train.clips={160 if quick else 3200}"]
    rounds += ["cluster.k={video: 8, audio: 8}"]
    yield Part(
        "demo: two rounds",
        [
            ["benchmarks/small_run.py", str(demo), "--clips", str(clips), "--stages", "none", *rounds],
            ["benchmarks/gpu_check.py", "--rounds", str(demo)],
        ],
        (*METHOD, *CLUSTERING, "webdataset", "scipy", "jinja2", "matplotlib"),
    )
    if not quick:
        yield Part("figures: gpu.py", [gpu], ("torch",))


def not_broken(facts: list[Any]) -> str:
    """What does not work of what doctor found."""
    return "; ".join(row["text"] for row in facts[0] if row["state"] != "works")


def doctor_clustered(facts: list[Any]) -> str:
    """Why doctor's k-means was not on a GPU."""
    return "" if "GPUs" in facts[0]["text"] else facts[0]["text"]


def clustered(facts: list[Any]) -> str:
    """Where k-means ran that was not on a GPU."""
    return "; ".join(
        sorted({f"k-means ran on {fact['summary']['on']}" for fact in facts if "GPUs" not in fact["summary"]["on"]})
    )


def rounds(root: Path) -> None:
    """Work off a run: with Prefect, as `xdc run` does, where it is installed, else stage by stage."""
    if not missing(("prefect", "fastapi", "typer", "rich")):
        command = [sys.executable, "-m", "flows.cli", "run", str(root)]
        subprocess.run(command, env=with_own_prefect(os.environ, root.parent / "prefect"), check=True)
        return
    from xdc_core.graph.run_stage import run_stage
    from xdc_core.graph.stages import all_nodes
    from xdc_core.runs.run import open_run

    run = open_run(root)
    for node in all_nodes(run.config):
        if node.stage in ("cluster", "label"):  # faiss brings other CUDA libraries than torch: no process has both.
            words = [node.stage, str(root), str(node.modality), str(node.round)]
            subprocess.run([sys.executable, "-m", "xdc_core", *words], check=True)
        else:
            run_stage(run, node)
            print(node, flush=True)


def with_own_prefect(variables: Mapping[str, str], home: Path) -> dict[str, str]:
    """An environment in which Prefect starts a server with records in `home`: the user's own servers get nothing."""
    return {name: value for name, value in variables.items() if not name.startswith(USERS_PREFECT)} | {
        "PREFECT_HOME": str(home)
    }


def missing(packages: tuple[str, ...]) -> list[str]:
    """Which of these the interpreter does not have."""
    from importlib.util import find_spec

    return [name for name in packages if find_spec(name) is None]


def environment() -> dict[str, str]:
    """With this checkout first among what is imported."""
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}


def run_command(command: list[str], log: Path, seconds: float) -> tuple[int | None, str]:
    """Run Python with these arguments. Returns its exit code (None: stopped after `seconds`) and its output."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        start = file.tell()
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(max(0.0, seconds))
        except subprocess.TimeoutExpired:
            code = None
        finally:
            end_group(process)
    return code, log.read_bytes()[start:].decode(errors="replace")


def end_group(process: "subprocess.Popen[bytes]") -> None:
    """End all of a process's group that is left: by SIGTERM, and after `GRACE_S` by SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        deadline = time.monotonic() + GRACE_S
        while group_is_there(process) and time.monotonic() < deadline:
            time.sleep(0.05)


def group_is_there(process: "subprocess.Popen[bytes]") -> bool:
    """Whether the process, or one that it has started in its group, is still there."""
    process.poll()  # Else it would be there until it is waited for.
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def last_json(output: str) -> Any:
    """The last line that is a JSON object or list; None without one."""
    for line in reversed(output.splitlines()):
        if line.startswith(("{", "[")):
            with contextlib.suppress(ValueError):
                return json.loads(line)
    return None


def run_part(part: Part, logs: Path, seconds: float) -> Result:
    """All commands of a part within `seconds`."""
    began = time.monotonic()
    result = Result(part.name, "works")
    log = logs / f"{re.sub('[^a-z0-9]+', '-', part.name.lower())}.log"
    for command in part.commands:
        code, output = run_command(command, log, seconds - (time.monotonic() - began))
        result.seconds = round(time.monotonic() - began, 1)
        if (found := last_json(output)) is not None:
            result.facts.append(found)
        if code is None:
            result.state, result.why = "stopped", "out of time"
            return result
        if code:
            lines = output.strip().splitlines() or [f"exit code {code}"]
            absent = re.search(r"No module named '([^']+)'", output)
            result.state = "not run" if absent else "failed"
            result.why = f"needs {absent[1]}" if absent else f"{lines[-1]} (see {log})"
            return result
    return result


def check(
    out: Path, device: str, quick: bool, limit_s: float, machine: dict[str, Any], without: tuple[str, ...] = ()
) -> list[Result]:
    """Run all parts within `limit_s`, and write gpu.json after each. without: beginnings of names to leave out."""
    began = time.monotonic()
    work, logs = out / "work", out / "logs"
    for folder in (work, logs):  # What an earlier call left would be reused, not run.
        shutil.rmtree(folder, ignore_errors=True)
    found: dict[str, Any] = {"machine": machine, "device": device, "quick": quick, "parts": []}
    results: list[Result] = []
    todo = [part for part in parts(work, device, quick) if not part.name.startswith(without)]

    def left() -> float:
        return limit_s - 2 * GRACE_S - (time.monotonic() - began)

    for part in todo:
        states = {result.name: result for result in results}
        waits = [name for name in part.after if states[name].state != "works"]
        if absent := missing(part.packages):
            result = Result(part.name, "not run", f"needs {', '.join(absent)}")
        elif waits:
            result = Result(part.name, "not run", f"{waits[0]}: {states[waits[0]].why or states[waits[0]].state}")
        elif left() <= 0:
            result = Result(part.name, "not run", "out of time")
        else:
            result = run_part(part, logs, left())
            if result.state == "works" and device != "cpu" and (why := part.wrong(result.facts)):
                result.state, result.why = "failed", why
        results.append(result)
        print(line(result), flush=True)
        found["parts"] = [asdict(each) for each in results]
        write(out / "gpu.json", found)
    return results


def line(result: Result) -> str:
    """A row of the table."""
    words = f"{result.state}: {result.why}" if result.why else result.state
    return f"{result.name:<32}{result.seconds:>8.1f} s  {words}{notes(result.facts)}"


def notes(facts: list[Any]) -> str:
    """The device, the speed and the loss that stages report, for the table."""
    shown = []
    for fact in facts:
        summary = fact.get("summary", {}) if isinstance(fact, dict) else {}
        shown += [f"{name} {summary[name]}" for name in ("device", "on", "clips_per_s", "loss") if name in summary]
    return f"   {', '.join(dict.fromkeys(shown))}" if shown else ""


def write(path: Path, found: dict[str, Any]) -> None:
    """Whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def probe(out: Path) -> tuple[dict[str, Any], str]:
    """The GPU that PyTorch can use, and why there is none ("": there is one)."""
    if missing(("torch",)):
        return {}, f"{sys.executable} has no torch"
    code, output = run_command(["-c", PROBE], out / "logs" / "probe.log", 120)
    found = last_json(output)
    if code or not isinstance(found, dict):
        return {}, (output.strip().splitlines() or ["torch does not load"])[-1]
    if found["gpu"]:
        return found, ""
    return found, "; ".join(found["refused"]) or f"torch {found['torch']} finds none"


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--limit", type=float, default=480, help="seconds, for everything")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--rounds", type=Path, metavar="RUN", help="only work off this run, as the last parts do")
    parser.add_argument("--without", action="append", default=[], metavar="WORD", help="parts to leave out")
    given = parser.parse_args()
    if given.rounds:
        rounds(given.rounds)
        return 0
    began, out, machine = time.monotonic(), given.out.resolve(), {}
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # So that the part that runs is ended.
    if given.device == "cuda":
        machine, why = probe(out)
        if why:
            print(f"No GPU: {why}. Nothing was run.", file=sys.stderr)
            return 2
        print(json.dumps(machine))
    results = check(
        out, given.device, given.quick, given.limit - (time.monotonic() - began), machine, tuple(given.without)
    )
    print(f"{out / 'gpu.json'} has the figures.")
    return 1 if any(result.state == "failed" for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
