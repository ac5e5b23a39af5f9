"""The clinical rules that shipped cohorts declare: they can be read, and real people (nearly) never break them."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import pytest
from test_shipped_cohorts import BOOK, deliver_and_build

from pipeline.evaluation.encoding import MetricEncoder
from pipeline.evaluation.fidelity.rules import Rows, curated

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.store.lake import Lake

WITH_RULES = sorted(name for name, spec in BOOK.cohorts.items() if spec.evaluation.rules)


@pytest.mark.parametrize("name", WITH_RULES)
def test_rules_name_what_the_cohort_holds(name: str) -> None:
    spec = BOOK.cohort(name)
    names = [rule.name for rule in spec.evaluation.rules]
    assert len(set(names)) == len(names)
    for rule in spec.evaluation.rules:
        assert rule.description, rule.name
        for condition in (*rule.when, *rule.never):
            assert {condition.column, condition.other} - {None} <= set(spec.columns), rule.name
            assert {condition.block} - {None} <= set(spec.blocks), rule.name
            levels = spec.columns[condition.column].levels if condition.column else None
            if levels is not None and condition.value is not None:
                given = condition.value if isinstance(condition.value, list) else [condition.value]
                assert set(given) <= set(levels), rule.name


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "delivery", "most"),
    [
        ("support", "support/support.csv.gz", {"diabetes is counted": 3}),
        ("support2", "support2/support2.csv.gz", {}),
        ("heart", "uci-heart", {}),
        ("mimic3_icu", "mimic-iii-demo-1.4", {}),
    ],
)
def test_real_people_break_none(lake: Lake, real_data: Path, name: str, delivery: str, most: dict[str, int]) -> None:
    cohort = deliver_and_build(lake, name, real_data / delivery, date(2026, 10, 31)).cohort
    encoder = MetricEncoder(cohort.part("train"))
    rows = Rows(encoder.side(cohort))
    asked = 0
    for spec in BOOK.cohort(name).evaluation.rules:
        judged = curated(spec, encoder).judge(rows)
        asked += bool(judged.can.any())
        assert judged.broken.sum() == most.get(spec.name, 0), spec.name
    assert asked >= len(BOOK.cohort(name).evaluation.rules) - 1, "pregnancy at 60: nobody in the MIMIC-III demo"
