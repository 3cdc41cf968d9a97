"""When and where: Prefect flows, tasks, artifacts, and the `xdc` command. Holds no mathematics."""

from flows.prefect_defaults import set_defaults

set_defaults()  # Here, because they must be set before anything imports Prefect.
