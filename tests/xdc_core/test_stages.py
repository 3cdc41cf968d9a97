"""The registry of stages: what is said of a stage once, and what follows from it."""

import json
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field

from shards.section import NotHashed, Section, Since, hashed_settings
from shards.settings import CorpusSettings
from shards.store.manifest import fingerprint
from xdc_core.config.clustering import ClusterSettings, clustering_settings
from xdc_core.config.evaluation import EvaluationSettings
from xdc_core.config.load import load_preset, parse_config, preset_names
from xdc_core.config.methods import METHODS
from xdc_core.config.schema import Config, RunsOn
from xdc_core.config.selection import SelectSettings
from xdc_core.graph.stages import STAGES, all_nodes, asked_nodes, evaluation_nodes, inputs, settings_of
from xdc_core.modalities.modality import Modality
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run
from xdc_core.runs.task import task_of

# sha256 of the settings and inputs of all nodes, by preset, method and what the configuration has beside them. Another
# value means that finished directories of users become stale.
BEFORE = Path(__file__).with_name("hashed-settings.json")
# What presets set since then: finished runs have the default.
WITHOUT: dict[str, Any] = {"clips_per_component": None, "centre": False}
EVALUATIONS: dict[str, Any] = {
    "datasets": {
        "esc": {"layout": "esc10", "root": "x", "modality": "audio", "frames": 4},
        "ucf": {"layout": "ucf101", "root": "y", "modality": "video", "views": 3},
    },
    "evaluate": {
        "probe": {"data": "corpus", "modality": "video", "protocol": "fc"},
        "svm": {"data": "esc", "protocol": "svm"},
        "all": {"data": "ucf", "protocol": "all", "when": "end"},
        "all-corpus": {"data": "corpus", "modality": "audio", "protocol": "all"},
        "nmi": {"data": "esc", "protocol": "clusters", "when": "rounds"},
        "retrieval": {"data": "corpus", "protocol": "retrieval"},
    },
}


def configurations() -> Iterator[tuple[str, Config]]:
    """Every preset with every method, as it is, with evaluations, and with weights of a file."""
    for preset in preset_names():
        values = load_preset(preset)
        values["cluster"] = {**values.get("cluster", {}), "k": {"video": 5, "audio": 6, "joint": 7}, **WITHOUT}
        values["report"] = {**values.get("report", {}), "shared": False}
        weights = {"video": {**values.get("video", {}), "weights": "a.pth"}}
        for method in METHODS:
            for name, more in (("plain", {}), ("evaluations", _evaluations(preset)), ("weights", weights)):
                config = parse_config({**values, "method": method, "rounds": 2, **more}, "a test")
                yield f"{preset}, {method}, {name}", config


def with_changes(**changes: Any) -> Config:
    """The preset `tiny` with evaluations and with other changes."""
    values = next(config for name, config in configurations() if name == "tiny, xdc, evaluations").model_dump()
    changed = {name: values[name] | own if isinstance(own, dict) else own for name, own in changes.items()}
    return parse_config(values | changed, "a test")


def _evaluations(preset: str) -> dict[str, Any]:
    """The evaluations, of sounds of 4 frames; these cannot keep the time scale if a training view has 32 frames."""
    datasets = EVALUATIONS["datasets"]
    frames = 8 if preset == "paper-final" else 4
    return EVALUATIONS | {"datasets": datasets | {"esc": datasets["esc"] | {"frames": frames}}}


def every_node(config: Config) -> list[Node]:
    asked = [node for number in range(3) for node in evaluation_nodes(config, list(config.evaluate), number)]
    return list(dict.fromkeys([*all_nodes(config), *asked]))


def test_settings_and_inputs_are_those_of_directories_that_are_finished() -> None:
    now = {}
    for name, config in configurations():
        of_nodes = {
            str(node): [settings_of(config, node), sorted(map(str, inputs(config, node)))]
            for node in every_node(config)
        }
        now[name] = fingerprint(of_nodes)
    before = json.loads(BEFORE.read_text(encoding="utf-8"))
    assert len(before) == 105
    assert {name: now[name] for name in before} == before


