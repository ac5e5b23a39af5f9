"""Mined rules: those that are there are found, with what they rest on; those that are chance are not."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from rule_tables import ward_cohort

from pipeline.features.cohort import Cohort, assemble
from pipeline.features.constraint_spec import rules_from
from pipeline.features.schema import Column, Resolution, TableSchema
from pipeline.generators.constraints.checking import check_rules
from pipeline.generators.constraints.rules import resolved, violations
from pipeline.generators.constraints.suggest import as_yaml, suggestions


@pytest.fixture(scope="module")
def ward() -> Cohort:
    return ward_cohort()


def texts(cohort: Cohort) -> set[str]:
    return {str(s.rule) for s in suggestions(cohort)}


def test_what_is_there_is_found(ward: Cohort) -> None:
    assert texts(ward) >= {
        "admitted <= operated <= discharged",
        "total = drugs + tests + scans",
        "combinations of hospital, region",
        "exactly one of on_icu, on_surgical, on_medical",
        "pregnant only with sex female",
    }
    codes = next(s for s in suggestions(ward) if str(s.rule).startswith("diagnoses"))
    assert str(codes.rule) == "diagnoses O80, Z34 only with sex female", "O10 has too few carriers"
    assert codes.people >= 50


def test_it_is_pasteable_and_holds_and_shows_no_value(ward: Cohort) -> None:
    text = as_yaml(suggestions(ward))
    rules = rules_from(yaml.safe_load(text)["constraints"])
    assert len(rules) == len(suggestions(ward))
    for rule in resolved(rules, ward):
        assert not violations(ward, rule).any(), str(rule)
    comments = [line for line in text.splitlines() if line.lstrip().startswith("#")]
    assert len(comments) == len(rules)
    assert all(int(line.split()[1].replace(",", "")) >= 11 for line in comments)
    assert not any(level in text for level in ("h0", "north", "child"))


def test_what_is_said_of_flags_of_text_can_be_pasted() -> None:
    """Text has no order: `treated <= changed` would be refused."""
    rng = np.random.default_rng(0)
    changed = rng.integers(0, 2, 900)
    treated = np.where(changed == 1, rng.integers(0, 2, 900), 0)
    schema = TableSchema(
        columns=[
            Column(name="treated", kind="binary", dtype="string", levels=["no", "yes"]),
            Column(name="changed", kind="binary", dtype="string", levels=["steady", "changed"]),
        ]
    )
    cohort = assemble(schema, {"treated": treated, "changed": changed})
    assert texts(cohort) == {"treated only with changed changed"}
    rules = rules_from(yaml.safe_load(as_yaml(suggestions(cohort)))["constraints"])
    check_rules(schema, rules)
    assert not violations(cohort, rules[0]).any()
    # A flag of one sex alone is told once, however that sex stands among the levels.
    columns = [
        schema.columns[0].model_copy(update={"name": "pregnant"}),
        schema.columns[1].model_copy(update={"name": "sex", "levels": ["male", "female"]}),
    ]
    found = suggestions(assemble(TableSchema(columns=columns), {"pregnant": treated, "sex": changed}))
    assert [str(s.rule) for s in found] == ["pregnant only with sex female"]


def test_nothing_is_suggested_of_independent_columns() -> None:
    rng = np.random.default_rng(0)
    n = 400
    columns = [Column(name=f"x{i}", kind="continuous", dtype="float64") for i in range(5)]
    columns += [Column(name=f"c{i}", kind="categorical", dtype="string", levels=list("abc")) for i in range(3)]
    columns += [Column(name="sex", kind="categorical", dtype="string", levels=["f", "m"])]
    columns += [Column(name=f"flag{i}", kind="binary", dtype="bool", levels=[False, True]) for i in range(3)]
    cells = {c.name: rng.normal(size=n) if c.numeric else rng.integers(0, len(c.levels or []), n) for c in columns}
    cells["flag0"] = (rng.random(n) < 0.01).astype(int)
    assert texts(assemble(TableSchema(columns=columns), cells)) == set()


def test_products_and_quotients_on_a_grid_and_differences_as_sums() -> None:
    rng = np.random.default_rng(1)
    n = 300
    tenth = Resolution(kind="decimals", digits=1)
    a, b, c = np.round(rng.uniform(1, 9, n), 1), np.round(rng.uniform(1, 9, n), 1), np.round(rng.uniform(1, 9, n), 1)
    cells = {"a": a, "b": b, "c": c, "b over c": np.round(b / c, 1), "rest": np.round(a - b, 1)}
    schema = TableSchema(
        columns=[Column(name=name, kind="continuous", dtype="float64", resolution=tenth) for name in cells]
    )
    found = texts(assemble(schema, cells))
    assert '"b over c" = b / c' in found
    assert "a = b + rest" in found


def test_rules_rest_on_people_not_on_rows(ward: Cohort) -> None:
    """Fifty rows of five people say nothing."""
    from dataclasses import replace

    one = replace(ward, subject=np.array([f"p{i % 8}" for i in range(ward.n_rows)]))
    assert texts(one) == set()
