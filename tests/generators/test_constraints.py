"""Rules that every drawn row keeps, and several trainings side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from generator_tables import mixed_cohort

from pipeline.errors import ConfigError, NotFoundError, UnsupportedError
from pipeline.features.constraint_spec import Comparison
from pipeline.generators.constraints import sample_constrained, violations
from pipeline.generators.gaussian_copula import GaussianCopula
from pipeline.generators.independent import Independent
from pipeline.generators.replicates import fit_replicates, sample_replicates

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def model() -> Independent:
    made = Independent()
    made.fit(mixed_cohort(800), seed=0)
    return made


def test_violating_rows_are_redrawn_and_counted(model: Independent) -> None:
    rules = [
        Comparison(left="visits", op="<=", right=3),
        Comparison(left="glucose", op="<", right="age"),
        Comparison(left="stage", op=">=", right=2),
        Comparison(left="died", op="==", right=0),
    ]
    plain = model.sample(500, seed=3)
    drawn, counts = sample_constrained(model, 500, 3, rules)
    broken = np.any([violations(plain, r) for r in rules], axis=0)
    assert counts["violating_rows"] == broken.sum() > 50
    assert counts["redrawn_rows"] >= counts["violating_rows"]
    assert counts["visits <= 3.0"] == (plain.values("visits") > 3).sum()
    assert not np.any([violations(drawn, r) for r in rules])
    for name in ("age", "cost"):
        np.testing.assert_array_equal(drawn.values(name)[~broken], plain.values(name)[~broken])
    assert drawn.missing("glucose").any(), "a missing cell breaks no rule"
    assert len(set(drawn.table.column("patient").to_pylist())) == 500


def test_rules_and_conditions_together(model: Independent) -> None:
    wanted = pd.DataFrame({"group": ["a", "b"] * 100})
    drawn, _ = sample_constrained(model, 200, 1, [Comparison(left="visits", op=">", right=0)], conditions=wanted)
    assert drawn.table.column("group").to_pylist() == wanted["group"].tolist()
    assert (drawn.values("visits") > 0).all()


def test_rules_that_cannot_be(model: Independent) -> None:
    with pytest.raises(UnsupportedError, match=r"visits > 5000"):
        sample_constrained(model, 20, 0, [Comparison(left="visits", op=">", right=5000)])
    with pytest.raises(ConfigError, match="visits"):
        sample_constrained(model, 20, 0, [Comparison(left="visit", op=">", right=5)])
    with pytest.raises(ConfigError, match="no order"):
        sample_constrained(model, 20, 0, [Comparison(left="group", op=">", right=5)])


def test_replicates(tmp_path: Path) -> None:
    real = mixed_cohort(400)
    reports = fit_replicates("gaussian_copula", {}, real, seeds=[11, 12], folder=tmp_path)
    assert len(reports) == 2
    rule = Comparison(left="visits", op="<=", right=6)
    cohorts, counts = sample_replicates(tmp_path, 100, seeds=[1, 2], constraints=[rule])
    assert [c.n_rows for c in cohorts] == [100, 100]
    assert not cohorts[0].table.equals(cohorts[1].table)
    assert counts["redrawn_rows"] >= counts["violating_rows"]
    alone = GaussianCopula()
    alone.fit(real, seed=11)
    expected, _ = sample_constrained(alone, 100, 1, [rule])
    assert cohorts[0].table.equals(expected.table)
    with pytest.raises(ConfigError, match="3 seeds"):
        sample_replicates(tmp_path, 5, seeds=[1, 2, 3])
    with pytest.raises(NotFoundError):
        sample_replicates(tmp_path / "nothing", 5, seeds=[1])


def test_a_refusal_is_passed_on_in_words(tmp_path: Path) -> None:
    from pipeline.features.cohort import assemble
    from pipeline.features.schema import Column, TableSchema

    only_ids = TableSchema(columns=[Column(name="id", kind="identifier", dtype="string")])
    cohort = assemble(only_ids, {"id": np.zeros(20)})
    with pytest.raises(UnsupportedError, match="only identifiers"):
        fit_replicates("vae", {}, cohort, seeds=[0], folder=tmp_path)
