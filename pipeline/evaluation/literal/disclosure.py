"""Attribute disclosure as Yan et al. and SDV's correct-attribution family count it, to the letter.

Guessing by trained models (NHSX's numerical privacy, synthcity's data leakage) is in `sensitive.py`. None of these has a
control: they cannot tell what holds for everybody from what leaks. The sound metrics are in
`pipeline/evaluation/privacy/attributes.py` and `homogeneity.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from pipeline.evaluation.intervals import subject_weights
from pipeline.evaluation.privacy.secrets import Knowledge, known_to_attacker, secrets_of
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from pipeline.evaluation.context import EvaluationContext, RealSides
    from pipeline.evaluation.encoding import Side
    from pipeline.evaluation.results import MetricResult
    from pipeline.features.schema import Column

YAN_CODES = 256
YAN_ROWS = 2_000
NEAR = 0.10
TIE = 1e-6
CHUNK = 250
CAP_FLAW = (
    "There is no control: a secret that follows from the keys for everybody counts as disclosed, and a copy of the "
    "training rows is not told from a good model."
)


def _spec(name: str, title: str, caption: str, flaw: str, source: str, *, direction: Literal[-1, 1] = 1) -> MetricSpec:
    return MetricSpec(
        id=f"lit.{name}", family="literal", direction=direction, range=(0.0, 1.0), needs=frozenset({"T", "S"}),
        version="1", title=title, caption=caption, source=source, cost="C", flaw=flaw,
    )  # fmt: skip


YAN_ATTR = _spec(
    "yan.attr", "Attribute inference (Yan)",
    "F1 (codes, levels) or share within 10 % (numbers) of guesses from the nearest synthetic row of a training person "
    "(all rows at the same distance vote), weighted by entropy. Lower is called better; there is no null.",
    "There is no control set: what is learnable about anybody counts as leakage, so a better model always looks worse.",
    "Yan et al. 2022, attribute inference: known are demographics and the 256 commonest codes", direction=-1,
)  # fmt: skip
CAP = _spec(
    "sdv.cap", "CAP protection (SDV)",
    "1 - mean share of the synthetic rows with a training person's keys that carry his secret; people without such a row "
    "are skipped. Higher is called better.",
    CAP_FLAW, "SDMetrics, CategoricalCAP",
)  # fmt: skip
ZERO_CAP = _spec(
    "sdv.zero_cap", "Zero-CAP protection (SDV)",
    "The same with people without a matching row counted as fully protected. Higher is called better.",
    CAP_FLAW + " Rare keys count as protection.", "SDMetrics, CategoricalZeroCAP",
)  # fmt: skip
GCAP = _spec(
    "sdv.gcap", "Generalised CAP protection (SDV)",
    "The same with the nearest keys (Hamming) where none match. Higher is called better.",
    CAP_FLAW, "SDMetrics, CategoricalGeneralizedCAP",
)  # fmt: skip
DISCLOSURE = _spec(
    "sdv.disclosure", "Disclosure protection (SDV)",
    "CAP protection over the protection of guessing uniformly among all levels, at most 1. Higher is called better.",
    "The baseline is uniform guessing, far too kind for a skewed secret: whoever always guesses the commonest level "
    "breaks it, and 1 is reached by any cohort that does no worse.",
    "SDMetrics, DisclosureProtection",
)  # fmt: skip


@dataclass(frozen=True)
class Attribution:
    """For each training row and one secret: share of the matching synthetic rows that carry the true value.

    Attributes:
        share: (training rows,) the share; NaN where no synthetic row has the keys.
        nearest: (training rows,) the share among rows with the nearest keys (equal keys where there are any).
        levels: How many values the secret has.
    """

    share: NDArray[np.float64]
    nearest: NDArray[np.float64]
    levels: int


@metric(CAP, floor="")
def cap(ctx: EvaluationContext) -> list[MetricResult]:
    """People without a matching row are skipped."""
    return _protection(ctx, CAP, lambda a: 1 - a.share)


@metric(ZERO_CAP, floor="")
def zero_cap(ctx: EvaluationContext) -> list[MetricResult]:
    """People without a matching row count as protected."""
    return _protection(ctx, ZERO_CAP, lambda a: 1 - np.nan_to_num(a.share, nan=0.0))


@metric(GCAP, floor="")
def gcap(ctx: EvaluationContext) -> list[MetricResult]:
    """The nearest keys stand in where none match."""
    return _protection(ctx, GCAP, lambda a: 1 - a.nearest)


@metric(DISCLOSURE, floor="")
def disclosure(ctx: EvaluationContext) -> list[MetricResult]:
    """CAP protection over that of uniform guessing."""
    rows = _protection(ctx, DISCLOSURE, lambda a: (1 - a.share) / (1 - 1 / max(a.levels, 2)))
    ends = ("value", "ci_lo", "ci_hi")
    return [replace(r, **{e: min(1.0, getattr(r, e)) for e in ends if getattr(r, e) is not None}) for r in rows]


@metric(YAN_ATTR, floor="")
def yan_attr(ctx: EvaluationContext) -> list[MetricResult]:
    """Entropy-weighted score over all attributes that are not known."""
    sides = ctx.sides
    knowledge = known_to_attacker(sides, 0)
    codes = {
        b.name: np.sort(np.argsort(-np.asarray(sides.train.presence[b.name].sum(axis=0)).ravel(), kind="stable")[:YAN_CODES])
        for b in sides.encoder.blocks
    }  # fmt: skip
    knowledge = Knowledge(knowledge.columns, codes)
    if not knowledge.size:
        return [YAN_ATTR.result(None, note="nothing is known of a target")]
    rows = sides.sample(len(sides.train), YAN_ROWS, "lit.yan.attr")
    weights = subject_weights(sides.train.clusters[rows], 100, sides.rng("bootstrap", "lit.yan.attr"))
    entropies, scores, drawn = [], [], []
    for entropy, value, boot in _guessed(ctx, knowledge, rows, weights):
        entropies.append(entropy)
        scores.append(value)
        drawn.append(boot)
    share = np.array(entropies)
    if not share.sum():
        return [YAN_ATTR.result(None, note="no attribute is left to guess")]
    share /= share.sum()
    value = float(share @ np.array(scores))
    error = float((share @ np.array(drawn)).std())
    return [YAN_ATTR.result(value, se=error, n=len(rows), note=f"{len(share)} attributes")]


def _guessed(
    ctx: EvaluationContext, knowledge: Knowledge, rows: NDArray[np.int64], weights: NDArray[np.float32]
) -> list[tuple[float, float, NDArray[np.float64]]]:
    """Entropy in T, score, and bootstrap scores of every attribute that is not known."""
    sides = ctx.sides
    columns = [c for c in sides.encoder.columns if c not in knowledge.columns]
    left = {
        b.name: np.setdiff1d(np.arange(len(b.vocabulary)), knowledge.codes.get(b.name, np.array([], int)))
        for b in sides.encoder.blocks
    }
    voices = _voices(ctx.synthetic, ctx.rows("S", "reference"), columns, left)
    votes, voters = _votes(ctx, knowledge, rows, voices)
    found = []
    for column in columns:
        bins, count = sides.train.bins(column)
        entropy = _entropy(np.bincount(bins, minlength=count))
        voted = votes[column.name]
        if column.numeric:
            number = voted[:, 0] / np.maximum(voted[:, 1], 1e-9)
            real = sides.train.values[column.name][rows]
            hit = (np.abs(number - real) <= NEAR * np.abs(real)).astype(np.float64)
            found.append((entropy, float(hit.mean()), (weights @ hit) / weights.sum(axis=1)))
            continue
        level = sides.train.codes[column.name][rows]
        if len(column.levels or []) == 2:
            found.append((entropy, *_f1(voted[:, 1] > voted[:, 0], level == 1, weights)))
        else:
            hit = (voted.argmax(axis=1) == level).astype(np.float64)
            found.append((entropy, float(hit.mean()), (weights @ hit) / weights.sum(axis=1)))
    for name, codes in left.items():
        carried = sides.train.presence[name][rows][:, codes].toarray() > 0
        share = np.asarray(sides.train.presence[name][:, codes].mean(axis=0)).ravel()
        found += [
            (_entropy(np.array([share[j], 1 - share[j]])), *_f1(votes[name][:, j] > voters / 2, carried[:, j], weights))
            for j in range(len(codes))
            if share[j] > 0
        ]
    return found


def _voices(
    synthetic: Side, made: NDArray[np.int64], columns: list[Column], left: dict[str, NDArray[np.int64]]
) -> dict[str, NDArray[np.floating]]:
    """What each synthetic row says to an attribute: (synthetic rows, k), by column or block.

    Of a number its value and whether it has one (k = 2), of a column one a level, of a block its codes that are left.
    """
    voices: dict[str, NDArray[np.floating]] = {}
    for column in columns:
        if column.numeric:
            value = synthetic.values[column.name][made]
            known = ~np.isnan(value)
            voices[column.name] = np.stack([np.where(known, value, 0.0), known], axis=1)
        else:
            levels = np.arange(len(column.levels or []))
            voices[column.name] = (synthetic.codes[column.name][made][:, None] == levels).astype(np.float32)
    return voices | {name: synthetic.presence[name][made][:, codes].toarray() for name, codes in left.items()}


def _votes(
    ctx: EvaluationContext, knowledge: Knowledge, rows: NDArray[np.int64], voices: dict[str, NDArray[np.floating]]
) -> tuple[dict[str, NDArray[np.floating]], NDArray[np.floating]]:
    """Sums of the voices over the synthetic rows that are nearest to each target, and how many these are.

    Some targets at a time: where the cohort is one row repeated, all of it is nearest to everybody.
    """
    found: dict[str, list[NDArray[np.floating]]] = {name: [] for name in voices}
    voters = []
    made = ctx.rows("S", "reference")
    for lo in range(0, len(rows), CHUNK):
        ties = _nearest(ctx.sides, knowledge, rows[lo : lo + CHUNK], ctx.synthetic, made)
        voters.append(np.asarray(ties.sum(axis=1)).ravel())
        for name, voice in voices.items():
            found[name].append(ties @ voice)
    return {name: np.concatenate(parts) for name, parts in found.items()}, np.concatenate(voters)


def _f1(
    guess: NDArray[np.bool_], real: NDArray[np.bool_], weights: NDArray[np.float32]
) -> tuple[float, NDArray[np.float64]]:
    """F1 and its bootstrap values; 0 where nobody has it and nobody is guessed to have it."""
    both, either = (guess & real).astype(np.float64), guess.astype(np.float64) + real
    drawn = np.divide(2 * (weights @ both), weights @ either, out=np.zeros(len(weights)), where=(weights @ either) > 0)
    return (float(2 * both.sum() / either.sum()) if either.sum() else 0.0), drawn


def _entropy(counts: NDArray[np.number]) -> float:
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log2(p)).sum())


def _nearest(
    sides: RealSides, knowledge: Knowledge, some: NDArray[np.int64], synthetic: Side, made: NDArray[np.int64]
) -> csr_matrix:
    """(some, synthetic rows) 1 for the synthetic rows at the least distance: L1, numbers over their range in T."""
    from scipy.sparse import csr_matrix
    from scipy.spatial.distance import cdist

    distance = np.zeros((len(some), len(made)), dtype=np.float32)
    for column in knowledge.columns:
        if column.discrete:
            a, b = sides.train.codes[column.name][some], synthetic.codes[column.name][made]
            distance += a[:, None] != b[None, :]
            continue
        given = sides.train.values[column.name]
        low, high = (np.nanmin(given), np.nanmax(given)) if not np.isnan(given).all() else (0.0, 1.0)
        x, y = (
            np.nan_to_num((v - low) / ((high - low) or 1.0), nan=0.5)[:, None]
            for v in (given[some], synthetic.values[column.name][made])
        )
        distance += cdist(x, y, "cityblock")
    for name, codes in knowledge.codes.items():
        left = sides.train.presence[name][some][:, codes].toarray()
        right = synthetic.presence[name][made][:, codes].toarray()
        distance += left.sum(axis=1)[:, None] + right.sum(axis=1)[None, :] - 2 * (left @ right.T)
    return csr_matrix((distance <= distance.min(axis=1, keepdims=True) + TIE).astype(np.float32))


def _protection(
    ctx: EvaluationContext, spec: MetricSpec, of: Callable[[Attribution], NDArray[np.float64]]
) -> list[MetricResult]:
    """Mean over secret columns of the mean over training people who have a value (`of`, NaN for people left out)."""
    found = ctx.once("lit/attribution", lambda: _attributions(ctx))
    if not found:
        return [spec.result(None, note="keys and secrets must be columns: none is known, or none is secret")]
    people = ctx.sides.train.clusters[_people(ctx)]
    rows: list[MetricResult] = []
    for name, given in found.items():
        each = of(given)
        has = ~np.isnan(each)
        if not has.any():
            rows.append(spec.result(None, scope="column", key1=name, note="no training person's keys occur"))
            continue
        mean = float(each[has].mean())
        sums = np.bincount(people[has], weights=each[has] - mean)
        error = float(np.sqrt((sums**2).sum()) / has.sum())
        rows.append(spec.result(mean, se=error, n=int(has.sum()), scope="column", key1=name))
    known = [r for r in rows if r.value is not None]
    if not known:
        return [spec.result(None, note="no training person's keys occur among the synthetic rows"), *rows]
    # Secrets of one person go together: the mean of the errors bounds the error of the mean.
    value, error = (float(np.mean([getattr(r, what) for r in known])) for what in ("value", "se"))
    return [spec.result(value, se=error, n=min(r.n or 0 for r in known), note=f"{len(known)} secrets"), *rows]


def _people(ctx: EvaluationContext) -> NDArray[np.int64]:
    return ctx.sides.sample(len(ctx.sides.train), YAN_ROWS, "lit", "attribution")


def _attributions(ctx: EvaluationContext) -> dict[str, Attribution]:
    """Of each secret column, numbers in T's bins."""
    knowledge, rows = known_to_attacker(ctx.sides), _people(ctx)
    secrets = [s.column for s in secrets_of(ctx.sides) if s.column is not None]
    if not knowledge.columns or not secrets:
        return {}
    keys = np.stack([ctx.sides.train.bins(c)[0][rows] for c in knowledge.columns], axis=1)
    made = np.stack([ctx.synthetic.bins(c)[0] for c in knowledge.columns], axis=1)
    return attributions(
        keys, {c.name: ctx.sides.train.bins(c)[0][rows] for c in secrets},
        made, {c.name: ctx.synthetic.bins(c)[0] for c in secrets}, {c.name: _values(c) for c in secrets},
    )  # fmt: skip


