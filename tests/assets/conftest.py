"""Cohort files and a Dagster instance of their own for the tests of the graph."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import dagster as dg
import pytest
from made_up import Book
from release_ward import made_ward, ward

with warnings.catch_warnings():  # tests run without DAGSTER_HOME, which the code location warns about
    warnings.simplefilter("ignore")
    import assets.definitions  # noqa: F401

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Book:
    """A folder of cohorts of its own: `tiny` and `other` on plain tables, each with a source."""
    made = Book(tmp_path / "cohorts")
    monkeypatch.setattr("pipeline.features.spec.BUILT_IN_COHORTS", made.folder)
    monkeypatch.delenv("COHORTLOOM_COHORTS", raising=False)
    made.sources({"clinic": "table", "ward": "table", "hospital": "fhir"})
    made.cohort("tiny", source="clinic")
    made.cohort("other", source="ward", generators={"independent": {}})
    return made


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as made:
        yield made


@pytest.fixture
def few_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only metrics that take no time are registered, for tests that are not about figures."""
    from pipeline.evaluation import registry

    few = ("schema.adherence", "fid.marg.jsd", "priv.exact_unique")
    monkeypatch.setattr(registry, "BUILT_IN", {name: registry.BUILT_IN[name] for name in few})


__all__ = ["made_ward", "ward"]
