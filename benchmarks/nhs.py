"""Tables 1 to 6 of the NHS SynthVAE report on SUPPORT: its model as it was trained, and ours, with what privacy costs.

    .venv/bin/python benchmarks/nhs.py [--seeds 3] [--private-seeds 1] [--models nhsx_report default] [--noise inf 1.52]

All 8,873 rows are learned from and judged against, as in the report; the figures are its own formulas (`lit.sdv.*`; the
last three guess age from all else) and KS, 1 - the mean Kolmogorov-Smirnov distance. `nhsx_report` is its model with its 60 epochs of expected batches of 32, private
ones with its noise multipliers; what they cost is counted again at delta 1e-5, and what the encoding costs is paid.
`default` is our synthvae, trained to the same epsilon in its own way. `vae` and others may be named too.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import replace
from pathlib import Path
from time import process_time
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from supporting.rows import split_support

if TYPE_CHECKING:
    from pipeline.features.cohort import Cohort

NOISE = (1.52, 1.00, 0.68, 0.57, 0.47)
"""Noise multipliers behind the report's epsilons of 0.9994, 2.0179, 5.1455, 9.9502 and 21.3812 at delta 1e-3."""
DELTA = 1e-5
FIGURES = {
    "Logistic": "lit.sdv.logistic_detection", "SVC": "lit.sdv.svc_detection", "GMLL": "lit.sdv.gmll",
    "CS": "lit.sdv.cstest", "KS": "fid.marg.ks", "Cont KL": "lit.sdv.cont_kl", "Disc KL": "lit.sdv.disc_kl",
    "LR": "lit.sdv.numerical_lr", "MLP": "lit.sdv.numerical_mlp", "SVR": "lit.sdv.numerical_svr",
}  # fmt: skip


def main() -> None:
    """Train, judge, print one line a model and noise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="trainings without privacy")
    parser.add_argument("--private-seeds", type=int, default=1, help="trainings a noise multiplier")
    parser.add_argument("--models", nargs="*", default=["nhsx_report", "default"])
    parser.add_argument("--noise", nargs="*", type=float, default=[math.inf, *NOISE], help="multipliers; inf is none")
    given = parser.parse_args()
    everything = whole()
    print(f"support: {everything.n_rows:,} rows, learned from and judged against, as in the report")
    print("\n| model | noise | epsilon at 1e-5 | " + " | ".join(FIGURES) + " | CPU s |")
    print("| --- " * (len(FIGURES) + 4) + "|")
    for noise in given.noise:
        for name in given.models:
            seeds = given.seeds if math.isinf(noise) else given.private_seeds
            found = [trained(everything, name, noise, seed) for seed in range(seeds)]
            mean = np.mean([f for f, _, _ in found], axis=0)
            sd = np.std([f for f, _, _ in found], axis=0)
            cells = [
                f"{m:.2f}" + (f" ± {s:.2f}" if seeds > 1 else "")
                if abs(m) >= 10
                else f"{m:.3f}" + (f" ± {s:.3f}" if seeds > 1 else "")
                for m, s in zip(mean, sd, strict=True)
            ]
            asked = "" if math.isinf(noise) else f"{noise:.2f}" if name == "nhsx_report" else "own"
            spent = "inf" if math.isinf(noise) else f"{found[0][1]:.2f}"
            seconds = np.mean([s for _, _, s in found])
            print(f"| `{name}` | {asked} | {spent} | {' | '.join(cells)} | {seconds:.0f} |", flush=True)


def whole() -> Cohort:
    """All rows of SUPPORT as one cohort."""
    import pyarrow as pa

    split = split_support()
    parts = [split.train, split.holdout]
    return replace(
        split.train,
        table=pa.concat_tables([p.table for p in parts]),
        subject=np.concatenate([p.subject for p in parts]),
    )


def trained(cohort: Cohort, name: str, noise: float, seed: int) -> tuple[list[float], float, float]:
    """Figures of one training, the epsilon it spent, and CPU seconds of the fit."""
    from pipeline.generators.registry import generator_class

    known = name in ("nhsx_report", "default")
    model = generator_class("synthvae" if known else name)({"preset": name} if known else {})
    begun = process_time()
    report = model.fit(cohort, seed=seed, device="cpu", privacy=asked(name, noise, cohort.n_rows))
    seconds = process_time() - begun
    spent = math.inf if report.privacy is None else float(report.privacy["epsilon"])
    return figures(cohort, model.sample(cohort.n_rows, seed=1000 + seed)), spent, seconds


def asked(name: str, noise: float, rows: int) -> Any:
    """None; the report's noise; or for other models the epsilon that the report's noise costs."""
    from pipeline.generators.synthvae import SynthVAE
    from pipeline.privacy.spec import TrainingPrivacy

    if math.isinf(noise):
        return None
    of_report = TrainingPrivacy(noise_multiplier=noise, delta=DELTA)
    if name == "nhsx_report":
        return of_report
    planned = SynthVAE({"preset": "nhsx_report"}).planned_privacy(of_report, rows)
    return TrainingPrivacy(epsilon=planned.epsilon, delta=DELTA)


def figures(real: Cohort, synthetic: Cohort) -> list[float]:
    """The report's figures, in the order of `FIGURES`."""
    from pipeline.evaluation.context import Parts
    from pipeline.evaluation.plan import EvaluationPlan
    from pipeline.evaluation.protocol import headline, run_evaluation

    results = run_evaluation(
        Parts.of_two(real, real), [synthetic], EvaluationPlan(profile="full"), metrics=list(FIGURES.values())
    ).results
    out = []
    for metric in FIGURES.values():
        row = headline(results, metric)
        value = math.nan if row is None or row.value is None else row.value
        out.append(value)
    return out


if __name__ == "__main__":
    main()
