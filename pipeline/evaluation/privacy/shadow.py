"""Shadow models: the attacker who can retrain the generator, and so knows how each person's membership shows.

Many cohorts are made by trainings on random halves of T and H; for every person the attacker sees what the statistics
look like with and without that person in training, and asks which is the likelier on a cohort that was not used for
that (Carlini et al. 2022, LiRA, carried over from losses to distances). It costs as many trainings as there are
models, so no profile computes it: it is run on release candidates. What trains is passed in by the caller.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import ConfigError
from pipeline.evaluation.context import RealSides
from pipeline.evaluation.intervals import delong, tpr_at_fpr
from pipeline.evaluation.neighbours import knn
from pipeline.evaluation.privacy.membership import NEEDED, bonferroni
from pipeline.evaluation.results import MetricSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from pipeline.evaluation.context import Parts
    from pipeline.evaluation.encoding import Side
    from pipeline.evaluation.plan import EvaluationPlan
    from pipeline.evaluation.results import MetricResult
    from pipeline.features.cohort import Cohort

    MakeRows = Callable[[Cohort, int], Cohort]
    Told = Callable[[int, int], None]

FEWEST_MODELS, MOST_MODELS = 8, 256
K = 5
DRAWS = 100
TINY = 1e-6
STATISTICS = ("nearest", "density")
WAYS = ("online", "offline")


def _spec(name: str, title: str, caption: str) -> MetricSpec:
    return MetricSpec(
        id=f"priv.mia.shadow{name}",
        family="privacy",
        direction=-1,
        range=(0.0, 1.0),
        needs=frozenset({"T", "H", "S"}),
        version="1",
        title=title,
        caption=caption,
        source="Carlini et al. 2022 (LiRA) on log d1 and log k-NN density; pooled variances, section VI-C",
        cost="D",
    )


SHADOW = _spec(
    "", "Shadow models: members found at 0.1 % false alarms",
    "Share of training people whom an attacker flags who can retrain the generator, while flagging one in a thousand "
    "others. Lower is better; the null is 0.1 %.",
)  # fmt: skip
SHADOW_1 = _spec(
    "_tpr_at_1pct_fpr", "Shadow models: members found at 1 % false alarms",
    "The same at one false alarm in a hundred. Lower is better; the null is 1 %.",
)  # fmt: skip
SHADOW_AUC = _spec(
    "_auc", "Shadow models (AUC)",
    "How well that attacker tells training people from others overall. Lower is better; the null is 0.5.",
)  # fmt: skip
TITLES: dict[str, str] = {spec.id: spec.title for spec in (SHADOW, SHADOW_1, SHADOW_AUC)}


@dataclass(frozen=True)
class Scored:
    """One attack's scores.

    Attributes:
        scores: (n,) higher means "member".
        members: (n,) whether the person was in training of the cohort that is scored.
        people: (n,) number of the person.
    """

    scores: NDArray[np.float64]
    members: NDArray[np.bool_]
    people: NDArray[np.int64]


def shadow_attack(
    make_rows: MakeRows,
    parts: Parts,
    plan: EvaluationPlan | None = None,
    *,
    models: int = 16,
    seed: int = 0,
    released: Cohort | None = None,
    told: Told | None = None,
) -> list[MetricResult]:
    """Train `models` times on random halves of the people of T and H, and attack every cohort by all the others.

    Args:
        make_rows: (training rows, seed) to the synthetic cohort that would be released; the rows carry the split
            "train" throughout.
        parts: The real rows; only T and H are used.
        plan: Profile (how many people are attacked), seed and device.
        models: Trainings, 8 to 256; 16 to 64 are usual.
        seed: Of the halves and of the trainings.
        released: The cohort that was made from T; it is then attacked by all models too (rows with key1 "released").
        told: Called with (models done, models in all).

    Returns:
        Members found at 0.1 % and at 1 % false alarms, and the AUC: the best attack (key2 "") and each.

    Raises:
        ConfigError: too few or too many models.
    """
    if not FEWEST_MODELS <= models <= MOST_MODELS:
        raise ConfigError(f"{models} shadow models.", todo=f"Train {FEWEST_MODELS} to {MOST_MODELS}.")
    sides = RealSides(parts, plan)
    pool = _together(parts.train, parts.holdout)
    subjects, of_row = np.unique(pool.subject, return_inverse=True)
    targets = _Targets.of(sides, subjects)
    inside = np.zeros((models, len(subjects)), dtype=bool)
    seen = np.zeros((len(STATISTICS), models, len(targets.who)))
    for k in range(models):
        rng = sides.rng("priv.mia.shadow", seed, k)
        inside[k, rng.permutation(len(subjects))[: len(subjects) // 2]] = True
        made = make_rows(pool.take(inside[k][of_row]), int(rng.integers(2**62)))
        seen[:, k] = targets.statistics(sides.encoder.side(made), sides.plan.device)
        if told is not None:
            told(k + 1, models)
    rows = _judged(_left_out(seen, inside[:, targets.who]), sides, "")
    if released is not None:
        statistics = targets.statistics(sides.encoder.side(released), sides.plan.device)
        rows += _judged(_on(statistics, seen, inside[:, targets.who], targets.members), sides, "released")
    return rows


@dataclass(frozen=True)
class _Targets:
    """The people who are attacked.

    Attributes:
        sides: T and H with the positions of their target rows.
        person: (rows,) position in `who` of the person behind each target row.
        who: (n,) number of each attacked person among all subjects.
        members: (n,) True for people of T.
    """

    sides: tuple[tuple[Side, NDArray[np.int64]], ...]
    person: NDArray[np.int64]
    who: NDArray[np.int64]
    members: NDArray[np.bool_]

    @classmethod
    def of(cls, sides: RealSides, subjects: NDArray[np.str_]) -> _Targets:
        size = min(len(sides.train), len(sides.holdout), sides.profile.rows)
        chosen = tuple(
            (side, sides.sample(len(side), size, "rows", name, "targets"))
            for name, side in (("T", sides.train), ("H", sides.holdout))
        )
        number = np.concatenate(
            [np.searchsorted(subjects, side.cohort.subject[side.order[rows]]) for side, rows in chosen]
        )
        who, person = np.unique(number, return_inverse=True)
        members = np.zeros(len(who), dtype=bool)
        members[person[: len(chosen[0][1])]] = True
        return cls(chosen, person, who, members)

    def statistics(self, synthetic: Side, device: str) -> NDArray[np.float64]:
        """(2, n) minus log distance to the nearest row, and log density by the fifth; a person's highest."""
        found = [knn(side.points.take(rows), synthetic.points, K, device=device).distance for side, rows in self.sides]
        distance = -np.log(np.concatenate(found) + TINY)
        result = np.full((2, len(self.who)), -np.inf)
        for i, column in enumerate((0, distance.shape[1] - 1)):
            np.maximum.at(result[i], self.person, distance[:, column])
        return result


