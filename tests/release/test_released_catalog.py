"""Published releases are tables of the catalogue; one that was withdrawn is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb
from release_ward import COHORT, COMPUTE

from pipeline.workflow.catalog import publish_catalog
from pipeline.workflow.releasing import release_step, withdraw

if TYPE_CHECKING:
    from release_ward import Ward


def test_releases_are_in_the_catalogue_until_they_are_withdrawn(ward: Ward) -> None:
    ward.asks(release="{generator: independent, mode: auto}")
    released = release_step(ward.lake, ward.cell())
    assert released.state.state == "published"
    assert released.version is not None
    publish_catalog(ward.lake, COMPUTE)
    with duckdb.connect(str(ward.home.catalog), read_only=True) as catalog:
        found = catalog.execute(f'SELECT _release, count(*) FROM released."{COHORT}" GROUP BY 1').fetchall()
    assert found == [(released.state.release_id, released.version.info["rows"])]
    withdraw(ward.lake, released.state.release_id, "a test", "Ada")
    published = publish_catalog(ward.lake, COMPUTE)
    assert f"released.{COHORT}" not in published.tables
