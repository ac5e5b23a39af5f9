"""The membership attacks: each gives every target a score that is high for somebody who was in training.

Targets are people of T (members) and of H (non-members), equally many rows; somebody with several rows counts once, by
the most telling one. An attacker has the synthetic cohort S and, for all but `nn` and `mc`, a reference sample R1 of
the same population that no generator has seen. How scores are judged is in `membership.py`, `outliers.py` and
`epsilon.py`; attacks that can retrain the generator are in `shadow.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.boosting import boosted_scores, fit_boosting
from pipeline.evaluation.intervals import Auc, delong
from pipeline.evaluation.neighbours import REFERENCE_ROWS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext, PartName
    from pipeline.evaluation.distances import Points
    from pipeline.evaluation.encoding import Side

K = 5
TINY = 1e-9
DIMENSIONS = 16
FOLDS = 5
CELLS = 4_000_000
"""Distances that are held at once."""
FEWEST_ROWS = 40
"""Reference and synthetic rows below which no density or classifier is fitted to them."""
TITLES: dict[str, str] = {
    "nn": "nearest row",
    "mc": "rows within a radius",
    "domias_knn": "density ratio, neighbours",
    "ganleaks_cal": "calibrated distance",
    "domias_kde": "density ratio, kernels",
    "logan": "logistic classifier",
    "domias_clf": "boosted classifier",
}


@dataclass(frozen=True)
class Attacks:
    """Scores of all targets, one a person.

    Attributes:
        scores: Attack to (n,) scores, higher means "member".
        members: (n,) True for people of the training part.
        aucs: Attack to AUC with error.
        reason: Why attacks are missing; empty if none is.
    """

    scores: dict[str, NDArray[np.float64]]
    members: NDArray[np.bool_]
    aucs: dict[str, Auc]
    reason: str

    @property
    def people(self) -> tuple[int, int]:
        """Members and non-members."""
        return int(self.members.sum()), int((~self.members).sum())

    def among(self, chosen: NDArray[np.bool_]) -> Attacks:
        """The same attacks on some of the people."""
        members = self.members[chosen]
        scores = {name: score[chosen] for name, score in self.scores.items()}
        return Attacks(scores, members, {k: delong(v, members) for k, v in scores.items()}, self.reason)


def attack(ctx: EvaluationContext) -> Attacks:
    """All attacks that the profile allows, made once for a synthetic cohort."""
    return ctx.once("priv.mia", lambda: _attack(ctx))


def _attack(ctx: EvaluationContext) -> Attacks:
    to_synthetic = both(ctx, "S")
    by_row: dict[str, NDArray[np.float64]] = {
        "nn": -to_synthetic[:, 0],
        "mc": within_radius(ctx, to_synthetic[:, 0]),
    }
    reason = ""
    if len(ctx.side("R1")):
        to_reference = both(ctx, "R1")
        fifth = [d[:, min(K, d.shape[1]) - 1] for d in (to_reference, to_synthetic)]
        by_row["domias_knn"] = np.log(fifth[0] + TINY) - np.log(fifth[1] + TINY)
        by_row["ganleaks_cal"] = to_reference[:, 0] - to_synthetic[:, 0]
    else:
        reason = "no reference sample: attacks are not calibrated"
    if min(len(ctx.side("R1")), len(ctx.side("S"))) >= FEWEST_ROWS:
        by_row["domias_kde"] = density_ratio(ctx)
        by_row["logan"] = classifier_score(ctx)
        if "C" in ctx.sides.profile.costs:
            by_row["domias_clf"] = boosted_score(ctx)
    members = target_members(ctx)
    scores = {name: by_person(ctx, score) for name, score in by_row.items()}
    return Attacks(scores, members, {k: delong(v, members) for k, v in scores.items()}, reason)


def both(ctx: EvaluationContext, reference: PartName) -> NDArray[np.float64]:
    """(n, k) nearest distances of all target rows, those of T first."""
    return np.concatenate([ctx.near("T", reference).distance, ctx.near("H", reference).distance])


def target_people(ctx: EvaluationContext) -> NDArray[np.int64]:
    """(n rows,) number of the person behind each target row, members first, without gaps."""

    def make() -> NDArray[np.int64]:
        train, holdout = (ctx.side(name).clusters[ctx.rows(name)] for name in ("T", "H"))
        return np.unique(np.concatenate([train, holdout + len(ctx.side("T"))]), return_inverse=True)[1]

    return ctx.sides.once("priv/target people", make)


def target_members(ctx: EvaluationContext) -> NDArray[np.bool_]:
    """(n people,) True for members."""
    people = target_people(ctx)
    members = np.zeros(int(people.max()) + 1, dtype=bool)
    members[people[: len(ctx.rows("T"))]] = True
    return members


def by_person(ctx: EvaluationContext, score: NDArray[np.floating]) -> NDArray[np.float64]:
    """(n people,) highest score of each person's rows."""
    people = target_people(ctx)
    highest = np.full(int(people.max()) + 1, -np.inf)
    np.maximum.at(highest, people, np.asarray(score, dtype=np.float64))
    return highest