def _together(train: Cohort, holdout: Cohort) -> Cohort:
    """The rows of both parts as one training part."""
    import pyarrow as pa
    from scipy.sparse import vstack

    from pipeline.features.visits import stacked_events

    both = (train, holdout)
    n = train.n_rows + holdout.n_rows
    return replace(
        train,
        table=pa.concat_tables([c.table for c in both]),
        subject=np.concatenate([c.subject for c in both]),
        split=np.full(n, "train"),
        tune=None,
        blocks={name: vstack([c.blocks[name] for c in both], format="csr") for name in train.blocks},
        events=stacked_events([c.events for c in both if c.events is not None], [c.n_rows for c in both])
        if train.schema.events is not None
        else None,
    )


def _left_out(seen: NDArray[np.float64], inside: NDArray[np.bool_]) -> dict[str, Scored]:
    """Every cohort attacked by all the others: (statistics, models, people) to one score a model and person."""
    found = {}
    models, n = inside.shape
    people = np.tile(np.arange(n), models)
    for name, values in zip(STATISTICS, seen, strict=True):
        scores = np.empty((len(WAYS), models, n))
        for k in range(models):
            rest = np.arange(models) != k
            scores[:, k] = _likelihoods(values[k], values[rest], inside[rest])
        for way, score in zip(WAYS, scores, strict=True):
            known = np.isfinite(score).ravel()
            found[f"{name}, {way}"] = Scored(score.ravel()[known], inside.ravel()[known], people[known])
    return found


