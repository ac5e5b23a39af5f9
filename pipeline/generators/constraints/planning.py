"""Which rules of a cohort are kept by which step, and which by drawing again: decided on the training rows.

Derived columns first, then combinations of discrete columns (all rules on them at once), then orders of numbers. A
rule that no step can take is kept by redrawing. A column is given back by one step at most, and no two steps may wait
for each other. What is told from the rows, and not from the schema, is said where `private` is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise, product
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import ConfigError
from pipeline.features.cohort import assemble
from pipeline.features.constraint_spec import (
    Combinations,
    Comparison,
    ConstraintSpec,
    Derivation,
    OnlyWith,
    Order,
    Sum,
)
from pipeline.features.infer import RARE_ROWS
from pipeline.features.schema import Column, TableSchema
from pipeline.generators.constraints.columns import (
    derived_column,
    flag_column,
    gap_column,
    merged_column,
    protected_ends,
)
from pipeline.generators.constraints.kinds import (
    chain_of,
    grouped,
    on_a_block,
    on_levels,
    redrawn_by_nature,
    would_break,
)
from pipeline.generators.constraints.rules import (
    broken_by,
    computed_values,
    resolved,
    rule_text,
    violations,
)
from pipeline.generators.constraints.steps import (
    AnyStep,
    Computed,
    Difference,
    Ends,
    Merged,
    Zeroed,
    first_present,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pipeline.features.cohort import Cohort

BROKEN_MOST = 0.01
"""A rule that more than this share of the real rows breaks is no rule of these rows: it is kept by redrawing."""
CHEAP = 0.05
"""An order or combination is redrawn where at most this share of rows would break it were its columns independent."""
MOST_LEVELS = 256
_NONE = np.empty((0, 0), dtype=np.int64)


@dataclass
class Plan:
    """What was decided.

    Attributes:
        steps: In the order in which they are undone.
        taken: Real columns that are not learned, and by which step's learned columns they are replaced.
        by_step: The rules that the steps keep.
        reasons: Rule to why it is kept by redrawing.
        usable: (n,) False for training rows that break a rule that a step is to keep: they cannot be re-expressed. True
            throughout in private trainings, which mend such rows one by one (`Reexpression.forward`).
    """

    steps: list[AnyStep] = field(default_factory=list)
    taken: dict[str, list[Column]] = field(default_factory=dict)
    by_step: list[ConstraintSpec] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)
    usable: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool))


class Planner:
    """Makes the plan for training rows and rules; see `planned`."""

    def __init__(self, cohort: Cohort, named: frozenset[str], private: bool) -> None:
        self.whole = cohort
        self.schema = cohort.schema
        self.named = named
        self.private = private
        self.plan = Plan()
        self.cohort = cohort
        self._needs: dict[str, list[str]] = {}
        self._names = set(cohort.schema.names) | {b.name for b in cohort.schema.blocks}

    def planned(self, rules: Sequence[ConstraintSpec]) -> Plan:
        """The plan.

        Args:
            rules: As they were declared, checked against the schema.

        Raises:
            ConfigError: no row can keep the rules together, or a private training would have to ask the rows which
                combinations there are.
        """
        tried = self._worth_trying(rules)
        self.cohort = self.whole.take(self.plan.usable)
        if not self.cohort.n_rows:
            raise ConfigError("No training row keeps all rules.", todo="See `cohortloom constraints check`.")
        for rule in tried:
            if isinstance(rule, Derivation | Sum):
                self._derive(rule)
        self._merge([rule for rule in tried if on_levels(rule, self.schema)])
        for rule in tried:
            if (
                isinstance(rule, Comparison | Order)
                and rule not in self.plan.by_step
                and not on_levels(rule, self.schema)
            ):
                self._order(rule)
        for rule in tried:
            if isinstance(rule, OnlyWith) and rule.codes.block is not None:
                self._add(Zeroed(rule=rule_text(rule), only=rule), [], rule)
        self.plan.steps = self._sorted(self.plan.steps)
        return self.plan

    # ---- which rules a step may keep

    def _worth_trying(self, rules: Sequence[ConstraintSpec]) -> list[ConstraintSpec]:
        tried: list[ConstraintSpec] = []
        self.plan.usable = np.ones(self.whole.n_rows, dtype=bool)
        for rule in rules:
            reason = redrawn_by_nature(rule, self.schema, private=self.private)
            if not reason and not self._seen(rule) and not on_a_block(rule) and not self.private:
                broken = violations(self.whole, rule)
                if broken.mean() > BROKEN_MOST:
                    reason = f"{broken.mean():.1%} of the training rows break it"
                else:
                    self.plan.usable &= ~broken
            if reason:
                self.plan.reasons[rule_text(rule)] = reason
            else:
                tried.append(rule)
        return tried

    @staticmethod
    def _seen(rule: ConstraintSpec) -> bool:
        return isinstance(rule, Combinations) and rule.allowed is None

    # ---- the steps

    def _derive(self, rule: Derivation | Sum) -> None:
        column = self.schema.column(rule.target)
        if not self._has_grid(column):
            self._leave(rule, f"'{column.name}' has no grid to be rounded on: declare its resolution")
            return
        gone, lacking = self.cohort.missing(column.name), self._lacking(rule, column)
        own, absent = ~gone & lacking, gone & ~lacking
        extra: list[Column] = []
        present = alone = None
        if column.nullable and (self.private or absent.any()):
            extra.append(flag_column(self._new(f"{column.name}: present"), column))
            present = extra[-1].name
        if column.nullable and (self.private or self._enough(own)):
            extra.append(derived_column(self._new(f"{column.name}: alone"), column, nullable=True))
            alone = extra[-1].name
        ends = Ends() if column.discrete else self._ends(column)
        step = Computed(rule=rule_text(rule), formula=rule, present=present, alone=alone, ends=ends)
        self._add(step, extra, rule)

    def _lacking(self, rule: Derivation | Sum, column: Column) -> NDArray[np.bool_]:
        computed = computed_values(self.cohort, rule)
        return computed < 0 if column.discrete else np.isnan(computed)

    def _merge(self, rules: list[ConstraintSpec]) -> None:
        for columns, group in grouped(rules, self.schema):
            reason = ""
            if any(name in self.plan.taken or name in self.named for name in columns):
                reason = "one of its columns is computed, or named by the generator's settings"
            elif not all(self._has_grid(self.schema.column(name)) for name in columns):
                reason = "the schema does not declare the levels"
            table, shares, fewest = self._combinations(columns, group) if not reason else (_NONE, None, 0)
            if not reason and not len(table):
                said = "', '".join(rule_text(rule) for rule in group)
                raise ConfigError(
                    f"The rules leave no combination of {', '.join(columns)}: '{said}'.", todo="Mend them."
                )
            if not reason and len(table) > MOST_LEVELS:
                reason = f"there are {len(table)} combinations; {MOST_LEVELS} are the most that are learned as one"
            if not reason and not self.private and (chance := self._broken_by_chance(columns, group)) <= CHEAP:
                reason = f"only {chance:.1%} of the rows would break it if the columns were independent"
            asked = any(isinstance(rule, Combinations) for rule in group)
            if not reason and not self.private and not asked and fewest < RARE_ROWS:
                reason = f"some combinations have fewer than {RARE_ROWS} people"
            if reason:
                for rule in group:
                    self._leave(rule, reason)
                continue
            name = self._new(" & ".join(columns))
            step = Merged(
                rule=" and ".join(rule_text(rule) for rule in group),
                columns=columns,
                name=name,
                combinations=table.tolist(),
                shares=None if shares is None else shares.tolist(),
            )
            self._add(step, [merged_column(name, [self.schema.column(c) for c in columns], table)], *group)

    def _broken_by_chance(self, columns: list[str], rules: list[ConstraintSpec]) -> float:
        """The share of rows that would break rules on discrete columns were the columns independent."""
        rng = np.random.default_rng(0)
        shuffled = {name: rng.permutation(self.cohort.codes(name)) for name in columns}
        small = TableSchema(columns=[self.schema.column(c).model_copy(update={"nullable": True}) for c in columns])
        return float(broken_by(assemble(small, shuffled), resolved(rules, self.cohort)).mean())

    def _combinations(
        self, columns: list[str], rules: list[ConstraintSpec]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64] | None, int]:
        """(combinations, columns) that keep the rules; the share of each; the fewest subjects that one has.

        Those of the training rows; in private trainings all that the schema's levels make, which asks nothing of the
        rows and knows no shares.
        """
        if not self.private:
            rows = np.stack([self.cohort.codes(name) for name in columns], axis=1)
            table, key, counts = np.unique(rows, axis=0, return_inverse=True, return_counts=True)
            people = np.unique(self.cohort.subject, return_inverse=True)[1]
            pairs = np.unique(np.stack([key.ravel(), people]), axis=1)[0]
            return table, counts / len(rows), int(np.bincount(pairs, minlength=len(table)).min())
        specs = [self.schema.column(name) for name in columns]
        sizes = [range(-1 if c.nullable else 0, len(c.levels or [])) for c in specs]
        if np.prod([len(size) for size in sizes], dtype=float) > 100 * MOST_LEVELS:
            return np.zeros((MOST_LEVELS + 1, len(columns)), dtype=np.int64), None, 0
        table = np.array(list(product(*sizes)), dtype=np.int64)
        small = TableSchema(columns=[c.model_copy(update={"nullable": True}) for c in specs])
        rows_of_all = assemble(small, {name: table[:, j] for j, name in enumerate(columns)})
        return table[~broken_by(rows_of_all, rules)], None, 0

    def _order(self, rule: Comparison | Order) -> None:
        names, strict = chain_of(rule)
        values = [self.cohort.values(name) for name in names]
        if rule.by is None and not self.private:
            most = max(would_break(low, high) for low, high in pairwise(values))
            if most <= CHEAP:
                self._leave(rule, f"only {most:.1%} of the rows would break it if the columns were independent")
                return
        last = len(names) - 1
        upward = [(k, names[:k][::-1], 1, strict[k - 1]) for k in range(1, last + 1)]
        downward = [(k, names[k + 1 :], -1, strict[k]) for k in range(last - 1, -1, -1)]
        # What is measured from a column that is often missing must often be learned by itself.
        ends = [self.schema.column(name) for name in (names[0], names[-1])]
        gone = [float(c.nullable if self.private else self.cohort.missing(c.name).mean()) for c in ends]
        for way in (upward, downward) if gone[1] >= gone[0] else (downward, upward):
            if all(self._may_depend(names[k], anchors) for k, anchors, _, _ in way):
                for k, anchors, sign, above in way:
                    self._difference(rule, names[k], anchors, sign, above)
                return
        self._leave(rule, "its columns have no grid, are computed already, or are named by the generator's settings")

    def _may_depend(self, name: str, anchors: list[str]) -> bool:
        if name in self.plan.taken or name in self.named or not self._has_grid(self.schema.column(name)):
            return False
        return not any(self._waits_for(anchor, name) for anchor in anchors)

    def _difference(self, rule: Comparison | Order, name: str, anchors: list[str], sign: int, strict: bool) -> None:
        column, chosen = self.schema.column(name), [self.schema.column(a) for a in anchors]
        values, anchor = self.cohort.values(name), first_present([self.cohort.values(a) for a in anchors])
        gone, free = np.isnan(values), np.isnan(anchor)
        dependent_gaps = column.nullable if self.private else bool(gone.any())
        anchor_gaps = all(c.nullable for c in chosen) if self.private else bool(free.any())
        extra = [
            gap_column(
                self._new(f"{name} - {anchors[0]}" if sign == 1 else f"{anchors[0]} - {name}"),
                column,
                chosen,
                sign * (values - anchor),
                sign,
                nullable=dependent_gaps or anchor_gaps,
                private=self.private,
            )
        ]
        present = alone = None
        if dependent_gaps and anchor_gaps:
            extra.append(flag_column(self._new(f"{name}: present"), column))
            present = extra[-1].name
        if anchor_gaps and (self.private or self._enough(~gone & free)):
            extra.append(derived_column(self._new(f"{name}: alone"), column, nullable=True))
            alone = extra[-1].name
        step = Difference(
            rule=rule_text(rule),
            dependent=name,
            anchors=anchors,
            sign=1 if sign == 1 else -1,
            strict=strict,
            gap=extra[0].name,
            always=not dependent_gaps,
            present=present,
            alone=alone,
            ends=self._ends(column),
        )
        self._add(step, extra, rule)

    # ---- bookkeeping

    def _add(self, step: AnyStep, columns: list[Column], *rules: ConstraintSpec) -> None:
        self.plan.steps.append(step)
        for i, name in enumerate(step.gives):
            self.plan.taken[name] = columns if i == 0 else []
            self._needs[name] = step.needs(self.schema)
        self.plan.by_step += [rule for rule in rules if rule not in self.plan.by_step]

    def _leave(self, rule: ConstraintSpec, reason: str) -> None:
        self.plan.reasons[rule_text(rule)] = reason

    def _waits_for(self, name: str, other: str) -> bool:
        """Must `other` be back before `name`?"""
        return name == other or any(self._waits_for(need, other) for need in self._needs.get(name, []))

    def _sorted(self, steps: list[AnyStep]) -> list[AnyStep]:
        """Every step after those that give what it needs."""
        todo, done, given = list(steps), [], {n for n in self.schema.names if n not in self.plan.taken}
        while todo:
            step = next(s for s in todo if set(s.needs(self.schema)) <= given)
            todo.remove(step)
            done.append(step)
            given |= set(step.gives)
        return done

    def _has_grid(self, column: Column) -> bool:
        """Can cells of the column be written without having been learned: are its levels or the grid known, and public?"""
        grid = column.resolution
        told = self.private and bool({"levels", "resolution"} & set(column.inferred))
        return not told and (grid is None or grid.kind != "atoms")

    def _new(self, name: str) -> str:
        """A name that no column has."""
        while name in self._names:
            name += "'"
        self._names.add(name)
        return name

    def _enough(self, rows: NDArray[np.bool_]) -> bool:
        """Are these rows of enough subjects to learn a column from?"""
        return len(np.unique(self.cohort.subject[rows])) >= RARE_ROWS

    def _ends(self, column: Column) -> Ends:
        if self.private:
            return Ends() if column.bounds is None else Ends(low=column.bounds[0], high=column.bounds[1])
        return protected_ends(column, self.cohort)
