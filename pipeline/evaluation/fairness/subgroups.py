"""Inside each group: is it drawn as faithfully, covered as well, as useful and as safe as the others?

The means over everybody hide minorities, and minorities are where models lose recall and leak most. Groups are the
protected attributes and their pairs. Neighbours come from the shared cache; nothing is searched or fitted again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.fairness.groups import NOBODY, members, protected_crossings
from pipeline.evaluation.fairness.predictions import by_group, predicted, splits
from pipeline.evaluation.intervals import Z95, delong, subject_weights
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from pipeline.evaluation.context import EvaluationContext
    from pipeline.evaluation.encoding import Side
    from pipeline.evaluation.fairness.groups import Crossing, Group
    from pipeline.evaluation.results import MetricResult, Scope

FEWEST = 50
"""Rows of a group, real and synthetic, for its divergence and coverage."""
FEWEST_TARGETS = 100
"""Training people, and holdout people, of a group for an attack on it."""
K = 5
TINY = 1e-9
JSD = MetricSpec(
    id="fair.group.jsd",
    family="fairness",
    direction=-1,
    range=(-1.0, 1.0),
    needs=frozenset({"T", "H", "S"}),
    version="1",
    title="Divergence inside groups, above sampling noise",
    caption="Mean Jensen-Shannon divergence of the columns between the synthetic and the real (holdout) members of a "
    "group, in bits, less what two real samples of their sizes differ by. The headline is the group that is worst with most certainty. Lower is "
    "better; the null is 0.",
    source="Lin 1991, within each group; chi-squared limit subtracted",
)
COVERAGE = MetricSpec(
    id="fair.group.coverage",
    family="fairness",
    direction=1,
    range=(0.0, 1.0),
    needs=frozenset({"T", "H", "S"}),
    version="1",
    title="Coverage of groups",
    caption="Share of a group's real (holdout) people who have a synthetic row nearer than their 5th nearest real "
    "neighbour. The headline is the group that is worst with most certainty. Higher is better; the null is what a real sample reaches, about 0.97.",
    source="Naeem et al. 2020 (coverage, k = 5, equally many rows), averaged within each group",
)
TSTR = MetricSpec(
    id="fair.group.tstr",
    family="fairness",
    direction=1,
    range=(0.0, 1.0),
    needs=frozenset({"T", "H", "S", "task"}),
    version="1",
    title="Trained on synthetic rows, within groups (AUROC)",
    caption="AUROC within a group of real (holdout) people of a model trained on synthetic rows; beside it the same "
    "trained on real rows. The headline of a task is the group that loses most, for certain. Higher is better; 0.5 is chance.",
    source="train on synthetic, test on real; paired bootstrap by subject",
)
MIA = MetricSpec(
    id="fair.group.mia",
    family="fairness",
    direction=-1,
    range=(0.0, 1.0),
    needs=frozenset({"T", "H", "S"}),
    version="1",
    title="Membership inference within groups (AUC)",
    caption="How well the better of two attacks (nearest synthetic row; density ratio) tells a group's training people "
    "from its others. The headline is the worst group, with an interval widened for having picked it. Lower is better; "
    "the null is 0.5.",
    source="members T against non-members H within each group; DeLong, Bonferroni",
)


@metric(JSD, floor="ref_mode")
def jsd(ctx: EvaluationContext) -> list[MetricResult]:
    """Mean excess divergence over all columns and blocks, for each group."""
    if not ctx.plan.protected:
        return [JSD.not_applicable(NOBODY)]
    real_rows, made_rows = ctx.rows("H"), ctx.rows("S")
    draws = ctx.sides.profile.draws
    real_weights = ctx.sides.holdout_weights[:, real_rows]
    made_weights = subject_weights(ctx.synthetic.clusters[made_rows], draws, ctx.rng("fair.group.jsd"))
    real_table = ctx.sides.once("fair/cells/H", lambda: _cells(ctx.sides.holdout, real_rows))
    made_table = _cells(ctx.synthetic, made_rows)
    rows = []
    for crossing, group, real, made in _groups(ctx, real_rows, made_rows):
        few = min(len(real), len(made))
        if few < FEWEST:
            rows.append(_few(JSD, group, few, FEWEST, "rows of the group on the smaller side", 0.0))
            continue
        skip = {a.column.name for a in crossing.attributes}
        value, spread = _excess(real_table, made_table, real, made, real_weights, made_weights, skip)
        rows.append(JSD.result(value, se=spread, n=few, null=0.0, scope="subgroup", key1=group.name))
    return _with_worst(JSD, rows)


@metric(COVERAGE, floor="ref_marginal")
def coverage(ctx: EvaluationContext) -> list[MetricResult]:
    """Share of covered people in each group, on equally many rows of both sides."""
    if not ctx.plan.protected:
        return [COVERAGE.not_applicable(NOBODY)]
    rows_used = ctx.rows("H", "matched")
    size = len(rows_used)
    if size <= K:
        return [COVERAGE.underpowered(size, 10 * K, "rows on the smaller side")]
    own, other = ctx.near("H", "H", of="matched", within="matched"), ctx.near("H", "S", of="matched", within="matched")
    covered = (other.kth(1) <= own.kth(K)).astype(np.float64)
    null = 1 - float(np.prod([(size - 1 - j) / (2 * size - 1 - j) for j in range(K)]))
    rows = []
    for _, group, real, _ in _groups(ctx, rows_used, rows_used[:0]):
        if len(real) < FEWEST:
            rows.append(_few(COVERAGE, group, len(real), FEWEST, "holdout rows of the group", null))
            continue
        inside = covered[real]
        sums = np.bincount(ctx.sides.holdout.clusters[rows_used[real]], weights=inside - inside.mean())
        error = float(np.sqrt((sums**2).sum())) / len(inside)
        rows.append(
            COVERAGE.result(inside.mean(), se=error, n=len(inside), null=null, scope="subgroup", key1=group.name)
        )
    return _with_worst(COVERAGE, rows)


@metric(TSTR, floor="")
def tstr(ctx: EvaluationContext) -> list[MetricResult]:
    """AUROC of each task's headline model in each group with 50 positives and 50 negatives."""
    if not ctx.plan.protected or not ctx.plan.tasks:
        return [TSTR.not_applicable(NOBODY if ctx.plan.tasks else "no task is declared")]
    rows: list[MetricResult] = []
    for task in ctx.plan.tasks:
        real, made = predicted(ctx, task, "trtr"), predicted(ctx, task, "tstr")
        if isinstance(real, str) or isinstance(made, str):
            reason = next(found for found in (real, made) if isinstance(found, str))
            rows.append(TSTR.result(None, scope="task", key1=task.name, note=reason))
            continue
        inside: list[MetricResult] = []
        for split in splits(ctx, task, real, 2):
            kept = split.judgeable()
            if not kept.groups:
                continue
            trained_real = by_group(ctx, task, kept, real).auroc
            trained_made = by_group(ctx, task, kept, made).auroc
            for g, group in enumerate(kept.groups):
                draws = trained_made[:, g]
                inside.append(
                    TSTR.result(
                        float(draws[0]),
                        se=float(draws[1:].std(ddof=1)),
                        n=int(kept.positives[g] + kept.negatives[g]),
                        null=float(trained_real[0, g]),
                        scope="task",
                        key1=task.name,
                        key2=group.name,
                        note=made.note,
                        draws=draws[1:],
                    )
                )
        rows += _with_worst(TSTR, inside, task.name)
    return rows


