"""Generators that misbehave in one way each, registered by tests under names of their own."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.generators.base import FitReport, Support
from pipeline.generators.independent import Independent

if TYPE_CHECKING:
    from pipeline.features.cohort import Cohort
    from pipeline.features.schema import TableSchema

CANARY = "Qvexxanthe"
"""A made-up surname that must never leave the lake."""


class Raises(Independent):
    """Fails in training with a text that quotes a patient."""

    name = "raises"
    title = "Fails in training"

    def fit(self, cohort: Cohort, **_: Any) -> FitReport:
        try:
            raise ValueError(f"could not convert '{CANARY}' to float")
        except ValueError as cause:
            raise RuntimeError(f"row of {CANARY} broke the training") from cause


class Refuses(Independent):
    """Says no to every schema."""

    name = "refuses"
    title = "Refuses the schema"

    @classmethod
    def supports(cls, schema: TableSchema) -> Support:
        return Support(ok=False, reason="Columns of this kind are not supported.")


class Fickle(Independent):
    """Fails while the environment says so."""

    name = "fickle"
    title = "Fails sometimes"

    def fit(self, cohort: Cohort, **settings: Any) -> FitReport:
        if os.environ.get("FICKLE_FAILS"):
            raise RuntimeError(CANARY)
        return super().fit(cohort, **settings)


class Forgetful(Independent):
    """Trains, but cannot draw."""

    name = "forgetful"
    title = "Cannot draw"

    def sample(self, n: int, **settings: Any) -> Cohort:
        if n > 0 and self.encoder is not None and os.environ.get("FORGETFUL"):
            raise RuntimeError(CANARY)
        return super().sample(n, **settings)


class Greedy(Independent):
    """Runs out of memory."""

    name = "greedy"
    title = "Runs out of memory"

    def fit(self, cohort: Cohort, **_: Any) -> FitReport:
        raise MemoryError


class Hangs(Independent):
    """Writes the file HANGS_AT and then waits to be killed, as long as that variable is set."""

    name = "hangs"
    title = "Never ends"

    def fit(self, cohort: Cohort, **settings: Any) -> FitReport:
        if marker := os.environ.get("HANGS_AT"):
            Path(marker).touch()
            time.sleep(600)
        return super().fit(cohort, **settings)


PATHS = {made.name: f"odd_generators:{made.__name__}" for made in (Raises, Refuses, Fickle, Forgetful, Greedy, Hangs)}
