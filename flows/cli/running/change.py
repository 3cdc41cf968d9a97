"""Changes of a run's xdc.yaml by `--set NAME=VALUE`."""

import itertools
from copy import deepcopy
from pathlib import Path
from typing import Any

from flows.cli.running.study import parse_overrides
from shards.errors import ConfigError
from shards.store.files import write_text
from xdc_core.config.load import FILE_NAME, check_file, read_yaml
from xdc_core.config.schema import Config
from xdc_core.config.write import commented_yaml
from xdc_core.inspection.difference import differing_settings
from xdc_core.study.changes import set_value

EARLIER = f"{FILE_NAME}.old"


def change_run(root: Path, texts: list[str]) -> list[str]:
    """Write settings, as NAME=VALUE texts, to a run's xdc.yaml. Return what changed, a line per setting.

    If xdc.yaml has been edited so that comments or the order of keys would be lost, it is kept as xdc.yaml.old, or
    xdc.yaml.old-2 and so on: what an earlier call has kept stays.

    Raises:
        ConfigError: a text is not NAME=VALUE, there is no such setting, or a value is wrong. Nothing is written.
    """
    file = root / FILE_NAME
    stored, values, before, after = _with_changes(file, texts)
    if not (lines := differences(before, after)):
        return []
    text = file.read_text(encoding="utf-8")
    notes = "\n".join(
        line[1:].strip() for line in itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    )
    if text != commented_yaml(_own(before, stored), notes):
        earlier = _free_name(root / EARLIER)
        write_text(earlier, text)
        lines.append(f"the file as it was, with its comments: {earlier}")
    write_text(file, commented_yaml(_own(after, values), notes))
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
    for name, value in parse_overrides(texts).items():
        set_value(values, name, value)
    return stored, values, before, check_file(file, values)


def _own(config: Config, values: dict[str, Any]) -> Config:
    """Return a configuration without what is not in xdc.yaml's values: the evaluations of evaluate.yaml."""
    sections = {name: getattr(config, name) for name in ("datasets", "evaluate")}
    return config.model_copy(
        update={name: {key: there[key] for key in values.get(name) or {}} for name, there in sections.items()}
    )
