"""Fairness on real people: `python benchmarks/fairness.py [--data adult,...] [--systems ...] [--seeds 5] [--cells FILE]`.

Models are trained on the rows of each system and tested on real people that nobody learned from: Adult (sex), COMPAS
(ethnicity), diabetes130 (race), split anew for every seed. Boosting unless `--model lr`; it sees the protected column, as
in the evaluation of the pipeline. Systems: `real`; `best_order` (the least that parity costs a model of the real rows);
`kamiran_calders` (rows drawn so often as their weight says); `fairlearn` (ExponentiatedGradient with DemographicParity
over the same kind of model, whose chance of a yes is the score); and GENERATOR, GENERATOR+labels (fair quotas),
GENERATOR+decisions. `--rows` caps the training rows. Cells that FILE holds are not computed again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from time import process_time
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from supporting.cells import keep_cell, kept_cells
from supporting.fair_figures import People, best_order, figures, of_rows
from supporting.fair_rows import DATA, FairSplit, fair_split

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.features.cohort import Cohort
    from pipeline.generators.base import Generator

    Numbers = NDArray[np.float64]

GENERATORS: dict[str, dict[str, Any]] = {"cart": {}, "vae": {}, "argn": {}}
"""Generator to its settings."""
FAIR_GENERATORS = ("fairgan", "bt_gan_minus", "bt_gan")
"""Fair by themselves: told label and protected column, and named without a suffix in `--systems`."""
ON_TOP: dict[str, dict[str, Any]] = {
    "": {},
    "4x": {},
    "labels": {"aim": "labels"},
    "decisions": {"aim": "decisions"},
    "decisions_4x": {"aim": "decisions"},
    "opportunity": {"aim": "decisions", "notion": "equal_opportunity"},
    "odds": {"aim": "decisions", "notion": "equalised_odds"},
}
"""What is put on top of a generator, by suffix; `4x` draws four times the rows, which a model then follows more sharply."""
REFERENCES = ("real", "best_order", "kamiran_calders", "fairlearn")
DEFAULT = (
    *REFERENCES,
    *(f"{g}{s}" for g in GENERATORS for s in ("", "+labels", "+decisions")),
    *FAIR_GENERATORS,
)
PAPER: dict[str, dict[str, tuple[float, float, float, float]]] = {
    "adult": {"real": (0.902, 0.921, 0.198, 0.121), "DECAF": (0.781, 0.881, 0.011, 0.001), "FairGAN": (0.661, 0.679, 0.089, 0.097), "Bt-GAN": (0.898, 0.900, 0.002, 0.001)},
    "compas": {"real": (0.903, 0.914, 0.239, 0.258), "DECAF": (0.874, 0.886, 0.021, 0.003), "FairGAN": (0.785, 0.832, 0.045, 0.205), "Bt-GAN": (0.896, 0.899, 0.001, 0.002)},
}  # fmt: skip
"""Bt-GAN paper, table 6: precision, recall, AUROC gap, parity gap."""
SHOWN = (
    "precision", "recall", "auroc", "auroc_gap", "parity_gap", "parity_gap_half", "opportunity_gap", "odds_gap", "label_gap",
    "leak_data", "leak_model", "ldss",
)  # fmt: skip
T975 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}


class Bench:
    """One split of one data set, with what several systems share."""

    def __init__(self, split: FairSplit, seed: int, model: str) -> None:
        from pipeline.evaluation.encoding import MetricEncoder

        self.split, self.seed, self.model = split, seed, model
        self.people = People.of(split, split.holdout)
        self.encoder = MetricEncoder(split.train)
        self._fitted: dict[str, Generator] = {}

    def scores(self, rows: Cohort, often: NDArray[np.int64] | None = None) -> Numbers:
        """Chances of the outcome for real people, by a model trained on rows (each so often as asked)."""
        from pipeline.evaluation.utility.learners import TrainingRows, fit_learner

        side, holdout = self.encoder.side(rows), self.encoder.side(self.split.holdout)
        outcome = rows.codes(self.split.task.label)[side.order]
        times = np.ones(len(outcome), dtype=np.int64) if often is None else often[side.order]
        chosen = np.repeat(np.arange(len(outcome)), np.where(outcome >= 0, times, 0))
        drop = (self.split.task.label, *self.split.task.leak)
        learner = fit_learner(self.model, [TrainingRows(side, chosen, outcome[chosen] == 1)], drop, self.seed)
        scores = np.empty(len(holdout))
        scores[holdout.order] = learner.scores(holdout, np.arange(len(holdout)))
        return scores[self.people.rows]

    def generator(self, name: str) -> Generator:
        """The generator trained on the real training rows, once."""
        from pipeline.generators.registry import generator_class

        if name not in self._fitted:
            told = {"label": self.split.task.label, "protected": [self.split.data.protected]}
            kind = generator_class(name)
            known = {k: v for k, v in told.items() if k in kind.Config.model_fields}
            model = kind(known if name in FAIR_GENERATORS else GENERATORS[name])
            model.fit(self.split.train, seed=self.seed, device="cpu")
            self._fitted[name] = model
        return self._fitted[name]


def run(bench: Bench, system: str) -> dict[str, float]:
    """All figures of one system."""
    began = process_time()
    train = bench.split.train
    if system in ("real", "best_order"):
        scores = bench.scores(train)
        scores = best_order(bench.people, scores) if system == "best_order" else scores
        found = {**figures(bench.people, scores), **of_rows(bench.split, train)}
    elif system == "kamiran_calders":
        found = {**figures(bench.people, bench.scores(train, _expected(bench))), **of_rows(bench.split, train)}
    elif system == "fairlearn":
        found = figures(bench.people, _reductions(bench))
    else:
        rows, more = _synthetic(bench, system)
        found = {**figures(bench.people, bench.scores(rows)), **of_rows(bench.split, rows), **more}
    return {**found, "cpu_s": process_time() - began}


def _synthetic(bench: Bench, system: str) -> tuple[Cohort, dict[str, float]]:
    """As many rows as there are for training, or four times as many."""
    from pipeline.fairness.sampling import fair_sample
    from pipeline.features.fairness_spec import FairnessSpec
    from pipeline.generators.seeds import derive_seed

    name, _, on_top = system.partition("+")
    model, n, seed = bench.generator(name), bench.split.train.n_rows, derive_seed(bench.seed, "drawn")
    n *= 4 if on_top.endswith("4x") else 1
    if on_top in ("", "4x"):
        return model.sample(n, seed=seed), {}
    asked = FairnessSpec(protected=[bench.split.data.protected], rare="pool", **ON_TOP[on_top]).resolved(
        [bench.split.task]
    )
    made = fair_sample(model, n, seed=seed, fairness=asked)
    told = {"acceptance": made.account.acceptance, "lacking": float(made.account.lacking)}
    if made.account.decision_gap_after is not None:
        told["decision_gap_after"] = made.account.decision_gap_after
    return made.cohort, told


def _expected(bench: Bench) -> NDArray[np.int64]:
    """(n,) how often each real row counts: Kamiran and Calders 2012, section 4.4, in tenths (weights as whole repeats)."""
    people = People.of(bench.split, bench.split.train)
    often = np.zeros(bench.split.train.n_rows, dtype=np.int64)
    for g in (0, 1):
        for y in (False, True):
            mine = (people.group == g) & (people.truth == y)
            weight = (people.group == g).mean() * (people.truth == y).mean() / mine.mean()
            exact = 10 * weight
            extra = np.random.default_rng([bench.seed, g, int(y)]).random(int(mine.sum())) < exact - int(exact)
            often[people.rows[mine]] = int(exact) + extra
    return often


def _reductions(bench: Bench) -> Numbers:
    """Chance of a yes by fairlearn's ExponentiatedGradient, parity within .01, boosting of the same kind inside."""
    from fairlearn.reductions import (  # type: ignore[import-untyped]
        DemographicParity,
        ExponentiatedGradient,
    )
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression

    drop = (bench.split.task.label, *bench.split.task.leak)
    tables = []
    for cohort in (bench.split.train, bench.split.holdout):
        side, people = bench.encoder.side(cohort), People.of(bench.split, cohort)
        matrix = np.empty((cohort.n_rows, 0))
        features = side.tree_features(drop, np.arange(cohort.n_rows)).matrix
        matrix = np.empty_like(features)
        matrix[side.order] = features
        tables.append((np.nan_to_num(matrix[people.rows], nan=-1.0), people))
    (learn, known), (ask, _) = tables
    inner = HistGradientBoostingClassifier(max_iter=100, random_state=bench.seed) if bench.model == "hgb" else LogisticRegression(max_iter=500)  # fmt: skip
    model = ExponentiatedGradient(inner, DemographicParity(difference_bound=0.01), max_iter=15)
    model.fit(learn, known.truth.astype(int), sensitive_features=known.group)
    return np.asarray(model._pmf_predict(ask)[:, 1], dtype=np.float64)


