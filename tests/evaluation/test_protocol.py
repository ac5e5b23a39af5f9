"""Replicates, reference rows, invariances, and input at the edges."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from toy_people import TASK, coded, edited, people

from pipeline.errors import ConfigError, InputError, NotFoundError
from pipeline.evaluation.context import EvaluationContext, Parts, RealSides, stream, synthetic_side
from pipeline.evaluation.plan import EvaluationPlan
from pipeline.evaluation.protocol import (
    compute,
    evaluate,
    evaluate_references,
    headline,
    references_from_table,
    references_table,
    replicates,
    run_evaluation,
)
from pipeline.evaluation.registry import find_metric, metric_ids
from pipeline.evaluation.results import REFERENCE_ROWS, results_from_table, results_table

if TYPE_CHECKING:
    from pipeline.evaluation.results import MetricResult
    from pipeline.features.cohort import Cohort


@pytest.fixture(scope="module")
def small() -> Parts:
    return Parts(people(400, 11), people(300, 12), people(150, 13), people(150, 14))


@pytest.fixture(scope="module")
def references(small: Parts) -> dict[str, list[MetricResult]]:
    return evaluate_references(small, EvaluationPlan((TASK,), profile="quick"))


def test_reference_rows_are_all_there_and_survive_storage(references: dict[str, list[MetricResult]]) -> None:
    assert tuple(references) == REFERENCE_ROWS
    assert references_from_table(references_table(references)) == references
    copied = headline(references["ref_train"], "priv.exact")
    assert copied is not None
    assert (copied.value, copied.ref_train, copied.ref_fresh) == (1.0, 1.0, 0.0)


def test_replicates_are_kept_and_pooled(small: Parts, references: dict[str, list[MetricResult]]) -> None:
    made = [people(400, s) for s in (21, 22, 23)]
    results = evaluate(small, made, EvaluationPlan((TASK,), profile="quick"), references=references)
    assert results_from_table(results_table(results)) == results
    each = replicates(results, "fid.dep.corr_rmse")
    pooled = headline(results, "fid.dep.corr_rmse")
    assert pooled is not None
    assert [r.replicate for r in each] == [0, 1, 2]
    assert pooled.value == pytest.approx(np.mean([r.value for r in each]))
    within = np.mean([r.se**2 for r in each])
    assert pooled.se == pytest.approx(np.sqrt(np.var([r.value for r in each], ddof=1) / 3 + within))
    assert pooled.ref_marginal == headline(references["ref_marginal"], "fid.dep.corr_rmse").value
    expected = (pooled.value - pooled.ref_marginal) / (pooled.ref_fresh - pooled.ref_marginal)
    assert pooled.score == pytest.approx(expected)
    assert all(r.score is None for r in each)
    assert all(r.value is None or np.isfinite(r.value) for r in results)
    assert all(r.note for r in results if r.value is None)


def test_the_same_inputs_give_the_same_results(small: Parts) -> None:
    cohort = people(300, 31)
    first = run_evaluation(small, [cohort], EvaluationPlan((TASK,), profile="quick"))
    again = run_evaluation(small, [cohort], EvaluationPlan((TASK,), profile="quick"))
    assert first.results == again.results
    assert first.details == again.details


def test_real_sides_used_before_give_the_same_results(small: Parts) -> None:
    """What the reference rows have left in them is what a generator's own evaluation would have made."""
    plan = EvaluationPlan((TASK,), profile="quick")
    metrics = ["fid.joint.energy", "util.tstr_auroc", "priv.dcr_q05", "priv.mia.nn_auc", "priv.aia.excess"]
    cohort, used = people(300, 31), RealSides(small, plan)
    evaluate_references(small, plan, metrics=metrics, sides=used)
    found = run_evaluation(small, [cohort], plan, metrics=metrics, sides=used)
    alone = run_evaluation(small, [cohort], plan, metrics=metrics)
    assert found.results == alone.results
    assert found.details == alone.details


def _shuffled_rows(cohort: Cohort, seed: int) -> Cohort:
    return cohort.take(np.random.default_rng(seed).permutation(cohort.n_rows))


def _reversed_columns(cohort: Cohort) -> Cohort:
    schema = cohort.schema.model_copy(update={"columns": cohort.schema.columns[::-1]})
    return replace(cohort, table=cohort.table.select(schema.names), schema=schema)