@metric(MIA, floor="ref_train")
def mia(ctx: EvaluationContext) -> list[MetricResult]:
    """The better attack on each group with 100 targets of both kinds."""
    if not ctx.plan.protected:
        return [MIA.not_applicable(NOBODY)]
    sides, targets = ctx.sides, {"T": ctx.rows("T"), "H": ctx.rows("H")}
    clusters = np.concatenate(
        [sides.train.clusters[targets["T"]], sides.holdout.clusters[targets["H"]] + len(sides.train)]
    )
    scores = _attacks(ctx)
    found: list[tuple[Group, int, list[tuple[float, float]]]] = []
    rows: list[MetricResult] = []
    for crossing in protected_crossings(sides):
        number = [crossing.of(sides.train)[targets["T"]], members(sides, crossing)[targets["H"]]]
        for group in crossing.groups:
            member, other = (np.flatnonzero(n == group.number) for n in number)
            few = min(len(member), len(other))
            if few < FEWEST_TARGETS:
                rows.append(_few(MIA, group, few, FEWEST_TARGETS, "people of the group on the smaller side", 0.5))
                continue
            place = np.concatenate([member, other + len(targets["T"])])
            labels = np.arange(len(place)) < len(member)
            areas = [delong(s[place], labels, clusters[place]) for s in scores]
            found.append((group, few, [(a.value, a.se) for a in areas]))
    if not found:
        return _with_worst(MIA, rows)
    from scipy.stats import norm

    judged: list[MetricResult] = []
    widest: tuple[float, float, int, str] | None = None
    own = float(norm.isf(0.025 / len(scores)))
    for group, few, pairs in found:
        value, error = max(pairs)
        interval = (max(0.0, value - own * error), min(1.0, value + own * error))
        judged.append(
            MIA.result(value, se=error, interval=interval, n=few, null=0.5, scope="subgroup", key1=group.name)
        )
        if widest is None or value > widest[0]:
            widest = (value, error, few, group.name)
    assert widest is not None
    value, error, few, name = widest
    half = float(norm.isf(0.025 / (len(scores) * len(found)))) * error
    note = f"{name}; the worst of {len(found)} groups"
    interval = (max(0.0, value - half), min(1.0, value + half))
    return [MIA.result(value, se=error, interval=interval, n=few, null=0.5, note=note), *judged, *rows]


