"""The flows of single stages follow from the registry, and what lists flows elsewhere agrees with them."""

import re

import pytest
import yaml
from prefect import Flow
from prefect.exceptions import ParameterTypeError
from prefect.utilities.callables import call_with_parameters
from typer.testing import CliRunner

from flows.cli.app import app
from flows.orchestration import stages
from flows.orchestration.node_parameters import node_of, parameters_of
from flows.server.dead_runs import FLOWS
from tests.flows.prefect_server import ROOT
from xdc_core.config.load import load_preset, parse_config
from xdc_core.config.methods import METHODS
from xdc_core.graph.stages import STAGES, all_nodes
from xdc_core.modalities.registry import MODALITIES
from xdc_core.runs.node import Node


@pytest.mark.parametrize(
    ("node", "parameters"),
    [
        (Node("shard"), {}),
        (Node("data", "esc"), {"name": "esc"}),
        (Node("init", "video"), {"modality": "video"}),
        (Node("train", "audio", 2), {"modality": "audio", "round": 2}),
        (Node("eval", "probe", 0), {"name": "probe", "round": 0}),
        (Node("report", None, 3), {"round": 3}),
    ],
)
def test_the_flow_of_a_stage_has_the_parameters_that_name_its_nodes(
    node: Node, parameters: dict[str, str | int | None]
) -> None:
    assert parameters_of(node) == parameters
    assert node_of(node.stage, parameters) == node
    stage = stages.STAGE_FLOWS[node.stage]
    assert stage.name == node.stage
    assert list(stage.parameters.properties) == [*parameters, "run", "force"]
    assert stage.parameters.required == list(parameters)
    assert stage.validate_parameters({**parameters, "force": "true"})["force"] is True


def test_a_modality_is_a_choice_among_all_that_a_run_may_have() -> None:
    choices = {
        name: flow.parameters.properties["modality"]["enum"]
        for name, flow in stages.STAGE_FLOWS.items()
        if "modality" in flow.parameters.properties
    }
    assert set(choices) == {name for name, stage in STAGES.items() if stage.of == "modality"}
    assert choices["train"] == list(MODALITIES)
    for method in METHODS:
        config = parse_config(load_preset("tiny") | {"method": method}, "a test")
        for node in all_nodes(config):
            if node.stage in choices:
                assert node.modality in choices[node.stage]
    with pytest.raises(ParameterTypeError, match="Input should be 'video'"):
        stages.STAGE_FLOWS["train"].validate_parameters({"modality": "vidio", "round": 0})


def test_every_parameter_of_a_stage_is_explained_in_the_form_and_its_description_has_no_list_of_them() -> None:
    for flow in stages.STAGE_FLOWS.values():
        assert all(shown.get("description") for shown in flow.parameters.properties.values())
        assert flow.description
        assert "Args" not in flow.description


@pytest.mark.parametrize("name", STAGES)
def test_the_flow_of_a_stage_runs_the_node_that_its_parameters_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[str, Node, bool]] = []
    monkeypatch.setattr(stages, "run_stage_flow", lambda *arguments: called.append(arguments))
    values = {"modality": "video", "name": "esc", "round": 2}
    flow = stages.STAGE_FLOWS[name]
    given = {key: values[key] for key in flow.parameters.required}
    call_with_parameters(flow.fn, {**given, "run": "runs/a", "force": True})
    assert called == [("runs/a", node_of(name, given), True)]


def test_every_deployment_is_of_a_flow_and_every_flow_has_one() -> None:
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    entrypoints = [deployment["entrypoint"] for deployment in deployments]
    package = "flows.orchestration"
    of_stages = [f"{package}.stages.{name}" for name in STAGES]
    assert sorted(entrypoints) == sorted([f"{package}.xdc.xdc", f"{package}.xdc_round.xdc_round", *of_stages])
    for name in STAGES:
        flow = getattr(stages, name)
        assert isinstance(flow, Flow)
        assert flow.name == name
    assert sorted(FLOWS) == sorted(["xdc", "xdc-round", *STAGES])


def test_the_automation_for_dead_flow_runs_names_every_flow() -> None:
    automation = yaml.safe_load((ROOT / "prefect-automation.yaml").read_text())
    assert sorted(automation["trigger"]["match_related"]["prefect.resource.name"]) == sorted(FLOWS)


def test_the_help_of_xdc_stage_names_every_stage() -> None:
    shown = " ".join(CliRunner().invoke(app, ["stage", "--help"]).output.split())
    (listed,) = re.findall(r"STAGE (?:<str> )?((?:\w+, )+\w+)", shown)
    assert sorted(listed.split(", ")) == sorted(STAGES)
