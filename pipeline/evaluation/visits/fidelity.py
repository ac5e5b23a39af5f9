"""Do people come as often, with as many codes, after as many days, and does one code follow another as it does really?

Each figure is made of counts a person (visits, codes of visits, days between visits, pairs of codes in visits that follow
each other), so that the bootstrap draws whole people.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec, TooFew
from pipeline.evaluation.visits.plots import bars
from pipeline.evaluation.visits.sides import refusal, visits_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from pipeline.evaluation.context import EvaluationContext
    from pipeline.evaluation.results import MetricResult
    from pipeline.features.visits import Visits

    Counts = Callable[[Visits], tuple[NDArray[np.int64], NDArray[np.int64]]]

SIDES: tuple[Literal["H", "S"], ...] = ("H", "S")
NULL_DRAWS = 40
SMALL = 11
"""People of training who must have a pair of codes before it is compared or named."""
MOST_PAIRS = 2_000
SHOWN = 20
CODES = 200


def _spec(name: str, title: str, caption: str, *, high: float = 1.0, source: str) -> MetricSpec:
    return MetricSpec(
        id=f"ehr.visit.{name}", family="fidelity", direction=-1, range=(0.0, high), needs=frozenset({"T", "H", "S"}),
        version="1", title=title, caption=caption, source=source,
    )  # fmt: skip


_KS = "Largest gap between the two cumulative curves: 0 is the same, 1 has nothing in common. Lower is better; the null is "
_KS += "what two real samples of so many people differ by."
_SOURCE = "Kolmogorov-Smirnov distance; interval by people; null by exchanging people"
NUMBER = _spec("number_ks", "Visits a person", f"How many visits people have. {_KS}", source=_SOURCE)
SIZE = _spec("size_ks", "Codes a visit", f"How many codes visits have. {_KS}", source=_SOURCE)
GAP = _spec("gap_ks", "Days between visits", f"How long after one visit the next one is. {_KS}", source=_SOURCE)
BIGRAM = _spec(
    "bigram",
    "Codes of one visit and the next: mean absolute difference (per 1,000)",
    "By how many of 1,000 people the share who have a code in one visit and another (or the same) in the next one differs "
    "from the holdout's, on average over the pairs that 11 training people have. Lower is better; the null is what two "
    "real samples of this size differ by.",
    high=1000.0,
    source="bigram prevalence of HALO (Theodorou et al. 2023), over people",
)


@metric(NUMBER, floor="ref_mode")
def number_ks(ctx: EvaluationContext) -> list[MetricResult]:
    """Visits a person; people without a visit count as 0."""
    return _compared(ctx, NUMBER, lambda v: (np.arange(v.n), v.counts))


@metric(SIZE, floor="ref_mode")
def size_ks(ctx: EvaluationContext) -> list[MetricResult]:
    """Codes a visit."""
    return _compared(ctx, SIZE, lambda v: (v.row_of_visit, v.sizes))


@metric(GAP, floor="ref_mode")
def gap_ks(ctx: EvaluationContext) -> list[MetricResult]:
    """Days since the visit before."""
    return _compared(ctx, GAP, _gaps)


@metric(BIGRAM)
def bigram(ctx: EvaluationContext) -> list[MetricResult]:
    """Mean absolute difference over pairs, the correlation of their shares, and the pairs that differ most by name."""
    refused = refusal(ctx, BIGRAM)
    if refused:
        return refused
    pairs = ctx.sides.once("visits/pairs", lambda: _common_pairs(visits_of(ctx, "T")))
    if not len(pairs):
        return [BIGRAM.result(None, note=f"no pair of codes in visits that follow each other is had by {SMALL} people")]
    has = {name: _pair_matrix(visits_of(ctx, name), pairs) for name in SIDES}
    size = ctx.matched_size
    shares = [(_share(has["H"][m.real]), _share(has["S"][m.synthetic])) for m in ctx.matched]
    weights = ctx.matched_weights
    first = ctx.matched[0]
    draws = [_shares(has["H"][first.real], weights[0]), _shares(has["S"][first.synthetic], weights[1])]
    gaps = 1000 * np.abs(draws[0] - draws[1]).mean(axis=1)
    pooled = np.mean([(p + q) / 2 for p, q in shares], axis=0)
    error = np.sqrt(pooled * (1 - pooled) * 2 / max(size, 1))
    rows = [
        BIGRAM.result(
            float(np.mean([1000 * np.abs(p - q).mean() for p, q in shares])),
            se=float(gaps.std(ddof=1)),
            n=size,
            null=float(1000 * np.sqrt(2 / np.pi) * error.mean()),
            note=f"{len(pairs)} pairs",
            draws=gaps,
        )
    ]
    known = [r for r in (_correlation(p, q) for p, q in shares) if np.isfinite(r)]
    rows.append(
        BIGRAM.result(float(np.mean(known)) if known else None, n=size, null=1.0, key2="pearson", note="of the shares")
    )
    return rows + _worst_pairs(ctx, pairs, has, shares)


@dataclass(frozen=True)
class Histograms:
    """(people, values) how often each person of either side has each value; the values rise."""

    real: csr_matrix
    made: csr_matrix


def _compared(ctx: EvaluationContext, spec: MetricSpec, counts: Counts) -> list[MetricResult]:
    """KS distance of a whole number over the matched draws, with its null and bootstrap; both means beside it."""
    refused = refusal(ctx, spec)
    if refused:
        return refused
    if ctx.with_plots:
        drawn = bars(spec.id, *(counts(visits_of(ctx, name)) for name in ("H", "S", "T")))
        ctx.plots.setdefault("visits", []).append(drawn)
    found = _histograms(ctx, counts)
    rows: list[MetricResult] = []
    for key, side in (("mean_real", found[0].real), ("mean_synthetic", found[0].made)):
        total = np.asarray(side.sum(axis=0)).ravel()
        mean = float(total @ found[1] / total.sum()) if total.sum() else None
        rows.append(
            spec.result(mean, n=side.shape[0], scope="column", key2=key, note="" if mean is not None else "none")
        )
    real, made = found[0].real, found[0].made
    for name, side in (("holdout", real), ("synthetic", made)):
        having = int((np.diff(side.indptr) > 0).sum())
        if having < 2:
            note = TooFew(having, SMALL, f"{name} people with such visits")
            return [spec.result(None, note=note), *rows]
    values = [_ks(_sum(real[m.real]), _sum(made[m.synthetic])) for m in ctx.matched]
    first, weights = ctx.matched[0], ctx.matched_weights
    draws = _ks(_weighted(real[first.real], weights[0]), _weighted(made[first.synthetic], weights[1]))
    headline = spec.result(
        float(np.mean(values)),
        se=float(draws.std(ddof=1)),
        n=ctx.matched_size,
        null=_null(ctx, spec, real[first.real], made[first.synthetic]),
        draws=draws,
    )
    return [headline, *rows]


def _histograms(ctx: EvaluationContext, counts: Counts) -> tuple[Histograms, NDArray[np.int64]]:
    from scipy.sparse import csr_matrix

    given = {name: counts(visits_of(ctx, name)) for name in SIDES}
    values = np.unique(np.concatenate([v for _, v in given.values()]))
    made = [
        csr_matrix(
            (np.ones(len(row)), (row, np.searchsorted(values, value))),
            shape=(len(ctx.side(name)), len(values)),
        )
        for name, (row, value) in given.items()
    ]
    return Histograms(*made), values


def _gaps(visits: Visits) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    gap = visits.gaps()
    later = gap >= 0
    return visits.row_of_visit[later], gap[later]


def _sum(matrix: csr_matrix) -> NDArray[np.float64]:
    return np.asarray(matrix.sum(axis=0)).reshape(1, -1)


def _weighted(matrix: csr_matrix, weights: NDArray[np.float32]) -> NDArray[np.float64]:
    """(draws, values) sums under (draws, people) weights."""
    return np.asarray((matrix.T @ weights.T.astype(np.float64)).T)


def _ks(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """(draws,) largest gap of the cumulative shares of two (draws, values) counts."""
    shares = [x / np.maximum(x.sum(axis=1, keepdims=True), 1e-12) for x in (a, b)]
    return np.abs(np.cumsum(shares[0], axis=1) - np.cumsum(shares[1], axis=1)).max(axis=1)


def _null(ctx: EvaluationContext, spec: MetricSpec, real: csr_matrix, made: csr_matrix) -> float:
    """Mean distance of two groups into which the people of both sides are put at random."""
    from scipy.sparse import vstack

    both, n = vstack([real, made], format="csr"), real.shape[0]
    rng = ctx.rng(spec.id, "null")
    first = np.zeros((NULL_DRAWS, both.shape[0]), dtype=np.float32)
    for draw in first:
        draw[rng.permutation(len(draw))[:n]] = 1.0
    return float(_ks(_weighted(both, first), _weighted(both, 1 - first)).mean())


def _pairs(visits: Visits) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(m,) person and number of each pair of codes (first * vocabulary + second) in visits that follow each other."""
    size, start = visits.sizes, visits.code_start
    place = visits.place_of_visit[visits.visit_of_code]
    second = np.flatnonzero(place > 0)
    visit = visits.visit_of_code[second]
    before = size[visit - 1]
    first = (
        np.repeat(start[visit - 1], before) + np.arange(before.sum()) - np.repeat(np.cumsum(before) - before, before)
    )
    follows = np.repeat(second, before)
    row = visits.row_of_visit[visits.visit_of_code[follows]]
    number = visits.code[first].astype(np.int64) * len(visits.vocabulary) + visits.code[follows]
    return row, number


