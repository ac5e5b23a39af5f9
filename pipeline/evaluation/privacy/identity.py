"""Meaningful identity disclosure: could a training person be matched in the synthetic rows, and something be learnt?

The attacker matches a person to synthetic rows by what he knows (quasi-identifiers), at the generalisation that serves
him best; a match counts where it teaches him at least 5 % of the other attributes. The risk is an average over
training people. Every assumption is listed in docs/metrics/disclosure.md. What is learnt per attribute beyond what
holds for strangers is in `attributes.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.intervals import Z95
from pipeline.evaluation.privacy.learnt import learnt_shares
from pipeline.evaluation.privacy.secrets import hashed
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext
    from pipeline.evaluation.encoding import Side
    from pipeline.evaluation.results import MetricResult
    from pipeline.features.schema import Column

LEARNT = 0.05
"""Share of the other attributes that a match must teach."""
AGE_YEARS = (1, 10, 30, 60)
VERIFIED = (0.10, 0.23, 0.43)
ERRORS = (0.0013, 0.0426, 0.065)
"""Least, mean and greatest share of matches that can be verified, and of attributes that are wrong."""
CORRELATION = 0.5
MOST_NODES = 512
"""Generalisations that are all tried; where there are more the search climbs."""
FEWEST_PEOPLE, NEEDED = 20, 200
IDENTITY = MetricSpec(
    id="priv.identity_disclosure",
    family="privacy",
    direction=-1,
    range=(-1.0, 1.0),
    needs=frozenset({"T", "S"}),
    version="1",
    title="Risk of identity disclosure",
    caption="Average probability that a training person is matched correctly to a synthetic row by what an attacker "
    "knows, and something new is learnt from it (at least 5 % of the other attributes), at the generalisation that "
    "serves the attacker best. Lower is better; 0.09 is the customary limit for releases.",
    source="El Emam, Mosquera and Bass 2020 (JMIR 22:e23139); Yan et al. 2022",
    cost="A",
)


@dataclass(frozen=True)
class Way:
    """One way in which a column may be known: its values (numbered for each side), or nothing of it.

    Attributes:
        name: The column and its generalisation; "" where the column is dropped.
        train: (training rows,) salted numbers of the values; None where the column is dropped.
        synthetic: (synthetic rows,) the same.
        holdout: (holdout rows,) the same.
    """

    name: str
    train: NDArray[np.uint64] | None = None
    synthetic: NDArray[np.uint64] | None = None
    holdout: NDArray[np.uint64] | None = None


@dataclass(frozen=True)
class Match:
    """The risk at one generalisation.

    Attributes:
        risk: Average over people.
        parts: (people,) what each person adds, before the average.
        names: What the attacker matches by, with the generalisation.
        node: Number of the way chosen for each column.
    """

    risk: float
    parts: NDArray[np.float64]
    names: list[str]
    node: tuple[int, ...]


@metric(IDENTITY, floor="ref_train")
def identity_disclosure(ctx: EvaluationContext) -> list[MetricResult]:
    """The risk, the same with the correction as the paper prints it, and what chance does not explain of it."""
    sides = ctx.sides
    names = ctx.plan.known_columns(sides.encoder.schema)
    known = [c for c in sides.encoder.columns if c.name in names]
    if not known:
        return [IDENTITY.not_applicable("no column is known to the attacker: nothing to match by")]
    people = len(np.unique(sides.train.clusters))
    if people < FEWEST_PEOPLE:
        return [IDENTITY.underpowered(people, NEEDED, "training people")]
    ways = [_ways(ctx, c) for c in known]
    best, tried, all_nodes = _search(ctx, ways, known)
    population = max(ctx.plan.population or people, people)
    scale = people / population
    value, error = best.risk * scale, _error(best.parts) * scale
    who = f"population of {population:,}" if ctx.plan.population else "the attacker knows who is in training (N = n)"
    found = f"{tried} of {all_nodes} generalisations tried; {float((best.parts > 0).mean()):.1%} of people matched and learnt from; {who}"
    ratio = correct_match(len(best.names), printed=True) / correct_match(len(best.names), printed=False)
    rows = [
        IDENTITY.result(
            value, se=error, interval=_share(value, error), n=people,
            note=f"by {', '.join(best.names) or 'nothing'}; {found}",
        ),
        IDENTITY.result(
            value * ratio, se=error * ratio, interval=_share(value * ratio, error * ratio), n=people, key1="as printed",
            note="with the correction for wrong matches as the paper prints it: lower, not gated",
        ),
    ]  # fmt: skip
    return [*rows, _beyond_strangers(ctx, ways, known, best, scale)]


def _share(value: float, error: float) -> tuple[float, float]:
    """The 95 % interval of a risk, which unlike a difference of risks is no less than 0."""
    return max(0.0, value - Z95 * error), min(1.0, value + Z95 * error)


def correct_match(attributes: int, *, printed: bool) -> float:
    """Mean of lambda' = (1 + lambda) / 2: how likely a match is to be right and verified, half-way to certainty.

    lambda = v (1 - e)^q: verified (v), and no error (e) in any of the q attributes. The paper's equation 4 (and the code
    of Yan et al.) has v (1 - (1 - e)^q), the chance that there *is* an error, which makes the risk about a tenth
    lower. v and e are triangular (`VERIFIED`, `ERRORS`: least, mean, greatest), with a correlation of 0.5 between being
    verified and being free of errors (in the printed form between v and e). The risk is linear in lambda', so its mean
    over draws stands for a draw for every person.
    """
    from scipy.stats import norm, triang

    first, second = np.random.default_rng(20201116).normal(size=(2, 20_000))
    tied = CORRELATION * first + np.sqrt(1 - CORRELATION**2) * second

    def drawn(least: float, mean: float, most: float, normal: NDArray[np.float64]) -> NDArray[np.float64]:
        mode = 3 * mean - least - most
        return triang.ppf(norm.cdf(normal), (mode - least) / (most - least), loc=least, scale=most - least)

    verified = drawn(*VERIFIED, first)
    free = (1 - drawn(*ERRORS, tied if printed else -tied)) ** attributes
    return float((1 + verified * (1 - free if printed else free)).mean() / 2)


def _beyond_strangers(
    ctx: EvaluationContext, ways: list[list[Way]], known: list[Column], best: Match, scale: float
) -> MetricResult:
    """The risk of training people minus that of equally many people outside training, at the same generalisation."""
    sides = ctx.sides
    chosen = [w[i] for w, i in zip(ways, best.node, strict=True)]
    people = [int(s.clusters.max()) + 1 for s in (sides.train, sides.holdout)]
    parts = []
    for name, side, count in zip(("T", "H"), (sides.train, sides.holdout), people, strict=True):
        taken = sides.sample(count, min(people), "priv.identity_disclosure", name)
        parts.append(_parts(ctx, side, np.flatnonzero(np.isin(side.clusters, taken)), chosen, known))
    value = scale * float(parts[0].mean() - parts[1].mean())
    error = scale * float(np.hypot(_error(parts[0]), _error(parts[1])))
    return IDENTITY.result(
        value, interval=(value - Z95 * error, value + Z95 * error), se=error, n=min(people), null=0.0,
        key1="beyond strangers",
        note="risk of training people minus that of equally many people outside training: what chance does not explain",
    )  # fmt: skip


def _ways(ctx: EvaluationContext, column: Column) -> list[Way]:
    """The ways to know a column, the finest first, dropped last: age by 1, 10, 30 and 60 years, a number as it is and
    in T's 20 bins, levels as they are."""
    sides = [ctx.sides.train, ctx.synthetic, ctx.sides.holdout]
    if column.discrete:
        kept = [(column.name, [s.codes[column.name] for s in sides])]
    elif is_age(column):
        kept = [(f"{column.name} by {w} y", [_floored(s.values[column.name] / w) for s in sides]) for w in AGE_YEARS]
    else:
        kept = [
            (column.name, [_exact(s.values[column.name]) for s in sides]),
            (f"{column.name} in bins", [s.bins(column)[0] for s in sides]),
        ]
    return [*(Way(name, *(hashed(v, column.name) for v in values)) for name, values in kept), Way("")]