def _values(column: Column) -> int:
    """Values that a guesser would take for possible: the levels, or T's 20 bins of a number."""
    return len(column.levels or []) if column.discrete else 20


def attributions(
    keys: NDArray[np.int64], secrets: dict[str, NDArray[np.int64]], made: NDArray[np.int64],
    told: dict[str, NDArray[np.int64]], levels: dict[str, int],
) -> dict[str, Attribution]:  # fmt: skip
    """The shares for every secret.

    Args:
        keys: (people, keys) numbers of what is known of real people.
        secrets: Secret to (people,) numbers of its values.
        made: (synthetic rows, keys) the same of synthetic rows.
        told: Secret to (synthetic rows,) numbers of its values.
        levels: Secret to how many values it may have.
    """
    groups, place = np.unique(made, axis=0, return_inverse=True)
    people, which = np.unique(keys, axis=0, return_inverse=True)
    nearest, matched = [], np.empty(len(people), dtype=bool)
    for i, key in enumerate(people):
        apart = (groups != key).sum(axis=1)
        matched[i] = apart.min() == 0
        nearest.append(np.flatnonzero(apart == apart.min()))
    found = {}
    for name, secret in secrets.items():
        width = int(max(secret.max(), told[name].max())) + 1
        table = np.bincount(place.ravel() * width + told[name], minlength=len(groups) * width).reshape(-1, width)
        counts = np.stack([table[chosen].sum(axis=0) for chosen in nearest])[which.ravel()]
        share = counts[np.arange(len(secret)), secret] / counts.sum(axis=1)
        found[name] = Attribution(np.where(matched[which.ravel()], share, np.nan), share, levels[name])
    return found
