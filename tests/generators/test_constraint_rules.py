"""How rules are written, which rows break them, and which rules are refused in words."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from generator_tables import mixed_cohort
from pydantic import ValidationError
from rule_tables import RULES, ward_cohort

from pipeline.errors import ConfigError
from pipeline.features.cohort import Cohort
from pipeline.features.constraint_spec import plain_rules, reexpressible, rules_from
from pipeline.generators.constraints.checking import check_rules
from pipeline.generators.constraints.expressions import Expression
from pipeline.generators.constraints.rules import resolved, rule_text, violations

ROWS = pa.table({"age": [20, 15, None], "pregnant": [False, True, False], "two words": ["x", "y", "z"]})


@pytest.fixture(scope="module")
def ward() -> Cohort:
    return ward_cohort(400)


def broken(ward: Cohort, rule: dict[str, object], **cells: object) -> list[bool]:
    """Which of the first rows break a rule once some of their cells are changed."""
    from dataclasses import replace

    n = len(next(iter(cells.values())))  # type: ignore[arg-type]
    part = ward.take(np.arange(n))
    table = part.table
    for name, values in cells.items():
        field = part.schema.arrow().field(name)
        place = table.column_names.index(name)
        table = table.set_column(place, field, pa.array(values, field.type))
    checked = resolved(rules_from([rule]), ward)[0]
    return violations(replace(part, table=table), checked).tolist()


def test_rules_come_back_as_they_were_written() -> None:
    assert rules_from(plain_rules(RULES)) == RULES
    old = {"left": "a", "op": "<=", "right": "b"}
    assert plain_rules(rules_from([old])) == [old], "cells made before keep their settings"


def test_which_rows_break_a_rule(ward: Cohort) -> None:
    order = {"order": "admitted <= operated < discharged"}
    day = {"admitted": [5, 5, 9, 9, None], "operated": [5, 5, None, None, 3], "discharged": [6, 5, 9, 10, 2]}
    assert broken(ward, order, **day) == [False, True, True, False, True], "a missing middle hides nothing"
    where = {"where": "age >= 18 OR pregnant = false"}
    assert broken(ward, where, age=[17, 17, 18], pregnant=[True, False, True]) == [True, False, False]
    derive = {"derive": "bmi = weight / (height * height)"}
    bmi = {"weight": [80.0, 80.0, None, 80.0], "height": [1.8, 1.8, 1.8, 1.8], "bmi": [24.7, 24.8, 20.0, None]}
    assert broken(ward, derive, **bmi) == [False, True, False, False]
    band = {"derive": "age_band = CASE WHEN age < 18 THEN 'child' WHEN age < 65 THEN 'adult' ELSE 'old' END"}
    assert broken(ward, band, age=[17, 18], age_band=["child", "old"]) == [False, True]
    total = {"sum": "total = drugs + tests + scans"}
    assert broken(ward, total, drugs=[1, 1], tests=[2, 2], scans=[3, 3], total=[6, 7]) == [False, True]
    pair = {"combinations": ["hospital", "region"]}
    assert broken(ward, pair, hospital=["h0", "h0"], region=["north", "south"]) == [False, True]
    only = {"codes": {"column": "pregnant", "only": {"sex": "female"}}}
    sexes = {"pregnant": [True, True, True, False], "sex": ["female", "male", None, "male"]}
    assert broken(ward, only, **sexes) == [False, True, False, False], "an unknown sex breaks nothing"
    flags = {"on_icu": [True, True, False], "on_surgical": [False, True, False], "on_medical": [False] * 3}
    assert broken(ward, {"one_hot": list(flags)}, **flags) == [False, True, True]
    assert broken(ward, {"exclusive": list(flags)}, **flags) == [False, True, False]


def test_codes_of_a_block(ward: Cohort) -> None:
    (rule,) = rules_from(
        [{"codes": {"block": "diagnoses", "prefix": ["O"], "codes": ["N40"], "only": {"sex": "male"}}}]
    )
    carried = np.asarray(ward.blocks["diagnoses"][:, [0, 1, 5]].sum(axis=1)).ravel() > 0
    women = ward.codes("sex") == 0
    assert 0 < (violations(ward, rule) == (carried & women)).all() < (carried & women).sum()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("(SELECT count(*) FROM read_csv('/etc/passwd')) > 1", "a query"),
        ("age IN (SELECT 1)", "a query"),
        ("read_text('/etc/passwd') = 'x' OR age > 1", r"read_text\(\)"),
        ("getenv('HOME') = 'x' OR age > 1", r"getenv\(\)"),
        ("random() > age", r"random\(\)"),
        ("main.abs(age) > 1", r"abs\(\)"),
        ("count(*) > 1", "count_star"),
        ("sum(age) OVER () > 1", "a window"),
        ("age > 1), (true", "more than one"),
        ("age > 1) FROM cohort_rows; SELECT (true", "more than one"),
        ("age > 1) FROM read_csv('/etc/passwd') --", "cannot be read|more than one"),
        ("age > 1) FROM (SELECT 1 AS age", "cannot be read|more than one"),
        ("cohort_rows.age > 1", "no column"),
        ("agee > 1", "Did you mean 'age'"),
        ("1 < 2", "no column"),
        ("age >", "cannot be read"),
        ("*", r"holds \*"),
    ],
)
def test_sql_that_reaches_beyond_the_row_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Expression.read(text, ROWS.column_names, where="rule")


def test_sql_over_the_row() -> None:
    def value(text: str) -> list[object]:
        return Expression.read(text, ROWS.column_names, where="rule").evaluate(ROWS).to_pylist()

    assert value("age >= 18 OR pregnant = false -- adults") == [True, False, True]
    assert value("CASE WHEN age < 18 THEN 'child' ELSE 'adult' END") == ["adult", "child", "adult"]
    assert value("\"two words\" IN ('x', 'z') AND CAST(age AS DOUBLE) BETWEEN 0.5 AND 30") == [True, False, None]


def test_a_predicate_must_be_true_or_false(ward: Cohort) -> None:
    for text in ("age + 1", "lower(hospital)"):
        with pytest.raises(ConfigError, match="not true or false"):
            violations(ward, rules_from([{"where": text}])[0])
    with pytest.raises(ConfigError, match="cannot be evaluated") as error:
        violations(ward, rules_from([{"where": "CAST(hospital AS INTEGER) > 1"}])[0])
    assert "h0" not in str(error.value), "DuckDB's own text quotes a cell"


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ([{"order": "admitted < discharged"}, {"left": "discharged", "op": "<=", "right": "admitted"}], "contradict"),
        ([{"left": "age", "op": ">=", "right": 60}, {"left": "age", "op": "<", "right": 60}], "no value of 'age'"),
        ([{"derive": "bmi = weight"}, {"derive": "bmi = height"}], "computed in two ways"),
        ([{"derive": "bmi = weight"}, {"derive": "weight = bmi * 2"}], "from itself"),
        ([{"derive": "bmi = bmi + 1"}], "no column 'bmi'"),
        ([{"combinations": ["hospital", "age"]}], "columns with levels"),
        ([{"combinations": ["hospital", "regoin"]}], "Did you mean 'region'"),
        ([{"codes": {"block": "drugs", "prefix": ["O"], "only": {"sex": "female"}}}], "no code block"),
        ([{"codes": {"column": "pregnant", "only": {"sex": "woman"}}}], "no level of column 'sex'"),
        ([{"order": "hospital <= region"}], "no order"),
    ],
)
def test_rules_that_make_no_sense(ward: Cohort, rules: list[dict[str, object]], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_rules(ward.schema, rules_from(rules))


def test_orders_that_are_all_kept_by_equal_columns_are_no_contradiction(ward: Cohort) -> None:
    check_rules(ward.schema, rules_from([{"order": "admitted <= discharged"}, {"order": "discharged <= admitted"}]))


@pytest.mark.parametrize(
    "rule",
    [
        {"lft": "a", "op": "<", "right": 1},
        {"where": "a > 1", "left": "a"},
        {"sum": "total = a * b"},
        {"derive": "a >= 3"},
        {"order": "a"},
        {"order": "a <= a"},
        {"codes": {"block": "d", "only": {"sex": "f"}}},
        {"codes": {"column": "a", "prefix": ["O"], "only": {"sex": "f"}}},
        {"combinations": ["a", "b"], "allowed": [["x"]]},
    ],
)
def test_rules_that_cannot_be_read(rule: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        rules_from([rule])


def test_which_rules_decide_what_is_learned() -> None:
    limit, redrawn, learned = rules_from(
        [
            {"left": "age", "op": "<=", "right": 95},
            {"left": "a", "op": "<=", "right": "b", "by": "redraw"},
            {"left": "a", "op": "<=", "right": "b"},
        ]
    )
    assert [reexpressible(r) for r in (limit, redrawn, learned)] == [False, False, True]


def test_the_text_of_a_rule_shows_no_level_that_only_the_data_have(ward: Cohort) -> None:
    rule = resolved(rules_from([{"combinations": ["hospital", "region"]}]), ward)[0]
    assert rule_text(rule) == "combinations of hospital, region"
    assert not violations(ward, rule).any()


def test_only_the_combinations_of_training_are_known(ward: Cohort) -> None:
    (rule,) = rules_from([{"combinations": ["hospital", "region"]}])
    with pytest.raises(ConfigError, match="training rows only"):
        violations(ward, rule)


def test_limits_and_comparisons_on_mixed_kinds() -> None:
    cohort = mixed_cohort(200)
    for rule in rules_from([{"left": "stage", "op": ">=", "right": 2}, {"left": "died", "op": "==", "right": 0}]):
        column = cohort.codes(rule.left)  # type: ignore[union-attr]
        wrong = (column == 0) if rule.left == "stage" else (column == 1)  # type: ignore[union-attr]
        assert (violations(cohort, rule) == wrong).all()
