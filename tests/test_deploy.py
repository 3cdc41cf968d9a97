"""The files of `deploy/` fit each other, `prefect.yaml` and Prefect: no path is stored, no setting is unknown."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.settings.legacy import _get_valid_setting_names
from prefect.settings.models.root import Settings
from prefect.utilities.templating import find_placeholders

from tests.places import ROOT

DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
DEPLOYMENTS = (ROOT / "prefect.yaml", KUBERNETES / "prefect.yaml")
NOT_OF_PREFECT = {
    "PREFECT_INTEGRATIONS_KUBERNETES_OBSERVER_NAMESPACES"  # Of prefect-kubernetes, which is not installed here.
}


def strings(value: Any) -> list[str]:
    """All strings in a document, keys included."""
    if isinstance(value, dict):
        return [found for pair in value.items() for part in pair for found in strings(part)]
    if isinstance(value, list):
        return [found for part in value for found in strings(part)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("path", DEPLOYMENTS, ids=("local", "kubernetes"))
def test_deployments_store_no_path_of_the_machine_that_deploys(path: Path) -> None:
    document = yaml.safe_load(path.read_text())
    assert [text for text in strings(document) if text.startswith(("/", "~")) or "$" in text] == []
    (step,) = document["pull"]
    assert step == {"prefect.deployments.steps.set_working_directory": {"directory": "."}}


def test_deployments_on_kubernetes_are_those_of_prefect_yaml_for_another_pool() -> None:
    local, kubernetes = (yaml.safe_load(path.read_text()) for path in DEPLOYMENTS)
    there = {deployment["entrypoint"]: deployment for deployment in local["deployments"]}
    for deployment in kubernetes["deployments"]:
        same = there[deployment["entrypoint"]]
        assert deployment["parameters"] == same["parameters"]
        assert deployment["work_pool"]["job_variables"]["env"] == same["work_pool"]["job_variables"]["env"]
    assert kubernetes["prefect-version"] == local["prefect-version"]


def test_the_pinned_version_of_prefect_is_the_one_that_deployments_name() -> None:
    locked = re.search(r"^prefect==(\S+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert locked
    assert yaml.safe_load((ROOT / "prefect.yaml").read_text())["prefect-version"] == locked[1]


def test_the_job_template_has_a_variable_for_each_placeholder_and_uses_each_variable() -> None:
    template = json.loads((KUBERNETES / "job-template.json").read_text())
    placeholders = {found.name for found in find_placeholders(template["job_configuration"])}
    assert placeholders == set(template["variables"]["properties"])


def test_every_setting_of_prefect_in_the_files_is_known_to_the_installed_version() -> None:
    files = [*DEPLOYMENTS, *(path for path in DEPLOY.rglob("*") if path.is_file()), ROOT / "docs" / "prefect.md"]
    named = {found for path in files for found in re.findall(r"\bPREFECT_[A-Z_]*[A-Z]\b", path.read_text())}
    assert named - set(_get_valid_setting_names(Settings)) - NOT_OF_PREFECT == set()


def test_compose_waits_for_services_that_there_are_and_mounts_volumes_that_there_are() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    services = compose["services"]
    for service in services.values():
        assert set(service.get("depends_on", ())) <= set(services)
        for volume in service.get("volumes", ()):
            source = volume.rsplit(":", 1)[0]
            assert source in compose["volumes"] or source.startswith("${XDC_DATA:-..")
        assert all(re.fullmatch(r"127\.0\.0\.1:.*", port) for port in service.get("ports", ()))
    assert set(yaml.safe_load((DEPLOY / "compose.gpu.yaml").read_text())["services"]) <= set(services)


def test_the_image_gets_all_files_that_it_is_made_of() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    copied = [
        word for line in re.findall(r"^COPY (?!--from)(.*)$", dockerfile, re.MULTILINE) for word in line.split()[:-1]
    ]
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert sorted(copied) == sorted(allowed)
    assert all((ROOT / name).exists() for name in copied)
    packages = {f"{name}*" for name in allowed if (ROOT / name / "__init__.py").exists()}
    (included,) = re.findall(r"^include = (.*)$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert packages == set(json.loads(included))


def test_the_image_for_cpus_finds_the_pinned_faiss() -> None:
    (expression,) = re.findall(r"sed -n '(.*?)' requirements.lock", (DEPLOY / "Dockerfile").read_text())
    done = subprocess.run(["sed", "-n", expression, "requirements.lock"], cwd=ROOT, capture_output=True, text=True)
    assert re.fullmatch(r"faiss-cpu==[\d.]+\n", done.stdout)


@pytest.mark.parametrize("script", ["setup.sh", "worker.sh"])
def test_scripts_are_understood_by_their_shell(script: str) -> None:
    first = (DEPLOY / script).read_text().splitlines()[0]
    shell = {"#!/bin/sh": "sh", "#!/bin/bash": "bash"}[first]
    subprocess.run([shell, "-n", DEPLOY / script], check=True)


def test_scripts_end_with_one_line_where_no_server_is_named() -> None:
    done = subprocess.run(["sh", DEPLOY / "setup.sh"], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True)
    assert done.returncode != 0
    assert "PREFECT_API_URL: is not set: the address of the Prefect server" in done.stderr
