"""Servers that the tests of this folder talk to, all on loopback, all thrown away."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import pytest
from postgres_server import PostgresServer, programs
from ray_servers import RayServers

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """A running Postgres; skips and says what to install where there is none."""
    binaries = programs()
    if binaries is None:
        pytest.skip("Postgres is missing: apt-get install postgresql")
    if importlib.util.find_spec("dagster_postgres") is None:
        pytest.skip("dagster-postgres is missing: pip install -e '.[dist]'")
    server = PostgresServer(binaries)
    yield server
    server.remove()


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayServers]:
    """A Ray cluster of a head without cores and two workers with one each; skips where Ray is missing."""
    if importlib.util.find_spec("ray") is None or importlib.util.find_spec("dagster_ray") is None:
        pytest.skip("Ray is missing: pip install -e '.[dist]'")
    servers = RayServers(workers=2)
    yield servers
    servers.close()
