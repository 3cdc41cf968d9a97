"""Deployments, work pool and automation at a Prefect server, from the files in this package."""

import flows.server.prefect_defaults  # noqa: F401  # isort: skip - sets what Prefect reads when it is imported

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from flows.server.temporary import answers
from shards.command import command
from shards.errors import ConfigError, XdcError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

FILES = Path(__file__).parents[1] / "orchestration"
DEPLOYMENTS = FILES / "prefect.yaml"
AUTOMATION = FILES / "prefect-automation.yaml"
POOL_TYPE = "process"


def deployments_for(pool: str, name: str, run: str | None) -> dict[str, Any]:
    """Return the content of prefect.yaml for a work pool, a name of all deployments, and a default run."""
    document: dict[str, Any] = yaml.safe_load(DEPLOYMENTS.read_text(encoding="utf-8"))
    del document["definitions"]  # Anchors, which the deployments already contain.
    for deployment in document["deployments"]:
        deployment["name"] = name
        deployment["work_pool"] = deployment["work_pool"] | {"name": pool}
        deployment["parameters"] = deployment["parameters"] | ({"run": run} if run else {})
    return document


def deploy(pool: str, name: str, run: str | None) -> int:
    """Make the work pool, the deployments, and the automation for lost flow runs. Safe to repeat.

    Existing deployments of the same name are replaced; an existing pool and automation stay as they are.

    Args:
        pool: the work pool of type process. It is created if it does not exist.
        name: the name of all deployments.
        run: the default of their parameter `run`; None: that of prefect.yaml.

    Returns:
        The number of deployments.

    Raises:
        ConfigError: no server is set, or the pool is of another type.
        XdcError: the server does not answer, or `prefect deploy` failed.
    """
    from httpx import HTTPError
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectException
    from prefect.settings import PREFECT_API_URL
    from pydantic import ValidationError

    url = PREFECT_API_URL.value()
    if not url:
        raise ConfigError(
            "PREFECT_API_URL is not set, and deployments belong to a server. Start one (prefect server start) and set "
            "its address: export PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    if not answers(url):
        raise XdcError(f"the Prefect server at {url} does not answer. Start it (prefect server start) and repeat this.")
    document = deployments_for(pool, name, run)
    try:
        with get_client(sync_client=True) as client:
            _make_pool(client, pool)
            _prefect_deploy(document)
            _make_automation(client)
    except (HTTPError, PrefectException, RuntimeError, ValidationError) as error:
        # A refused name, a server that wants a password, or one of another version.
        raise XdcError(f"the Prefect server at {url}, --pool {pool!r}: {error}") from error
    return len(document["deployments"])


def _make_pool(client: "SyncPrefectClient", pool: str) -> None:
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectNotFound
    from prefect.workers.process import ProcessWorker

    try:
        found = client.read_work_pool(pool)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        client.create_work_pool(WorkPoolCreate(name=pool, type=POOL_TYPE, base_job_template=template))
        return
    if found.type != POOL_TYPE:
        raise ConfigError(
            f"--pool {pool}: this work pool is of type {found.type}, and these deployments are for workers of type "
            f"{POOL_TYPE}. Choose another name: a pool that does not exist is made."
        )


def _prefect_deploy(document: dict[str, Any]) -> None:
    """Call `prefect deploy --all` with the document, in a folder of its own, so that no other package is imported."""
    with tempfile.TemporaryDirectory(prefix="xdc-deploy-") as folder:
        file = Path(folder) / DEPLOYMENTS.name
        file.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
        words = [sys.executable, "-P", "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
        done = subprocess.run(words, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        output = f"{done.stdout}{done.stderr}".strip()
        raise XdcError(f"`prefect deploy` ended with exit code {done.returncode}. Its output:\n{output}")


def _make_automation(client: "SyncPrefectClient") -> None:
    from prefect.events.schemas.automations import AutomationCore

    content = yaml.safe_load(AUTOMATION.read_text(encoding="utf-8"))
    if not client.read_automations_by_name(content["name"]):
        client.create_automation(AutomationCore.model_validate(content))


def next_commands(pool: str, name: str) -> list[str]:
    """Return the commands that start a worker and a round, without the run."""
    worker = command("prefect", "worker", "start", "--pool", pool)
    return [worker, command("prefect", "deployment", "run", f"xdc-round/{name}", "--watch")]
