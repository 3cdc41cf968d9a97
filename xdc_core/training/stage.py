"""The train stage: one process here, or several under torchrun."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from shards.errors import ConfigError, StageError
from shards.progress import Progress
from shards.stage import Outcome
from xdc_core.encoder_file import FILE_NAME
from xdc_core.parent_death import die_with_parent
from xdc_core.run import Node, Run
from xdc_core.training.metrics import read_metrics

LOG = "train.log"
METRICS_PREFIX = "metrics "


def train(run: Run, node: Node, out: Path, progress: Progress) -> Outcome:
    """Train one modality's encoder for a round.

    Leaves encoder.safetensors, metrics.jsonl and train.log. With `train.processes` of 1 the work is done in this
    process (whoever wants it in another starts one); with more, torchrun starts that many on this machine.

    Raises:
        StageError: a process failed (with the end of train.log), or SIGTERM came; the checkpoint is kept.
    """
    settings = run.config.train
    if settings.batch % settings.processes:
        raise ConfigError(
            f"train.batch ({settings.batch}) is no multiple of train.processes ({settings.processes}): every process "
            "must get equal work. Change one of them."
        )
    log = out / LOG

    def listen(line: dict[str, Any]) -> None:
        accuracy = ", ".join(f"{name} {value:.2f}" for name, value in line.items() if name.startswith("accuracy"))
        progress(line["step"] + 1, line["steps"], f"steps, loss {line['loss']:.3f}, {accuracy}")
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    if (out / FILE_NAME).exists():
        pass  # Killed between the end of the training and the commit: all is there.
    elif settings.processes == 1:
        from xdc_core.training.rank import Place, train_rank

        train_rank(run, node, out, Place(0, 1), listen)
    else:
        _torchrun(run, node, out, settings.processes, listen)
    for checkpoint in out.glob("checkpoint-*.pt"):
        checkpoint.unlink()  # The encoder is there; the optimiser's state is not carried over.
    lines = read_metrics(out / "metrics.jsonl")
    last = lines[-1]
    tail = lines[-max(1, len(lines) // 10) :]
    summary = {"steps": last["steps"], "clips": last["steps"] * settings.batch, "first_loss": lines[0]["loss"]}
    for name in ("loss", *(name for name in last if name.startswith("accuracy")), "clips_per_s"):
        summary[name] = round(sum(line[name] for line in tail) / len(tail), 4)
    return Outcome(last["steps"] * settings.batch, 0, summary)


def _torchrun(run: Run, node: Node, out: Path, processes: int, listen: Any) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += ["-m", "xdc_core.training", str(run.root), str(node.modality), str(node.round), str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    agent = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        # torchrun's workers live in sessions of their own: only the agent can end them all, so it must not outlive us.
        preexec_fn=lambda: die_with_parent(signal.SIGTERM),
    )
    assert agent.stdout is not None
    try:
        with (out / LOG).open("a", encoding="utf-8") as log:
            for text in agent.stdout:
                if text.startswith(METRICS_PREFIX):
                    listen(json.loads(text.removeprefix(METRICS_PREFIX)))
                else:
                    log.write(text)
                    log.flush()
        code = agent.wait()
    except BaseException:
        agent.terminate()
        try:
            agent.wait(15)
        except subprocess.TimeoutExpired:
            agent.kill()
        raise
    if code:
        tail = "".join((out / LOG).read_text(encoding="utf-8").splitlines(keepends=True)[-15:])
        raise StageError(f"{node}: torchrun ended with exit code {code}. The end of {out / LOG}:\n{tail}")
