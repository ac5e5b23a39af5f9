"""On real data the four reference rows stand where they must."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support_cohort import load_support

from pipeline.evaluation.context import Parts
from pipeline.evaluation.plan import EvaluationPlan
from pipeline.evaluation.protocol import evaluate_references, headline
from pipeline.features.spec import load_book
from pipeline.release.gate import judge

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.evaluation.results import MetricResult

pytestmark = [pytest.mark.realdata, pytest.mark.slow]


def test_support_reference_rows(real_data: Path) -> None:
    spec = load_book().cohort("support")
    references = evaluate_references(
        Parts.of(load_support(real_data)), EvaluationPlan(tuple(spec.tasks), profile="quick")
    )

    def get(name: str, metric: str, key1: str = "") -> MetricResult:
        row = headline(references[name], metric, key1=key1)
        assert row is not None
        return row

    fresh, train, marginal, mode = (f"ref_{n}" for n in ("fresh", "train", "marginal", "mode"))
    for metric in ("fid.joint.detect_auc", "priv.mia.max_auc", "priv.mia.nn_auc"):
        assert abs(get(fresh, metric).value - 0.5) < 3 * get(fresh, metric).se
    assert get(fresh, "priv.mia.tpr_at_1pct_fpr").value < 0.025
    assert get(fresh, "fid.dep.corr_rmse").ci_hi < get(marginal, "fid.dep.corr_rmse").ci_lo
    assert abs(get(fresh, "fid.dep.corr_rmse").value - get(fresh, "fid.dep.corr_rmse").null_value) < 0.01
    assert get(marginal, "fid.joint.detect_auc").value > 0.7
    assert get(marginal, "fid.marg.jsd").value < 2 * get(fresh, "fid.marg.jsd").value
    assert get(marginal, "util.ratio", "mortality").ci_hi < 0.3
    assert get(fresh, "util.ratio", "mortality").value > 0.85
    assert get(train, "priv.exact").value == 1
    assert get(train, "priv.mia.max_auc").value > 0.99
    assert get(train, "priv.mia.tpr_at_1pct_fpr").value > 0.99
    assert get(train, "fid.joint.detect_copy_alarm").note.startswith("alarm")
    assert get(mode, "fid.marg.jsd").value > 0.3
    assert get(mode, "fid.joint.detect_auc").value > 0.99
    assert get(mode, "fid.marg.variance_collapse").value == 1
    assert get(mode, "util.tstr_auroc", "mortality").value == 0.5

    broken = {
        name: {
            r.name
            for r in judge(rows, spec.gate, EvaluationPlan.of(spec), references=references).rules
            if r.status == "fail"
        }
        for name, rows in references.items()
    }
    assert broken[fresh] <= {"schema_adherence"}
    assert {"dependence_score", "utility_ratio[mortality]"} <= broken[marginal]
    assert {"exact_unique_matches", "mia_max_auc", "mia_tpr_at_1pct_fpr", "detect_copy_alarm"} <= broken[train]
    assert {"jsd_mean", "variance_collapse", "dependence_score"} <= broken[mode]