def _on(
    statistics: NDArray[np.float64], seen: NDArray[np.float64], inside: NDArray[np.bool_], members: NDArray[np.bool_]
) -> dict[str, Scored]:
    """The released cohort attacked by all shadow cohorts."""
    found = {}
    for name, value, values in zip(STATISTICS, statistics, seen, strict=True):
        for way, score in zip(WAYS, _likelihoods(value, values, inside), strict=True):
            known = np.isfinite(score)
            found[f"{name}, {way}"] = Scored(score[known], members[known], np.flatnonzero(known))
    return found


def _likelihoods(
    value: NDArray[np.float64], values: NDArray[np.float64], inside: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """(2, n) log N(value; in) - log N(value; out), and (value - mean out) / sd out; NaN where a side was never seen.

    Means are a person's own, variances those of all people: with a few models a person's own would be noise.
    """
    means, spreads = [], []
    for chosen in (inside, ~inside):
        count = chosen.sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.where(chosen, values, 0.0).sum(axis=0) / count
        residual = np.where(chosen & (count > 1), values - mean, 0.0)
        freedom = np.maximum(count - 1, 0).sum()
        means.append(mean)
        # With an estimated mean the value itself lies farther away: the variance of a prediction.
        spreads.append(max(float((residual**2).sum() / max(freedom, 1)), TINY) * (1 + 1 / np.maximum(count, 1)))
    away = [(value - mean) ** 2 / spread for mean, spread in zip(means, spreads, strict=True)]
    online = 0.5 * (away[1] - away[0] + np.log(spreads[1]) - np.log(spreads[0]))
    offline = np.where(np.isnan(means[0]), np.nan, (value - means[1]) / np.sqrt(spreads[1]))
    return np.stack([online, offline])


def _judged(found: dict[str, Scored], sides: RealSides, key: str) -> list[MetricResult]:
    """The best attack and each, for the three figures."""
    rows: list[MetricResult] = []
    for spec, fpr in ((SHADOW, 0.001), (SHADOW_1, 0.01)):
        fewest = min(int((~s.members).sum()) for s in found.values())
        if fewest < NEEDED[fpr]:
            what = "scores of people outside training"
            rows.append(spec.underpowered(fewest, NEEDED[fpr], what, null=fpr, key1=key))
            continue
        rates = {name: _rate(scored, fpr, sides) for name, scored in found.items()}
        rows += _best(spec, rates, fewest, fpr, key)
    areas = {name: delong(s.scores, s.members, s.people) for name, s in found.items()}
    values = {name: (area.value, area.se) for name, area in areas.items()}
    return rows + _best(SHADOW_AUC, values, min(area.negatives for area in areas.values()), 0.5, key)


def _rate(scored: Scored, fpr: float, sides: RealSides) -> tuple[float, float]:
    """True-positive rate at a false-positive rate, and its error by drawing people again, with all their scores."""
    order = np.argsort(-scored.scores, kind="stable")
    members = scored.members[order]
    rng, people = sides.rng("priv.mia.shadow", "bootstrap"), int(scored.people.max()) + 1
    of_score = scored.people[order]
    draws = []
    for _ in range(DRAWS):
        again = np.bincount(rng.integers(0, people, people), minlength=people)[of_score]
        false = np.cumsum(again * ~members, dtype=np.float64)
        true = np.cumsum(again * members, dtype=np.float64)
        draws.append(float(np.interp(fpr, false / false[-1], true / true[-1])))
    return tpr_at_fpr(scored.scores, scored.members, fpr), float(np.std(draws))


def _best(
    spec: MetricSpec, values: dict[str, tuple[float, float]], n: int, null: float, key: str
) -> list[MetricResult]:
    best = max(values, key=lambda name: values[name][0])
    z = bonferroni(len(values))
    low, high = (max(v + sign * z * se for v, se in values.values()) for sign in (-1, 1))
    value, error = values[best]
    interval = max(0.0, low), min(1.0, high)
    first = spec.result(value, se=error, interval=interval, n=n, null=null, key1=key, note=f"attack: {best}")
    each = [spec.result(v, se=se, n=n, null=null, key1=key, key2=name) for name, (v, se) in values.items()]
    return [first, *each]
