"""The gate: pessimistic ends, worst seeds, too few people, missing figures, and words."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pipeline.evaluation.registry import find_metric
from pipeline.evaluation.results import MetricResult
from pipeline.features.evaluation_spec import GateSpec, TaskSpec
from pipeline.release.gate import Rule, Verdict, judge

TASK = TaskSpec(name="death", label="died")
GOOD: dict[str, tuple[float, float]] = {
    "schema.adherence": (1.0, 0.0),
    "fid.marg.jsd": (0.01, 0.001),
    "fid.marg.variance_collapse": (0.0, 0.0),
    "fid.dep.corr_rmse": (0.045, 0.003),
    "fid.joint.detect_auc": (0.7, 0.01),
    "fid.joint.detect_copy_alarm": (0.68, 0.01),
    "priv.exact_unique": (0.0, 0.0),
    "priv.exact_p": (1.0, 0.0),
    "priv.mia.max_auc": (0.51, 0.008),
    "priv.mia.tpr_at_1pct_fpr": (0.013, 0.002),
}


def row(metric: str, value: float | None, se: float = 0.0, replicate: int = -1, **more: object) -> MetricResult:
    null = 0.004 if metric == "fid.marg.jsd" else 0.5
    made = find_metric(metric).spec.result(value, se=se, n=2000, null=null)
    return replace(made, replicate=replicate, **more)


def results(seeds: int = 2, **changed: tuple[float | None, float]) -> list[MetricResult]:
    """Good figures of two seeds and pooled; `changed` maps an id with _ for . to (value, se) of the last seed."""
    rows = []
    for metric, (value, se) in GOOD.items():
        other = changed.get(metric.replace(".", "_"), (value, se))
        rows += [row(metric, value, se, k) for k in range(seeds - 1)]
        rows += [row(metric, *other, replicate=seeds - 1), row(metric, *other)]
    for replicate in (0, 1, -1):
        rows.append(row("util.ratio", 0.97, 0.02, replicate, scope="task", key1="death"))
    return rows


REFERENCES = {
    "ref_fresh": [row("fid.dep.corr_rmse", 0.042, 0.003), row("priv.mia.max_auc", 0.505, 0.008)],
    "ref_marginal": [row("fid.dep.corr_rmse", 0.097, 0.003)],
}


def judged(rows: list[MetricResult], **gate: object) -> tuple[Verdict, dict[str, Rule]]:
    verdict = judge(rows, GateSpec(**gate), references=REFERENCES, tasks=[TASK])
    return verdict, {r.name: r for r in verdict.rules}


def test_good_figures_pass_and_survive_json() -> None:
    verdict, _ = judged(results())
    assert verdict.status == "pass"
    assert verdict.seeds == 2
    assert {r.status for r in verdict.rules} == {"pass"}
    assert Verdict.from_dict(json.loads(json.dumps(verdict.to_dict()))) == verdict
    assert verdict.reasons() == []


def test_the_pessimistic_end_decides() -> None:
    verdict, rules = judged(results(priv_mia_max_auc=(0.54, 0.02)))
    rule = rules["mia_max_auc"]
    assert verdict.status == "underpowered"
    assert rule.status == "underpowered"
    assert rule.end == pytest.approx(0.54 + 1.96 * 0.02, abs=1e-3)
    assert rule.n_needed == pytest.approx(2000 * (1.96 * 0.02 / 0.01) ** 2, rel=1e-3)
    assert "too few people" in rule.words
    verdict, rules = judged(results(priv_mia_max_auc=(0.56, 0.02)))
    assert (verdict.status, rules["mia_max_auc"].status) == ("fail", "fail")


def test_words_of_a_rule() -> None:
    rows = [
        replace(r, value=0.021, ci_lo=0.015, ci_hi=0.029) if r.metric == "priv.mia.tpr_at_1pct_fpr" else r
        for r in results()
    ]
    _, rules = judged(rows)
    expected = "membership inference at 1 % false positives: 2.1 %, at most 3 % allowed, upper end 2.9 %"
    assert rules["mia_tpr_at_1pct_fpr"].words == expected


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"priv_exact_unique": (1.0, 0.0)}, "exact_unique_matches"),
        ({"priv_exact_p": (0.001, 0.0)}, "exact_match_excess"),
        ({"priv_mia_tpr_at_1pct_fpr": (0.2, 0.01)}, "mia_tpr_at_1pct_fpr"),
        ({"fid_joint_detect_copy_alarm": (0.4, 0.01)}, "detect_copy_alarm"),
        ({"fid_marg_jsd": (0.2, 0.01)}, "jsd_mean"),
        ({"fid_marg_variance_collapse": (0.4, 0.0)}, "variance_collapse"),
        ({"fid_dep_corr_rmse": (0.09, 0.001)}, "dependence_score"),
        ({"schema_adherence": (0.999, 0.0)}, "schema_adherence"),
    ],
)
def test_one_broken_rule_fails_the_verdict(changed: dict[str, tuple[float, float]], name: str) -> None:
    verdict, rules = judged(results(**changed))
    assert verdict.status == "fail"
    assert [r.name for r in verdict.rules if r.status == "fail"] == [name]
    assert verdict.reasons() == [rules[name].words]


def test_the_worst_seed_counts_for_privacy_only() -> None:
    leaking = [
        replace(r, value=0.7, ci_lo=0.69, ci_hi=0.71) if (r.metric, r.replicate) == ("priv.mia.max_auc", 1) else r
        for r in results()
    ]
    assert judged(leaking)[0].status == "fail"
    uneven = [
        replace(r, value=0.09, ci_lo=0.08, ci_hi=0.1) if (r.metric, r.replicate) == ("fid.marg.jsd", 1) else r
        for r in results()
    ]
    assert judged(uneven)[0].status == "pass"


@pytest.mark.parametrize("metric", [*GOOD, "util.ratio"])
def test_a_missing_figure_is_no_pass(metric: str) -> None:
    verdict, _ = judged([r for r in results() if r.metric != metric])
    assert verdict.status == "fail"
    lost = [replace(r, value=None, ci_lo=None, ci_hi=None, note="why") if r.metric == metric else r for r in results()]
    assert judged(lost)[0].status in ("fail", "underpowered")


def test_too_few_people_for_low_false_positives() -> None:
    rows = [
        replace(r, value=None, ci_lo=None, ci_hi=None, n=300, note="x") if "tpr" in r.metric else r for r in results()
    ]
    verdict, rules = judged(rows)
    rule = rules["mia_tpr_at_1pct_fpr"]
    assert verdict.status == "underpowered"
    assert rule.n_needed == 1000
    assert "300 people" in rule.words
    assert "1,000" in rule.words


def test_small_samples_are_held_against_fresh_real_rows() -> None:
    """Where even fresh real rows would miss the threshold: at most 0.03 above them."""
    wide = {**REFERENCES, "ref_fresh": [REFERENCES["ref_fresh"][0], row("priv.mia.max_auc", 0.51, 0.03)]}
    inside, beyond = (results(priv_mia_max_auc=(value, 0.03)) for value in (0.53, 0.545))
    rule = {r.name: r for r in judge(inside, GateSpec(), references=wide, tasks=[TASK]).rules}["mia_max_auc"]
    assert rule.status == "pass"
    assert rule.threshold == pytest.approx(0.54)
    assert "fresh real rows" in rule.words
    rule = {r.name: r for r in judge(beyond, GateSpec(), references=wide, tasks=[TASK]).rules}["mia_max_auc"]
    assert rule.status == "underpowered"
    enough = {r.name: r for r in judged(inside)[0].rules}["mia_max_auc"]
    assert enough.status == "underpowered"


def test_what_fresh_real_rows_score_too_is_no_failure_but_too_few_people() -> None:
    tiny = {**REFERENCES, "ref_fresh": [REFERENCES["ref_fresh"][0], row("priv.mia.max_auc", 0.583, 0.1)]}
    for value, status in ((0.562, "underpowered"), (0.62, "fail")):
        found = judge(results(priv_mia_max_auc=(value, 0.1)), GateSpec(), references=tiny, tasks=[TASK])
        rule = {r.name: r for r in found.rules}["mia_max_auc"]
        assert rule.status == status
    assert rule.n_needed is None
    tight = {**REFERENCES, "ref_fresh": [REFERENCES["ref_fresh"][0], row("priv.mia.max_auc", 0.505, 0.008)]}
    found = judge(results(priv_mia_max_auc=(0.562, 0.008)), GateSpec(), references=tight, tasks=[TASK])
    assert {r.name: r for r in found.rules}["mia_max_auc"].status == "fail"


def test_divergence_that_chance_alone_explains_is_underpowered_not_failed() -> None:
    rows = [r for r in results() if r.metric != "fid.marg.jsd"]
    verdict, rules = judged([*rows, row("fid.marg.jsd", 0.075, 0.01, n=120, null_value=0.07)])
    assert (rules["jsd_mean"].status, verdict.status) == ("underpowered", "underpowered")
    assert rules["jsd_mean"].n_needed == 180
    assert "by chance alone" in rules["jsd_mean"].words
    verdict, rules = judged([*rows, row("fid.marg.jsd", 0.13, 0.01, n=120, null_value=0.07)])
    assert (rules["jsd_mean"].status, verdict.status) == ("fail", "fail")


def test_dependence_needs_references_that_can_be_told_apart() -> None:
    assert {r.name: r for r in judge(results(), GateSpec(), tasks=[TASK]).rules}["dependence_score"].status == "fail"
    close = {**REFERENCES, "ref_marginal": [row("fid.dep.corr_rmse", 0.045, 0.003)]}
    rule = {r.name: r for r in judge(results(), GateSpec(), references=close, tasks=[TASK]).rules}["dependence_score"]
    assert rule.status == "underpowered"
    assert rule.n_needed is not None
    assert rule.n_needed > 2000


def test_detection_only_warns() -> None:
    verdict, rules = judged(results(fid_joint_detect_auc=(0.97, 0.01)))
    assert verdict.status == "pass"
    assert rules["detect_auc"].status == "warn"


def test_every_task_is_judged() -> None:
    verdict = judge(
        results(), GateSpec(), references=REFERENCES, tasks=[TASK, TASK.model_copy(update={"name": "other"})]
    )
    assert verdict.status == "fail"
    assert any(r.name == "utility_ratio[other]" and r.status == "fail" for r in verdict.rules)


def test_thresholds_are_the_cohorts_own() -> None:
    assert judged(results(), jsd_mean_max=0.005)[0].status == "fail"
    collapsed = results(fid_marg_variance_collapse=(0.4, 0.0))
    assert judged(collapsed, variance_collapse=True)[0].status == "pass"
