"""A metric of ours that raises: the evaluation goes on, and says which line failed without a value of a patient."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pipeline.evaluation import protocol
from pipeline.evaluation.context import EvaluationContext, synthetic_side
from pipeline.evaluation.registry import find_metric

if TYPE_CHECKING:
    from pipeline.evaluation.context import Parts, RealSides
    from pipeline.evaluation.registry import Metric
    from pipeline.evaluation.results import MetricResult

FAILING, OTHER = "fid.marg.jsd", "fid.marg.ks"
note_for_users = protocol.failure_note


def _broken(context: EvaluationContext) -> list[MetricResult]:
    raise KeyError("Mrs Smith")


def test_one_metric_takes_no_other_down(parts: Parts, sides: RealSides, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(name: str) -> Metric:
        metric = find_metric(name)
        return replace(metric, compute=_broken) if name == FAILING else metric

    monkeypatch.setattr(protocol, "find_metric", found)
    context = EvaluationContext(sides, synthetic_side(sides, parts.reference0))
    with pytest.raises(KeyError):
        protocol.compute(context, [FAILING])  # what all other tests rely on
    monkeypatch.setattr(protocol, "failure_note", note_for_users)
    failed, *others = protocol.compute(context, [FAILING, OTHER])
    assert failed.value is None
    assert "KeyError at test_failing_metric.py" in failed.note
    assert "Smith" not in failed.note
    assert others[0].value is not None
