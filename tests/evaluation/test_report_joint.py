"""Figures of whole rows: drawn from aggregates, dots of records for the internal report alone, nothing to show is []."""

from __future__ import annotations

import pytest
from toy_people import people

from pipeline.evaluation.context import Parts
from pipeline.evaluation.plan import EvaluationPlan
from pipeline.evaluation.protocol import Evaluation, evaluate_references, run_evaluation
from pipeline.evaluation.report.figures.joint import FIGURES, INTERNAL, TABLES

METRICS = [
    "fid.joint.detect_auc", "fid.joint.detect_auc_models", "fid.joint.log_cluster", "fid.joint.prdc.density",
    "fid.joint.prdc.coverage", "fid.joint.ip_alpha", "fid.joint.pca_explained", "fid.joint.tsne",
]  # fmt: skip


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    parts = Parts(people(400, 1), people(240, 2), people(130, 3), people(130, 4))
    plan = EvaluationPlan(profile="quick")
    references = evaluate_references(parts, plan, metrics=["fid.joint.prdc.density", "fid.joint.prdc.coverage"])
    return run_evaluation(parts, [people(400, 5), people(400, 6)], plan, references=references, metrics=METRICS)


def test_figures_have_captions_with_direction_and_null(evaluation: Evaluation) -> None:
    found = [f for draw in FIGURES for f in draw(evaluation.results, evaluation.details)]
    names = {f["id"].removeprefix("figure-") for f in found}
    assert names >= {
        "detection-roc", "detectors", "projection-real", "projection-synthetic", "clusters", "alpha-precision",
        "beta-recall", "neighbourhoods",
    }  # fmt: skip
    assert len(names) == len(found)
    assert all(len(f["caption"]) > 60 and f["data"] for f in found)
    bars = next(f for f in found if f["id"] == "figure-neighbourhoods")["data"]
    assert [b["name"] for b in bars] == ["synthetic", "fresh real rows"]
    assert min(bars[0]["error_y"]["array"]) >= 0
    dashed = next(f for f in found if f["id"] == "figure-beta-recall")["data"][1]
    assert dashed["name"] == "fresh real rows"
    (table,) = TABLES[0](evaluation.results, evaluation.details)
    assert [row[0] for row in table["rows"]] == [str(i + 1) for i in range(10)]


def test_dots_are_drawn_inside_only(evaluation: Evaluation) -> None:
    inside = [f for draw in INTERNAL for f in draw(evaluation.results, evaluation.details)]
    assert {f["id"] for f in inside} == {"figure-dots-projection", "figure-dots-tsne"}
    assert len(inside[0]["data"][0]["x"]) == 130
    public = {k: v for k, v in evaluation.details.items() if k != "internal"}
    assert [f for draw in INTERNAL for f in draw(evaluation.results, public)] == []
    outside = [f for draw in FIGURES for f in draw(evaluation.results, public)]
    assert not any(d.get("mode") == "markers" and f["id"] != "figure-detectors" for f in outside for d in f["data"])


def test_nothing_to_show_is_nothing() -> None:
    assert [f for draw in (*FIGURES, *INTERNAL, *TABLES) for f in draw([], {})] == []
