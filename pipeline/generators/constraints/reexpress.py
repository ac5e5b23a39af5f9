"""A cohort's rules re-expressed: real rows to rows that a generator learns, and drawn rows back to the real schema.

What no step can keep is left to `redraw.py`. How the steps are chosen is in `planning.py`, what each does in
`steps.py`. It is kept as `constraints.json` beside the model that was trained on the learned columns.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from pipeline.features.cohort import assemble
from pipeline.features.constraint_spec import ConstraintSpec
from pipeline.features.schema import TableSchema
from pipeline.generators.base import RULES_FILE
from pipeline.generators.constraints.checking import check_rules
from pipeline.generators.constraints.columns import public_part
from pipeline.generators.constraints.planning import Planner
from pipeline.generators.constraints.rules import (
    code_places,
    computed_values,
    outsiders,
    resolved,
    rule_text,
    violations,
)
from pipeline.generators.constraints.steps import AnyStep, Cells, Computed, Difference, Merged, Zeroed, without_codes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path
    from typing import Any, Self

    from numpy.typing import NDArray

    from pipeline.features.cohort import Cohort
    from pipeline.generators.constraints.redraw import Broken


class Fate(BaseModel):
    """What became of a rule.

    Attributes:
        rule: Its text.
        kept_by: "re-expression" or "redrawing".
        reason: Why it is redrawn.
        broken: Training rows that break it; None where that was not asked (private trainings).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    rule: str
    kept_by: str
    reason: str = ""
    broken: int | None = None