def within_radius(ctx: EvaluationContext, nearest: NDArray[np.float64]) -> NDArray[np.float64]:
    """`mc`: how many synthetic rows lie within the median nearest distance.

    Source: Hilprecht et al. 2019, Monte Carlo attack, median heuristic.
    """
    radius = float(np.median(nearest))
    reference = ctx.side("S").points.take(ctx.rows("S", "reference"))
    queries = [ctx.side(name).points.take(ctx.rows(name)) for name in ("T", "H")]
    return np.concatenate([_count(query, reference, radius, ctx.plan.device) for query in queries])


def _count(query: Points, reference: Points, radius: float, device: str) -> NDArray[np.float64]:
    """(n,) rows of `reference` within `radius`, up to rounding."""
    found = np.zeros(len(query))
    limit = radius**2 * query.parts + query.slack(reference)
    step = max(1, CELLS // REFERENCE_ROWS)
    for start in range(0, len(reference), REFERENCE_ROWS):
        loaded = reference.take(slice(start, start + REFERENCE_ROWS)).loaded(device)
        for lo in range(0, len(query), step):
            part = slice(lo, lo + step)
            found[part] += (query.take(part).against(loaded, device) <= limit).sum(dim=1).cpu().numpy()
    return found


def features(side: Side, rows: NDArray[np.integer]) -> NDArray[np.float32]:
    """(n, p) what densities and linear classifiers see: scaled numbers, one-hot levels, the kept codes."""
    codes = [side.presence[b.name][rows][:, side.encoder.kept_codes[b.name]].toarray() for b in side.encoder.blocks]
    return np.concatenate([side.points.dense[rows], *codes], axis=1)


def density_ratio(ctx: EvaluationContext) -> NDArray[np.float64]:
    """`domias_kde`: log density of S minus log density of R1, by Gaussian kernels on at most 16 principal components.

    Components and scales are those of what the attacker has, S and R1 in equal parts; the bandwidth is Scott's.

    Source: van Breugel et al. 2023 (DOMIAS), equation 2.
    """
    synthetic = features(ctx.side("S"), ctx.rows("S", "reference"))
    reference = features(ctx.side("R1"), ctx.rows("R1", "reference"))
    centre = 0.5 * (synthetic.mean(axis=0) + reference.mean(axis=0))
    spread = sum(0.5 * (x - centre).T @ (x - centre) / len(x) for x in (synthetic, reference))
    values, vectors = np.linalg.eigh(np.asarray(spread, dtype=np.float64))
    kept = np.flatnonzero(values > 1e-6 * max(float(values.max(initial=0.0)), TINY))[-DIMENSIONS:]
    if not len(kept):
        return np.zeros(len(ctx.rows("T")) + len(ctx.rows("H")))
    turn = (vectors[:, kept] / np.sqrt(values[kept])).astype(np.float32)
    query = np.concatenate([features(ctx.side(name), ctx.rows(name)) for name in ("T", "H")])
    at, ends = (query - centre) @ turn, [(x - centre) @ turn for x in (synthetic, reference)]
    return log_density(at, ends[0]) - log_density(at, ends[1])


def log_density(at: NDArray[np.float32], points: NDArray[np.float32]) -> NDArray[np.float64]:
    """(n,) log of a Gaussian kernel density, up to a constant of the dimension; bandwidth n^(-1 / (d + 4)) (Scott)."""
    n, d = points.shape
    width = n ** (-1.0 / (d + 4))
    result = np.empty(len(at))
    step = max(1, CELLS // n)
    squares = np.einsum("ij,ij->i", points, points)
    for lo in range(0, len(at), step):
        part = at[lo : lo + step]
        distance = part @ points.T
        distance *= -2.0
        distance += squares
        distance += np.einsum("ij,ij->i", part, part)[:, None]
        least = distance.min(axis=1)
        distance -= least[:, None]
        distance *= np.float32(-0.5 / width**2)
        np.exp(distance, out=distance)
        result[lo : lo + step] = np.log(distance.sum(axis=1, dtype=np.float64)) - 0.5 * least / width**2
    return result - np.log(n) - d * np.log(width)


def classifier_score(ctx: EvaluationContext) -> NDArray[np.float64]:
    """`logan`: log odds of a logistic classifier of S against R1.

    Source: Hayes et al. 2019 (LOGAN), black box with a reference sample; a linear discriminator.
    """
    from sklearn.linear_model import LogisticRegression

    parts = [features(ctx.side(name), ctx.rows(name, "reference")) for name in ("S", "R1")]
    learned = np.concatenate(parts).astype(np.float64)
    mean, scale = learned.mean(axis=0), learned.std(axis=0)
    kept = scale > TINY
    if not kept.any():
        return np.zeros(len(ctx.rows("T")) + len(ctx.rows("H")))
    model = LogisticRegression(solver="newton-cholesky", class_weight="balanced", max_iter=50)
    labels = np.repeat([1, 0], [len(part) for part in parts])
    model.fit((learned[:, kept] - mean[kept]) / scale[kept], labels)
    query = np.concatenate([features(ctx.side(name), ctx.rows(name)) for name in ("T", "H")])
    return np.asarray(model.decision_function((query[:, kept] - mean[kept]) / scale[kept]), dtype=np.float64)


def boosted_score(ctx: EvaluationContext) -> NDArray[np.float64]:
    """`domias_clf`: log odds of gradient boosting of S against R1, the mean of five models that each leave a fold out.

    Source: density ratio by classification, cross-fitted.
    """
    sides = {name: (ctx.side(name), ctx.rows(name, "reference")) for name in ("S", "R1")}
    trees = [side.tree_features(rows=rows).matrix for side, rows in sides.values()]
    layout = ctx.side("T").tree_features(rows=np.zeros(0, dtype=np.int64))
    learned, labels = np.concatenate(trees), np.repeat([True, False], [len(tree) for tree in trees])
    query = np.concatenate([ctx.side(n).tree_features(rows=ctx.rows(n)).matrix for n in ("T", "H")])
    people = np.concatenate([side.clusters[rows] * 2 + i for i, (side, rows) in enumerate(sides.values())])
    rng = ctx.rng("priv.mia.domias_clf")
    fold = rng.integers(0, FOLDS, int(people.max()) + 1)[people]
    total = np.zeros(len(query))
    for held in range(FOLDS):
        training = fold != held
        kept, nominal = layout.usable(learned[training])
        if not len(kept) or len(np.unique(labels[training])) < 2:
            continue
        model = fit_boosting(
            learned[np.ix_(training, kept)],
            labels[training],
            nominal,
            rounds=100,
            early_stopping=True,
            seed=int(rng.integers(2**31)),
        )
        chance = np.clip(boosted_scores(model, query[:, kept]), TINY, 1 - TINY)
        total += np.log(chance / (1 - chance))
    return total / FOLDS
