"""What the tests of the executor `ray` share."""

from collections.abc import Iterator

import pytest

from tests.engines.ray_cluster import RayCluster, ray_cluster


@pytest.fixture(scope="module")
def ray_nodes() -> Iterator[RayCluster]:
    """A Ray cluster of two nodes. It lasts for one file of tests: its processes take 900 MB."""
    with ray_cluster() as running:
        yield running
