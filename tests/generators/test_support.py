"""The acceptance lines on real patients (SUPPORT): exact grids for the copula, and a VAE that beats it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support_cohort import load_support

from pipeline.evaluation.plan import EvaluationPlan
from pipeline.evaluation.protocol import Parts, evaluate_references, headline, run_evaluation
from pipeline.features.spec import load_book
from pipeline.generators.registry import generator_class
from pipeline.release.gate import judge

if TYPE_CHECKING:
    from pathlib import Path

SEEDS = 2


@pytest.mark.slow
@pytest.mark.realdata
def test_copula_and_vae_on_support(real_data: Path) -> None:
    """Two seeds through the system's own evaluation; `benchmarks/support.py` sets five beside their peers."""
    spec = load_book().cohort("support")
    parts = Parts.of(load_support(real_data))
    plan = EvaluationPlan(tuple(spec.tasks), profile="quick")
    references = evaluate_references(parts, plan)
    found = {}
    for name in ("gaussian_copula", "vae"):
        drawn = []
        for seed in range(SEEDS):
            model = generator_class(name)(spec.generators[name])
            model.fit(parts.train, seed=seed)
            drawn.append(model.sample(parts.train.n_rows, seed=seed))
        results = run_evaluation(parts, drawn, plan, references=references).results
        found[name] = {
            metric: headline(results, metric).value for metric in ("fid.joint.detect_auc", "priv.mia.max_auc")
        }
        verdict = judge(results, spec.gate, plan, references=references)
        assert [rule.words for rule in verdict.rules if rule.status == "fail"] == []
    copula, vae = found["gaussian_copula"], found["vae"]
    assert copula["fid.joint.detect_auc"] <= 0.80
    assert vae["fid.joint.detect_auc"] < copula["fid.joint.detect_auc"] - 0.03
    assert max(copula["priv.mia.max_auc"], vae["priv.mia.max_auc"]) < 0.54