def test_neither_row_nor_column_order_matters(small: Parts) -> None:
    cohort = people(350, 32)
    plain = evaluate(small, [cohort], EvaluationPlan((TASK,), profile="quick"))
    rows = Parts(*(_shuffled_rows(c, i) for i, c in enumerate(vars(small).values())))
    assert evaluate(rows, [_shuffled_rows(cohort, 9)], EvaluationPlan((TASK,), profile="quick")) == plain
    columns = Parts(*(_reversed_columns(c) for c in vars(small).values()))
    assert evaluate(columns, [_reversed_columns(cohort)], EvaluationPlan((TASK,), profile="quick")) == plain


def _finite(results: list[MetricResult]) -> None:
    for r in results:
        for x in (r.value, r.ci_lo, r.ci_hi, r.se, r.null_value):
            assert x is None or np.isfinite(x), r
        assert r.value is not None or r.note, r


def test_strange_cohorts_give_numbers_or_reasons(small: Parts) -> None:
    def constant(_: str, x: pa.ChunkedArray) -> pa.ChunkedArray:
        return x.take(pa.array(np.zeros(len(x), dtype=int)))

    def empty(name: str, x: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
        return pa.nulls(len(x), x.type) if name in ("lab_a", "ward") else x

    def unseen(name: str, x: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
        if name == "ward":
            return pa.array(["elsewhere"] * len(x))
        return pa.array(np.full(len(x), np.inf)) if name == "lab_b" else x

    odd = people(90, 41)
    for cohort in (odd.take(np.array([0])), odd.take(np.arange(3)), edited(odd, constant), edited(odd, empty), odd):
        _finite(evaluate(small, [cohort], EvaluationPlan((TASK,), profile="quick")))
    results = evaluate(small, [edited(odd, unseen)], EvaluationPlan((TASK,), profile="quick"))
    _finite(results)
    adherence = {r.key1: r.value for r in results if r.metric == "schema.adherence" and r.replicate == -1}
    assert adherence[""] == 0
    assert adherence["ward"] < 0.1
    assert adherence["lab_b"] == 0
    assert adherence["age"] == 1


def test_strange_real_parts_give_numbers_or_reasons() -> None:
    def flat(name: str, x: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
        if name in ("died", "age"):
            return x.take(pa.array(np.zeros(len(x), dtype=int)))
        return pa.nulls(len(x), x.type) if name == "lab_a" else x

    some = Parts(*(edited(people(n, i), flat) for i, n in enumerate((60, 40, 20, 20))))
    _finite(evaluate(some, [people(50, 5)], EvaluationPlan((TASK,), profile="quick")))
    tiny = Parts(*(people(n, i) for i, n in enumerate((3, 2, 1, 1))))
    _finite(evaluate(tiny, [people(4, 5)], EvaluationPlan((TASK,), profile="quick")))
    for rows in evaluate_references(tiny, EvaluationPlan((TASK,), profile="quick")).values():
        _finite(rows)
    one_code = Parts(*(coded(n, i, codes=3) for i, n in enumerate((40, 30, 20, 20))))
    _finite(evaluate(one_code, [coded(25, 9, codes=3)], EvaluationPlan(profile="quick")))


def test_without_reference_parts(small: Parts) -> None:
    two = Parts.of_two(small.train, small.holdout)
    references = evaluate_references(
        two, EvaluationPlan(profile="quick"), metrics=["priv.mia.max_auc", "priv.mia.domias_knn_auc"]
    )
    assert "ref_fresh" not in references
    row = headline(references["ref_train"], "priv.mia.domias_knn_auc")
    assert row is not None
    assert row.value is None
    assert "reference" in row.note


def test_low_false_positive_rates_need_people(small: Parts) -> None:
    row = headline(evaluate(small, [people(100, 1)], EvaluationPlan(profile="quick")), "priv.mia.tpr_at_1pct_fpr")
    assert row is not None
    assert row.value is None
    assert "300 people outside training" in row.note
    assert (row.status, row.n_needed) == ("underpowered", 1000)


def test_several_rows_a_subject_widen_the_intervals() -> None:
    def stays(n: int, seed: int) -> Cohort:
        cohort = people(n, seed).take(np.repeat(np.arange(n), 5))
        return edited(cohort, lambda name, x: pa.array(np.arange(len(x)).astype(str)) if name == "id" else x)

    by_stay = [replace(c, subject=np.arange(c.n_rows).astype(str)) for c in (stays(n, n) for n in (80, 61, 41, 42))]
    wanted = ["fid.marg.ks"]
    grouped = evaluate_references(
        Parts(*(stays(n, n) for n in (80, 61, 41, 42))), EvaluationPlan(profile="quick"), metrics=wanted
    )
    single = evaluate_references(Parts(*by_stay), EvaluationPlan(profile="quick"), metrics=wanted)
    wide, narrow = (headline(r["ref_fresh"], "fid.marg.ks") for r in (grouped, single))
    assert wide.se > 1.4 * narrow.se


def test_wrong_input_is_told_in_words(small: Parts) -> None:
    with pytest.raises(InputError, match="no synthetic cohort"):
        evaluate(small, [])
    with pytest.raises(InputError, match="no row"):
        evaluate(small, [people(5, 1).take(np.array([], dtype=int))])
    with pytest.raises(InputError, match="holdout part has no row"):
        evaluate(Parts.of_two(small.train, small.holdout.take(np.array([], dtype=int))), [small.train])
    with pytest.raises(ConfigError, match="unknown column 'dyed'"):
        evaluate(small, [small.train], EvaluationPlan((TASK.model_copy(update={"label": "dyed"}),)))
    with pytest.raises(ConfigError, match="no profile"):
        evaluate(small, [small.train], EvaluationPlan(profile="fast"))
    names = [n for n in small.train.schema.names if n != "age"]
    lacking = replace(
        small.train,
        table=small.train.table.select(names),
        schema=small.train.schema.model_copy(
            update={"columns": [c for c in small.train.schema.columns if c.name != "age"]}
        ),
    )
    with pytest.raises(InputError, match="lack the column 'age'"):
        evaluate(small, [lacking])


def test_registry_is_complete_and_lazy() -> None:
    import subprocess
    import sys

    for name in metric_ids():
        spec = find_metric(name).spec
        assert spec.caption
        assert spec.title
        assert spec.range[0] < spec.range[1]
    with pytest.raises(NotFoundError, match=r"fid\.marg\.jsd"):
        find_metric("fid.marg.jds")
    code = (
        "import sys, pipeline.evaluation.registry as r; r.metric_ids();"
        "print([m for m in ('sklearn','torch','pandas','scipy','numpy') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_random_streams_depend_on_their_name_only() -> None:
    assert stream(0, "a", 1).integers(1 << 40) == stream(0, "a", 1).integers(1 << 40)
    assert stream(0, "a", 1).integers(1 << 40) != stream(0, "a", 2).integers(1 << 40)
    assert stream(0, "a", 1).integers(1 << 40) != stream(1, "a", 1).integers(1 << 40)


def test_a_metric_on_its_own_gives_what_it_gives_among_all(small: Parts) -> None:
    cohort = people(200, 77)
    together = {
        (r.metric, r.key1, r.key2): r
        for r in evaluate(small, [cohort], EvaluationPlan(profile="quick"))
        if r.replicate == 0
    }
    sides = RealSides(small, EvaluationPlan(profile="quick"))
    for name in ("fid.dep.corr_rmse", "priv.mia.max_auc", "fid.joint.detect_auc"):
        alone = compute(EvaluationContext(sides, synthetic_side(sides, cohort)), [name])
        assert alone[0] == together[(name, "", "")]


def test_metrics_of_other_packages_are_found(monkeypatch: pytest.MonkeyPatch, small: Parts) -> None:
    from importlib.metadata import EntryPoint

    from pipeline.evaluation import registry

    other = EntryPoint("fid.other.rows", "toy_metric:rows", "cohortloom.metrics")
    monkeypatch.setattr(registry, "_elsewhere", lambda: (other,))
    results = evaluate(small, [people(70, 5)], EvaluationPlan(profile="quick"))
    assert headline(results, "fid.other.rows").value == 70
    clash = EntryPoint("fid.marg.jsd", "toy_metric:rows", "cohortloom.metrics")
    monkeypatch.setattr(registry, "_elsewhere", lambda: (clash,))
    with pytest.raises(ConfigError, match=r"Two metrics are called 'fid\.marg\.jsd'"):
        metric_ids()


def test_details_are_plain_json(small: Parts) -> None:
    import json

    details = run_evaluation(small, [people(60, 6)], EvaluationPlan(profile="quick")).details
    assert json.loads(json.dumps(details, allow_nan=False)) == details
