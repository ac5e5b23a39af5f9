"""What models go by in each group: the order of columns by hand, its agreement, groups that are too few, and the report."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import spearmanr
from toy_people import TASK, edited, people

from pipeline.evaluation.context import EvaluationContext, Parts, RealSides, synthetic_side
from pipeline.evaluation.fairness.explanations import FEWEST, explained
from pipeline.evaluation.fairness.what_matters import ON_TOP
from pipeline.evaluation.plan import EvaluationPlan
from pipeline.evaluation.protocol import compute, run_evaluation
from pipeline.evaluation.report import write_report
from pipeline.evaluation.report.figures import what_matters
from pipeline.evaluation.report.public import public_details, public_results

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.evaluation.protocol import Evaluation
    from pipeline.features.cohort import Cohort

PLAN = EvaluationPlan((TASK,), protected=("sex", "ward"), profile="quick")
METRICS = ["xai.shap_subgroup", "xai.shap_rank", "xai.shap_top"]
RARE = "ward = d"
"""A twentieth of 700 people: a group that may be named, and is too small to be averaged over."""


def decided_by_sex(cohort: Cohort) -> Cohort:
    """The outcome is the sex, whatever else is known of a person."""
    woman = np.array(cohort.table.column("sex").to_pylist()) == "female"
    return edited(cohort, lambda name, x: pa.array(woman) if name == "died" else x)


@pytest.fixture(scope="module")
def parts() -> Parts:
    return Parts(people(900, 1), people(700, 2), people(200, 3), people(200, 4))


@pytest.fixture(scope="module")
def context(parts: Parts) -> EvaluationContext:
    sides = RealSides(parts, PLAN)
    return EvaluationContext(sides, synthetic_side(sides, decided_by_sex(people(900, 8))), with_plots=True)


@pytest.fixture(scope="module")
def judged(parts: Parts) -> Evaluation:
    return run_evaluation(parts, [decided_by_sex(people(900, 8))], PLAN, metrics=METRICS)


def test_agreement_in_each_group_is_that_of_scipy_and_the_overlap_is_counted(context: EvaluationContext) -> None:
    rows = {(r.metric, r.key1, r.key2): r for r in compute(context, METRICS)}
    found = explained(context, TASK)
    assert not isinstance(found, str)
    assert {w.name for w in found.groups} >= {"everybody", "sex = female", "sex = male", "ward = a"}
    for weights in found.groups:
        key2 = "" if weights.group is None else weights.name
        real, made = weights.real[0], weights.made[0]
        rank, top = (rows[metric, TASK.name, key2] for metric in ("xai.shap_rank", "xai.shap_top"))
        assert rank.value == pytest.approx(spearmanr(real, made).statistic)
        first, second = ({found.columns[j] for j in np.argsort(-w)[:ON_TOP]} for w in (real, made))
        assert top.value == pytest.approx(len(first & second) / ON_TOP)
        assert "by chance" in top.note
        for row in (rank, top):
            assert row.n == weights.rows
            assert row.ci_lo <= row.value <= row.ci_hi
            assert row.ci_lo < row.ci_hi or row.value in (0.0, 1.0) or row is top
    headline = rows["xai.shap_top", "", ""]
    assert headline.value == rows["xai.shap_top", TASK.name, ""].value


def test_the_same_rows_agree_fully(parts: Parts) -> None:
    sides = RealSides(parts, PLAN)
    rows = compute(EvaluationContext(sides, synthetic_side(sides, parts.train)), ["xai.shap_rank", "xai.shap_top"])
    known = [r.value for r in rows if r.value is not None]
    assert len(known) > 8
    assert known == pytest.approx([1.0] * len(known))


def test_a_group_of_few_people_is_left_out_and_said(context: EvaluationContext) -> None:
    for metric in ("xai.shap_rank", "xai.shap_top"):
        (row,) = (r for r in compute(context, [metric]) if r.key2 == RARE)
        assert row.status == "underpowered"
        assert 11 <= row.n < FEWEST == row.n_needed
    compute(context, METRICS)
    told = context.plots["explanations"][TASK.name]
    assert RARE in told["left_out"]
    assert RARE not in {g["group"] for g in told["groups"]}


def test_what_a_model_goes_by_is_named_in_order_and_marked(context: EvaluationContext) -> None:
    compute(context, METRICS)
    told = context.plots["explanations"][TASK.name]
    for group in told["groups"]:
        assert len(group["real"]) == len(group["synthetic"]) == ON_TOP
        assert group["rows"] >= FEWEST
        assert group["synthetic"][0] == "sex (protected)"
        assert group["real"][0] != "sex (protected)"


def test_the_table_and_the_figure_say_it_for_each_group(judged: Evaluation) -> None:
    (table,) = what_matters.top_table(judged.results, judged.details)
    rows = {row[1]: row for row in table["rows"]}
    assert next(iter(rows)) == "everybody"
    assert rows[RARE] == [TASK.name, RARE, "too few", "", "", "", ""]
    for name in ("everybody", "sex = female", "sex = male"):
        assert rows[name][6].startswith("sex (protected), ")
        assert " to " in rows[name][3]
    (figure,) = what_matters.ranks_in_groups(judged.results, judged.details)
    real, made = figure["data"][-2:]
    at = {label: k for k, label in enumerate(made["y"])}
    assert {"sex: everybody", "sex = female", "sex = male", "ward = a"} <= set(at)
    assert RARE not in at
    for label in ("sex: everybody", "sex = female", "sex = male"):
        assert made["x"][at[label]] == 1 < real["x"][at[label]]
    assert max(real["error_x"]["array"]) == 0


def test_the_public_report_shows_groups_and_no_value(tmp_path: Path, judged: Evaluation) -> None:
    page = write_report(
        tmp_path / "report.html", title="toy", facts={}, results=judged.results, references={}, verdict=None,
        details=judged.details, profile="public",
    ).read_text()  # fmt: skip
    assert "What models go by in each group" in page
    assert "sex (protected)" in page
    assert public_details(judged.details)["explanations"][TASK.name]["left_out"] == [RARE, "ward missing"]
    few = [replace(r, n=7) for r in judged.results if r.key2 == RARE and r.status == "underpowered"]
    assert few
    assert {r.n for r in public_results(few, judged.details)} == {None}


def test_without_any_group_there_is_no_table() -> None:
    assert what_matters.ranks_in_groups([], {}) == []
    details: dict[str, Any] = {"explanations": {}}
    assert what_matters.top_table([], details)[0]["rows"] == []
