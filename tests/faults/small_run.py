"""The run that the sweeps break: small, but with every stage, three shards, and inputs that are rejected."""

from pathlib import Path
from typing import Any

from shards.digits.corpus import write_digits
from shards.digits.settings import DigitsSettings
from xdc_core.config.load import FILE_NAME, load_preset, parse_config
from xdc_core.config.write import commented_yaml
from xdc_core.runs.run import Run, open_run

PROBE = {"protocol": "fc", "modality": "audio", "label": "label_speaker", "when": "rounds", "seeds": 2}
TUNED = {"protocol": "all", "modality": "audio", "label": "label_speaker", "when": "rounds"}
CHANGES: dict[str, Any] = {
    "rounds": 1,
    "cluster": {"k": {"video": 3, "audio": 3, "joint": 3}},
    "extract": {"batch": 8, "calibration_batches": 1},
    "train": {"clips": 48, "batch": 8, "checkpoint_every": 2, "log_every": 2, "protect": 0.9},
    "runs_on": {"device": "cpu", "threads": 1},
    "stop": {"when": "agreement", "agreement": 1.0, "rounds": 9},
    "evaluate": {"probe": PROBE, "tuned": TUNED | {"finetune": {"epochs": 2, "batch": 4}}},
}


def write_videos(folder: Path) -> Path:
    """The manifest of 18 videos, 6 of them of the split `test`, of one that is broken and of one that is not there."""
    manifest = write_digits(folder, DigitsSettings(clips=12, test_clips=6, workers=1))
    (folder / "broken.mp4").write_bytes(b"no video" * 100)
    width = manifest.read_text(encoding="utf-8").split("\n")[0].count(",")
    rows = [manifest.read_text(encoding="utf-8"), *(f"{name}.mp4{',' * width}\n" for name in ("broken", "gone"))]
    everything = folder.with_name(f"{folder.name}.csv")
    everything.write_text("".join(rows).replace("videos/", f"{folder}/videos/").replace("broken", f"{folder}/broken"))
    return everything


def write_small_run(root: Path, videos: Path, **train: Any) -> Run:
    """A run directory with nothing but its configuration; its corpus will lie in it."""
    values = load_preset("tiny")
    for section, given in CHANGES.items():
        values[section] = values.get(section, {}) | given if isinstance(given, dict) else given
    values["train"] |= train
    values["corpus"] = values.get("corpus", {}) | {"path": "corpus", "videos": str(videos), "clips_per_shard": 7}
    values["corpus"] |= {"workers": 1, "learn_splits": ["train"]}
    root.mkdir(parents=True)
    (root / FILE_NAME).write_text(commented_yaml(parse_config(values, "the sweep's settings")), encoding="utf-8")
    return open_run(root)
