"""The constraints that shipped cohorts declare: they fit the tables, and real people keep them."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import pytest
from test_shipped_cohorts import BOOK, deliver_and_build

from pipeline.generators.constraints.reexpress import Reexpression
from pipeline.workflow.constraints import kept_by

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.store.lake import Lake


@pytest.mark.parametrize("name", sorted(n for n, spec in BOOK.cohorts.items() if spec.constraints))
def test_rules_name_declared_columns(name: str) -> None:
    spec = BOOK.cohort(name)
    texts = [str(rule) for rule in spec.constraints]
    assert len(set(texts)) == len(texts)


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "delivery"),
    [
        ("support2", "support2/support2.csv.gz"),
        ("synthea", "synthea-r4-smart"),
        ("mimic3_icu", "mimic-iii-demo-1.4"),
        ("mimic3_codes", "mimic-iii-demo-1.4"),
        ("mimic4_codes", "mimic-iv-demo-2.2"),
    ],
)
def test_real_people_keep_them(lake: Lake, real_data: Path, name: str, delivery: str) -> None:
    cohort = deliver_and_build(lake, name, real_data / delivery, date(2026, 10, 31)).cohort
    rules = BOOK.cohort(name).constraints
    assert {kept.rule: kept.broken for kept in kept_by(cohort, rules)} == {str(rule): 0 for rule in rules}
    change = Reexpression.fit(cohort.part("train"), rules)
    assert change.rows_left_out == change.codes_taken_away == 0
