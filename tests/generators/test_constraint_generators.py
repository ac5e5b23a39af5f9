"""Rules of every kind hold in every row of every generator, and what is learned in place of columns comes back exactly."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from generator_tables import QUICK, suited
from rule_tables import RULES, ward_cohort

from pipeline.errors import ConfigError, UnsupportedError
from pipeline.features.cohort import Cohort, assemble
from pipeline.features.constraint_spec import rules_from
from pipeline.features.resolution import moved
from pipeline.features.schema import Column, Resolution, TableSchema
from pipeline.features.schema_union import told_anew
from pipeline.generators.base import Generator, load_generator
from pipeline.generators.constraints.constrained import Constrained
from pipeline.generators.constraints.redraw import sample_constrained
from pipeline.generators.constraints.reexpress import Reexpression
from pipeline.generators.constraints.rules import resolved, violations
from pipeline.generators.registry import generator_class, generator_names
from pipeline.generators.replicates import fit_replicates, sample_replicates, under_rules
from pipeline.privacy.spec import TrainingPrivacy

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.features.constraint_spec import ConstraintSpec

DRAWN = 700


@pytest.fixture(scope="module")
def ward() -> Cohort:
    return ward_cohort()


@pytest.fixture(scope="module")
def change(ward: Cohort) -> Reexpression:
    return Reexpression.fit(ward, RULES)


@pytest.fixture(scope="module")
def copula(ward: Cohort) -> Generator:
    model = under_rules(generator_class("gaussian_copula")(), RULES)
    model.fit(ward, seed=1)
    return model


def assert_kept(drawn: Cohort, rules: list[ConstraintSpec], train: Cohort) -> None:
    for rule in resolved(rules, train):
        assert violations(drawn, rule).sum() == 0, str(rule)


@pytest.mark.parametrize("name", generator_names())
def test_every_rule_holds_in_every_row_of_every_generator(name: str, ward: Cohort) -> None:
    settings = {
        **QUICK.get(name, {}),
        **({"epochs": 5} if "epochs" in generator_class(name).Config.model_fields else {}),
    }
    ward = suited(generator_class(name), ward)
    model = under_rules(generator_class(name)(settings), RULES)
    assert isinstance(model, Constrained)
    model.fit(ward, seed=1, device="cpu")
    drawn, counts = sample_constrained(model, DRAWN, 2, RULES)
    assert drawn.table.schema == ward.schema.arrow()
    assert drawn.n_rows == len(set(drawn.table.column("patient").to_pylist())) == DRAWN
    assert_kept(drawn, RULES, ward)
    redrawn_only = {"age >= 18 OR pregnant = false", "age <= 95.0"}
    assert {rule for rule in map(str, RULES) if counts[rule]} <= redrawn_only, "the others cannot be broken"
    for column in ward.schema.modelled():
        gone = abs(ward.missing(column.name).mean() - drawn.missing(column.name).mean())
        assert gone < 0.08, f"{name}: share of missing '{column.name}' off by {gone:.3f}"
        if column.numeric:
            values = drawn.values(column.name)[~drawn.missing(column.name)]
            if column.bounds is not None:
                assert column.bounds[0] <= values.min() <= values.max() <= column.bounds[1], column.name
            assert column.resolution is not None
            assert moved(values, column.resolution, column.dtype) == 0, column.name


def test_what_is_learned_comes_back_exactly(ward: Cohort, change: Reexpression) -> None:
    inner = change.forward(ward)
    assert inner.table.schema == change.inner.arrow()
    assert {f.kept_by for f in change.fates if f.rule not in ("age >= 18 OR pregnant = false", "age <= 95.0")} == {
        "re-expression"
    }
    for name in ("bmi", "total", "discharged", "hospital", "region", "pregnant", "diastolic"):
        assert name not in inner.schema.names
    back, _, counts = change.back(inner, np.random.default_rng(0))
    for column in ward.schema.modelled():
        assert back.table.column(column.name).equals(ward.table.column(column.name)), column.name
    assert (back.blocks["diagnoses"] != ward.blocks["diagnoses"]).nnz == 0
    assert counts.get("cells_filled", 0) == counts["codes_taken_away"] == 0


def test_both_sides_missing_one_side_or_none_all_come_back(ward: Cohort, change: Reexpression) -> None:
    """No value is lost where the column that it is measured from is missing."""
    patterns = ward.missing("systolic").astype(int) + 2 * ward.missing("diastolic")
    assert set(patterns) == {0, 1, 2, 3}
    inner = change.forward(ward)
    assert {"systolic - diastolic", "diastolic: present", "diastolic: alone"} <= set(inner.schema.names)
    alone = ward.missing("systolic") & ~ward.missing("diastolic")
    np.testing.assert_array_equal(inner.values("diastolic: alone")[alone], ward.values("diastolic")[alone])
    assert np.isnan(inner.values("systolic - diastolic")[patterns > 0]).all()
    kept = ward.missing("weight") & ~ward.missing("bmi")
    np.testing.assert_array_equal(inner.values("bmi: alone")[kept], ward.values("bmi")[kept])


def test_a_side_that_hardly_anybody_has_alone_is_not_learned_from_a_few(ward: Cohort) -> None:
    rows = np.flatnonzero(ward.missing("systolic") & ~ward.missing("diastolic"))
    few = ward.take(np.setdiff1d(np.arange(ward.n_rows), rows[4:]))
    rules = rules_from([{"left": "diastolic", "op": "<", "right": "systolic", "by": "difference"}])
    change = Reexpression.fit(few, rules)
    assert "diastolic: alone" not in change.inner.names, "4 people's own values"
    back, _, counts = change.back(change.forward(few), np.random.default_rng(0))
    assert counts["cells_filled"] == 4
    np.testing.assert_array_equal(back.missing("diastolic"), few.missing("diastolic"))


def test_same_seed_same_rows_saved_or_not(copula: Generator, ward: Cohort, tmp_path: Path) -> None:
    drawn = copula.sample(300, seed=5)
    copula.save(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["constraints.json", "model.json", "model.safetensors"]
    loaded = load_generator(tmp_path)
    assert loaded.sample(300, seed=5).table.equals(drawn.table)
    again = under_rules(generator_class("gaussian_copula")(), RULES)
    again.fit(ward, seed=1)
    (tmp_path / "again").mkdir()
    again.save(tmp_path / "again")
    for name in ("constraints.json", "model.json", "model.safetensors"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name
    assert_kept(sample_constrained(loaded, 300, 6, RULES)[0], RULES, ward)


def test_redrawn_rows_are_not_drawn_twice(copula: Generator) -> None:
    """A draw that is redrawn for a rule, of a generator that redraws for bounds: their seeds must not meet."""
    drawn, counts = sample_constrained(copula, 2000, 3, rules_from([{"left": "age", "op": ">=", "right": 40}]))
    assert counts["redrawn_rows"] > 300
    assert counts["rows_beyond_bounds"] > 0
    names = [c.name for c in drawn.schema.modelled()]
    assert len(drawn.table.select(names).to_pandas().drop_duplicates()) == 2000


def test_conditions_are_said_in_learned_columns(copula: Generator, ward: Cohort) -> None:
    drawn = copula.sample(200, seed=1, conditions={"sex": "male"})
    assert set(drawn.table.column("sex").to_pylist()) == {"male"}
    assert not any(drawn.table.column("pregnant").to_pylist()), "of the combinations with male"
    drawn = copula.sample(
        200, seed=1, conditions={"hospital": "h4", "region": "south", "systolic": 150, "diastolic": 80}
    )
    for name, wanted in (("hospital", "h4"), ("region", "south"), ("systolic", 150), ("diastolic", 80)):
        assert set(drawn.table.column(name).to_pylist()) == {wanted}
    drawn = copula.sample(50, seed=1, conditions={"diastolic": None})
    assert drawn.missing("diastolic").all()
    by_row = pd.DataFrame({"hospital": ["h0", "h5"] * 50, "age": [30, 70] * 50})
    drawn, _ = sample_constrained(copula, 100, 4, RULES, conditions=by_row)
    assert drawn.table.column("hospital").to_pylist() == by_row["hospital"].tolist()
    assert drawn.table.column("age").to_pylist() == by_row["age"].tolist()
    assert_kept(drawn, RULES, ward)


def test_conditions_that_no_learned_column_says(copula: Generator, ward: Cohort) -> None:
    """On one end of an order, on a total, on a part of a combination beside something else: drawn until they fit."""
    for wanted in ({"diastolic": 80}, {"total": 9}, {"age_band": "old"}, {"sex": "female", "age": 30}):
        drawn, _ = sample_constrained(copula, 60, 2, RULES, conditions=wanted)
        for name, cell in wanted.items():
            assert set(drawn.table.column(name).to_pylist()) == {cell}
        assert_kept(drawn, RULES, ward)
    both = pd.DataFrame({"total": [6, 12] * 20})
    assert copula.sample(40, seed=3, conditions=both).table.column("total").to_pylist() == both["total"].tolist()


def test_conditions_that_contradict_a_rule(copula: Generator) -> None:
    with pytest.raises(ConfigError, match="contradict the rule 'diastolic < systolic'"):
        copula.sample(5, seed=0, conditions={"systolic": 80, "diastolic": 90})
    with pytest.raises(ConfigError, match="No combination"):
        copula.sample(5, seed=0, conditions={"hospital": "h0", "region": "south"})
    with pytest.raises(UnsupportedError, match="too rare"):
        copula.sample(5, seed=0, conditions={"total": 110})


def test_real_rows_that_break_a_rule(ward: Cohort) -> None:
    """A few are left out and counted; a rule that many break is kept by drawing again."""
    rules = rules_from([{"left": "diastolic", "op": "<", "right": "systolic", "by": "difference"}])
    column = ward.schema.column("diastolic")
    place = ward.schema.names.index("diastolic")
    high = np.flatnonzero(~ward.missing("diastolic") & ~ward.missing("systolic"))
    for count, way in ((5, "re-expression"), (60, "redrawing")):
        values = ward.values("diastolic")
        values[high[:count]] = ward.values("systolic")[high[:count]] + 5
        table = ward.table.set_column(place, ward.schema.arrow().field(column.name), [values])
        cells = [None if np.isnan(v) else v for v in values]
        table = ward.table.set_column(place, ward.schema.arrow().field(column.name), [cells])
        cohort = replace(ward, table=table)
        model = under_rules(generator_class("independent")(), rules)
        report = model.fit(cohort, seed=0)
        assert isinstance(model, Constrained)
        assert model.change is not None
        (fate,) = model.change.fates
        assert (fate.kept_by, fate.broken) == (way, count)
        assert report.rows == ward.n_rows - (count if way == "re-expression" else 0)
        assert any(f"{count} training rows break" in warning for warning in report.warnings)
        assert_kept(sample_constrained(model, 500, 1, rules)[0], rules, ward)


def test_a_rule_that_hardly_any_row_keeps_says_its_rate(copula: Generator) -> None:
    with pytest.raises(UnsupportedError, match=r"'age > 500.0' was broken by 100.0% of the [\d,]+ rows"):
        sample_constrained(copula, 20, 0, rules_from([{"left": "age", "op": ">", "right": 500}]))


def test_rules_that_leave_no_combination_are_refused(ward: Cohort) -> None:
    contradiction = rules_from([{"one_hot": ["on_icu", "on_surgical"]}, {"where": "NOT on_icu AND NOT on_surgical"}])
    with pytest.raises(ConfigError, match=r"No training row keeps all rules|leave no combination"):
        Reexpression.fit(ward, contradiction, private=True)


def test_columns_that_the_settings_name_are_learned_as_they_are(ward: Cohort) -> None:
    change = Reexpression.fit(ward, RULES, named=["region", "diastolic"])
    assert {"region", "hospital", "diastolic"} <= set(change.inner.names)
    assert "systolic" not in change.inner.names, "the other end can be measured instead"
    fates = {fate.rule: fate.kept_by for fate in change.fates}
    assert fates["combinations of hospital, region"] == "redrawing"


def test_orders_that_are_cheap_to_redraw_are_redrawn(ward: Cohort) -> None:
    rules = rules_from([{"left": "diastolic", "op": "<", "right": "systolic"}, {"order": "admitted <= discharged"}])
    fates = Reexpression.fit(ward, rules).fates
    assert [f.kept_by for f in fates] == ["redrawing", "re-expression"]
    assert "if the columns were independent" in fates[0].reason


def test_private_trainings_ask_nothing_of_the_rows(ward: Cohort) -> None:
    """Declared combinations are public, those seen in training are not; the change is the same whoever is in."""
    with pytest.raises(ConfigError, match="List them under `allowed`"):
        Reexpression.fit(ward, RULES, private=True)
    listed = [{"combinations": ["hospital", "region"], "allowed": [["h0", "north"], ["h2", "middle"]]}]
    rules = [r for r in RULES if not str(r).startswith("combinations")] + rules_from(listed)
    whole, half = (Reexpression.fit(rows, rules, private=True) for rows in (ward, ward.take(np.arange(300))))
    assert whole == half
    assert whole.rows_left_out is None
    assert all(fate.broken is None for fate in whole.fates)
    kept = whole.forward(ward)
    assert kept.n_rows == ward.n_rows, "how many rows break a rule would show in how many are learned from"
    some = np.random.default_rng(0).permutation(ward.n_rows)[:200]
    assert whole.forward(ward.take(some)).table.equals(kept.take(some).table), "a row is mended from its own cells"
    back, wrong, _ = whole.back(kept, np.random.default_rng(0))
    assert_kept(back, rules, ward)
    assert not wrong


def test_a_private_order_is_measured_alike_whichever_end_patients_lack() -> None:
    grid = Resolution(kind="decimals")
    ends = [
        Column(name=name, kind="continuous", dtype="float64", bounds=(0, 99), resolution=grid, nullable=True)
        for name in ("low", "high")
    ]
    values = np.arange(40.0)
    often = np.where(np.arange(40) % 2, values, np.nan)
    rules = rules_from([{"left": "low", "op": "<=", "right": "high", "by": "difference"}])
    here, there = (
        assemble(TableSchema(columns=ends), {"low": low, "high": high})
        for low, high in ((often, values), (values, often))
    )
    assert Reexpression.fit(here, rules) != Reexpression.fit(there, rules)
    assert Reexpression.fit(here, rules, private=True) == Reexpression.fit(there, rules, private=True)


def test_replicates_learn_and_draw_under_rules(ward: Cohort, tmp_path: Path) -> None:
    fit_replicates("independent", {}, ward, seeds=[1, 2], folder=tmp_path, constraints=RULES)
    cohorts, counts = sample_replicates(tmp_path, 300, seeds=[3, 4], constraints=RULES)
    for drawn in cohorts:
        assert_kept(drawn, RULES, ward)
    assert counts["admitted <= operated <= discharged"] == 0
    assert (tmp_path / "replicate-0" / "constraints.json").is_file()


def test_times_of_day_and_numbers_without_a_grid() -> None:
    """Differences of clock times stay on their minutes; floats without a grid keep the order all the same."""
    rng = np.random.default_rng(0)
    n = 300
    minute = Resolution(kind="step", step=1 / 1440)
    schema = TableSchema(
        columns=[
            Column(name="start", kind="datetime", dtype="timestamp[us]", resolution=minute),
            Column(name="end", kind="datetime", dtype="timestamp[us]", resolution=minute, nullable=True),
            Column(name="low", kind="continuous", dtype="float64"),
            Column(name="high", kind="continuous", dtype="float32"),
        ]
    )
    start = np.rint((18_000 + 500 * rng.random(n)) * 1440) / 1440
    end = np.where(rng.random(n) < 0.2, np.nan, start + rng.integers(0, 600, n) / 1440)
    low = rng.normal(size=n)
    high = (low + rng.exponential(size=n)).astype(np.float32).astype(float)
    real = assemble(schema, {"start": start, "end": end, "low": np.minimum(low, high), "high": high})
    rules = rules_from([{"left": "start", "op": "<=", "right": "end"}, {"left": "low", "op": "<=", "right": "high"}])
    change = Reexpression.fit(real, rules)
    assert [f.kept_by for f in change.fates] == ["re-expression"] * 2
    back, _, _ = change.back(change.forward(real), np.random.default_rng(0))
    assert back.table.select(["start", "end"]).equals(real.table.select(["start", "end"]))
    np.testing.assert_allclose(back.values("high"), real.values("high"), rtol=1e-6)
    model = under_rules(generator_class("independent")(), rules)
    model.fit(real, seed=0)
    drawn, _ = sample_constrained(model, 500, 1, rules)
    assert_kept(drawn, rules, real)
    assert moved(drawn.values("end")[~drawn.missing("end")], minute) == 0


def test_a_private_training_keeps_rules_and_gives_no_bound_away(ward: Cohort, tmp_path: Path) -> None:
    rules = [r for r in RULES if not str(r).startswith("combinations")]
    told = {"height": ("bounds",), "stroke": ("nullable",), "on_icu": ("kind", "nullable"), "bleed": ("nullable",)}
    columns = [c.model_copy(update={"inferred": told.get(c.name, ())}) for c in ward.schema.columns]
    columns = [c.model_copy(update={"bounds": (1.4137, 2.0731)}) if c.name == "height" else c for c in columns]
    cohort = replace(ward, schema=ward.schema.model_copy(update={"columns": columns}))
    model = under_rules(generator_class("independent")(), rules)
    report = model.fit(cohort, seed=1, privacy=TrainingPrivacy(epsilon=4.0))
    assert report.privacy is not None
    model.save(tmp_path)
    written = (tmp_path / "constraints.json").read_text()
    assert "1.4137" not in written
    assert "2.0731" not in written
    assert '"broken"' not in written
    assert '"shares"' not in written
    drawn, _ = sample_constrained(load_generator(tmp_path), 400, 2, rules)
    assert_kept(drawn, rules, ward)
    assert told_anew(drawn.schema, cohort.schema), "else the structural check stops the run"
    hidden = [c.model_copy(update={"inferred": ("levels",)}) if c.name == "sex" else c for c in columns]
    with pytest.raises(ConfigError, match="levels of 'sex' are not declared"):
        Reexpression.fit(replace(ward, schema=ward.schema.model_copy(update={"columns": hidden})), rules, private=True)