def _attacks(ctx: EvaluationContext) -> list[NDArray[np.float64]]:
    """Scores of all targets (T, then H), higher for members: nearest row and, with a reference sample, density ratio."""
    to_synthetic = [ctx.near("T", "S"), ctx.near("H", "S")]
    scores = [-np.concatenate([n.kth(1) for n in to_synthetic])]
    if len(ctx.sides.reference1):
        to_reference = [ctx.near("T", "R1"), ctx.near("H", "R1")]
        far, near = (np.concatenate([n.kth(K) for n in some]) for some in (to_reference, to_synthetic))
        scores.append(np.log(far + TINY) - np.log(near + TINY))
    return scores


def _groups(
    ctx: EvaluationContext, real_rows: NDArray[np.int64], made_rows: NDArray[np.int64]
) -> Iterator[tuple[Crossing, Group, NDArray[np.int64], NDArray[np.int64]]]:
    """Every group of the protected attributes and their pairs, with its places among the given rows of H and of S."""
    for crossing in protected_crossings(ctx.sides):
        real, made = members(ctx.sides, crossing)[real_rows], crossing.of(ctx.synthetic)[made_rows]
        for group in crossing.groups:
            yield crossing, group, np.flatnonzero(real == group.number), np.flatnonzero(made == group.number)


def _few(spec: MetricSpec, group: Group, n: int, needed: int, what: str, null: float) -> MetricResult:
    return spec.underpowered(n, needed, what, null=null, scope="subgroup", key1=group.name)