def _common_pairs(train: Visits) -> NDArray[np.int64]:
    """(k,) pairs that `SMALL` training people have, the commonest first, then in order of their number."""
    row, number = _limited(train)
    once = np.unique(number * max(train.n, 1) + row) // max(train.n, 1)
    found, people = np.unique(once, return_counts=True)
    order = np.lexsort((found, -people))
    return np.sort(found[order][people[order] >= SMALL][:MOST_PAIRS])


def _limited(visits: Visits) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pairs of the commonest codes of a visit each, so that very long visits do not square."""
    short, _ = visits.cut(visits=10_000, codes=CODES)
    return _pairs(short)


def _pair_matrix(visits: Visits, pairs: NDArray[np.int64]) -> csr_matrix:
    """(people, pairs) 1 where a person has a pair."""
    from scipy.sparse import csr_matrix

    row, number = _limited(visits)
    place = np.minimum(np.searchsorted(pairs, number), len(pairs) - 1)
    kept = pairs[place] == number
    matrix = csr_matrix((np.ones(int(kept.sum())), (row[kept], place[kept])), shape=(visits.n, len(pairs)))
    matrix.data[:] = 1.0
    return matrix


def _share(matrix: csr_matrix) -> NDArray[np.float64]:
    return np.asarray(matrix.mean(axis=0)).ravel()


def _shares(matrix: csr_matrix, weights: NDArray[np.float32]) -> NDArray[np.float64]:
    return _weighted(matrix, weights) / np.maximum(weights.sum(axis=1, dtype=np.float64), 1e-12)[:, None]


def _correlation(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    if len(p) < 3 or p.std() == 0 or q.std() == 0:
        return float("nan")
    return float(np.corrcoef(p, q)[0, 1])


def _worst_pairs(
    ctx: EvaluationContext,
    pairs: NDArray[np.int64],
    has: Mapping[Literal["H", "S"], csr_matrix],
    shares: list[tuple[NDArray[np.float64], NDArray[np.float64]]],
) -> list[MetricResult]:
    """The pairs of largest difference among those that `SMALL` people of the holdout have too."""
    gap = 1000 * np.mean([np.abs(p - q) for p, q in shares], axis=0)
    real = np.asarray(has["H"].sum(axis=0)).ravel()
    shown = np.flatnonzero(real >= SMALL)
    shown = shown[np.argsort(-gap[shown], kind="stable")][:SHOWN]
    events = ctx.sides.encoder.schema.events
    assert events is not None
    names, made = events.vocabulary, _share(has["S"])
    return [
        BIGRAM.result(
            float(gap[i]),
            n=ctx.matched_size,
            scope="pair",
            key1=names[int(pairs[i]) // len(names)],
            key2=names[int(pairs[i]) % len(names)],
            note=f"{1000 * real[i] / has['H'].shape[0]:.1f} of 1,000 real people, {1000 * made[i]:.1f} synthetic ones",
        )
        for i in shown
    ]
