"""How often real and synthetic rows break a cohort's rules, in counts and rates: for checks and the command line.

Real rows are training rows: the holdout is not looked at for this. Values are never shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError
from pipeline.features.constraint_spec import Combinations, rules_from
from pipeline.features.stored import read_features
from pipeline.generators.constraints.checking import check_rules
from pipeline.generators.constraints.rules import resolved, rule_text, violations
from pipeline.workflow.record import Record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.features.cohort import Cohort
    from pipeline.features.constraint_spec import ConstraintSpec
    from pipeline.store.lake import Lake, Version


@dataclass(frozen=True)
class Kept:
    """How rows keep a rule.

    Attributes:
        rule: Its text.
        rows: Rows looked at.
        broken: Rows that break it.
    """

    rule: str
    rows: int
    broken: int

    @property
    def rate(self) -> float:
        """Share of rows that break it."""
        return self.broken / self.rows if self.rows else 0.0

    @property
    def words(self) -> str:
        """E.g. "'a <= b' is broken by 3 of 8,873 rows (0.034 %)"."""
        return f"'{self.rule}' is broken by {self.broken:,} of {self.rows:,} rows ({100 * self.rate:.2g} %)"


def kept_by(cohort: Cohort, rules: Sequence[ConstraintSpec]) -> list[Kept]:
    """How some rows keep each rule; raises `ConfigError` where a rule does not fit them."""
    check_rules(cohort.schema, rules)
    return [Kept(rule_text(rule), cohort.n_rows, int(violations(cohort, rule).sum())) for rule in rules]


def kept_by_real(lake: Lake, partition: Mapping[str, str], rules: Sequence[ConstraintSpec]) -> list[Kept]:
    """How the training rows of a cell keep rules.

    Raises:
        NotFoundError: the cell has no features.
        ConfigError: a rule does not fit them.
    """
    train = training_rows(lake, partition)
    check_rules(train.schema, rules)
    return kept_by(train, resolved(rules, train))


def kept_by_synthetic(lake: Lake, version: Version) -> list[Kept]:
    """How the rows of a version of `synthetic/<g>` keep the rules that they were drawn under; nothing for a status record.

    Raises:
        NotFoundError: a rule asks for the combinations seen in training, and the cell has no features.
    """
    if not Record.of(version).ok:
        return []
    rules = rules_from((version.info.get("settings") or {}).get("constraints", []))
    if any(isinstance(rule, Combinations) and rule.allowed is None for rule in rules):
        rules = resolved(rules, training_rows(lake, version.partition))
    return kept_by(read_features(lake.tables, version), rules)


def training_rows(lake: Lake, partition: Mapping[str, str]) -> Cohort:
    """The training rows of a cell."""
    return read_features(lake.tables, lake.tables.resolve("features", dict(partition))).part("train")


def faults(found: Sequence[Kept]) -> str:
    """The rules that are broken, in words; empty if none is."""
    return "; ".join(kept.words for kept in found if kept.broken)


def real_faults(lake: Lake, partition: Mapping[str, str], rules: Sequence[ConstraintSpec]) -> tuple[list[Kept], str]:
    """How the training rows keep the rules, and what is wrong with rows or rules in words."""
    try:
        found = kept_by_real(lake, partition, rules)
    except ConfigError as error:
        return [], str(error)
    return found, faults(found)
