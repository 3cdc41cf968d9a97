"""The command `xdc compare`: its options become a study.yaml. It imports what it needs when it runs."""

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.options import JsonOption, errors_as_exit_codes

if TYPE_CHECKING:
    from xdc_core.study.settings import StudySettings

PATHS = ("speech", "videos", "corpus", "probe_on")


def compare(
    study: Annotated[
        Path, typer.Argument(metavar="STUDY", help="the study's directory (created if it does not exist)")
    ],
    videos: Annotated[
        Path | None, typer.Option(help="folder or manifest of your own videos  [default: audio-visual digits]")
    ] = None,
    corpus: Annotated[
        Path | None, typer.Option(help="a corpus that exists: a directory of clips, instead of --videos")
    ] = None,
    layout: Annotated[str | None, typer.Option(help="layout of --videos, if they are a data set")] = None,
    labels: Annotated[
        str | None, typer.Option(help="label columns to probe, separated by commas  [default: label]")
    ] = None,
    learn: Annotated[str | None, typer.Option(help="splits to learn from, or `all`  [default: train]")] = None,
    validation: Annotated[str | None, typer.Option(help="split for choices, or `none`  [default: validation]")] = None,
    test: Annotated[str | None, typer.Option(help="split for the final measurement  [default: test]")] = None,
    probe_on: Annotated[
        Path | None, typer.Option(help="labelled recordings to probe on instead: a manifest, or a data set's folder")
    ] = None,
    probe_layout: Annotated[str | None, typer.Option(help="layout of --probe-on  [default: manifest]")] = None,
    probe_setting: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="setting of that data set  [default: views=1]")
    ] = None,
    probes: Annotated[
        str | None,
        typer.Option(help="fc, knn, svm or of a package, separated by commas  [default: fc; own corpora: fc,knn]"),
    ] = None,
    every: Annotated[
        int | None, typer.Option(help="probe in every so many rounds only, and after the last one  [default: 1]")
    ] = None,
    retrieval: Annotated[
        str | None,
        typer.Option(
            help="measure how well a clip's sound is found by its picture and the picture by its sound: never, end "
            "(untrained and after the last round) or rounds (in every round)  [default: never; own corpora with splits "
            "and without --probe-on: end]"
        ),
    ] = None,
    speech: Annotated[
        Path | None, typer.Option(help="digits: recordings in the layout of the Free Spoken Digit Dataset")
    ] = None,
    draws: Annotated[
        int | None, typer.Option(help="digits: number of corpora over which the seeds are distributed  [default: 2]")
    ] = None,
    contenders: Annotated[
        str | None,
        typer.Option(
            help="what is compared, separated by commas: supervised, sdc, mdc, cdc, cdc-canonical, xdc, shuffled, "
            "xdc-protected, or one of --contender  [default: all; xdc-protected only with presets that protect]"
        ),
    ] = None,
    contender: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=SETTING=VALUE,...",
            help="a contender of your own, such as slow=train.lr=0.0005; may be repeated",
        ),
    ] = None,
    main: Annotated[
        str | None,
        typer.Option(
            help="contenders whose worst run is compared with the best run of all others without labels, separated by "
            "commas  [default: xdc; with presets that protect also xdc-protected]"
        ),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="N|NAME=N,...", help="runs per contender, or xdc=5,default=3  [default: 3]")
    ] = None,
    first_seed: Annotated[
        int | None, typer.Option(help="seed of the first run; machines can share the seeds  [default: 0]")
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="training rounds  [default: the preset's]")] = None,
    vary: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=V1,V2",
            help="one setting and its values: every contender is run with each, such as digits.nuisance=0,0.15,0.4",
        ),
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="setting of all runs, such as train.lr=0.001; may be repeated"),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="preset of the runs: see xdc init --help  [default: digits; own corpora: tiny]")
    ] = None,
    cpu_hours: Annotated[
        float | None,
        typer.Option(
            help="start nothing further when the stages of the study's runs have taken so many CPU hours in all; "
            "making and cutting clips, and killed attempts, are not counted"
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare the methods, a control and baselines, on audio-visual digits or your own corpus. Continues a study."""
    with errors_as_exit_codes():
        from flows.cli.running.compare import print_study, run_study

        given: dict[str, Any] = {
            "videos": videos,
            "corpus": corpus,
            "layout": layout,
            "labels": _names(labels),
            "learn": _names(learn),
            "validation": validation,
            "test": test,
            "probe_on": probe_on,
            "probe_layout": probe_layout,
            "probe_settings": parse_overrides(probe_setting or []) or None,
            "probes": _names(probes),
            "every": every,
            "retrieval": retrieval,
            "speech": speech,
            "draws": draws,
            "contenders": _names(contenders),
            "own_contenders": parse_contenders(contender or []) or None,
            "main": _names(main),
            "seeds": parse_seeds(seeds) if seeds else None,
            "first_seed": first_seed,
            "rounds": rounds,
            "vary": parse_overrides([vary], several=True) if vary else None,
            "change": parse_overrides(change or []) or None,
            "preset": preset,
        }
        choices = {name: value for name, value in given.items() if value is not None}
        if learn == "all":
            choices["learn"] = None
        if validation == "none":
            choices["validation"] = None
        results = run_study(study, study_of(study, choices), cpu_hours=cpu_hours)
        if as_json:
            print(json.dumps(results, indent=2))
        else:
            print_study(study, results)


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(text.split(","))


def study_of(root: Path, choices: dict[str, Any]) -> "StudySettings":
    """Return the study in `root` with these choices, whose paths are relative to the working directory.

    Raises:
        ConfigError: the study has begun with other settings, or a value is wrong.
    """
    from xdc_core.study.changes import choose_study

    paths = {name: os.path.relpath(choices[name], root) for name in PATHS if choices.get(name)}
    return choose_study(root, choices | paths)


def parse_overrides(texts: list[str], several: bool = False) -> dict[str, Any]:
    """Return NAME=VALUE texts as a dictionary of YAML values; with `several`, values are separated by commas.

    Raises:
        ConfigError: a text has no =, or its value is not YAML.
    """
    import yaml

    from shards.errors import ConfigError

    overrides: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise ConfigError(f"{text!r}: NAME=VALUE was expected, as in train.lr=0.001.")
        if name in overrides:
            raise ConfigError(f"{text!r}: {name} is given twice.")
        try:
            overrides[name] = tuple(yaml.safe_load(f"[{value}]")) if several else yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"{text!r}: the value is not valid YAML.") from error
    return overrides


def parse_contenders(texts: list[str]) -> dict[str, dict[str, Any]]:
    """Return NAME=SETTING=VALUE,SETTING=VALUE texts as the settings of contenders. Values may contain commas.

    Raises:
        ConfigError: a text is not of this form.
    """
    from shards.errors import ConfigError

    contenders: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, equals, settings = text.partition("=")
        if not equals or not name or "=" not in settings:
            raise ConfigError(f"{text!r}: NAME=SETTING=VALUE,... was expected, as in slow=train.lr=0.0005.")
        contenders[name] = parse_overrides(re.split(r",(?=[a-z_][\w.]*=)", settings))
    return contenders


def parse_seeds(text: str) -> int | dict[str, Any]:
    """Return a number of runs, or numbers by contender. Raises ConfigError if it is neither."""
    from shards.errors import ConfigError

    if "=" in text:
        return parse_overrides(text.split(","))
    if not text.isdecimal():
        raise ConfigError(f"--seeds {text}: a number was expected, or numbers by contender, as in xdc=5,default=3.")
    return int(text)
