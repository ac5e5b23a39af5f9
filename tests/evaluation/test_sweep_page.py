"""The page of an epsilon sweep: every figure that has a value, over every epsilon, without scripts."""

from __future__ import annotations

import math
import re

from pipeline.evaluation.report.sweep_page import curves_of, sweep_html
from pipeline.evaluation.results import MetricResult

EPSILONS = (1.0, 5.0, math.inf)


def rows(value: float | None) -> list[MetricResult]:
    figure = {"metric": "fid.joint.detect_auc", "direction": -1, "ref_fresh": 0.5}
    return [
        MetricResult(
            **figure,
            value=value,
            ci_lo=None if value is None else value - 0.02,
            ci_hi=None if value is None else value + 0.02,
        ),
        MetricResult(**figure, value=0.9, replicate=0),
        MetricResult(metric="util.ratio", value=0.8, scope="task", key1="death", family="utility", direction=1),
        MetricResult(metric="util.ratio", value=0.8, scope="task", key1="death", key2="mlp", family="utility"),
        MetricResult(metric="fid.dep.corr_rmse", value=None, note="too few columns"),
    ]


def test_curves_take_pooled_headlines_and_leave_out_what_has_no_value() -> None:
    curves = curves_of({e: rows(v) for e, v in zip(EPSILONS, (0.9, None, 0.6), strict=True)})
    assert [c.family for c in curves] == ["fidelity", "utility"]
    assert {e: p[0] for e, p in curves[0].points.items()} == {1.0: 0.9, math.inf: 0.6}
    assert curves[0].fresh == 0.5
    assert curves[1].title.endswith("(death)")
    assert list(curves[1].points) == [1.0, 5.0, math.inf]


def test_the_page_shows_every_point_and_number_and_runs_nothing() -> None:
    curves = curves_of({e: rows(v) for e, v in zip(EPSILONS, (0.9, 0.75, 0.6), strict=True)})
    page = sweep_html(curves, EPSILONS, title="vae on <support>", notes=["2 of 15 trainings failed."])
    assert page == sweep_html(
        curves, reversed_of(EPSILONS), title="vae on <support>", notes=["2 of 15 trainings failed."]
    )
    assert "<script" not in page
    assert "http" not in re.sub(r"http-equiv|http://www.w3.org/\S+", "", page)
    assert "&lt;support&gt;" in page
    assert "2 of 15 trainings failed." in page
    assert page.count("<circle") == 6
    assert "0.750 ±0.020" in page
    assert "epsilon ∞" in page


def reversed_of(epsilons: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(reversed(epsilons))
