"""Figures of visits: the null on two samples of one population, and each failure seen by the figure that is for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.evaluation.context import EvaluationContext, Parts
from pipeline.evaluation.plan import EvaluationPlan
from pipeline.evaluation.protocol import evaluate_references, headline, run_evaluation
from pipeline.evaluation.report.figures import visits as figures
from pipeline.evaluation.results import MetricResult
from pipeline.evaluation.visits.prediction import histories
from pipeline.features.cohort import Cohort, assemble
from pipeline.features.schema import Column, EventCodes, TableSchema
from pipeline.features.visits import Visits

CODES = [f"c{i:02d}" for i in range(20)]
FIGURES = ("ehr.visit.number_ks", "ehr.visit.size_ks", "ehr.visit.gap_ks", "ehr.visit.bigram", "util.next_visit",
           "priv.mia.visit_auc")  # fmt: skip
PLAN = EvaluationPlan(profile="quick")


def people(n: int, seed: int, *, memory: float = 0.8, gap: int = 30, shift: int = 0) -> Cohort:
    """People whose codes stay with them from visit to visit, as far as `memory` says."""
    rng = np.random.default_rng(seed)
    counts = 1 + rng.poisson(2, n) + shift
    start = np.r_[0, np.cumsum(counts)].astype(np.int64)
    row = np.repeat(np.arange(n), counts)
    own = rng.random((n, len(CODES))) < 0.25
    has = np.where(rng.random((len(row), 1)) < memory, own[row], rng.random((len(row), len(CODES))) < 0.25)
    has[~has.any(axis=1), 0] = True
    days = np.cumsum(rng.poisson(gap, len(row)))
    days = days - np.repeat(days[start[:-1]], counts) + 18_000
    offsets = np.r_[0, np.cumsum(has.sum(axis=1))].astype(np.int64)
    visits = Visits(CODES, start, days, offsets, np.nonzero(has)[1].astype(np.int32))
    schema = TableSchema(
        columns=[Column(name="sex", kind="binary", dtype="string", levels=["f", "m"])],
        unit="patient",
        events=EventCodes(vocabulary=CODES),
    )
    table = assemble(schema, {"sex": rng.integers(0, 2, n)}, subject=np.array([f"{seed}-{i}" for i in range(n)]))
    return replace(table, events=visits.events())


@pytest.fixture(scope="module")
def parts() -> Parts:
    return Parts(people(600, 1), people(300, 2), people(300, 3), people(300, 4))


def judged(parts: Parts, made: Cohort) -> dict[str, MetricResult]:
    rows = run_evaluation(parts, [made], PLAN, metrics=FIGURES).results
    return {name: row for name in FIGURES if (row := headline(rows, name)) is not None}


def test_a_fresh_sample_gives_the_null_and_references_their_place(parts: Parts) -> None:
    found = judged(parts, people(600, 9))
    for name in ("ehr.visit.number_ks", "ehr.visit.size_ks", "ehr.visit.gap_ks", "ehr.visit.bigram"):
        row = found[name]
        assert row.value is not None
        assert row.null_value is not None
        assert row.value < 2 * row.null_value, name
        assert row.draws is not None
    auc = found["priv.mia.visit_auc"]
    assert auc.ci_lo is not None
    assert auc.ci_lo < 0.5 < 0.55 > (auc.value or 1)
    references = evaluate_references(parts, PLAN, metrics=FIGURES)
    heads = {n: {m: headline(rows, m) for m in FIGURES} for n, rows in references.items()}
    value = lambda name, metric: getattr(heads[name][metric], "value")  # noqa: E731, B009
    assert value("ref_train", "priv.mia.visit_auc") > 0.95
    assert value("ref_marginal", "util.next_visit") < 0.6 < 0.8 < value("ref_fresh", "util.next_visit")
    assert value("ref_marginal", "ehr.visit.bigram") > 1.4 * value("ref_fresh", "ehr.visit.bigram")
    assert value("ref_marginal", "ehr.visit.gap_ks") < 0.1
    assert value("ref_mode", "ehr.visit.number_ks") > 0.3


@pytest.mark.parametrize(
    ("wrong", "metric"),
    [
        ({"shift": 2}, "ehr.visit.number_ks"),
        ({"gap": 60}, "ehr.visit.gap_ks"),
        ({"memory": 0.0}, "ehr.visit.bigram"),
    ],
)
def test_what_is_wrong_is_seen(parts: Parts, wrong: dict[str, float], metric: str) -> None:
    row = judged(parts, people(600, 9, **wrong))[metric]  # type: ignore[arg-type]
    assert row.ci_lo is not None
    assert row.null_value is not None
    assert row.ci_lo > 1.3 * row.null_value


def test_without_memory_nothing_is_learned_of_the_next_visit(parts: Parts) -> None:
    rows = run_evaluation(parts, [people(600, 9, memory=0.0)], PLAN, metrics=["util.next_visit"]).results
    made, real, ratio = (headline(rows, "util.next_visit", key2=k) for k in ("", "real", "ratio"))
    assert made is not None
    assert real is not None
    assert ratio is not None
    assert made.value is not None
    assert real.value is not None
    assert made.value < 0.65 < real.value
    assert ratio.value == pytest.approx((made.value - 0.5) / (real.value - 0.5))


def test_histories_by_hand() -> None:
    visits = Visits(["a", "b"], np.array([0, 3, 4]), np.array([1, 2, 3, 9]), np.array([0, 1, 2, 4, 5]),
                    np.array([0, 1, 0, 1, 1], dtype=np.int32))  # fmt: skip
    found = histories(visits, np.array([0]), np.array([0, 1]))
    assert found.person.tolist() == [0, 0]
    # Ever had a, b; had a, b at the visit before; visits so far; constant.
    expected = [[1, 0, 1, 0, np.log1p(1), 1], [1, 1, 0, 1, np.log1p(2), 1]]
    np.testing.assert_allclose(found.features, expected, rtol=1e-6)
    assert found.truth.ravel().tolist() == [False, True]


def test_without_visits_there_is_no_figure_and_the_reason_is_said(parts: Parts) -> None:
    bare = {
        name: replace(part, schema=part.schema.model_copy(update={"events": None}), events=None)
        for name, part in vars(parts).items()
    }
    rows = run_evaluation(Parts(**bare), [bare["train"]], PLAN, metrics=FIGURES).results
    assert {r.status for r in rows} == {"not_applicable"}
    rows = run_evaluation(parts, [bare["train"]], PLAN, metrics=FIGURES).results
    assert {(r.status, r.note) for r in rows} == {("not_estimable", "the synthetic rows come without visits")}
    nobody = replace(people(300, 9), events=people(300, 9).events.slice(0, 0))
    for row in judged(parts, nobody).values():
        assert row.value is not None or "underpowered" in row.note


def test_codes_that_training_has_not_are_left_out(parts: Parts) -> None:
    other = people(300, 9)
    renamed = other.schema.model_copy(update={"events": EventCodes(vocabulary=[*CODES, "new"])})
    context = EvaluationContext.of(parts, replace(other, schema=renamed), PLAN)
    from pipeline.evaluation.visits.sides import visits_of

    assert list(visits_of(context, "S").vocabulary) == CODES


def test_the_report_draws_visits_and_hides_bars_of_few_people(parts: Parts) -> None:
    found = run_evaluation(parts, [people(600, 9, shift=2)], PLAN, metrics=FIGURES)
    numbers, sizes, gaps = found.details["visits"]
    assert [d["name"] for d in (numbers, sizes, gaps)] == list(FIGURES[:3])
    real = Visits.of(parts.holdout)
    for label, share in zip(numbers["labels"], numbers["real"], strict=True):
        had = int((real.counts == int(label)).sum()) if label.isdigit() else 0
        if label.isdigit() and share is not None:
            assert share == pytest.approx(had / real.n, abs=1e-5)
            assert had == 0 or had >= 11
        elif label.isdigit():
            # Fewer than 11 people, or hidden so that these cannot be told from the rest.
            assert had
    assert None in numbers["real"], "hardly anybody has ten visits"
    assert None not in numbers["synthetic"]
    assert sum(gaps["synthetic"]) == pytest.approx(1, abs=1e-4)
    drawn = figures.bars(found.results, found.details)
    assert len({f["id"] for f in drawn}) == 3
    assert "two real samples" in drawn[0]["caption"]
    whole, pairs = (make(found.results, found.details)[0]["rows"] for make in figures.TABLES)
    assert len(whole) == len(FIGURES)
    assert {p[0] for p in pairs} <= set(CODES)
    assert len(pairs) > 3
    none = replace(parts.reference0, schema=parts.reference0.schema.model_copy(update={"events": None}), events=None)
    rows = run_evaluation(Parts(none, none, none, none), [none], PLAN, metrics=FIGURES)
    assert not figures.bars(rows.results, rows.details)
    assert not figures.figures(rows.results, rows.details)[0]["rows"]
