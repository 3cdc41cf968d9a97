"""A round whose training of sound is interrupted: what is missing then, and what must be the same in the end."""

from pathlib import Path

from xdc_core.graph.run_stage import all_fresh
from xdc_core.graph.stages import all_nodes
from xdc_core.runs.run import Run

TRAINING = Path("rounds/000/train/audio")
# The training, and all that comes from it.
INTERRUPTED = (
    TRAINING,
    Path("rounds/000/report"),
    *(Path("rounds/001", stage, "audio") for stage in ("features", "clusters", "labels")),
    Path("rounds/001/report"),
)


def results(run: Run) -> dict[str, bytes]:
    """Features, pseudo-labels, centroids and encoders, by relative path."""
    found = [file for end in ("*.parquet", "*.npy", "*.safetensors") for file in run.root.rglob(end)]
    return {str(file.relative_to(run.root)): file.read_bytes() for file in found if ".stale" not in file.parts}


def assert_as_if_nothing_had_happened(run: Run, whole: Run) -> None:
    """All is done, with the same bytes, and nothing else lies about."""
    assert all_fresh(run, all_nodes(run.config))
    assert results(run) == results(whole)
    assert not [*run.root.rglob("*.partial"), *run.root.rglob("*.tmp")]
