"""The acceptance lines on real patients (SUPPORT): exact grids for the copula, and a VAE that beats it."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.evaluation.plan import EvaluationPlan
from pipeline.evaluation.protocol import Parts, evaluate_references, headline, run_evaluation
from pipeline.generators.registry import generator_class
from pipeline.release.gate import judge

if TYPE_CHECKING:
    from types import ModuleType

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "support.py"
SEEDS = 2


def script() -> ModuleType:
    """The measuring script, loaded from its file: benchmarks are no import package."""
    spec = importlib.util.spec_from_file_location("support_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.realdata
def test_copula_and_vae_on_support(real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seeds through the pipeline's own steps and evaluation; `benchmarks/support.py` gives five with intervals."""
    monkeypatch.setenv("COHORTLOOM_DATA", os.fspath(real_data))
    monkeypatch.setenv("COHORTLOOM_SPLIT_KEY", "set again by the script, restored after the test")
    cohort, spec = script().load_support(tmp_path / "home")
    parts = Parts.of(cohort)
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
