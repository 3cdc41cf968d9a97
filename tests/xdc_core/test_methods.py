"""Who supervises whom, as in Figure 1 of the XDC paper, and the baseline beside it; the graph follows."""

from pathlib import Path

import pytest

from shards.errors import ConfigError
from tests.installed_package import install_package
from xdc_core.config.load import parse_config
from xdc_core.config.methods import METHODS, TRUTH, clustered_from, clustered_sources, heads, label_sources
from xdc_core.config.schema import Config
from xdc_core.graph.stages import all_nodes, inputs, round_nodes, setup_nodes
from xdc_core.runs.node import Node, encoder_node

# Figure 1: what the heads of (the video encoder, the audio encoder) predict.
FIGURE_1 = {
    "sdc": ({"video"}, {"audio"}),
    "mdc": ({"video", "audio"}, {"audio", "video"}),
    "cdc": ({"joint"}, {"joint"}),
    "xdc": ({"audio"}, {"video"}),
}


def config_of(method: str, rounds: int = 2) -> Config:
    return parse_config({"method": method, "rounds": rounds}, "a test")


def test_there_are_the_four_methods_of_the_paper_and_the_supervised_baseline() -> None:
    assert set(METHODS) == {*FIGURE_1, "supervised"}


def test_the_baseline_learns_from_labels_and_clusters_nothing() -> None:
    assert heads("supervised") == {"video": (TRUTH,), "audio": (TRUTH,)}
    assert (label_sources("supervised"), clustered_sources("supervised")) == ((TRUTH,), ())
    stages = [node.stage for node in round_nodes(config_of("supervised"), 1)]
    assert "cluster" not in stages
    assert inputs(config_of("supervised"), Node("label", TRUTH, 1)) == [Node("shard")]


@pytest.mark.parametrize("method", FIGURE_1)
def test_heads_are_those_of_figure_1(method: str) -> None:
    video, audio = FIGURE_1[method]
    assert {modality: set(sources) for modality, sources in heads(method).items()} == {"video": video, "audio": audio}
    assert all(len(set(sources)) == len(sources) for sources in heads(method).values())


@pytest.mark.parametrize("method", FIGURE_1)
def test_only_what_some_head_predicts_is_clustered(method: str) -> None:
    video, audio = FIGURE_1[method]
    assert set(label_sources(method)) == video | audio
    assert len(label_sources(method)) == len(video | audio)


def test_joint_clusters_come_from_both_modalities_and_others_from_their_own() -> None:
    assert clustered_from("joint") == ("video", "audio")
    assert clustered_from("video") == ("video",)
    assert clustered_from("audio") == ("audio",)


@pytest.mark.parametrize("method", FIGURE_1)
def test_a_training_reads_the_labels_that_its_heads_predict_and_no_others(method: str) -> None:
    for modality, predicted in zip(("video", "audio"), FIGURE_1[method], strict=True):
        read = inputs(config_of(method), Node("train", modality, 1))
        assert {node.modality for node in read if node.stage == "label"} == predicted
        assert all(node.round == 1 for node in read if node.stage == "label")
        # Of features it needs its own only: they tell which clips decode.
        assert [node for node in read if node.stage == "extract"] == [Node("extract", modality, 1)]


THREE = ("video", "audio", "third")


def test_with_three_modalities_xdc_has_a_head_for_each_other_and_mdc_its_own_first() -> None:
    assert heads("xdc", THREE) == {
        "video": ("audio", "third"),
        "audio": ("video", "third"),
        "third": ("video", "audio"),
    }
    assert heads("mdc", THREE)["audio"] == ("audio", "video", "third")
    assert heads("cdc", THREE) == dict.fromkeys(THREE, ("joint",))
    assert heads("sdc", THREE) == {name: (name,) for name in THREE}


def test_with_three_modalities_all_are_clustered_and_joint_clusters_come_from_all() -> None:
    assert clustered_sources("xdc", THREE) == THREE
    assert label_sources("cdc", THREE) == ("joint",)
    assert clustered_from("joint", THREE) == THREE


def test_an_installed_package_adds_a_method_as_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "OWN_AND_ALL = ('own', 'joint')\nWRONG = ('own', 'smell')\n"
    points = {"xdc.methods": {"own_and_all": "methods_of_others:OWN_AND_ALL", "wrong": "methods_of_others:WRONG"}}
    monkeypatch.syspath_prepend(install_package(tmp_path, "others", {"methods_of_others.py": source}, points))
    config = config_of("own_and_all")
    assert heads("own_and_all") == {"video": ("video", "joint"), "audio": ("audio", "joint")}
    assert clustered_sources("own_and_all") == ("video", "audio", "joint")
    assert Node("label", "joint", 0) in inputs(config, Node("train", "video", 0))
    with pytest.raises(ConfigError, match=r"the method 'wrong' is \('own', 'smell'\), but some of own, others, joint"):
        config_of("wrong")


def test_one_modality_has_nothing_to_learn_from_another() -> None:
    with pytest.raises(ConfigError, match=r"method xdc has nothing for audio to learn from .* is \[audio\]"):
        parse_config({"modalities": ["audio"]}, "a test")
    config = parse_config({"modalities": ["audio"], "method": "sdc"}, "a test")
    assert {node.modality for node in all_nodes(config) if node.stage in ("init", "extract", "label")} == {"audio"}


def test_the_order_in_which_modalities_are_named_does_not_matter() -> None:
    swapped = parse_config({"modalities": ["audio", "video"]}, "a test")
    assert swapped == parse_config({}, "a test")


@pytest.mark.parametrize("method", FIGURE_1)
def test_clusters_read_the_features_that_they_are_made_of(method: str) -> None:
    for source in label_sources(method):
        read = inputs(config_of(method), Node("cluster", source, 0))
        assert {node.modality for node in read if node.stage == "extract"} == set(clustered_from(source))


@pytest.mark.parametrize("method", FIGURE_1)
def test_encoders_go_on_from_their_own_modality_only(method: str) -> None:
    config = config_of(method)
    for modality in ("video", "audio"):
        assert encoder_node(modality, 0) == Node("init", modality)
        assert encoder_node(modality, 2) == Node("train", modality, 1)
        for number in (0, 1):
            for stage in ("extract", "train"):
                read = inputs(config, Node(stage, modality, number))
                made = [node for node in read if node.stage in ("init", "train")]
                assert made == [encoder_node(modality, number)]


@pytest.mark.parametrize(("method", "nodes"), [("sdc", 9), ("mdc", 9), ("cdc", 7), ("xdc", 9)])
def test_a_round_has_a_node_for_every_stage_and_modality(method: str, nodes: int) -> None:
    config = config_of(method)
    assert len(round_nodes(config, 0)) == nodes
    assert len(round_nodes(config, 2)) == nodes - 2  # The last look trains nothing.
    assert len(setup_nodes(config)) == 3
    assert len(list(all_nodes(config))) == 3 + 2 * nodes + nodes - 2


@pytest.mark.parametrize("method", FIGURE_1)
@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_every_node_comes_after_all_that_it_reads(method: str, rounds: int) -> None:
    config = config_of(method, rounds)
    seen: set[Node] = set()
    for node in all_nodes(config):
        assert set(inputs(config, node)) <= seen, node
        assert node not in seen
        seen.add(node)
