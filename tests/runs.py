"""Runs that tests make: their type, and how a configuration is changed and written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from xdc_core.config.load import FILE_NAME
from xdc_core.config.schema import Config
from xdc_core.config.write import commented_yaml
from xdc_core.graph.run_stage import run_stage
from xdc_core.graph.stages import all_nodes
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run, open_run

SECTIONS = ("corpus", "video", "audio", "extract", "cluster", "train", "runs_on")

# What the fixtures `make_run`, `copy_run` and `copy_of` give: called with settings to change.
MakeRun = Callable[..., Run]


def changed(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Configuration values with changes by name: `method`, `train_clips`, or just `clips_per_shard` where only one
    section has such a key. A dictionary for a section replaces the keys that it names.
    """
    values = {name: dict(value) if name in SECTIONS else value for name, value in values.items()}
    for name, value in changes.items():
        if name in SECTIONS:
            values[name] |= value
        elif name in Config.model_fields:
            values[name] = value
        else:
            homes = [(section, key) for section in SECTIONS for key in values[section] if name == f"{section}_{key}"]
            homes = homes or [(section, name) for section in SECTIONS if name in values[section]]
            assert len(homes) == 1, f"{name} is not the name of one setting: {homes}"
            values[homes[0][0]][homes[0][1]] = value
    return values


def write_run(root: Path, config: Config) -> Run:
    """A run directory with nothing but its configuration."""
    root.mkdir(parents=True, exist_ok=True)
    (root / FILE_NAME).write_text(commented_yaml(config), encoding="utf-8")
    return open_run(root)


def encoders_of_round_0(run: Run) -> dict[str, bytes]:
    """The encoders that a run has learnt in round 0, by modality. What lacks of it is done in this process."""
    for node in all_nodes(run.config):
        if node.round in (None, 0):
            run_stage(run, node)
    trained = {name: run.directory(Node("train", name, 0)) for name in run.config.modalities}
    return {name: (directory / "encoder.safetensors").read_bytes() for name, directory in trained.items()}
