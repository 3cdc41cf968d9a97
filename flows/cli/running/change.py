"""Changes of a run's xdc.yaml by `--set NAME=VALUE`."""

import itertools
import os
from copy import deepcopy
from pathlib import Path
from typing import Any

from flows.cli.running.study import parse_overrides
from shards.errors import ConfigError
from shards.store.files import write_text
from shards.store.lock import in_turn
from xdc_core.config.load import EVALUATIONS_FILE, FILE_NAME, check_file, read_yaml
from xdc_core.config.schema import Config
from xdc_core.config.write import commented_yaml
from xdc_core.inspection.difference import differing_settings
from xdc_core.study.changes import set_value

EARLIER = f"{FILE_NAME}.old"


def change_run(root: Path, texts: list[str]) -> list[str]:
    """Write settings, as NAME=VALUE texts, to a run's xdc.yaml. Return what changed, a line per setting.

    If xdc.yaml has been edited so that comments or the order of keys would be lost, it is kept as xdc.yaml.old, or
    xdc.yaml.old-2 and so on: what an earlier call has kept stays. If xdc.yaml is a symbolic link, its target is
    written. Of several processes, each adds its changes to those of the others.

    Raises:
        ConfigError: a text is not NAME=VALUE, there is no such setting, or a value is wrong. Nothing is written.
        Busy: another process does not end its change.
    """
    file = root / FILE_NAME
    _, _, before, after = _with_changes(file, texts)
    if before == after:
        return []
    with in_turn(file.resolve()):
        return _write_changes(file, texts)


def _write_changes(file: Path, texts: list[str]) -> list[str]:
    stored, values, before, after = _with_changes(file, texts)
    if not (lines := differences(before, after)):
        return []
    check_named_paths(file, before, after)
    text = file.read_text(encoding="utf-8")
    notes = "\n".join(
        line[1:].strip() for line in itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    )
    if text != commented_yaml(_own(before, stored), notes):
        earlier = _free_name(file.with_name(EARLIER))
        write_text(earlier, text)
        lines.append(f"the file as it was, with its comments: {earlier}")
    write_text(file.resolve(), commented_yaml(_own(after, values), notes))
    return lines


def _free_name(path: Path) -> Path:
    names = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    return path if not path.exists() else next(name for name in names if not name.exists())


def differences(before: Config, after: Config) -> list[str]:
    """Return a line per setting that differs: `train.lr: 0.03 -> 0.01`."""
    found = differing_settings(before.model_dump(mode="json"), after.model_dump(mode="json"))
    return [f"{name}: {old} -> {new}" for name, (old, new) in found]


def check_kept(root: Path, texts: list[str]) -> None:
    """Raise ConfigError if the run has other settings than these NAME=VALUE texts: `init --keep` changes nothing."""
    file = root / FILE_NAME
    _, _, before, after = _with_changes(file, texts)
    if lines := differences(before, after):
        raise ConfigError(
            f"{root} has other settings than --set ({'; '.join(lines)}). Choose another directory, or change the "
            f"settings in {file}."
        )


def _with_changes(file: Path, texts: list[str]) -> tuple[dict[str, Any], dict[str, Any], Config, Config]:
    """Return the file's values without and with these settings, and the configurations without and with them."""
    stored = read_yaml(file)
    before, values = check_file(file, stored), deepcopy(stored)
    changes = parse_settings(texts)
    _check_place(file, changes)
    for name, value in changes.items():
        set_value(values, name, value)
    return stored, values, before, check_file(file, values)


def parse_settings(texts: list[str]) -> dict[str, Any]:
    """Return settings from NAME=VALUE texts, as `parse_overrides`; names of modalities may be separated by commas."""
    changes = parse_overrides(texts)
    if isinstance(names := changes.get("modalities"), str):
        changes["modalities"] = names.split(",")
    return changes


def _check_place(file: Path, changes: dict[str, Any]) -> None:
    """Raise ConfigError if a change is of an entry in evaluate.yaml, which counts there and not in xdc.yaml."""
    asked = file.with_name(EVALUATIONS_FILE)
    there = read_yaml(asked) if asked.exists() else {}
    for name, value in changes.items():
        section, *entry = name.split(".")
        if section not in ("datasets", "evaluate") or not isinstance(entries := there.get(section), dict):
            continue
        named = entry[:1] or (list(value) if isinstance(value, dict) else [])
        if found := next((each for each in named if each in entries), None):
            raise ConfigError(
                f"{name}: {section}.{found} is in {asked}, and --set changes {file.name} only. Change it in "
                f"{asked.name}."
            )


def check_named_paths(file: Path, before: Config | None, after: Config) -> None:
    """Raise ConfigError if a setting names a file or folder that does not exist. `before`: what it names may be gone.

    file: the run's xdc.yaml. What a run makes itself, such as its corpus, need not exist.
    """
    earlier = _named_paths(before) if before is not None else {}
    for name, path in _named_paths(after).items():
        if path == earlier.get(name) or (file.parent / path).resolve().exists():
            continue
        here = f" From there it is {os.path.relpath(path, file.parent)}." if Path(path).exists() else ""
        raise ConfigError(
            f"{name}: {path!r} does not exist: a path is relative to the folder of {file}, so it is "
            f"{(file.parent / path).resolve()}.{here} Correct it."
        )


def _named_paths(config: Config) -> dict[str, str]:
    """Return the files and folders that a run reads, by the settings that name them."""
    named = {"corpus.videos": config.corpus.videos}
    named |= {f"corpus.features.{name}": path for name, path in config.corpus.features.items()}
    named |= {f"{name}.weights": getattr(config, name).weights for name in config.modalities}
    named |= {f"datasets.{name}.root": dataset.root for name, dataset in config.datasets.items()}
    return {name: path for name, path in named.items() if path is not None}


def _own(config: Config, values: dict[str, Any]) -> Config:
    """Return a configuration without what is not in xdc.yaml's values: the evaluations of evaluate.yaml."""
    sections = {name: getattr(config, name) for name in ("datasets", "evaluate")}
    return config.model_copy(
        update={name: {key: there[key] for key in values.get(name) or {}} for name, there in sections.items()}
    )
