"""Both places where a store may lie, for the tests that hold for either."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import s3_server

from pipeline.store import object_store
from pipeline.store.address import StoreAddress
from pipeline.store.journal import Journal
from pipeline.store.versions import VersionStore

PLACES = ("disk", pytest.param("s3", marks=pytest.mark.distributed))


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """URL of the session's S3 server."""
    with s3_server.running_server() as url:
        yield url


@pytest.fixture
def bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> StoreAddress:
    """A new bucket on it."""
    s3_server.log_in(monkeypatch)
    return s3_server.new_bucket(s3_endpoint)


@pytest.fixture(params=PLACES)
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> VersionStore:
    """A version store on the disk, and one on an object store."""
    if request.param == "disk":
        return VersionStore(tmp_path / "lake")
    return s3_server.remote_versions(request.getfixturevalue("bucket"), tmp_path)


@pytest.fixture(params=PLACES)
def any_journal(request: pytest.FixtureRequest, tmp_path: Path) -> Journal:
    """A journal on the disk, and one on an object store."""
    if request.param == "disk":
        return Journal(tmp_path / "journal")
    return s3_server.remote_journal(request.getfixturevalue("bucket"), tmp_path)


@pytest.fixture
def here(bucket: StoreAddress, tmp_path: Path) -> VersionStore:
    return s3_server.remote_versions(bucket, tmp_path / "here")


@pytest.fixture
def elsewhere(bucket: StoreAddress, tmp_path: Path) -> VersionStore:
    """The same store as another machine sees it."""
    return s3_server.remote_versions(bucket, tmp_path / "there")


@pytest.fixture
def quick_to_give_up(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONNECT_SECONDS", "READ_SECONDS"):
        monkeypatch.setattr(object_store, name, 0.4)
    monkeypatch.setattr(object_store, "_clients", {})
    monkeypatch.setattr(object_store, "_tried", set())
