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
README = (DEPLOY / "README.md").read_text()
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
            if isinstance(volume, dict):  # A folder of the machine, whatever its name: no volume of Docker's.
                assert volume["type"] == "bind"
            else:
                assert volume.split(":")[0] in compose["volumes"]
        assert all(re.fullmatch(r"127\.0\.0\.1:.*", port) for port in service.get("ports", ()))
    assert set(yaml.safe_load((DEPLOY / "compose.gpu.yaml").read_text())["services"]) <= set(services)


def test_the_readme_names_all_variables_of_compose() -> None:
    used = set(re.findall(r"\$\{([A-Z_]+)", (DEPLOY / "compose.yaml").read_text()))
    assert {name for name in used if f"`{name}`" not in README and f"export {name}=" not in README} == set()


def test_credentials_come_from_the_shell_or_a_secret_and_the_client_of_object_stores_is_pinned() -> None:
    worker = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["worker"]
    passed = {name: value for name, value in worker["environment"].items() if name.startswith("AWS_")}
    assert set(passed.values()) == {None}
    assert passed.keys() >= {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"}
    known = " ".join(path.read_text() for path in (ROOT / "shards" / "objects").glob("*.py"))
    assert {name for name in passed if name not in known} == set()
    assert re.search(r"^obstore==", (ROOT / "requirements.lock").read_text(), re.MULTILINE)

    template = json.loads((KUBERNETES / "job-template.json").read_text())
    (container,) = template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": "{{ credentials }}", "optional": True}}]
    (shell,) = yaml.safe_load((KUBERNETES / "shell.yaml").read_text())["spec"]["containers"]
    name = template["variables"]["properties"]["credentials"]["default"]
    assert shell["envFrom"] == [{"secretRef": {"name": name, "optional": True}}]
    assert f"secret generic {name} " in README


def test_on_kubernetes_the_pool_is_made_before_a_worker_can_make_one_without_the_volume() -> None:
    steps = ["work-pool create kubernetes ", "kubectl apply -f deploy/kubernetes/worker.yaml", "xdc init runs/first"]
    places = [README.index(step, README.index("## Kubernetes")) for step in steps]
    assert places == sorted(places)


def test_the_pod_with_a_shell_works_as_the_user_of_flow_runs_on_their_volume() -> None:
    template = json.loads((KUBERNETES / "job-template.json").read_text())
    job = template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    shell = yaml.safe_load((KUBERNETES / "shell.yaml").read_text())["spec"]
    assert shell["securityContext"] == job["securityContext"]
    claim = template["variables"]["properties"]["volume_claim"]["default"]
    assert shell["volumes"] == [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]
    assert shell["containers"][0]["workingDir"] == job["containers"][0]["workingDir"] == "/data"


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


@pytest.mark.parametrize("script", ["setup.sh", "worker.sh"])
def test_scripts_end_with_one_line_where_no_server_is_named(script: str) -> None:
    done = subprocess.run([DEPLOY / script], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True)
    assert done.returncode != 0
    assert "PREFECT_API_URL: is not set: the address of the Prefect server" in done.stderr
