"""The systems of the fairness benchmarks: real rows as they are or weighted, any generator, fair drawing on top of it.

A system is named `real`, `best_order`, `kamiran_calders`, `fairlearn`, GENERATOR, or GENERATOR+WAY (`ON_TOP`). A generator
whose settings have `protected` is fair by itself, and is told that column and, if it asks, the label: the fair ones need no
list here, so that any that is registered can be named.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from time import process_time
from typing import TYPE_CHECKING, Any

import numpy as np

from supporting.fair_figures import People, best_order, figures, of_rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.features.cohort import Cohort
    from pipeline.generators.base import Generator
    from supporting.fair_rows import FairSplit

    Numbers = NDArray[np.float64]

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
WITHOUT_ROWS = ("best_order", "fairlearn")
"""References that are scores or a model, not rows."""


@dataclass(frozen=True)
class Drawn:
    """The rows of a system that models are trained on.

    Attributes:
        rows: The rows.
        often: (n,) how often each of them counts; None: once.
        told: What its making has to say: acceptance, rows lacking, gap that is left on the generator's own rows.
    """

    rows: Cohort
    often: NDArray[np.int64] | None = None
    told: Mapping[str, float] = field(default_factory=dict)

    @property
    def as_often(self) -> Cohort:
        """The rows, each as often as it counts."""
        return self.rows if self.often is None else self.rows.take(np.repeat(np.arange(self.rows.n_rows), self.often))


class Bench:
    """One split of one data set, with what several systems share.

    Args:
        split: Real people to learn from and to test on.
        seed: Of generators, of what they draw, and of models.
        model: What is trained on the rows, a name of `pipeline/evaluation/utility/learners.py`.
        fitted: Generators that another task on the same people has trained already; those trained here are put in.
        settings: Generator to settings beside label and protected column.
    """

    def __init__(
        self,
        split: FairSplit,
        seed: int,
        model: str,
        fitted: dict[tuple[str, str], Generator] | None = None,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        from pipeline.evaluation.encoding import MetricEncoder

        self.split, self.seed, self.model = split, seed, model
        self.people = People.of(split, split.holdout)
        self.encoder = MetricEncoder(split.train)
        self.settings = settings or {}
        self._fitted = {} if fitted is None else fitted

    def scores(
        self,
        rows: Cohort,
        often: NDArray[np.int64] | None = None,
        model: str = "",
        unseen: tuple[str, ...] = (),
    ) -> Numbers:
        """(people,) chances of the outcome for real people, by a model trained on rows.

        Args:
            rows: What it is trained on.
            often: (n,) how often each row counts.
            model: Which model, if not the benchmark's.
            unseen: Columns that it does not see, beside label and leaks.
        """
        from pipeline.evaluation.utility.learners import TrainingRows, fit_learner

        side, holdout = self.encoder.side(rows), self.encoder.side(self.split.holdout)
        outcome = rows.codes(self.split.task.label)[side.order]
        times = np.ones(len(outcome), dtype=np.int64) if often is None else often[side.order]
        chosen = np.repeat(np.arange(len(outcome)), np.where(outcome >= 0, times, 0))
        drop = (self.split.task.label, *self.split.task.leak, *unseen)
        learner = fit_learner(model or self.model, [TrainingRows(side, chosen, outcome[chosen] == 1)], drop, self.seed)
        scores = np.empty(len(holdout))
        scores[holdout.order] = learner.scores(holdout, np.arange(len(holdout)))
        return scores[self.people.rows]

    def generator(self, name: str) -> Generator:
        """The generator trained on the real training rows, once; once a task where it asks for the label."""
        from pipeline.features.spec import load_book
        from pipeline.generators.registry import generator_class

        kind = generator_class(name)
        fields = kind.Config.model_fields
        told: dict[str, Any] = {}
        if "protected" in fields:
            told = {"label": self.split.task.label, "protected": [self.split.data.protected]}
        told = {key: value for key, value in told.items() if key in fields}
        known = load_book().cohorts.get(self.split.data.name)
        if "causal" in fields and known is not None and known.causal is not None:
            told["causal"] = known.causal
        label = str(told.get("label", ""))
        if (name, label) not in self._fitted:
            model = kind({**told, **self.settings.get(name, {})})
            model.fit(self.split.train, seed=self.seed, device="cpu")
            self._fitted[name, label] = model
        return self._fitted[name, label]


def check_systems(systems: Sequence[str]) -> None:
    """Refuse a system that does not exist before hours are spent on the others.

    Raises:
        NotFoundError: no such generator.
        ValueError: no such way to draw on top of one.
    """
    from pipeline.generators.registry import generator_class

    for system in systems:
        name, _, on_top = system.partition("+")
        if on_top not in ON_TOP:
            raise ValueError(f"'{system}': after '+' comes one of {', '.join(filter(None, ON_TOP))}")
        if name not in REFERENCES:
            generator_class(name)


def settings_of(systems: Sequence[str], steps: int | None) -> dict[str, dict[str, Any]]:
    """Generator to settings: its steps, if it has any and they are capped."""
    from pipeline.generators.registry import generator_class

    names = {system.partition("+")[0] for system in systems} - set(REFERENCES)
    return {n: {"steps": steps} for n in sorted(names) if steps and "steps" in generator_class(n).Config.model_fields}


def run(bench: Bench, system: str) -> dict[str, float]:
    """All figures of one system, by the benchmark's model."""
    began = process_time()
    if system == "fairlearn":
        found = figures(bench.people, _reductions(bench))
    else:
        made = drawn(bench, system)
        scores = bench.scores(made.rows, made.often)
        scores = best_order(bench.people, scores) if system == "best_order" else scores
        found = {**figures(bench.people, scores), **of_rows(bench.split, made.rows), **made.told}
    return {**found, "cpu_s": process_time() - began}


def drawn(bench: Bench, system: str) -> Drawn:
    """The rows of a system; `fairlearn` has none, and `best_order` those of `real`."""
    train = bench.split.train
    if system in ("real", "best_order"):
        return Drawn(train)
    if system == "kamiran_calders":
        return Drawn(train, _expected(bench))
    return _synthetic(bench, system)


def _synthetic(bench: Bench, system: str) -> Drawn:
    """As many rows as there are for training, or four times as many."""
    from pipeline.fairness.sampling import fair_sample
    from pipeline.features.fairness_spec import FairnessSpec
    from pipeline.generators.seeds import derive_seed

    name, _, on_top = system.partition("+")
    model, n, seed = bench.generator(name), bench.split.train.n_rows, derive_seed(bench.seed, "drawn")
    n *= 4 if on_top.endswith("4x") else 1
    if on_top in ("", "4x"):
        return Drawn(model.sample(n, seed=seed))
    asked = FairnessSpec(protected=[bench.split.data.protected], rare="pool", **ON_TOP[on_top]).resolved(
        [bench.split.task]
    )
    made = fair_sample(model, n, seed=seed, fairness=asked)
    told = {"acceptance": made.account.acceptance, "lacking": float(made.account.lacking)}
    if made.account.decision_gap_after is not None:
        told["decision_gap_after"] = made.account.decision_gap_after
    return Drawn(made.cohort, told=told)


def _expected(bench: Bench) -> NDArray[np.int64]:
    """(n,) how often each real row counts: Kamiran and Calders 2012, section 4.4, in tenths (weights as whole repeats)."""
    people = People.of(bench.split, bench.split.train)
    often = np.zeros(bench.split.train.n_rows, dtype=np.int64)
    for g in (0, 1):
        for y in (False, True):
            mine = (people.group == g) & (people.truth == y)
            if not mine.any():
                continue
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
