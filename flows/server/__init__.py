"""Prefect's server: the temporary one, defaults, and flow runs whose processes have died."""