def test_every_node_has_a_directory_in_the_folder_of_its_stage() -> None:
    config = with_changes(stop={"when": "agreement"}, train={"protect": 0.9})
    run, seen = Run(Path("/runs/a"), config), set()
    for node in (*every_node(config), *asked_nodes(config, 1)):
        stage = STAGES[node.stage]
        seen.add(stage.name)
        assert (node.round is not None) == stage.each_round, node
        assert (node.modality is not None) == (stage.of is not None), node
        if stage.folder:  # Directories of clips lie where the configuration says.
            folder = run.directory(node) if stage.of is None else run.directory(node).parent
            assert folder.name == stage.folder, node
    assert seen == set(STAGES)


def test_every_node_comes_after_all_that_it_reads() -> None:
    stops = {"when": "validation", "evaluation": "probe"}
    probe = {"data": "corpus", "modality": "video", "protocol": "fc", "when": "rounds", "test": ["validation"]}
    more = [
        ("agreement", with_changes(stop={"when": "agreement"}, last_training="from_first")),
        ("validation", with_changes(stop=stops, evaluate=EVALUATIONS["evaluate"] | {"probe": probe})),
    ]
    for name, config in (*configurations(), *more):
        nodes = list(all_nodes(config))
        for place, node in enumerate(nodes):
            assert set(inputs(config, node)) <= set(nodes[:place]), (name, node)


class Older(Section):
    """Settings as they were."""

    k: int = Field(3)


class Newer(Older):
    """The same with new fields."""

    algorithm: Annotated[str, Since("9.0.0")] = Field("kmeans")
    workers: Annotated[int, NotHashed()] = Field(0)


class Outer(Section):
    """A section within a section."""

    inner: Newer = Field(Newer())


def test_a_new_field_with_its_default_makes_no_finished_directory_stale() -> None:
    assert hashed_settings(Newer()) == hashed_settings(Older())
    assert hashed_settings(Outer()) == {"inner": {"k": 3}}


def test_a_new_field_with_another_value_enters_the_fingerprint() -> None:
    assert hashed_settings(Newer(algorithm="other")) == {"k": 3, "algorithm": "other"}
    assert hashed_settings(Outer(inner=Newer(algorithm="other"))) == {"inner": {"k": 3, "algorithm": "other"}}


def test_a_setting_of_clustering_without_effect_enters_no_fingerprint() -> None:
    def of_one(**values: Any) -> dict[str, Any]:
        return clustering_settings(ClusterSettings.model_validate(values))

    def of_all(**values: Any) -> dict[str, Any]:
        return clustering_settings(ClusterSettings.model_validate(values), joint=True)

    no_pca = {"pca": None, "whiten": False}
    assert of_one(centre=True) == of_one(joint="canonical") == of_one(joint_l2=False) == of_one()
    assert of_one(clips_per_component=15, **no_pca) == of_one(**no_pca)
    assert of_one(centre=True, **no_pca) != of_one(**no_pca)
    assert of_one(clips_per_component=15) != of_one()
    assert of_all(joint_l2=False) != of_all() != of_all(joint="canonical")
    # Canonical axes are of whitened features, with at most one component per 15 clips unless another number is set.
    for more in ({"clips_per_component": 15}, {"whiten": False}, {"centre": True}):
        assert of_all(joint="canonical", **more) == of_all(joint="canonical")
    for some in ({}, no_pca):
        limited = of_all(joint="canonical", clips_per_component=20, **some)
        assert limited != of_all(joint="canonical", **some)


def test_how_to_run_enters_no_fingerprint() -> None:
    assert hashed_settings(Newer(workers=5)) == {"k": 3}


@pytest.mark.parametrize("section", [CorpusSettings(), EvaluationSettings(protocol="fc", modality="video")])
def test_a_field_that_is_left_out_is_named_or_marked(section: Section) -> None:
    marked = {
        name
        for name, field in type(section).model_fields.items()
        if {type(mark) for mark in field.metadata} & {Since, NotHashed}
    }
    assert marked
    assert set(hashed_settings(section)) == set(type(section).model_fields) - marked