def is_age(column: Column) -> bool:
    """Whether a number is an age in years, by its name (a unit of years is also that of time in education)."""
    named = re.search(r"(^|[^a-z])age($|[^a-z])", column.name.lower()) is not None
    return column.numeric and column.kind != "datetime" and named


def _floored(values: NDArray[np.float64]) -> NDArray[np.int64]:
    whole = np.clip(np.floor(np.nan_to_num(values)), -(2.0**61), 2.0**61)
    return np.where(np.isnan(values), -(2**62), whole).astype(np.int64)


def _exact(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """The bits of each number; all missing ones alike."""
    return np.where(np.isnan(values), np.nan, values + 0.0).view(np.int64)


def _search(ctx: EvaluationContext, ways: list[list[Way]], known: list[Column]) -> tuple[Match, int, int]:
    """The generalisation of the highest risk, how many were tried, and how many there are.

    With N = n the sum over a group of people who cannot be told apart of 1 / f is 1, so the risk is at most the number
    of groups that occur on both sides: nodes are looked at in the order of that bound until none can be higher. Beyond
    `MOST_NODES` the search climbs, from nothing known and from everything known, one column at a time.
    """
    count = int(np.prod([len(w) for w in ways], dtype=np.float64))
    bounds: dict[tuple[int, ...], float] = {}

    def bound(node: tuple[int, ...]) -> float:
        if node not in bounds:
            chosen = [w[i] for w, i in zip(ways, node, strict=True)]
            groups = np.unique(_together([w.train for w in chosen], len(ctx.sides.train)))
            made = np.unique(_together([w.synthetic for w in chosen], len(ctx.synthetic)))
            shared = int(np.isin(groups, made, assume_unique=True).sum())
            bounds[node] = shared * _correct(ctx, sum(w.name != "" for w in chosen))
        return bounds[node]

    if count <= MOST_NODES:
        for node in product(*(range(len(w)) for w in ways)):
            bound(node)
    else:
        for start in (tuple(len(w) - 1 for w in ways), tuple(0 for _ in ways)):
            _climb(start, [len(w) for w in ways], bound)
    best: Match | None = None
    for node in sorted(bounds, key=lambda x: (-bounds[x], x)):
        if best is not None and bounds[node] / len(best.parts) <= best.risk:
            break
        chosen = [w[i] for w, i in zip(ways, node, strict=True)]
        found = _match(ctx, chosen, node, known)
        if best is None or found.risk > best.risk:
            best = found
    assert best is not None
    return best, len(bounds), count


def _climb(start: tuple[int, ...], sizes: list[int], bound: Callable[[tuple[int, ...]], float]) -> None:
    """Change one column's way at a time, always the best change, until none helps."""
    here = start
    while True:
        steps = [
            (*here[:i], way, *here[i + 1 :]) for i, size in enumerate(sizes) for way in range(size) if way != here[i]
        ]
        best = max(steps, key=bound)
        if bound(best) <= bound(here):
            return
        here = best


def _match(ctx: EvaluationContext, chosen: list[Way], node: tuple[int, ...], known: list[Column]) -> Match:
    """The risk of all training people at one generalisation."""
    parts = _parts(ctx, ctx.sides.train, np.arange(len(ctx.sides.train)), chosen, known)
    return Match(float(parts.mean()), parts, [w.name for w in chosen if w.name], node)


def _parts(
    ctx: EvaluationContext, side: Side, rows: NDArray[np.int64], chosen: list[Way], known: list[Column]
) -> NDArray[np.float64]:
    """(people,) what each adds: lambda' I R / f, f the number of the given people (not rows) in the same group.

    Of a person with several rows the riskiest counts.
    """
    of_train = side is ctx.sides.train
    keys = _together([w.train if of_train else w.holdout for w in chosen], len(side))[rows]
    made = _together([w.synthetic for w in chosen], len(ctx.synthetic))
    groups = np.unique(keys, return_inverse=True)[1]
    people = np.unique(side.clusters[rows], return_inverse=True)[1]
    pairs = np.unique(np.stack([groups, people]), axis=1)
    size = np.bincount(pairs[0])
    taught = _taught(ctx, side, rows, keys, made, known)
    found = np.zeros(int(people.max()) + 1)
    np.maximum.at(found, people, _correct(ctx, sum(w.name != "" for w in chosen)) * taught / size[groups])
    return found


def _correct(ctx: EvaluationContext, attributes: int) -> float:
    return ctx.sides.once(f"disclosure/correct/{attributes}", lambda: correct_match(attributes, printed=False))


def _taught(
    ctx: EvaluationContext, people: Side, rows: NDArray[np.int64], keys: NDArray[np.uint64], made: NDArray[np.uint64],
    known: list[Column],
) -> NDArray[np.bool_]:  # fmt: skip
    """(rows,) whether a synthetic row agrees in what is known (I) and teaches 5 % of the rest (R).

    Where several synthetic rows agree the attacker takes one of them at random (drawn once).
    """
    order = np.argsort(made, kind="stable")
    first, last = (np.searchsorted(made[order], keys, side=side) for side in ("left", "right"))
    met = np.flatnonzero(last > first)
    taught = np.zeros(len(keys), dtype=bool)
    if len(met):
        luck = ctx.sides.rng("priv.identity_disclosure", len(keys)).random(len(keys))[met]
        picked = order[first[met] + (luck * (last - first)[met]).astype(np.int64)]
        taught[met] = learnt_shares(ctx.sides, people, rows[met], ctx.synthetic, picked, known) >= LEARNT
    return taught


def _together(parts: list[NDArray[np.uint64] | None], n: int) -> NDArray[np.uint64]:
    """(n,) one number for each combination of values."""
    total = np.zeros(n, dtype=np.uint64)
    for part in parts:
        if part is not None:
            total += part
    return total


def _error(values: NDArray[np.float64]) -> float:
    """Standard error of a mean over people."""
    return float(values.std() / np.sqrt(len(values)))
