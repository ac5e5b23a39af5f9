"""What all tests share: where the real data lies, and a COHORTLOOM_HOME of their own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from pipeline.features.split import PUBLISHED_KEY
from pipeline.store.home import Home

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
# No test asserts on time: an example may be slow where other work shares the machine.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data that COHORTLOOM_DATA names (default ../shared/data); skips with the reason if absent."""
    folder = Path(os.environ.get("COHORTLOOM_DATA") or ROOT.parent / "shared" / "data")
    if not (folder / "INDEX.md").is_file():
        pytest.skip(f"no real data at {folder}: set COHORTLOOM_DATA to the folder that holds INDEX.md")
    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """An empty COHORTLOOM_HOME with the published split key."""
    root = tmp_path / "home"
    monkeypatch.setenv("COHORTLOOM_HOME", str(root))
    monkeypatch.setenv("COHORTLOOM_SPLIT_KEY", PUBLISHED_KEY.decode())
    monkeypatch.delenv("COHORTLOOM_COHORTS", raising=False)
    return Home(root).ensure()


@pytest.fixture(scope="session", autouse=True)
def metrics_that_fail_are_told() -> Iterator[None]:
    """A metric of ours that raises makes a test fail; for users it is a result without a value."""
    from pipeline.evaluation import protocol
    from pipeline.evaluation.registry import BUILT_IN

    told = protocol.failure_note

    def raised(name: str, error: Exception) -> str:
        if name in BUILT_IN:
            raise error
        return told(name, error)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "failure_note", raised)
        yield
