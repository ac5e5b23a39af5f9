"""Seconds and peak memory of one evaluation in this process, and of each metric in it."""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from unittest.mock import patch

from evaluating.own_process import peak_mib
from evaluating.population import parts_and_synthetic, plan_of

if TYPE_CHECKING:
    from evaluating.population import Case
    from pipeline.evaluation.context import EvaluationContext
    from pipeline.evaluation.registry import Metric
    from pipeline.evaluation.results import MetricResult


@dataclass
class Watch:
    """What each metric took, in the order of computing.

    What several metrics share (neighbours, models) is charged to the one that asks first.

    Attributes:
        seconds: By phase ("references" or "synthetic") and metric.
        busy: The same in CPU seconds.
        raised: MiB by which a metric raised the process' peak, by metric.
        phase: Whom the next metrics are computed for.
        loud: Say on stderr what is done.
    """

    loud: bool = False
    phase: str = "references"
    seconds: dict[str, dict[str, float]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(float)))
    busy: dict[str, dict[str, float]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(float)))
    raised: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def watched(self, name: str) -> Metric:
        """The metric registered under `name`, timed."""
        from pipeline.evaluation.registry import find_metric

        found = find_metric(name)

        def compute(context: EvaluationContext) -> list[MetricResult]:
            before, start, worked = peak_mib(), time.perf_counter(), time.process_time()
            rows = found.compute(context)
            took, busy = time.perf_counter() - start, time.process_time() - worked
            self.seconds[self.phase][name] += took
            self.busy[self.phase][name] += busy
            self.raised[name] += peak_mib() - before
            if self.loud:
                said = f"{took:8.2f} s {busy:8.2f} s CPU  peak {peak_mib():6,.0f} MiB"
                print(f"{self.phase:10} {name:40} {said}", file=sys.stderr, flush=True)
            return rows

        return replace(found, compute=compute)


def measure(case: Case, profile: str, references: bool, loud: bool = False) -> None:
    """Print one JSON line: seconds of the evaluation, the peak of this process, seconds and MiB by metric."""
    from pipeline.evaluation.context import RealSides
    from pipeline.evaluation.protocol import evaluate_references, run_evaluation

    parts, made = parts_and_synthetic(case)
    plan = plan_of(profile)
    at_first = peak_mib()
    watch = Watch(loud=loud)
    start, worked = time.perf_counter(), time.process_time()
    # Metrics are watched where the protocol looks them up: what is measured is what `cohortloom evaluate` runs.
    with patch("pipeline.evaluation.protocol.find_metric", watch.watched):
        sides = RealSides(parts, plan)
        found = evaluate_references(parts, plan, sides=sides) if references else {}
        watch.phase = "synthetic"
        run_evaluation(parts, [made], plan, references=found, sides=sides)
    seconds, busy = time.perf_counter() - start, time.process_time() - worked
    told = {"seconds": seconds, "cpu": busy, "peak_mib": peak_mib(), "before_mib": at_first}
    print(json.dumps({**told, "metrics": watch.seconds, "busy": watch.busy, "raised": watch.raised}))
