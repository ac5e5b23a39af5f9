"""What leaks is caught by the metric of disclosure that is for it, and fresh real rows are not accused."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from scipy.sparse import csr_matrix
from toy_people import coded, people

from pipeline.evaluation.context import EvaluationContext, Parts, RealSides, synthetic_side
from pipeline.evaluation.plan import EvaluationPlan
from pipeline.evaluation.privacy.secrets import known_to_attacker, secrets_of
from pipeline.evaluation.protocol import compute, headline, pooled
from pipeline.evaluation.report.figures import disclosure as figures
from pipeline.features.evaluation_spec import TaskSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.evaluation.results import MetricResult
    from pipeline.features.cohort import Cohort

KNOWN = ("age", "sex", "visits", "ward")
GATED = ("priv.aia.excess", "priv.tcap", "priv.identity_disclosure", "priv.rare_level")
ALL = (*GATED, "priv.aia.level", "priv.k_map", "priv.l_div", "priv.delta_presence")


def judge(sides: RealSides, cohort: Cohort, *metrics: str) -> list[MetricResult]:
    return pooled(compute(EvaluationContext(sides, synthetic_side(sides, cohort)), metrics))


def one(rows: list[MetricResult], metric: str, key1: str = "", key2: str = "") -> MetricResult:
    row = headline(rows, metric, key1=key1, key2=key2)
    assert row is not None
    return row


@pytest.fixture(scope="session")
def asked(sides: RealSides) -> RealSides:
    """The toy population with four declared facts that the attacker knows."""
    return RealSides(sides.parts, EvaluationPlan(known=KNOWN, profile="quick"))


@pytest.fixture(scope="session")
def judged(asked: RealSides, variant: Callable[[str], Cohort]) -> Callable[[str], list[MetricResult]]:
    @cache
    def get(name: str) -> list[MetricResult]:
        return judge(asked, variant(name), *ALL)

    return get


def test_a_copy_of_the_training_rows_leaks(judged: Callable[[str], list[MetricResult]]) -> None:
    copied, fresh = judged("train_copy"), judged("fresh")
    assert one(copied, "priv.aia.excess").ci_lo > 0.3
    assert one(copied, "priv.aia.excess", "worst").ci_lo > 0.3
    assert one(copied, "priv.tcap").ci_lo > 0.1
    assert one(copied, "priv.identity_disclosure").ci_lo > 0.09
    assert one(copied, "priv.delta_presence").ci_lo > 0.1
    assert one(copied, "priv.identity_disclosure", "beyond strangers").ci_lo > 0.09
    for metric in ("priv.aia.excess", "priv.tcap", "priv.delta_presence"):
        assert one(fresh, metric).ci_lo <= 0 <= one(fresh, metric).ci_hi
    # By its definition chance matches count too; the row beside it takes off what strangers have.
    assert one(copied, "priv.identity_disclosure").ci_lo > one(fresh, "priv.identity_disclosure").ci_hi
    assert one(fresh, "priv.identity_disclosure", "beyond strangers").ci_lo <= 0


def test_copies_among_fresh_rows_are_seen_at_the_closest_targets(judged: Callable[[str], list[MetricResult]]) -> None:
    """A tenth of the rows copied shows in the mean over all people, sixty memorised people only where they are."""
    tenth, few, fresh = judged("copy_10pct"), judged("memorise_k"), judged("fresh")
    assert one(tenth, "priv.aia.excess").ci_lo > 0
    assert one(tenth, "priv.aia.excess").value > one(fresh, "priv.aia.excess").ci_hi
    assert one(few, "priv.aia.excess", "closest tenth").ci_lo > 0
    assert one(fresh, "priv.aia.excess", "closest tenth").ci_lo < 0


def test_what_is_learnt_of_anybody_is_not_leakage(judged: Callable[[str], list[MetricResult]]) -> None:
    fresh, shuffled = judged("fresh"), judged("marginal")
    assert one(fresh, "priv.aia.level").ci_lo > one(shuffled, "priv.aia.level").ci_hi
    assert one(fresh, "priv.aia.level", "attacker with real strangers").value == pytest.approx(
        one(fresh, "priv.aia.level").value, abs=0.08
    )
    assert one(shuffled, "priv.aia.excess").ci_lo <= 0


def test_fresh_rows_are_not_accused_in_repeated_draws() -> None:
    """New training, holdout and synthetic people each time: no more than chance, 5 % at both ends, may be accused."""
    accused = dict.fromkeys(("priv.aia.excess", "priv.tcap", "priv.delta_presence"), 0)
    for draw in range(10):
        parts = Parts(*(people(n, 200 + 5 * draw + i) for i, n in enumerate((700, 600, 60, 60))))
        plan = EvaluationPlan(known=KNOWN, secrets=("smoker", "died", "lab_b"), profile="quick")
        rows = judge(RealSides(parts, plan), people(700, 204 + 5 * draw), *accused)
        for metric in accused:
            accused[metric] += one(rows, metric).ci_lo > 0
    assert all(n <= 2 for n in accused.values()), accused


def test_codes_leak_too(coded_sides: RealSides) -> None:
    copied, fresh = (judge(coded_sides, c, *ALL) for c in (coded_sides.parts.train, coded(1600, 77)))
    assert one(copied, "priv.aia.excess").ci_lo > 0.3
    assert one(fresh, "priv.aia.excess").ci_lo <= 0
    known = known_to_attacker(coded_sides).codes["diagnoses"]
    assert len(known) == 16
    attacked = [s for s in secrets_of(coded_sides) if s.column is None]
    assert attacked
    assert not {s.code for s in attacked} & set(known.tolist())


def test_the_sweep_of_known_codes_belongs_to_the_costlier_profiles() -> None:
    parts = Parts(coded(300, 1), coded(300, 2), coded(60, 3), coded(60, 4))
    sides = RealSides(parts, EvaluationPlan(profile="standard"))
    rows = judge(sides, parts.train, "priv.aia.excess")
    values = [one(rows, "priv.aia.excess", "codes known", str(n)).value for n in (0, 16, 256)]
    assert values[1] > 0.3
    assert values[2] > 0.3


def test_an_invented_rare_level_is_counted_and_never_named() -> None:
    train = people(900, 1)
    ward = np.array(train.table.column("ward").to_pylist(), dtype=object)
    few = np.flatnonzero(ward == "d")[:7]
    train = train.take(np.sort(np.r_[np.flatnonzero(ward != "d"), few]))
    sides = RealSides(Parts(train, people(400, 2), people(60, 3), people(60, 4)), EvaluationPlan(profile="quick"))
    made = people(600, 5)
    assert "d" in made.table.column("ward").to_pylist()
    rows = judge(sides, made, "priv.rare_level")
    assert one(rows, "priv.rare_level").value == 1
    assert one(rows, "priv.rare_level", "ward").value == 1
    assert one(rows, "priv.rare_level").note == "in ward"
    without = made.take(np.flatnonzero(np.array(made.table.column("ward").to_pylist(), dtype=object) != "d"))
    assert one(judge(sides, without, "priv.rare_level"), "priv.rare_level").value == 0


def test_a_rare_code_is_counted_by_people_not_rows() -> None:
    """Ten stays of one person are one person."""
    train, made = coded(200, 1, codes=3), coded(50, 2, codes=3)
    matrix = np.zeros((200, 3))
    matrix[:40, 0], matrix[:40, 1], matrix[:5, 2] = 1, 1, 1
    subject = np.array([f"p{i}" for i in range(200)])
    subject[:40] = [f"p{i % 8}" for i in range(40)]
    train = replace(train, blocks={"diagnoses": csr_matrix(matrix)}, subject=subject)
    present = np.zeros((50, 3))
    present[:9, 1] = 1
    made = replace(made, blocks={"diagnoses": csr_matrix(present)})
    sides = RealSides(Parts(train, made, made, made), EvaluationPlan(profile="quick"))
    assert one(judge(sides, made, "priv.rare_level"), "priv.rare_level").value == 1


@pytest.mark.parametrize("damage", ["one row", "all missing", "unseen levels", "constant", "infinite", "other types"])
def test_bad_rows_give_a_value_or_a_reason(asked: RealSides, variant: Callable[[str], Cohort], damage: str) -> None:
    fresh = variant("fresh").take(np.arange(300))

    def change(name: str, column: pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        if damage == "all missing" and name in ("lab_a", "ward", "smoker"):
            return pa.nulls(len(column), column.type)
        if damage == "unseen levels" and name in ("ward", "stage"):
            return pa.array(["elsewhere"] * len(column))
        if damage == "constant" and name != "id":
            return pa.array([column[0].as_py()] * len(column), type=column.type)
        if damage == "infinite" and name in ("age", "lab_b"):
            return pa.array([np.inf, np.nan, -np.inf] * (len(column) // 3))
        return column

    made = fresh.take(np.array([0])) if damage == "one row" else edited_free(fresh, change)
    if damage == "other types":
        made = edited_free(fresh, lambda n, x: x.cast(pa.string()) if n in ("visits", "age") else x)
    for row in judge(asked, made, *ALL):
        assert row.value is None or np.isfinite(row.value)
        assert row.value is not None or row.note


def edited_free(cohort: Cohort, change: Callable[[str, pa.ChunkedArray], pa.Array | pa.ChunkedArray]) -> Cohort:
    """The cohort with changed columns, of whatever type they have become."""
    names = cohort.table.column_names
    return replace(cohort, table=pa.table({n: change(n, cohort.table.column(n)) for n in names}))


def test_nothing_known_nothing_secret_and_too_few_people_are_said_in_words() -> None:
    parts = Parts(*(people(n, 300 + i) for i, n in enumerate((40, 40, 10, 10))))
    names = tuple(c.name for c in parts.train.schema.modelled())
    everything = RealSides(parts, EvaluationPlan(known=names, profile="quick"))
    rows = judge(everything, parts.train, *ALL)
    assert "no secret" in one(rows, "priv.aia.excess").note
    assert "no secret" in one(rows, "priv.tcap").note
    few = judge(RealSides(parts, EvaluationPlan(known=KNOWN, profile="quick")), parts.train, *ALL)
    assert one(few, "priv.aia.excess").status == "underpowered"
    assert one(few, "priv.tcap").status == "underpowered"
    # Nobody's secret is often enough there to be scored: that is a matter of people too, not of the generator.
    rare = Parts(*(people(n, 310 + i) for i, n in enumerate((30, 9, 8, 8))))
    scarce = judge(RealSides(rare, EvaluationPlan(known=KNOWN, profile="quick")), rare.train, "priv.aia.excess")
    assert one(scarce, "priv.aia.excess").status == "underpowered"
    schema = parts.train.schema.model_copy(
        update={"columns": [c for c in parts.train.schema.columns if c.name in ("id", "died")]}
    )
    alone = Parts(
        *(
            replace(p, schema=schema, table=p.table.select(["id", "died"]))
            for p in (parts.train, parts.holdout, parts.reference0, parts.reference1)
        )
    )
    nothing = judge(RealSides(alone, EvaluationPlan(profile="quick")), alone.train, *ALL)
    assert all(one(nothing, m).value is None and one(nothing, m).note for m in ALL if m != "priv.rare_level")


def test_stays_of_one_person_are_one_person(asked: RealSides, variant: Callable[[str], Cohort]) -> None:
    """Every holdout person four times over: the same figures, with the uncertainty of the people, not of the rows."""
    holdout = asked.parts.holdout.take(np.arange(300))
    four = holdout.take(np.repeat(np.arange(300), 4))
    errors = []
    for part in (holdout, four):
        parts = replace(asked.parts, holdout=part)
        plan = EvaluationPlan(known=KNOWN, secrets=("smoker", "lab_b"), profile="quick")
        rows = judge(RealSides(parts, plan), variant("fresh"), "priv.aia.excess", "priv.tcap")
        errors.append([one(rows, m).se for m in ("priv.aia.excess", "priv.tcap")])
    assert np.allclose(errors[0], errors[1], rtol=0.25)


def test_figures_and_tables(judged: Callable[[str], list[MetricResult]]) -> None:
    rows = judged("train_copy")
    drawn = [f for make in figures.FIGURES for f in make(rows, {})]
    tables = [t for make in figures.TABLES for t in make(rows, {})]
    assert [f["id"] for f in drawn] == ["figure-attribute-inference", "figure-identity-disclosure"]
    assert [t["id"] for t in tables] == ["table-attribute-inference", "table-disclosure-checks"]
    assert any("opt-in" in row[0] and "not run" in row[4] for row in tables[1]["rows"])
    assert not [f for make in (*figures.FIGURES, *figures.TABLES) for f in make([], {})]


def test_labels_are_attacked_first_where_secrets_are_many() -> None:
    parts = Parts(coded(400, 1, codes=60), coded(200, 2, codes=60), coded(20, 3, codes=60), coded(20, 4, codes=60))
    sides = RealSides(parts, EvaluationPlan((TaskSpec(name="t", label="ill"),), known=("age",), profile="quick"))
    found = secrets_of(sides)
    assert found[0].name == "ill"
    assert len(found) == 12
