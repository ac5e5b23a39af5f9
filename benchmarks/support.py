"""Generators on the cohort `support`, through the pipeline's own steps and evaluation: mean of several seeds.

Run: `.venv/bin/python benchmarks/support.py [--seeds 5] [--generators gaussian_copula vae] [--set vae.beta=0.7]`.
The real rows are those of COHORTLOOM_DATA, split with the published key (train 50 %, holdout 25 %, fresh reference
12.5 + 12.5 %); generators see train only and are judged against the holdout. The reference rows of the same run are the
limits that every figure is read against; `kept` is the share of the way from shuffled columns to fresh real rows.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections import defaultdict
from dataclasses import replace
from datetime import date
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.evaluation.results import MetricResult
    from pipeline.features.cohort import Cohort
    from pipeline.features.spec import CohortSpec

FIGURES = {
    "detection AUC": ("fid.joint.detect_auc", ""),
    "JSD": ("fid.marg.jsd", ""),
    "corr RMSE": ("fid.dep.corr_rmse", ""),
    "TSTR": ("util.tstr_auroc", "mortality"),
    "utility ratio": ("util.ratio", "mortality"),
    "MIA AUC": ("priv.mia.max_auc", ""),
    "TPR at 1 %": ("priv.mia.tpr_at_1pct_fpr", ""),
    "copies": ("priv.exact_unique", ""),
}


def load_support(folder: Path) -> tuple[Cohort, CohortSpec]:
    """The cohort `support` as `cohortloom deliver` and `run` make it, in a home of its own."""
    from pipeline.features.spec import BUILT_IN_COHORTS, load_book
    from pipeline.features.split import ENVIRONMENT, PUBLISHED_KEY
    from pipeline.features.stored import read_features
    from pipeline.ingest.delivery import hand_over
    from pipeline.store.home import Home
    from pipeline.store.lake import Lake
    from pipeline.workflow.cell import Cell
    from pipeline.workflow.compute import Compute
    from pipeline.workflow.deliveries import take_in
    from pipeline.workflow.features import features_step, gather_step

    os.environ[ENVIRONMENT] = PUBLISHED_KEY.decode()
    root = Path(__file__).resolve().parents[1]
    data = Path(os.environ.get("COHORTLOOM_DATA") or root.parent / "shared" / "data")
    book, home, compute = load_book([BUILT_IN_COHORTS]), Home(folder).ensure(), Compute()
    lake, cell = Lake(home), Cell.of(book, "support", "2026-10-01")
    handed = hand_over(home, "support", data / "support" / "support.csv.gz", as_of=date(2026, 10, 31))
    take_in(lake, handed, cell.source, "table", compute)
    gather_step(lake, cell)
    version, _ = features_step(lake, cell, compute)
    return read_features(lake.tables, version), cell.spec


def main() -> None:
    """Train, judge, print."""
    from assets.cli.tables import parse_settings
    from pipeline.evaluation.plan import EvaluationPlan
    from pipeline.evaluation.protocol import Parts, evaluate_references, headline, run_evaluation
    from pipeline.generators.registry import generator_class
    from pipeline.generators.seeds import derive_seed
    from pipeline.release.gate import judge
    from pipeline.workflow.compute import Compute

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--generators", nargs="*", default=["independent", "gaussian_copula", "vae"])
    parser.add_argument("--set", action="append", default=[], help="generator.setting=value; repeat for more")
    parser.add_argument("--profile", default="standard")
    given = parser.parse_args()
    Compute().bind()
    settings: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, value in parse_settings(given.set).items():
        generator, _, setting = name.partition(".")
        settings[generator][setting] = value

    with tempfile.TemporaryDirectory() as folder:
        cohort, spec = load_support(Path(folder))
    parts = Parts.of(cohort)
    plan = replace(EvaluationPlan.of(spec), profile=given.profile)
    references = evaluate_references(parts, plan)
    print(
        f"support: train {parts.train.n_rows:,}, holdout {parts.holdout.n_rows:,}; {given.seeds} seeds; 95 % intervals"
    )
    print(_line("", list(FIGURES), ["kept", "fit s", "verdict"]))
    for name in given.generators:
        chosen = {**spec.generators.get(name, {}), **settings[name]}
        drawn, seconds = [], 0.0
        for k in range(given.seeds):
            model = generator_class(name)(chosen)
            begun = perf_counter()
            model.fit(parts.train, seed=derive_seed("benchmark", name, k))
            seconds += perf_counter() - begun
            drawn.append(model.sample(parts.train.n_rows, seed=derive_seed("benchmark", name, k, "draw")))
        results = run_evaluation(parts, drawn, plan, references=references).results
        verdict = judge(results, spec.gate, plan, references=references)
        kept = headline(results, "fid.joint.detect_auc")
        more = ["" if kept is None or kept.score is None else f"{kept.score:.0%}", f"{seconds / given.seeds:.1f}"]
        print(_line(name, [_figure(results, *f) for f in FIGURES.values()], [*more, verdict.status]), flush=True)
    for name, rows in references.items():
        print(_line(name, [_figure(rows, *f) for f in FIGURES.values()], []))


def _figure(results: list[MetricResult], metric: str, task: str) -> str:
    from pipeline.evaluation.protocol import headline

    row = headline(results, metric, key1=task)
    if row is None or row.value is None:
        return "n. e."
    if row.ci_lo is None or row.ci_hi is None:
        return f"{row.value:.3f}"
    return f"{row.value:.3f} ±{(row.ci_hi - row.ci_lo) / 2:.3f}"


def _line(name: str, figures: list[str], more: list[str]) -> str:
    return f"{name:16}" + "".join(f"{f:>15}" for f in figures) + "".join(f"{m:>13}" for m in more)


if __name__ == "__main__":
    main()
