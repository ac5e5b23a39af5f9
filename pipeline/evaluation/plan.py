"""What is asked of an evaluation: tasks, analyses, clinical rules, protected groups, what an attacker knows, how much work.

A cohort's plan comes from its file (`EvaluationPlan.of`); whoever judges plain files makes one by hand. How much work
each profile allows is in `context.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline.features.evaluation_spec import AnalysisSpec, Condition, EvaluationSpec, RuleSpec, TaskSpec
    from pipeline.features.schema import TableSchema
    from pipeline.features.spec import CohortSpec


DEMOGRAPHIC = re.compile(
    r"(?i)(^|[_ .-])(age|sex|gender|race|ethnicity|birth|born|zip|postcode|marital|insurance)([_ .-]|$)"
)
"""Columns under such a name are what people know of one another: an attacker is taken to know them unless told otherwise."""


@dataclass(frozen=True)
class EvaluationPlan:
    """What is asked.

    Attributes:
        tasks: Prediction tasks.
        protected: Columns that name groups whose treatment is compared.
        analyses: Prespecified regressions.
        rules: Curated clinical rules.
        known: Columns that an attacker knows; empty for the default (`known_columns`).
        secrets: Columns whose inference is judged; empty for all others.
        population: People in the population that the cohort was drawn from, if known.
        profile: "quick", "standard" or "full".
        seed: Seed of every draw that the evaluation makes.
        device: Where distances are computed, as torch names it; the results do not depend on it.
    """

    tasks: tuple[TaskSpec, ...] = ()
    protected: tuple[str, ...] = ()
    analyses: tuple[AnalysisSpec, ...] = ()
    rules: tuple[RuleSpec, ...] = ()
    known: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    population: int | None = None
    profile: str = "standard"
    seed: int = 0
    device: str = field(default="cpu", compare=False)

    @classmethod
    def of(cls, spec: CohortSpec, *, device: str = "cpu") -> EvaluationPlan:
        """What a cohort's file asks."""
        return cls.asked(spec.tasks, spec.protected, spec.evaluation, device=device)

    @classmethod
    def asked(
        cls, tasks: Sequence[TaskSpec], protected: Sequence[str], evaluation: EvaluationSpec, *, device: str = "cpu"
    ) -> EvaluationPlan:
        """What these parts of a cohort's file ask."""
        return cls(
            tasks=tuple(tasks),
            protected=tuple(protected),
            analyses=tuple(evaluation.analyses),
            rules=tuple(evaluation.rules),
            known=tuple(evaluation.known),
            secrets=tuple(evaluation.secrets),
            population=evaluation.population,
            profile=evaluation.profile,
            seed=evaluation.seed,
            device=device,
        )

    def check(self, schema: TableSchema) -> None:
        """Raises `ConfigError`, with the nearest name, where the plan names a column or block that the schema lacks."""
        columns = [c.name for c in schema.modelled()]
        blocks = [b.name for b in schema.blocks]
        for who, name, known in self._names(columns, blocks):
            if name not in known:
                raise ConfigError(f"{who} names the unknown column '{name}'.", todo=nearest(name, known))

    def known_columns(self, schema: TableSchema) -> list[str]:
        """What an attacker is taken to know of a target, in schema order.

        As declared; else the quasi-identifiers and the protected columns; where there are none, half of the columns
        (the first ones by name, so that the order of columns does not matter), since no attack can be run by somebody
        who knows nothing.
        """
        columns = schema.modelled()
        if self.known:
            return [c.name for c in columns if c.name in self.known]
        found = [
            c.name
            for c in columns
            if c.role in ("quasi_identifier", "protected") or c.name in self.protected or DEMOGRAPHIC.search(c.name)
        ]
        first = sorted(c.name for c in columns if c.role != "label")[: len(columns) // 2]
        return found or [c.name for c in columns if c.name in first]

    def secret_columns(self, schema: TableSchema) -> list[str]:
        """Columns whose inference is judged, in schema order: as declared, else all that the attacker does not know."""
        known = self.known_columns(schema)
        return [c.name for c in schema.modelled() if (c.name in self.secrets if self.secrets else c.name not in known)]

    def _names(self, columns: list[str], blocks: list[str]) -> Iterator[tuple[str, str, list[str]]]:
        """(who names it, name, what there is) of every name in the plan."""
        for task in self.tasks:
            yield f"Task '{task.name}'", task.label, columns
            for name in task.leak:
                yield f"Task '{task.name}'", name, [*columns, *blocks]
        for name in self.protected:
            yield "The list of protected attributes", name, columns
        for analysis in self.analyses:
            extra = [x for x in (analysis.time, analysis.contrast) if x is not None]
            for name in (analysis.outcome, *extra, *analysis.covariates):
                yield f"Analysis '{analysis.name}'", name, columns
        for name in (*self.known, *self.secrets):
            yield "The attacker's knowledge", name, [*columns, *blocks]
        for rule in self.rules:
            for condition in (*rule.when, *rule.never):
                yield from self._condition(rule.name, condition, columns, blocks)

    @staticmethod
    def _condition(
        rule: str, condition: Condition, columns: list[str], blocks: list[str]
    ) -> Iterator[tuple[str, str, list[str]]]:
        for name, known in ((condition.column, columns), (condition.other, columns), (condition.block, blocks)):
            if name is not None:
                yield f"Rule '{rule}'", name, known
