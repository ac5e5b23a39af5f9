"""Figures and tables of columns, codes and rules: what they show, and what they must not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from toy_people import coded, people

from pipeline.evaluation.plan import EvaluationPlan
from pipeline.evaluation.protocol import run_evaluation
from pipeline.evaluation.report.figures import marginals, plausibility
from pipeline.evaluation.report.public import public_details
from pipeline.features.evaluation_spec import RuleSpec

if TYPE_CHECKING:
    from pipeline.evaluation.context import Parts, RealSides
    from pipeline.evaluation.protocol import Evaluation

METRICS = ["fid.marg.jsd", "fid.marg.ks", "fid.marg.moments", "fid.coverage", "ehr.prev.apd", "ehr.code_freq.total_ratio",
           "ehr.abundance", "ehr.ckv"]  # fmt: skip
RULE = RuleSpec(name="no visit", never=[{"column": "visits", "op": "==", "value": 0}])  # type: ignore[list-item]


@pytest.fixture(scope="module")
def mixed(parts: Parts) -> Evaluation:
    plan = EvaluationPlan(rules=(RULE,), profile="quick")
    return run_evaluation(parts, [people(1500, 31)], plan, metrics=METRICS)


@pytest.fixture(scope="module")
def codes(coded_sides: RealSides) -> Evaluation:
    return run_evaluation(coded_sides.parts, [coded(1500, 32)], coded_sides.plan, metrics=METRICS)


def test_marginals_have_whiskers_or_curves_and_say_their_null(mixed: Evaluation) -> None:
    figures = marginals.marginals(mixed.results, mixed.details)
    assert len(figures) == marginals.MOST_MARGINALS
    for figure in figures:
        assert "two real samples differ by" in figure["caption"]
    bars = next(f for f in figures if "error_y" in f["data"][0])["data"]
    for bar in bars:
        up, down = bar["error_y"]["array"], bar["error_y"]["arrayminus"]
        assert all(0 < x < 0.05 for x in [*up, *down])


def test_heaped_numbers_are_drawn_as_cumulative_curves(mixed: Evaluation) -> None:
    details = json.loads(json.dumps(mixed.details))
    lab = next(c for c in details["columns"] if c["name"] == "lab_a")
    lab["real"] = [0.9, *([0.1 / (len(lab["real"]) - 1)] * (len(lab["real"]) - 1))]
    figure = next(f for f in marginals.marginals(mixed.results, details) if f["title"] == "lab_a")
    for line in figure["data"]:
        assert line["y"] == sorted(line["y"])
        assert len(line["x"]) <= 40
    assert "Cumulative" in figure["caption"]


def test_codes_are_drawn(codes: Evaluation) -> None:
    (scatter,) = marginals.code_blocks(codes.results, codes.details)
    assert "20 %" in scatter["caption"]
    assert len(scatter["data"]) == 4, "the line, the band and the codes"
    (totals,) = marginals.code_totals(codes.results, codes.details)
    assert totals["data"][0]["x"][:2] == ["none", "1"], "rare codes are on the axis"
    assert sum(totals["data"][0]["y"]) == 300
    (records,) = marginals.codes_a_record(codes.results, codes.details)
    assert records["data"][1]["x"][0] == "none"
    assert sum(records["data"][1]["y"]) == pytest.approx(1, abs=1e-3)
    real = [x for x in records["data"][0]["y"] if x]
    assert min(real) * 1100 >= 10.5, "real counts under 11 are left out"
    (table,) = marginals.worst_codes(codes.results, codes.details)
    assert 0 < len(table["rows"]) <= 20


def test_extremes_and_examples_are_inside_only(mixed: Evaluation) -> None:
    (inside,) = marginals.moments(mixed.results, mixed.details)
    (outside,) = marginals.moments(mixed.results, public_details(mixed.details))
    assert {h for h in inside["columns"] if "est, " in h} == {
        f"{end}, {side}" for end in ("smallest", "largest") for side in ("real", "synthetic")
    }
    assert not [h for h in outside["columns"] if "est, " in h]
    assert all(len(row) == len(table["columns"]) for table in (inside, outside) for row in table["rows"])
    assert plausibility.examples(mixed.results, mixed.details)[0]["rows"][0] == ["no visit", "visits 0"]
    assert plausibility.examples(mixed.results, public_details(mixed.details))[0]["rows"] == []


def test_rules_are_drawn_beside_the_real_rate(mixed: Evaluation, parts: Parts) -> None:
    (figure,) = plausibility.broken_rules(mixed.results, mixed.details)
    synthetic, real = figure["data"]
    at = synthetic["y"].index("no visit")
    assert at == len(synthetic["y"]) - 1, "the rule broken most often stands at the top"
    assert synthetic["x"][at] == pytest.approx(np.mean(people(1500, 31).values("visits") == 0), abs=1e-5)
    assert real["x"][at] == pytest.approx(np.mean(parts.holdout.values("visits") == 0), abs=1e-5)
    assert "curated" in figure["caption"]
    (table,) = plausibility.rules(mixed.results, mixed.details)
    assert table["rows"][0][0] == "no visit"


def test_nothing_to_show_draws_nothing(mixed: Evaluation) -> None:
    for module in (marginals, plausibility):
        for make in (*module.FIGURES, *module.INTERNAL):
            assert make([], {}) == []
        for tabulate in module.TABLES:
            assert all(not t["rows"] for t in tabulate([], {}))


def test_blocks_without_a_code_do_not_stop_the_figures(coded_sides: RealSides) -> None:
    from dataclasses import replace

    empty = replace(coded(300, 33), blocks={"diagnoses": csr_matrix((300, 300), dtype=np.float32)})
    found = run_evaluation(coded_sides.parts, [empty], coded_sides.plan, metrics=METRICS)
    for make in marginals.FIGURES:
        json.dumps(make(found.results, found.details), allow_nan=False)
    (records,) = marginals.codes_a_record(found.results, found.details)
    assert records["data"][1]["y"][0] == 1