def interval(values: list[float]) -> str:
    """Mean and half the width of its 95 % interval over seeds (Student)."""
    half = T975.get(len(values), 2.0) * float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{np.mean(values):.3f} ± {half:.3f}"


def main() -> None:
    """Compute what is not kept yet, and print a table a data set, Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=",".join(DATA), help="of " + ", ".join(DATA))
    parser.add_argument("--systems", default=",".join(DEFAULT), help=f"references, GENERATOR or GENERATOR+{{{', '.join(filter(None, ON_TOP))}}}")  # fmt: skip
    parser.add_argument("--seeds", type=int, default=5, help="splits and trainings")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--rows", type=int, help="training rows at most; all by default")
    parser.add_argument("--model", default="hgb", choices=["hgb", "lr"], help="what is trained on the rows")
    parser.add_argument("--cells", type=Path, help="file that keeps figures between runs")
    parser.add_argument("--only-table", action="store_true", help="print what is kept and compute nothing")
    given = parser.parse_args()
    systems = given.systems.split(",")
    for name in given.data.split(","):
        found: dict[str, list[dict[str, float]]] = {system: [] for system in systems}
        for seed in range(given.first, given.first + given.seeds):
            _one_split(name, seed, found, given)
        _print(name, found, given)


def _one_split(name: str, seed: int, found: dict[str, list[dict[str, float]]], given: argparse.Namespace) -> None:
    bench: Bench | None = None
    for system in found:
        cell = f"{name}/{given.rows or 'all'}/{given.model}/{seed}/{system}"
        known = kept_cells(given.cells)
        if cell not in known:
            if given.only_table:
                continue
            bench = bench or Bench(fair_split(name, seed, given.rows), seed, given.model)
            known[cell] = run(bench, system)
            keep_cell(given.cells, cell, known[cell])
            print(f"{cell}: {known[cell]['cpu_s']:.0f} s", file=sys.stderr, flush=True)
        found[system].append(known[cell])


def _print(name: str, found: dict[str, list[dict[str, float]]], given: argparse.Namespace) -> None:
    data = DATA[name]
    print(f"\n{name}: {data.groups[0]} minus {data.groups[1]}; {given.model}; {given.rows or 'all'} training rows\n")
    print("| system | seeds | " + " | ".join(SHOWN) + " |\n| --- | --- | " + " | ".join("---" for _ in SHOWN) + " |")
    for system, cells in found.items():
        if not cells:
            continue
        shown = [interval([c[key] for c in cells]) if all(key in c for c in cells) else "-" for key in SHOWN]
        print(f"| {system} | {len(cells)} | " + " | ".join(shown) + " |")
    for system, (precision, recall, auroc_gap, parity_gap) in PAPER.get(name, {}).items():
        told = {"precision": precision, "recall": recall, "auroc_gap": auroc_gap, "parity_gap": parity_gap}
        print(f"| paper: {system} | - | " + " | ".join(f"{told[k]:.3f}" if k in told else "-" for k in SHOWN) + " |")


if __name__ == "__main__":
    main()
