"""Copies: does a synthetic row equal a training row, beyond what chance gives?

Rows are compared by a 64-bit hash of their contents. Membership inference is in `membership.py`. A count of zero
copies is necessary and never sufficient: it says nothing of rows that are nearly the same.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from hashlib import sha256
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext, RealSides
    from pipeline.evaluation.results import MetricResult

MOST_LISTED = 50
"""Copied people that the internal report lists."""
RARE = 11
"""Attribute combinations carried by fewer real rows than this make a row recognisable."""


def _spec(name: str, low: float, high: float, title: str, caption: str) -> MetricSpec:
    return MetricSpec(
        id=f"priv.{name}",
        family="privacy",
        direction=1 if name == "exact_p" else -1,
        range=(low, high),
        needs=frozenset({"T", "H", "S"}),
        version="1",
        title=title,
        caption=caption,
        source="exact row match, holdout rate subtracted",
    )


EXACT = _spec(
    "exact", -1, 1, "Rows equal to a training row",
    "Share of synthetic rows that equal a training row in every cell, minus the share that equal a holdout row. "
    "Lower is better; the null is 0.",
)  # fmt: skip
EXACT_P = _spec(
    "exact_p", 0, 1, "Chance of so many equal rows",
    "Probability of at least so many matches with training rows if training and holdout rows were met alike "
    "(training thinned to the holdout's size). Below 0.01 the matches are copies, not chance.",
)  # fmt: skip
EXACT_UNIQUE = _spec(
    "exact_unique", -np.inf, np.inf, "Recognisable training rows reproduced",
    "How many training rows that are unique in the real data, and carry a combination of attributes shared by fewer "
    "than 11 real rows, appear among the synthetic rows, minus the count expected from the holdout where the two differ beyond chance. "
    "Must be 0.",
)  # fmt: skip


MAYBE_CHANCE = "too few to be told from chance"
CHANCE = 0.01
"""Chance of so many matches above which they are taken for coincidence, where rows of strangers are matched too."""


@dataclass(frozen=True)
class RealRows:
    """The distinct rows of T and H: which are in both, and which are unique and recognisable."""

    train: NDArray[np.uint64]
    train_counts: NDArray[np.int64]
    holdout: NDArray[np.uint64]


@metric(EXACT, floor="ref_train")
def exact(ctx: EvaluationContext) -> list[MetricResult]:
    """Share equal to a training row minus share equal to a holdout row."""
    in_train = np.isin(ctx.synthetic.hashes, ctx.sides.train.hashes)
    in_holdout = np.isin(ctx.synthetic.hashes, ctx.sides.holdout.hashes)
    difference = in_train.astype(np.float64) - in_holdout
    sums = np.bincount(ctx.synthetic.clusters, weights=difference - difference.mean())
    return [
        EXACT.result(
            float(difference.mean()),
            se=float(np.sqrt((sums**2).sum()) / len(difference)),
            n=len(difference),
            null=0.0,
            note=f"{int(in_train.sum())} rows equal a training row, {int(in_holdout.sum())} a holdout row"
            if in_train.any() or in_holdout.any()
            else "",
        )
    ]


@metric(EXACT_P, floor="ref_train")
def exact_p(ctx: EvaluationContext) -> list[MetricResult]:
    """One-sided sign test over distinct synthetic rows that match one of the two sides."""
    from scipy.stats import binom

    real = _real_rows(ctx.sides)
    distinct = np.unique(ctx.synthetic.hashes)
    place = np.minimum(np.searchsorted(real.train, distinct), len(real.train) - 1)
    times = np.where(real.train[place] == distinct, real.train_counts[place], 0)
    thin = min(1.0, len(ctx.sides.holdout) / len(ctx.sides.train))
    met_train = 1.0 - (1.0 - thin) ** times
    met_holdout = np.isin(distinct, real.holdout).astype(np.float64)
    only_train = float((met_train * (1 - met_holdout)).sum())
    only_holdout = float((met_holdout * (1 - met_train)).sum())
    hits, total = round(only_train), round(only_train + only_holdout)
    return [EXACT_P.result(float(binom.sf(hits - 1, total, 0.5)) if total else 1.0, n=total, null=1.0)]


@metric(EXACT_UNIQUE, floor="ref_train")
def exact_unique(ctx: EvaluationContext) -> list[MetricResult]:
    """Distinct recognisable training rows met, minus those of the holdout scaled to the size of T."""
    from scipy.stats import binom

    scale = len(ctx.sides.train) / len(ctx.sides.holdout)
    met = recognisable(ctx.sides, ctx.synthetic.hashes, of_train=True)
    members, others = len(met), len(recognisable(ctx.sides, ctx.synthetic.hashes, of_train=False))
    if ctx.with_plots:
        ctx.internal["copies"] = _copied(ctx, met)
    excess = members - others * scale
    note = f"{members} met, {others * scale:.1f} expected by chance" if members or others else ""
    # Coarse rows meet strangers too: then only what a sign test does not explain by chance counts.
    p = float(binom.sf(members - 1, members + others, scale / (1 + scale))) if members else 1.0
    if others and p >= CHANCE:
        excess, note = 0.0, f"{note}, no more than chance gives"
    elif members and p >= CHANCE:
        note = f"{note}, {MAYBE_CHANCE}"
    return [EXACT_UNIQUE.result(excess, n=len(ctx.synthetic), null=0.0, note=note)]


def recognisable(sides: RealSides, hashes: NDArray[np.uint64], *, of_train: bool) -> NDArray[np.int64]:
    """Positions of the rows of T (or of H) that are unique in T and H together, recognisable, and among `hashes`."""
    side = sides.train if of_train else sides.holdout
    pooled, counts = sides.once(
        "priv/pooled", lambda: np.unique(np.concatenate([sides.train.hashes, sides.holdout.hashes]), return_counts=True)
    )
    met = np.flatnonzero(np.isin(side.hashes, pooled[counts == 1]) & np.isin(side.hashes, hashes))
    if not len(met):
        return met
    attributes = sides.once("priv/attributes", lambda: _attributes(sides))
    rows = met if of_train else met + len(sides.train)
    rare = np.zeros(len(rows), dtype=bool)
    for a in attributes:
        rare |= np.bincount(a)[a[rows]] < RARE
    for a, b in combinations(attributes, 2):
        open_rows = rows[~rare]
        if not len(open_rows):
            break
        pair = a.astype(np.int64) * (int(b.max()) + 1) + b
        values, times = np.unique(pair, return_counts=True)
        rare[~rare] = times[np.searchsorted(values, pair[open_rows])] < RARE
    return met[rare]


def _copied(ctx: EvaluationContext, recognised: NDArray[np.int64]) -> list[dict[str, Any]]:
    """The training rows that come back most often: a keyed hash of the person, how often, whether recognisable.

    The key is made of all training rows, so that nobody can try out ids who does not hold the training data.
    """
    train = ctx.sides.train
    distinct, times = np.unique(ctx.synthetic.hashes, return_counts=True)
    place = np.minimum(np.searchsorted(distinct, train.hashes), len(distinct) - 1)
    met = np.flatnonzero(distinct[place] == train.hashes)
    if not len(met):
        return []
    key = sha256(train.hashes.tobytes()).digest()
    first = met[np.argsort(-times[place[met]], kind="stable")[:MOST_LISTED]]
    subjects = train.cohort.subject[train.order]
    return [
        {
            "person": hmac.new(key, str(subjects[row]).encode(), sha256).hexdigest()[:12],
            "times": int(times[place[row]]),
            "recognisable": bool(np.isin(row, recognised)),
        }
        for row in first
    ]


def _real_rows(sides: RealSides) -> RealRows:
    def make() -> RealRows:
        train, counts = np.unique(sides.train.hashes, return_counts=True)
        return RealRows(train, counts.astype(np.int64), np.unique(sides.holdout.hashes))

    return sides.once("priv/rows", make)


def _attributes(sides: RealSides) -> list[NDArray[np.int64]]:
    """For each column, the number of the value that each row of T, then H, carries; for each block, of its code set."""
    found: list[NDArray[np.int64]] = []
    for column in sides.encoder.columns:
        pools = [
            s.codes[column.name] if column.discrete else s.values[column.name] for s in (sides.train, sides.holdout)
        ]
        found.append(np.unique(np.concatenate(pools), return_inverse=True, equal_nan=True)[1])
    for block in sides.encoder.blocks:
        salt = np.random.default_rng(0).integers(1, 2**63, len(block.vocabulary), dtype=np.uint64)
        sets = []
        for side in (sides.train, sides.holdout):
            matrix = side.presence[block.name]
            total = np.zeros(matrix.shape[0], dtype=np.uint64)
            np.add.at(total, np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr)), salt[matrix.indices])
            sets.append(total)
        found.append(np.unique(np.concatenate(sets), return_inverse=True)[1])
    return found
