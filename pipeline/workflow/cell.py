"""A cohort in a month: the cell that a run makes, with the seeds that belong to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.generators.seeds import derive_seed

if TYPE_CHECKING:
    from pipeline.features.source import SourceSpec
    from pipeline.features.spec import CohortBook, CohortSpec


@dataclass(frozen=True)
class Cell:
    """One cohort in one month.

    Attributes:
        spec: What is asked for.
        source: Where its deliveries come from.
        month: First day of the month, `YYYY-MM-01`.
    """

    spec: CohortSpec
    source: SourceSpec
    month: str

    @classmethod
    def of(cls, book: CohortBook, cohort: str, month: str) -> Cell:
        """The cell of a cohort by name; raises `NotFoundError` or `ConfigError` as the book does."""
        spec = book.cohort(cohort)
        return cls(spec, book.source(spec.source), month)

    @property
    def cohort(self) -> str:
        """Name of the cohort."""
        return self.spec.name

    @property
    def partition(self) -> dict[str, str]:
        """Its partition in the store."""
        return {"cohort": self.spec.name, "month": self.month}

    def seeds(self, generator: str, purpose: str) -> list[int]:
        """One seed a replicate, a hash of base seed, cohort, month, generator, purpose and replicate."""
        base = (self.spec.seed, self.spec.name, self.month, generator, purpose)
        return [derive_seed(*base, k) for k in range(self.spec.replicates)]