# What a stage's work is given and is not hashed: how it is done, what other protocols and sources use, and how its
# inputs were made, which is hashed with these. Of the views: the file of weights is always left out, the number of
# frames of video stands in its settings, too, and extraction neither mirrors nor masks.
HOW = {f"runs_on.{name}" for name in RunsOn.model_fields} | {"views.settings.weights"}
ENCODING = HOW | {"extract.batch", "extract.workers", "extract.calibration_batches"}
LABELLING = HOW - {"views.settings.weights"} | {"label.iterations", "label.temperature", "learn_splits"}
LABELLING |= {f"select.{name}" for name in SelectSettings.model_fields}
NOT_HASHED = {
    "init.video": HOW
    | {"views.frames", "views.settings.flip"}
    | {"extract.workers", "extract.precision", "extract.channels_last", "extract.views"},
    "extract.video": ENCODING | {"views.frames", "views.settings.flip"},
    "cluster.video": HOW - {"views.settings.weights"}
    | {"cluster.k", "cluster.joint_l2", "cluster.joint", "cluster.centre"},
    "label.video": LABELLING,
    "label.truth": LABELLING | {"label.assign"},
    "train.video": HOW
    | {"views.frames", "train.checkpoint_every", "train.log_every", "train.workers", "train.own_head_weight"},
    "embed.esc": ENCODING | {"extract.views", "views.settings.mask_frames", "views.settings.mask_mels"},
    "teachers": HOW - {"views.settings.weights"},
    # The seed, the splits and the thresholds decide which clips of a large corpus are measured; they enter with the
    # clusters.
    "report": HOW - {"views.settings.weights"}
    | {"rounds", "nodes", "configuration", "report.track", "seed", "learn_splits", "whiten", "videos", "layout"}
    | {f"select.{name}" for name in SelectSettings.model_fields},
    "stop": {"rule.evaluation", "rule.split"},  # What the rule `agreement` does not use.
}


def changed(value: Any) -> Any:
    """Another value of the same type."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return f"{value}x"
        case tuple() | list():
            return type(value)([changed(value[0]), *value[1:]] if value else [7])
        case dict():
            return {**value, "other": 7}
        case Node():
            return Node("other")
        case None:
            return 7
        case partial():
            return partial(str, "other")
    raise TypeError(type(value))


def without_effect(given: Any, hashed: Callable[[Any], dict[str, Any]], path: str = "") -> Iterator[str]:
    """The dotted names of what is given and can be changed without a change of what is hashed."""
    before = hashed(given)
    names = given.model_fields if isinstance(given, Section) else [field.name for field in fields(given)]
    for name in names:
        value = getattr(given, name)

        def replaced(new: Any, name: str = name) -> Any:
            if isinstance(given, Section):
                return given.model_copy(update={name: new})
            return replace(given, **{name: new})

        if isinstance(value, Modality) or name == "algorithm":  # Names of registries: hashed as names.
            continue
        if isinstance(value, Section) or is_dataclass(value):
            yield from without_effect(value, lambda inner, put=replaced: hashed(put(inner)), f"{path}{name}.")
        elif hashed(replaced(changed(value))) == before:
            yield f"{path}{name}"


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("name", NOT_HASHED)
def test_what_the_work_is_given_is_hashed_but_for_what_is_named_here(name: str) -> None:
    method = "supervised" if name == "label.truth" else "xdc"
    stop, protect = "agreement" if name == "stop" else "never", 0.9 if name == "teachers" else 0
    config = with_changes(method=method, stop={"when": stop}, train={"protect": protect})
    node = next(node for node in every_node(config) if node.name == name)
    given = STAGES[node.stage].settings(config, node)
    assert not any(isinstance(getattr(given, field.name), Config) for field in fields(given))
    assert set(without_effect(given, lambda changed: changed.hashed())) == NOT_HASHED[name]


def test_a_task_gives_no_directory_that_its_stage_does_not_declare() -> None:
    config = next(config for title, config in configurations() if title == "tiny, xdc, plain")
    task = task_of(STAGES["train"], Run(Path("/runs/a"), config), Node("train", "video", 1), Path("/out"))
    assert task.directory(Node("label", "audio", 1)) == Path("/runs/a/rounds/001/labels/audio")
    with pytest.raises(LookupError, match=r"train\.video of round 1 reads label\.video of round 1, which its stage"):
        task.directory(Node("label", "video", 1))