def _with_worst(spec: MetricSpec, rows: list[MetricResult], task: str = "") -> list[MetricResult]:
    """The rows behind the one that is worst, under the headline's key."""
    scope: Scope = "task" if task else "table"
    known = [r for r in rows if r.value is not None]
    if not known:
        few = max((r for r in rows if r.n_needed is not None), key=lambda r: r.n or 0, default=None)
        if few is None or few.n_needed is None:
            return [spec.result(None, scope=scope, key1=task, note="no group has people enough"), *rows]
        return [spec.underpowered(few.n or 0, few.n_needed, "rows of the largest group", scope=scope, key1=task), *rows]
    # By the end of the interval that speaks for the group: the smallest groups scatter most and would always win.
    worst = max(known, key=lambda r: _excess_of(spec, r, Z95))
    if _excess_of(spec, worst, Z95) <= 0:
        worst = max(known, key=lambda r: _excess_of(spec, r, 0.0))
    return [
        spec.result(
            worst.value,
            se=worst.se,
            n=worst.n,
            null=worst.null_value,
            scope=scope,
            key1=task,
            note=f"{worst.key2 or worst.key1}; the worst of {len(known)} groups",
            draws=worst.draws,
        ),
        *rows,
    ]


def _excess_of(spec: MetricSpec, row: MetricResult, errors: float) -> float:
    """By how much a group is worse than its null, less that many standard errors."""
    away = -spec.direction * ((row.value or 0.0) - (row.null_value or 0.0))
    return away - errors * (row.se or 0.0)


def _cells(side: Side, rows: NDArray[np.int64]) -> list[tuple[str, csr_matrix, bool]]:
    """For each column (name, (rows, bins) one-hot, False); for each block (name, (rows, codes) presence, True)."""
    from scipy.sparse import csr_matrix

    found = []
    for column in side.encoder.columns:
        number, size = side.bins(column)
        ones = np.ones(len(rows), dtype=np.float32)
        hot = csr_matrix((ones, number[rows], np.arange(len(rows) + 1)), shape=(len(rows), size))
        found.append((column.name, hot, False))
    return found + [(name, matrix[rows], True) for name, matrix in side.presence.items()]


def _excess(
    real_table: list[tuple[str, csr_matrix, bool]],
    made_table: list[tuple[str, csr_matrix, bool]],
    real: NDArray[np.int64],
    made: NDArray[np.int64],
    real_weights: NDArray[np.float32],
    made_weights: NDArray[np.float32],
    skip: set[str],
) -> tuple[float, float]:
    """Mean over the columns of divergence less its expectation under sampling, in bits, and its bootstrap error."""
    n, m = len(real), len(made)
    noise = (1 / n + 1 / m) / (8 * np.log(2))
    total, drawn, count = 0.0, np.zeros(len(real_weights)), 0
    inside = [np.concatenate([np.ones((1, len(i)), np.float32), w[:, i]]) for i, w in ((real, real_weights), (made, made_weights))]  # fmt: skip
    for (name, left, codes), (_, right, _) in zip(real_table, made_table, strict=True):
        if name in skip:
            continue
        p, q = (
            (table[i].T @ w.T).T / np.maximum(w.sum(axis=1), 1e-9)[:, None]
            for table, i, w in ((left, real, inside[0]), (right, made, inside[1]))
        )
        if codes:
            parts = divergence(p, q) + divergence(1 - p, 1 - q)
            used = (p[0] > 0) | (q[0] > 0)
            each, freedom = parts.sum(axis=1) / max(used.sum(), 1), 1.0 if used.any() else 0.0
        else:
            each, freedom = divergence(p, q).sum(axis=1), float(((p[0] > 0) | (q[0] > 0)).sum() - 1)
        total += float(each[0]) - freedom * noise
        drawn += each[1:]
        count += 1
    if not count:
        return float("nan"), float("nan")
    return total / count, float((drawn / count).std(ddof=1))


def divergence(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each cell's part of the Jensen-Shannon divergence in bits; 0 where both are 0."""
    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = [np.where(x > 0, x * np.log2(x / middle), 0.0) for x in (p, q)]
    return (parts[0] + parts[1]) / 2
