"""Joint fidelity: can gradient boosting tell synthetic rows from real ones? And the alarm for verbatim copies.

Gradient boosting in five folds; scores are pooled out of fold, the AUC is never folded at 1/2. Detection is against
the holdout with identical rows kept in one fold; the copy alarm is against the training rows with identical rows
left apart, where an AUC below 1/2 means that a record met in training with one label came back with the other.
Other classifiers are in `detectors.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.evaluation.boosting import boosted_scores, fit_boosting
from pipeline.evaluation.fidelity.two_sample import mean_error
from pipeline.evaluation.intervals import Auc, delong, roc_points
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec, TooFew

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext
    from pipeline.evaluation.encoding import Side, TreeFeatures
    from pipeline.evaluation.results import MetricResult

FOLDS = 5
FEWEST = 40
"""Rows a side below which no classifier is trained: four folds of five less the tenth for early stopping leave
1.44 n of the 2 n rows, and boosting, with 20 a leaf, splits hardly anything at n = 28: the AUC would be 0.5 whatever
the rows are."""
FEWEST_FOR_ALARM = 300
"""Rows a side below which the copy alarm says nothing: an area pooled over folds lies below 0.5 by itself where rows are
few (what is in one fold is missing in the others), and its standard error does not know of that."""
DETECT = MetricSpec(
    id="fid.joint.detect_auc",
    family="fidelity",
    direction=-1,
    range=(0.0, 1.0),
    needs=frozenset({"H", "S"}),
    version="1",
    title="Detection by gradient boosting (AUC)",
    caption="How well a classifier tells synthetic rows from holdout rows: 0.5 is not at all (the null), 1 is always. "
    "Lower is better.",
    source="HistGradientBoosting, 200 rounds with early stopping, 5 folds, DeLong interval",
)
SCORE = MetricSpec(
    id="fid.joint.detect_score",
    family="fidelity",
    direction=1,
    range=(0.0, 1.0),
    needs=frozenset({"H", "S"}),
    version="1",
    title="Undetectability by gradient boosting",
    caption="1 - 2 |AUC - 1/2| of the same classifier: 1 is undetectable, 0 is always told (or always mistaken). Higher is "
    "better; the null is a little under 1 and is printed.",
    source="fid.joint.detect_auc, rescaled",
)
DISC = MetricSpec(
    id="fid.joint.disc_score",
    family="fidelity",
    direction=-1,
    range=(0.0, 0.5),
    needs=frozenset({"H", "S"}),
    version="1",
    title="Discriminative score (|accuracy - 1/2|)",
    caption="How far the accuracy of the same classifier on unseen fifths of the rows lies from one half. Lower is better; "
    "the null is what chance leaves and is printed.",
    source="Yoon et al. 2019 (TimeGAN), on five test parts of 20 %",
)
COPY_ALARM = MetricSpec(
    id="fid.joint.detect_copy_alarm",
    family="privacy",
    direction=0,
    range=(0.0, 1.0),
    needs=frozenset({"T", "S"}),
    version="1",
    title="Copy alarm (AUC against training rows)",
    caption="The same classifier against the training rows. Above 0.5 means distinguishable; more than three standard "
    "errors below 0.5 means that training rows were copied (alarm).",
    source="HistGradientBoosting, identical rows not grouped",
)


@dataclass(frozen=True)
class Detection:
    """Out-of-fold scores of real (first) and synthetic rows, pooled.

    Attributes:
        result: AUC with its standard error; None where no classifier could be trained.
        scores: (2 n,) probability of being synthetic.
        labels: (2 n,) True for synthetic rows.
        clusters: (2 n,) subject numbers.
        importance: Loss of AUC when a column or block is shuffled within the test folds, most telling first.
        reason: Why there is no result.
    """

    result: Auc | None
    scores: NDArray[np.float64]
    labels: NDArray[np.bool_]
    clusters: NDArray[np.int64]
    importance: list[tuple[str, float]]
    reason: str = ""


@metric(DETECT)
def detect_auc(ctx: EvaluationContext) -> list[MetricResult]:
    """Holdout against synthetic, equally many rows, identical rows in one fold."""
    size, found = against_holdout(ctx)
    if found.result is None:
        return [DETECT.result(None, n=size, null=0.5, note=found.reason)]
    if ctx.with_plots:
        grid = np.linspace(0, 1, 101)
        false, true = roc_points(found.scores, found.labels)
        ctx.plots["detection"] = {
            "fpr": grid.round(4).tolist(),
            "tpr": np.interp(grid, false, true).round(4).tolist(),
            "importance": [[name, round(value, 4)] for name, value in found.importance],
        }
    return [DETECT.result(found.result.value, se=found.result.se, n=size, null=0.5)]


@metric(SCORE)
def detect_score(ctx: EvaluationContext) -> list[MetricResult]:
    """The interval is that of the AUC, folded at 1/2."""
    size, found = against_holdout(ctx)
    null = 1 - 2 * np.sqrt(2 / np.pi) * np.sqrt((2 * size + 1) / (12 * size * size)) if size else None
    if found.result is None:
        return [SCORE.result(None, n=size, null=null, note=found.reason)]
    off = found.result.value - 0.5
    ends = found.result.interval()
    near = 0.0 if ends[0] <= 0.5 <= ends[1] else min(abs(e - 0.5) for e in ends)
    interval = (1 - 2 * max(abs(e - 0.5) for e in ends), 1 - 2 * near)
    return [SCORE.result(1 - 2 * abs(off), se=2 * found.result.se, interval=interval, n=size, null=null)]


@metric(DISC)
def disc_score(ctx: EvaluationContext) -> list[MetricResult]:
    """Accuracy at one half, pooled over the five test parts."""
    size, found = against_holdout(ctx)
    null = float(np.sqrt(2 / np.pi) * 0.5 / np.sqrt(2 * size)) if size else None
    if found.result is None:
        return [DISC.result(None, n=size, null=null, note=found.reason)]
    right = np.where(found.scores == 0.5, 0.5, (found.scores > 0.5) == found.labels)
    off, error = float(right.mean()) - 0.5, mean_error(right, found.clusters)
    low, high = off - 1.959964 * error, off + 1.959964 * error
    interval = (0.0 if low <= 0 <= high else min(abs(low), abs(high)), min(0.5, max(abs(low), abs(high))))
    return [DISC.result(abs(off), se=error, interval=interval, n=size, null=null)]


@metric(COPY_ALARM, floor="ref_train")
def detect_copy_alarm(ctx: EvaluationContext) -> list[MetricResult]:
    """Training rows against synthetic, equally many rows, duplicates wherever they fall."""
    size = min(len(ctx.synthetic), len(ctx.sides.train), ctx.sides.profile.rows)
    if size < FEWEST_FOR_ALARM:
        return [COPY_ALARM.underpowered(size, FEWEST_FOR_ALARM, "rows a side", null=0.5)]
    found = detect(ctx, ctx.sides.train, size, "fid.joint.detect_copy_alarm", group_identical=False, explain=False)
    if found.result is None:
        return [COPY_ALARM.result(None, n=size, null=0.5, note=found.reason)]
    on = found.result.value < 0.5 - 3 * found.result.se
    note = "alarm: training rows come back among the synthetic ones" if on else ""
    return [COPY_ALARM.result(found.result.value, se=found.result.se, n=size, null=0.5, note=note)]


def against_holdout(ctx: EvaluationContext) -> tuple[int, Detection]:
    """Rows a side and the detection of synthetic against holdout rows, made once."""
    size = min(len(ctx.synthetic), len(ctx.sides.holdout), ctx.sides.profile.rows)

    def find() -> Detection:
        return detect(ctx, ctx.sides.holdout, size, DETECT.id, group_identical=True, explain=ctx.with_plots)

    return size, ctx.once("joint/detection", find)


def detect(
    ctx: EvaluationContext, real: Side, size: int, metric_id: str, *, group_identical: bool, explain: bool
) -> Detection:
    """Cross-fitted gradient boosting on `size` rows a side; `explain` adds permutation importance by column."""
    nothing = np.array([]), np.array([], dtype=bool), np.array([], dtype=np.int64)
    if size < FEWEST:
        return Detection(None, *nothing, [], TooFew(size, FEWEST, "rows a side"))
    left = ctx.sides.sample(len(real), size, metric_id, "real")
    right = ctx.sides.sample(len(ctx.synthetic), size, metric_id, "synthetic", ctx.replicate)
    a, b = real.tree_features(rows=left), ctx.synthetic.tree_features(rows=right)
    features = np.concatenate([a.matrix, b.matrix])
    labels = np.repeat([False, True], size)
    people = np.concatenate([real.clusters[left], ctx.synthetic.clusters[right] + len(real)])
    hashes = np.concatenate([real.hashes[left], ctx.synthetic.hashes[right]])
    groups = kept_together(people, hashes if group_identical else None)
    folds = assign_folds(labels, groups, ctx.rng(metric_id, "folds"))
    scores = np.zeros(len(labels))
    importance = np.zeros(len(set(a.groups)))
    for fold in range(FOLDS):
        test, train = folds == fold, folds != fold
        if not test.any():
            continue
        if len(np.unique(labels[train])) < 2:
            return Detection(None, *nothing, [], "too few distinct rows for five folds")
        kept, nominal = a.usable(features[train])
        if not len(kept):
            return Detection(None, *nothing, [], "no column has a value")
        model = fit_boosting(
            features[np.ix_(train, kept)],
            labels[train],
            nominal,
            rounds=200,
            early_stopping=True,
            seed=int(ctx.rng(metric_id, "model", fold).integers(2**31)),
        )
        scores[test] = boosted_scores(model, features[np.ix_(test, kept)])
        if explain:
            importance += _permuted(
                model, kept, features[test], labels[test], scores[test], a, ctx.rng(metric_id, "permute", fold)
            )
    clusters = np.concatenate([real.clusters[left], ctx.synthetic.clusters[right] + len(real)])
    if real is ctx.synthetic or ctx.synthetic.cohort is real.cohort:
        clusters = np.concatenate([real.clusters[left], ctx.synthetic.clusters[right]])
    ranked = sorted(zip(_in_order(a.groups), importance / FOLDS, strict=True), key=lambda x: (-x[1], x[0]))
    told = [(n, float(v)) for n, v in ranked] if explain else []
    return Detection(delong(scores, labels, clusters), scores, labels, clusters, told)


def kept_together(people: NDArray[np.int64], hashes: NDArray[np.uint64] | None) -> NDArray[np.uint64] | None:
    """(n,) group of each row that must stay in one fold: rows of one person, and with `hashes` identical rows too.

    A classifier that met one stay of a person in training would know the person's others, not the generator. None
    where every row stands alone.
    """
    if len(np.unique(people)) == len(people):
        return hashes
    if hashes is None:
        return people.astype(np.uint64)
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    person = np.unique(people, return_inverse=True)[1]
    content = np.unique(hashes, return_inverse=True)[1] + int(person.max()) + 1
    size = int(content.max()) + 1
    edges = coo_matrix((np.ones(len(person), dtype=np.int8), (person, content)), shape=(size, size))
    return connected_components(edges, directed=False)[1][person].astype(np.uint64)


def assign_folds(
    labels: NDArray[np.bool_], hashes: NDArray[np.uint64] | None, rng: np.random.Generator
) -> NDArray[np.int64]:
    """(n,) fold of each row: classes spread evenly, identical rows (equal `hashes`) in one fold.

    Identical rows that alone exceed a fold's share of their class are spread all the same: else a cohort of one
    repeated row could not be learnt, and would pass for undetectable.
    """
    n = len(labels)
    group = np.arange(n) if hashes is None else np.unique(hashes, return_inverse=True)[1]
    size = int(group.max()) + 1
    synthetic = np.bincount(group, weights=labels, minlength=size)
    total = np.bincount(group, minlength=size)
    limit = max(1.0, min(int(labels.sum()), int((~labels).sum())) / FOLDS)
    giant = (total > limit)[group]
    fold = np.empty(n, dtype=np.int64)
    for mask in (giant & labels, giant & ~labels):
        where = np.flatnonzero(mask)
        fold[rng.permutation(where)] = np.arange(len(where)) % FOLDS
    by_group = np.full(size, -1, dtype=np.int64)
    small = total <= limit
    singles = small & (total == 1)
    for stratum in (singles & (synthetic == 0), singles & (synthetic == 1)):
        where = rng.permutation(np.flatnonzero(stratum))
        by_group[where] = np.arange(len(where)) % FOLDS
    load = np.zeros((FOLDS, 2))
    for g in rng.permutation(np.flatnonzero(small & ~singles)):
        add = np.array([total[g] - synthetic[g], synthetic[g]])
        best = int(np.argmin(((load + add) ** 2).sum(axis=1)))
        by_group[g] = best
        load[best] += add
    rest = ~giant
    fold[rest] = by_group[group[rest]]
    return fold


def _in_order(groups: list[str]) -> list[str]:
    return list(dict.fromkeys(groups))


def _permuted(
    model: Any,
    kept: NDArray[np.int64],
    features: NDArray[np.float64],
    labels: NDArray[np.bool_],
    scores: NDArray[np.float64],
    layout: TreeFeatures,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Loss of AUC in one test fold when each column or block is shuffled across rows, in the order of `groups`."""
    from pipeline.evaluation.intervals import auc

    base = auc(scores, labels)
    lost = []
    for name in _in_order(layout.groups):
        where = np.array([g == name for g in layout.groups])
        shuffled = features.copy()
        shuffled[:, where] = features[np.ix_(rng.permutation(len(features)), where)]
        lost.append(base - auc(boosted_scores(model, shuffled[:, kept]), labels))
    return np.nan_to_num(np.array(lost))
