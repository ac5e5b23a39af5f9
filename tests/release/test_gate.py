"""The gate: pessimistic ends, worst seeds, too few people, missing figures, and words."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from good_figures import GOOD, OF_TASKS

from pipeline.evaluation.plan import EvaluationPlan
from pipeline.evaluation.registry import find_metric
from pipeline.evaluation.results import MetricResult
from pipeline.features.evaluation_spec import GateSpec, TaskSpec
from pipeline.privacy.spec import PrivacySpec
from pipeline.release.gate import Claim, Rule, Verdict, judge, with_verdict

TASK = TaskSpec(name="death", label="died")
PLAN = EvaluationPlan((TASK,))


def row(metric: str, value: float | None, se: float = 0.0, replicate: int = -1, **more: object) -> MetricResult:
    null = {"fid.marg.jsd": 0.004, "ehr.abundance": 0.004, "util.inference.sign_agreement": 1.0}.get(metric, 0.5)
    made = find_metric(metric).spec.result(value, se=se, n=2000, null=null)
    return replace(made, replicate=replicate, **more)


def results(seeds: int = 2, **changed: tuple[float | None, float]) -> list[MetricResult]:
    """Good figures of two seeds and pooled; `changed` maps an id with _ for . to (value, se) of the last seed."""
    rows = []
    for metric, (value, se) in GOOD.items():
        other = changed.get(metric.replace(".", "_"), (value, se))
        rows += [row(metric, value, se, k) for k in range(seeds - 1)]
        rows += [row(metric, *other, replicate=seeds - 1), row(metric, *other)]
    for metric, (value, se) in OF_TASKS.items():
        value, se = changed.get(metric.replace(".", "_"), (value, se))
        rows += [row(metric, value, se, replicate, scope="task", key1="death") for replicate in (0, 1, -1)]
    return rows


REFERENCES = {
    "ref_fresh": [row("fid.dep.corr_rmse", 0.042, 0.003), row("priv.mia.max_auc", 0.505, 0.008)],
    "ref_marginal": [row("fid.dep.corr_rmse", 0.097, 0.003)],
    "ref_train": [],
    "ref_mode": [],
}


def judged(rows: list[MetricResult], **gate: object) -> tuple[Verdict, dict[str, Rule]]:
    verdict = judge(rows, GateSpec(**gate), PLAN, references=REFERENCES)
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


def test_a_rule_names_what_broke_it_and_tells_numbers_apart() -> None:
    """The columns that break the schema, the clinical rule that is broken most, and on which side a like number lies."""
    most = replace(row("ehr.ckv", 0.0054), key1="worst", note="misdemeanours <= priors (mined)")
    columns = [replace(row("schema.adherence", v), scope="column", key1=k) for k, v in (("charge", 0.0), ("age", 1.0))]
    changed = results(ehr_ckv=(0.0054, 0.0001), schema_adherence=(0.96, 0.0))
    _, rules = judged([*changed, most, *columns])
    words = rules["clinical_violations"].words
    assert "0.5 % (just above), at most 0.5 % allowed" in words
    assert words.endswith("most of all: misdemeanours <= priors (mined), 0.5 %")
    assert "cells of 'charge' are missing where" in rules["schema_adherence"].words
    assert "age" not in rules["schema_adherence"].words


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
        ({"priv_mia_outlier_auc": (0.75, 0.02)}, "mia_outlier_auc"),
        ({"priv_aia_excess": (0.2, 0.01)}, "aia_excess"),
        ({"priv_tcap": (0.1, 0.01)}, "tcap_excess"),
        ({"priv_identity_disclosure": (0.2, 0.01)}, "identity_disclosure"),
        ({"priv_nnaa_loss": (0.2, 0.01)}, "nnaa_loss"),
        ({"priv_rare_level": (3.0, 0.0)}, "rare_levels"),
        ({"ehr_ckv": (0.05, 0.001)}, "clinical_violations"),
        ({"ehr_code_freq_total_ratio": (0.6, 0.01)}, "code_total_ratio"),
        ({"ehr_code_freq_total_ratio": (1.4, 0.01)}, "code_total_ratio"),
        ({"ehr_abundance": (0.3, 0.01)}, "code_abundance"),
        ({"util_ratio": (0.5, 0.02)}, "utility_ratio[death]"),
        ({"util_calibration_slope": (0.4, 0.02)}, "calibration_slope[death]"),
        ({"util_calibration_slope": (2.0, 0.02)}, "calibration_slope[death]"),
        ({"util_inference_sign_agreement": (0.7, 0.02)}, "inference_sign_agreement"),
        ({"fair_absent": (1.0, 0.0)}, "groups_absent"),
        ({"fair_ldss": (0.5, 0.0)}, "groups_shifted"),
        ({"fair_delta_auroc_gap": (0.1, 0.01)}, "delta_auroc_gap"),
        ({"fair_worst_group": (0.5, 0.02)}, "worst_group_ratio"),
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


@pytest.mark.parametrize("metric", [*GOOD, *OF_TASKS])
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
    rule = {r.name: r for r in judge(inside, GateSpec(), PLAN, references=wide).rules}["mia_max_auc"]
    assert rule.status == "pass"
    assert rule.threshold == pytest.approx(0.54)
    assert "fresh real rows" in rule.words
    rule = {r.name: r for r in judge(beyond, GateSpec(), PLAN, references=wide).rules}["mia_max_auc"]
    assert rule.status == "underpowered"
    enough = {r.name: r for r in judged(inside)[0].rules}["mia_max_auc"]
    assert enough.status == "underpowered"


def test_what_fresh_real_rows_score_too_is_no_failure_but_too_few_people() -> None:
    tiny = {**REFERENCES, "ref_fresh": [REFERENCES["ref_fresh"][0], row("priv.mia.max_auc", 0.583, 0.1)]}
    for value, status in ((0.562, "underpowered"), (0.62, "fail")):
        found = judge(results(priv_mia_max_auc=(value, 0.1)), GateSpec(), PLAN, references=tiny)
        rule = {r.name: r for r in found.rules}["mia_max_auc"]
        assert rule.status == status
    assert rule.n_needed is None
    tight = {**REFERENCES, "ref_fresh": [REFERENCES["ref_fresh"][0], row("priv.mia.max_auc", 0.505, 0.008)]}
    found = judge(results(priv_mia_max_auc=(0.562, 0.008)), GateSpec(), PLAN, references=tight)
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
    assert {r.name: r for r in judge(results(), GateSpec(), PLAN).rules}["dependence_score"].status == "fail"
    close = {**REFERENCES, "ref_marginal": [row("fid.dep.corr_rmse", 0.045, 0.003)]}
    rule = {r.name: r for r in judge(results(), GateSpec(), PLAN, references=close).rules}["dependence_score"]
    assert rule.status == "underpowered"
    assert rule.n_needed is not None
    assert rule.n_needed > 2000


def test_detection_only_warns() -> None:
    verdict, rules = judged(results(fid_joint_detect_auc=(0.97, 0.01)))
    assert verdict.status == "pass"
    assert rules["detect_auc"].status == "warn"


def test_every_task_is_judged() -> None:
    verdict = judge(
        results(), GateSpec(), EvaluationPlan((TASK, TASK.model_copy(update={"name": "other"}))), references=REFERENCES
    )
    assert verdict.status == "fail"
    assert any(r.name == "utility_ratio[other]" and r.status == "fail" for r in verdict.rules)


def test_thresholds_are_the_cohorts_own() -> None:
    assert judged(results(), jsd_mean_max=0.005)[0].status == "fail"
    collapsed = results(fid_marg_variance_collapse=(0.4, 0.0))
    assert judged(collapsed, variance_collapse=True)[0].status == "pass"


APPLY_NOT = [
    "ehr.code_freq.total_ratio", "ehr.abundance", "ehr.ckv", "util.inference.sign_agreement", "fair.absent", "fair.ldss",
    "fair.delta_auroc_gap", "fair.worst_group", "priv.aia.excess", "priv.tcap",
]  # fmt: skip


@pytest.mark.parametrize("metric", APPLY_NOT)
def test_a_figure_that_does_not_concern_the_table_is_no_rule(metric: str) -> None:
    spec = find_metric(metric).spec
    rows = [
        replace(spec.not_applicable("no such thing"), replicate=r.replicate) if r.metric == metric else r
        for r in results()
    ]
    verdict, _ = judged(rows)
    assert verdict.status == "pass"
    assert metric not in {r.metric for r in verdict.rules}


def test_too_few_people_say_how_many_are_needed() -> None:
    spec = find_metric("fair.worst_group").spec
    rows = [
        replace(spec.underpowered(30, 50, "deaths in the smallest group"), replicate=r.replicate)
        if r.metric == "fair.worst_group"
        else r
        for r in results()
    ]
    verdict, rules = judged(rows)
    assert verdict.status == "underpowered"
    assert rules["worst_group_ratio"].n_needed == 50
    assert "30 deaths in the smallest group" in rules["worst_group_ratio"].words


def test_a_distance_only_warns() -> None:
    verdict, rules = judged(results(priv_dcr_share=(0.7, 0.01)))
    assert verdict.status == "pass"
    assert rules["dcr_share"].status == "warn"


def test_seeds_and_reference_rows_are_asked_for() -> None:
    assert judged(results(seeds=2), seeds_min=2)[0].status == "pass"
    verdict, rules = judged(results(seeds=2), seeds_min=5)
    assert verdict.status == "fail"
    assert rules["seeds"].words == "trained seeds: 2, at least 5 needed"
    lacking = {k: v for k, v in REFERENCES.items() if k != "ref_train"}
    rules = {r.name: r for r in judge(results(), GateSpec(), PLAN, references=lacking).rules}
    assert rules["reference_rows"].status == "fail"
    assert "ref_train lacking" in rules["reference_rows"].words


def test_a_claim_of_privacy_is_held_against_the_attacks() -> None:
    def status(lower: float, epsilon: float, delta: float) -> dict[str, str]:
        rows = [*results(), *(row("priv.mia.epsilon_lower", lower, replicate=k) for k in (0, 1, -1))]
        claim = Claim(PrivacySpec(epsilon=epsilon, delta=delta), people=2000)
        return {r.name: r.status for r in judge(rows, GateSpec(), PLAN, references=REFERENCES, claim=claim).rules}

    assert {status(0.5, 1.0, 1e-6)[n] for n in ("empirical_epsilon", "claimed_delta")} == {"pass"}
    assert status(1.6, 1.0, 1e-6)["empirical_epsilon"] == "fail"
    assert status(0.5, 1.0, 1e-3)["claimed_delta"] == "fail"
    assert "empirical_epsilon" not in judged(results())[1]


def test_results_are_marked_with_what_the_gate_says() -> None:
    rows = results(priv_aia_excess=(0.2, 0.01), fid_joint_detect_auc=(0.97, 0.01))
    marked = {(r.metric, r.key1): r.passed for r in with_verdict(rows, judged(rows)[0]) if r.replicate == -1}
    assert marked[("priv.aia.excess", "")] is False
    assert marked[("fid.joint.detect_auc", "")] is True
    assert marked[("util.ratio", "death")] is True
    assert all(r.passed is None for r in with_verdict(rows, judged(rows)[0]) if r.replicate >= 0)


def test_groups_of_rules_alone() -> None:
    verdict, _ = judged(results(fid_marg_jsd=(0.2, 0.01)))
    assert verdict.status == "fail"
    assert verdict.only("privacy").status == "pass"
    assert {r.group for r in verdict.only("privacy").rules} == {"privacy"}


def test_a_model_that_is_miscalibrated_by_itself_is_held_against_itself() -> None:
    rows = results(util_calibration_slope=(0.62, 0.01))
    assert judged(rows)[1]["calibration_slope[death]"].status == "fail"
    rows.append(row("util.calibration_slope", 0.65, 0.02, scope="task", key1="death", key2="trtr"))
    rule = judged(rows)[1]["calibration_slope[death]"]
    assert rule.status == "pass"
    assert "trained on real rows 0.650" in rule.words


def test_signs_that_real_people_would_lose_too_are_no_failure() -> None:
    def status(value: float, null: float) -> str:
        rows = [
            replace(r, value=value, ci_lo=value - 0.1, ci_hi=min(value + 0.1, 1.0), null_value=null)
            if r.metric == "util.inference.sign_agreement"
            else r
            for r in results()
        ]
        return judged(rows)[1]["inference_sign_agreement"].status

    assert status(0.85, 0.99) == "fail"
    assert status(0.85, 0.90) == "underpowered"
    assert status(0.60, 0.90) == "fail"