class Reexpression(BaseModel):
    """A reversible change of schema in which some rules cannot be broken.

    Attributes:
        rules: All rules of the cohort, those that are kept by redrawing too.
        outer: The real schema.
        inner: The schema that is learned.
        steps: In the order in which they are undone.
        fates: What became of each rule.
        rows_left_out: Training rows that break a re-expressed rule and are not learned from; None if private.
        codes_taken_away: Cells of code blocks that broke a rule in training rows; None if private.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    rules: list[ConstraintSpec]
    outer: TableSchema
    inner: TableSchema
    steps: list[AnyStep] = Field(default_factory=list)
    fates: list[Fate] = Field(default_factory=list)
    rows_left_out: int | None = 0
    codes_taken_away: int | None = 0

    @classmethod
    def fit(
        cls, cohort: Cohort, rules: Sequence[ConstraintSpec], *, named: Iterable[str] = (), private: bool = False
    ) -> Self:
        """Decide on the training rows how each rule is kept.

        Args:
            cohort: The training rows.
            rules: As the cohort's file declares them.
            named: Columns that must be learned as they are, because the generator's settings name them.
            private: Tell nothing from the rows: for trainings with differential privacy.

        Raises:
            ConfigError: the rules do not fit the schema or each other, or a private training would need to ask the
                rows which combinations there are.
        """
        if private:
            cohort = replace(cohort, schema=public_part(cohort.schema))
        check_rules(cohort.schema, rules)
        plan = Planner(cohort, frozenset(named), private).planned(rules)
        known = list(rules) if private else resolved(rules, cohort)
        broken = {rule_text(rule): None if private else int(violations(cohort, rule).sum()) for rule in known}
        fates = [
            Fate(
                rule=rule_text(rule),
                kept_by="re-expression" if rule in plan.by_step else "redrawing",
                reason=plan.reasons.get(rule_text(rule), ""),
                broken=broken[rule_text(rule)],
            )
            for rule in rules
        ]
        columns = []
        for column in cohort.schema.modelled():
            columns += plan.taken.get(column.name, [column])
        codes = [_codes_of_outsiders(cohort, step) for step in plan.steps if isinstance(step, Zeroed)]
        return cls(
            rules=known,
            outer=cohort.schema,
            inner=TableSchema(
                columns=columns,
                blocks=cohort.schema.blocks,
                unit=cohort.schema.unit,
                events=cohort.schema.events,
            ),
            steps=plan.steps,
            fates=fates,
            rows_left_out=None if private else int((~plan.usable).sum()),
            codes_taken_away=None if private else sum(codes),
        )

    @property
    def taken(self) -> set[str]:
        """Real columns that are not learned as they are."""
        return {name for step in self.steps for name in step.gives}

    def warnings(self) -> list[str]:
        """What people should know of it; no patient data."""
        said = []
        if self.rows_left_out:
            said.append(
                f"{self.rows_left_out} training rows break a rule and were not learned from "
                f"({', '.join(f.rule for f in self.fates if f.broken and f.kept_by == 're-expression')})."
            )
        said += [
            f"{fate.broken} training rows break '{fate.rule}', which is kept by redrawing."
            for fate in self.fates
            if fate.broken and fate.kept_by == "redrawing"
        ]
        if self.codes_taken_away:
            said.append(f"{self.codes_taken_away} codes of training rows break a rule and were not learned.")
        return said

    def forward(self, cohort: Cohort) -> Cohort:
        """Real rows in the schema that is learned, without those that break a re-expressed rule.

        In private trainings such a row is mended instead, from its own cells alone: that rows are left out would show in
        the number of rows learned from, which is published, and how many they are was not paid for.
        """
        if self.rows_left_out is not None:
            cohort = self._keeping(cohort)
        real = _arrays(cohort)
        blocks = dict(cohort.blocks)
        for step in self.steps:
            if isinstance(step, Difference):
                real |= step.forward(real, self.inner.column(step.gap))
            elif isinstance(step, Computed):
                real |= step.forward(real, computed_values(cohort, step.formula))
            elif isinstance(step, Merged):
                real |= step.forward(real)
            elif isinstance(step, Zeroed):
                outside, name = outsiders(cohort, step.only), str(step.only.codes.block)
                blocks[name], _ = without_codes(blocks[name], outside, code_places(self.outer, step.only))
        inner = assemble(
            self.inner,
            real if self.inner.columns else {"": np.zeros(cohort.n_rows)},
            blocks=blocks,
            subject=cohort.subject,
        )
        return replace(inner, split=cohort.split, tune=cohort.tune, events=cohort.events)

    def _keeping(self, cohort: Cohort) -> Cohort:
        """The rows that keep every re-expressed rule."""
        kept_by_step = {fate.rule for fate in self.fates if fate.kept_by == "re-expression"}
        broken = np.zeros(cohort.n_rows, dtype=bool)
        on_blocks = {step.rule for step in self.steps if isinstance(step, Zeroed)}
        for rule in self.rules:
            if rule_text(rule) in kept_by_step - on_blocks:
                broken |= violations(cohort, rule)
        real = _arrays(cohort)
        for merged in (step for step in self.steps if isinstance(step, Merged)):
            broken |= merged.places(real) < 0
        return cohort.take(~broken) if broken.any() else cohort

    def back(
        self, drawn: Cohort, rng: np.random.Generator, fixed: Mapping[str, NDArray[Any]] | None = None
    ) -> tuple[Cohort, Broken, dict[str, int]]:
        """Drawn rows in the real schema.

        Args:
            drawn: Rows in the schema that was learned.
            rng: Fills cells that contradict each other from other rows.
            fixed: Real columns to be taken as they are: level positions or numbers.

        Returns:
            The rows; which of them no step could mend, by what is wrong; and counts of what was mended.
        """
        cells = Cells(drawn.n_rows, _arrays(drawn), dict(drawn.blocks), rng, fixed=dict(fixed or {}))
        for step in self.steps:
            step.back(cells, self.outer)
        for column in self.outer.modelled():
            if not column.nullable and column.name in self.taken:
                values = cells.columns[column.name]
                gone = np.isnan(values) if column.numeric else values < 0
                cells.blame(f"{column.name} is there", gone)
                cells.columns[column.name] = np.where(gone, _anything(column, values), values)
            elif column.discrete and column.name in self.taken:
                cells.columns[column.name] = np.maximum(cells.columns[column.name], -1)
        cohort = assemble(self.outer, cells.columns, blocks=cells.blocks, subject=drawn.subject)
        cohort = replace(cohort, events=drawn.events)
        return cohort, {k: v for k, v in cells.broken.items() if v.any()}, cells.counts

    def published(self, learned: TableSchema) -> Self:
        """The same with the schema of a private generator's rows: what is in it was declared or paid for.

        Args:
            learned: The schema in which the generator draws.
        """
        known = {column.name: column for column in learned.columns}
        # What is not learned itself says what the schema declares, and nothing that was told from rows (`public_part`).
        columns = [
            c.model_copy(update={"inferred": ()}) if c.name in self.taken else known.get(c.name, c)
            for c in self.outer.columns
        ]
        outer = self.outer.model_copy(update={"columns": columns})
        return self.model_copy(update={"inner": learned, "outer": outer})

    def save(self, folder: Path) -> None:
        """Write it beside the model; same rules and rows, same bytes."""
        text = self.model_dump_json(indent=1, exclude_none=True)
        (folder / RULES_FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` wrote."""
        return cls.model_validate_json((folder / RULES_FILE).read_text(encoding="utf-8"))


def _arrays(cohort: Cohort) -> dict[str, NDArray[Any]]:
    """All modelled columns: level positions or numbers."""
    return {c.name: cohort.codes(c.name) if c.discrete else cohort.values(c.name) for c in cohort.schema.modelled()}


def _anything(column: Any, values: NDArray[Any]) -> Any:
    """A cell to stand where one must be, in a row that is thrown away anyway."""
    if column.discrete:
        return 0
    there = values[~np.isnan(values)]
    return there[0] if len(there) else (column.bounds or (0.0, 0.0))[0]


def _codes_of_outsiders(cohort: Cohort, step: Zeroed) -> int:
    places = code_places(cohort.schema, step.only)
    return without_codes(cohort.blocks[str(step.only.codes.block)], outsiders(cohort, step.only), places)[1]
