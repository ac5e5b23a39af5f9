"""Paired comparison of generators, Holm's correction, and the lenses over ranks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.evaluation.comparison import Measured, certainly_more, difference_error, holm, p_value
from pipeline.evaluation.leaderboard import WIDE_COLUMNS, Entry, cells, leaderboard
from pipeline.evaluation.lens import METRICS, WEIGHTS, ranked
from pipeline.evaluation.registry import find_metric
from pipeline.evaluation.results import MetricResult
from pipeline.release.gate import Verdict


def shared(offset: float, noise: float, seed: int) -> Measured:
    """A figure whose draws go up and down with the people that are resampled, and a little by themselves."""
    people = np.random.default_rng(0).normal(0, 0.05, 400)
    draws = 0.8 + offset + people + noise * np.random.default_rng(seed).normal(size=400)
    return Measured(0.8 + offset, float(draws.std(ddof=1)), tuple(draws))


def test_the_same_people_make_a_small_difference_certain() -> None:
    a, b = shared(0.0, 0.002, 1), shared(0.02, 0.002, 2)
    assert certainly_more({"a": a, "b": b}) == {("b", "a")}
    assert certainly_more({"a": replace(a, draws=None), "b": b}) == set(), "unpaired, the people hide it"
    assert difference_error(a, b) < 0.1 * difference_error(replace(a, draws=None), b)


def test_what_seeds_add_stays_in_the_error() -> None:
    a, b = shared(0.0, 0.002, 1), shared(0.02, 0.002, 2)
    unstable = replace(b, se=float(np.hypot(b.se, 0.05)))
    assert difference_error(a, unstable) == pytest.approx(np.hypot(difference_error(a, b), 0.05), rel=1e-6)
    assert certainly_more({"a": a, "b": unstable}) == set()


def test_equal_numbers_are_no_difference() -> None:
    assert p_value(Measured(0.5), Measured(0.5)) == 1.0
    assert p_value(Measured(0.5), Measured(0.6)) == 0.0


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.6, 0.9]) == pytest.approx([1.0, 1.0])


def test_many_comparisons_are_corrected() -> None:
    rng = np.random.default_rng(5)
    equal = {f"g{i}": Measured(0.8 + float(rng.normal(0, 0.01)), 0.01) for i in range(20)}
    pairs = [p_value(equal[a], equal[b]) < 0.05 for a in equal for b in equal if a < b]
    assert any(pairs), "190 comparisons of equals give some p below 0.05"
    assert certainly_more(equal) == set()


def figures(ratio: float, risk: float, draws: tuple[float, ...] | None = None) -> list[MetricResult]:
    util = find_metric("util.ratio").spec.result(ratio, se=0.05, scope="task", key1="death", draws=draws)
    return [util, find_metric("priv.mia.max_auc").spec.result(risk, se=0.01, n=2000)]


def test_paired_draws_break_a_tie_on_the_leaderboard() -> None:
    a, b = shared(0.0, 0.002, 1), shared(0.02, 0.002, 2)
    verdict = Verdict("pass", [])
    tied = leaderboard(
        {
            "a": Entry(results=figures(0.8, 0.5), verdict=verdict),
            "b": Entry(results=figures(0.82, 0.5), verdict=verdict),
        },
        {},
    )
    assert [row["tier"] for row in tied] == ["1a", "1a"]
    told = leaderboard(
        {
            "a": Entry(results=figures(0.8, 0.5, a.draws), verdict=verdict),
            "b": Entry(results=figures(0.82, 0.5, b.draws), verdict=verdict, epsilon=3.0),
        },
        {},
    )
    assert [(row["generator"], row["layer"]) for row in told] == [("b", 1), ("a", 2)]
    wide = dict(zip(WIDE_COLUMNS, cells(told[0], wide=True), strict=True))
    assert wide["ε"] == "3.00"
    assert wide["utility ratio ↑"] == "0.82 ± 0.10"
    failed = leaderboard({"c": Entry(status="failed", reason="why")}, {})[0]
    assert len(cells(failed, wide=True)) == len(WIDE_COLUMNS)


def test_lenses_weigh_ranks() -> None:
    for weights in WEIGHTS.values():
        assert sum(weights.values()) == pytest.approx(1.0)
        assert set(weights) == set(METRICS)
    given = {"useful": figures(0.95, 0.6), "private": figures(0.7, 0.5), "middle": figures(0.8, 0.55)}
    order = sorted(ranked(given, "medical_ai"), key=ranked(given, "medical_ai").__getitem__)
    assert order[0] == "useful", "prediction counts 0.35 there, membership 0.075"
    order = sorted(ranked(given, "system_development"), key=ranked(given, "system_development").__getitem__)
    assert order[0] == "private"
    assert ranked({"a": []}, "education") == {}
    assert ranked({"a": figures(0.9, 0.5), "b": []}, "education") == {}
