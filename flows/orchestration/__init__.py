"""What Prefect runs and shows: flows, tasks, artifacts."""
