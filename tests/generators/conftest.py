"""What the tests of generators share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from generator_tables import FIXTURES

if TYPE_CHECKING:
    from pipeline.features.cohort import Cohort


@pytest.fixture(scope="session")
def cohorts() -> dict[str, Cohort]:
    """The three tables, made once."""
    return {name: make() for name, make in FIXTURES.items()}
