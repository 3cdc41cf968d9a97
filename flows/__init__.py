"""When and where: Prefect flows, tasks, artifacts, and the `xdc` command. Holds no mathematics."""
