"""What Prefect runs and sees: flows, tasks, artifacts, its server."""
