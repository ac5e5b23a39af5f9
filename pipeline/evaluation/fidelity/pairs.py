"""Pairs of columns as two-way tables: overlap, divergence and mutual information, binned by T for both sides alike.

Numbers fall into T's deciles with open ends, so that nothing outside T's range is dropped; missing is a bin, and so is
what is no level. Of a code block the presence of its 200 most variable codes counts as columns. Beyond `MOST_COLUMNS`
columns `MOST_PAIRS` pairs are drawn once, the same for every cohort, pairs of two columns before pairs with a code. All
figures come from the same tables, each the mean over pairs and matched draws. Correlations are in `dependence.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.evaluation.cells import MISSING
from pipeline.evaluation.fidelity.correlation import FEWEST_CARRIERS, apart, drawn
from pipeline.evaluation.fidelity.influence import error_of, holdout_draws
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext, RealSides
    from pipeline.evaluation.encoding import Side
    from pipeline.evaluation.fidelity.correlation import Pairs
    from pipeline.evaluation.results import MetricResult

    Table = NDArray[np.float64]

MOST_COLUMNS = 70
MOST_PAIRS = 2_000
SHOWN = 20
FIGURES = ("overlap", "kl", "kl_reverse", "nmi")
CONTINGENCY = MetricSpec(
    id="fid.dep.contingency",
    family="fidelity",
    direction=1,
    range=(0.0, 1.0),
    needs=frozenset({"T", "H", "S"}),
    version="1",
    title="Two-way tables: overlap",
    caption="One minus the total variation distance between the holdout's and the synthetic two-way table, mean over "
    "pairs of columns; numbers in the deciles of the training rows on both sides. Higher is better; the null is what "
    "two real samples of this size reach.",
    source="1 - total variation distance of two-way tables; bins of T, unlike Column Pair Trends",
    cost="B",
)
PAIR_KL = MetricSpec(
    id="fid.dep.pair_kl",
    family="fidelity",
    direction=1,
    range=(0.0, 1.0),
    needs=frozenset({"T", "H", "S"}),
    version="1",
    title="Two-way tables: divergence",
    caption="1 / (1 + Kullback-Leibler divergence) of the holdout's two-way table from the synthetic one, mean over "
    "pairs of columns: low where combinations that people have are lost ('reverse' where combinations are made up). "
    "Higher is better; the null is what two real samples of this size reach.",
    source="Kullback and Leibler 1951; Jeffreys prior of 1/2 a cell; bins of T",
    cost="B",
)
NMI = MetricSpec(
    id="fid.dep.nmi",
    family="fidelity",
    direction=-1,
    range=(0.0, 1.0),
    needs=frozenset({"T", "H", "S"}),
    version="1",
    title="Mutual information error",
    caption="Mean absolute difference of the normalised mutual information of pairs of columns, holdout against "
    "synthetic: dependence of any form, not only along a line. Lower is better; the null is what fresh real rows have.",
    source="mutual information / mean of both entropies; bins of T",
    cost="B",
)


@dataclass(frozen=True)
class Binning:
    """The columns of two-way tables and the pairs that are compared.

    Attributes:
        names: Of the columns; codes as "block/code".
        sizes: How many bins each column has.
        pairs: Positions of the columns of each pair.
        nameable: Whether a column may be named in a report: a code that at least 11 training rows carry.
    """

    names: list[str]
    sizes: NDArray[np.int64]
    pairs: Pairs
    nameable: NDArray[np.bool_]


@dataclass(frozen=True)
class Compared:
    """Figures of all pairs.

    Attributes:
        values: (figures, pairs) mean over the matched draws.
        nulls: (figures, pairs) what two real samples would give; NaN where it is not known.
        real: (figures, size) influence of the holdout rows of the first draw on the mean over pairs.
        synthetic: (figures, size) influence of the synthetic rows.
    """

    values: NDArray[np.float64]
    nulls: NDArray[np.float64]
    real: NDArray[np.float64]
    synthetic: NDArray[np.float64]


@metric(CONTINGENCY)
def contingency(ctx: EvaluationContext) -> list[MetricResult]:
    """Overlap of two-way tables, mean over the pairs."""
    found = _figure(ctx, CONTINGENCY, "overlap")
    if ctx.with_plots and found[0].value is not None:
        binning, overlap = binning_of(ctx.sides), compared(ctx).values[0]
        i, j = binning.pairs
        named = np.flatnonzero(binning.nameable[i] & binning.nameable[j])
        worst = named[np.argsort(overlap[named], kind="stable")[:SHOWN]]
        ctx.plots["two_way"] = [[binning.names[i[k]], binning.names[j[k]], round(float(overlap[k]), 3)] for k in worst]
    return found


@metric(PAIR_KL)
def pair_kl(ctx: EvaluationContext) -> list[MetricResult]:
    """Divergence of two-way tables in both directions, as 1 / (1 + KL), mean over the pairs."""
    return _figure(ctx, PAIR_KL, "kl") + _figure(ctx, PAIR_KL, "kl_reverse", key1="reverse")


@metric(NMI)
def nmi(ctx: EvaluationContext) -> list[MetricResult]:
    """Absolute difference of normalised mutual information, mean over the pairs."""
    return _figure(ctx, NMI, "nmi")


def _figure(ctx: EvaluationContext, spec: MetricSpec, figure: str, *, key1: str = "") -> list[MetricResult]:
    binning = binning_of(ctx.sides)
    if not len(binning.pairs[0]):
        return [spec.result(None, key1=key1, note="fewer than two columns that vary in the training rows")]
    which, found = FIGURES.index(figure), compared(ctx)
    value, null = float(found.values[which].mean()), float(found.nulls[which].mean())
    real = found.real[which]
    total = len(binning.names) * (len(binning.names) - 1) // 2
    note = f"{len(binning.pairs[0]):,} of {total:,} pairs" if len(binning.pairs[0]) == MOST_PAIRS else ""
    return [
        spec.result(
            value,
            se=error_of(ctx, real, found.synthetic[which]),
            n=ctx.matched_size,
            null=null if np.isfinite(null) else None,
            key1=key1,
            note=note,
            draws=holdout_draws(ctx, value, real) if not key1 else None,
        )
    ]


def binning_of(sides: RealSides) -> Binning:
    """The columns that vary in T, their bins, and the pairs; made once."""

    def make() -> Binning:
        binned, names, sizes = _binned(sides, sides.train)
        varied = np.flatnonzero([len(np.unique(column)) > 1 for column in binned])
        pairs = apart([str(k) for k in varied])
        pairs = varied[pairs[0]], varied[pairs[1]]
        first_code = len(sides.encoder.columns)
        if len(varied) > MOST_COLUMNS:
            # Pairs of columns first: of thousands of pairs hardly one is not of two codes.
            order = sides.rng("fid.dep.pairs").permutation(len(pairs[0]))
            order = order[np.argsort(pairs[1][order] >= first_code, kind="stable")]
            chosen = np.sort(order[:MOST_PAIRS])
            pairs = pairs[0][chosen], pairs[1][chosen]
        nameable = np.ones(len(names), dtype=bool)
        nameable[first_code:] = [int(column.sum()) >= FEWEST_CARRIERS for column in binned[first_code:]]
        return Binning(names, sizes, pairs, nameable)

    return sides.once("pairs/binning", make)


def compared(ctx: EvaluationContext) -> Compared:
    """All figures of all pairs; made once a cohort."""

    def make() -> Compared:
        binning = binning_of(ctx.sides)
        pairs, size = list(zip(*binning.pairs, strict=True)), ctx.matched_size
        real = ctx.sides.once("pairs/bins/H", lambda: columns_of(ctx.sides, ctx.sides.holdout))
        made = columns_of(ctx.sides, ctx.synthetic)
        known = ctx.sides.once(f"pairs/tables/{size}", lambda: tables_of(real, binning, drawn(ctx, "H")))
        given = tables_of(made, binning, drawn(ctx, "S"))
        first = real[:, drawn(ctx, "H")[0]], made[:, drawn(ctx, "S")[0]]
        values, nulls = np.zeros((2, len(FIGURES), len(pairs)))
        influences = np.zeros((2, len(FIGURES), size))
        for k, (i, j) in enumerate(pairs):
            shape = (-1, int(binning.sizes[i]), int(binning.sizes[j]))
            left, right = (x[k].reshape(shape).astype(np.float64) for x in (known, given))
            found, slopes, null = _figures(left, right)
            values[:, k], nulls[:, k] = found, null
            for side in (0, 1):
                cell = first[side][i] * shape[2] + first[side][j]
                influences[side] += slopes[side].reshape(len(FIGURES), -1)[:, cell]
        influences /= max(len(pairs), 1)
        influences -= influences.mean(axis=2, keepdims=True)
        return Compared(values, nulls, influences[0], influences[1])

    return ctx.once("pairs/compared", make)


def columns_of(sides: RealSides, side: Side) -> NDArray[np.int32]:
    """(columns, rows) bin numbers of a side."""
    return _binned(sides, side)[0]


def _binned(sides: RealSides, side: Side) -> tuple[NDArray[np.int32], list[str], NDArray[np.int64]]:
    """(columns, rows) bin numbers, names of the columns, and how many bins each has."""
    rows: list[NDArray[Any]] = []
    names: list[str] = []
    sizes: list[int] = []
    for column in sides.encoder.columns:
        names.append(column.name)
        if column.discrete:
            levels = len(column.levels or [])
            code = side.codes[column.name]
            rows.append(np.where(code >= 0, code, levels + (MISSING - code)))
            sizes.append(levels + 2)
            continue
        train = sides.train.values[column.name]
        known = train[~np.isnan(train)]
        edges = np.unique(np.quantile(known, np.arange(1, 10) / 10)) if len(known) else known
        value = side.values[column.name]
        missing = np.isnan(value)
        bins = np.searchsorted(edges, np.where(missing, 0.0, value), side="right")
        rows.append(np.where(missing, len(edges) + 1, bins))
        sizes.append(len(edges) + 2)
    for block in sides.encoder.blocks:
        kept = sides.encoder.kept_codes[block.name]
        rows += list(side.presence[block.name][:, kept].toarray().T.astype(np.int32))
        names += [f"{block.name}/{block.vocabulary[i]}" for i in kept]
        sizes += [2] * len(kept)
    stacked = np.array(rows, dtype=np.int32) if rows else np.zeros((0, len(side)), dtype=np.int32)
    return stacked, names, np.array(sizes, dtype=np.int64)


def tables_of(columns: NDArray[np.int32], binning: Binning, draws: list[NDArray[np.int64]]) -> list[NDArray[np.int32]]:
    """For each pair the (draws, cells) counts of its two-way table."""
    drawn_columns = [np.ascontiguousarray(columns[:, rows]) for rows in draws]
    found = []
    for i, j in zip(*binning.pairs, strict=True):
        wide, cells = int(binning.sizes[j]), int(binning.sizes[i] * binning.sizes[j])
        counts = [np.bincount(c[i] * wide + c[j], minlength=cells) for c in drawn_columns]
        found.append(np.array(counts, dtype=np.int32))
    return found


def _figures(left: Table, right: Table) -> tuple[NDArray[np.float64], tuple[Table, Table], NDArray[np.float64]]:
    """Figures of one pair from (draws, a, b) counts: means over draws, slopes on the first draw, nulls.

    Slopes are (figures, a, b): the derivative with respect to each cell's share, of the left and of the right table.
    """
    n, m = (float(max(x[0].sum(), 1)) for x in (left, right))
    p, q = left / n, right / m
    cells = left[0].size
    smooth = [(x + 0.5) / (total + cells / 2) for x, total in ((left, n), (right, m))]
    ratio = np.log(smooth[0] / smooth[1])
    forward, backward = (smooth[0] * ratio).sum(axis=(1, 2)), -(smooth[1] * ratio).sum(axis=(1, 2))
    shared, slope_p = mutual_information(p)
    found, slope_q = mutual_information(q)
    gap = shared - found
    values = np.array(
        [
            (1 - np.abs(p - q).sum(axis=(1, 2)) / 2).mean(),
            (1 / (1 + forward)).mean(),
            (1 / (1 + backward)).mean(),
            np.abs(gap).mean(),
        ]
    )
    sign = np.sign(p[0] - q[0]) / 2
    high, low = (-1 / (1 + x[0]) ** 2 for x in (forward, backward))
    apart_by = smooth[0][0] / smooth[1][0]
    slopes = (
        np.stack([-sign, high * ratio[0], -low / apart_by, np.sign(gap[0]) * slope_p]),
        np.stack([sign, -high * apart_by, -low * ratio[0], -np.sign(gap[0]) * slope_q]),
    )
    pooled = (left[0] + right[0]) / (n + m)
    occupied = int((pooled > 0).sum())
    noise = (occupied - 1) * (1 / n + 1 / m) / 2
    nulls = np.array(
        [
            1 - np.sqrt(2 / np.pi * pooled * (1 - pooled) * (1 / n + 1 / m)).sum() / 2,
            1 / (1 + noise),
            1 / (1 + noise),
            np.nan,
        ]
    )
    return values, slopes, nulls


def mutual_information(p: Table) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Normalised mutual information of (draws, a, b) shares: (draws,), and its slope (a, b) on the first draw.

    Divided by the mean of both entropies; 0 where a column is constant.
    """
    rows, columns = p.sum(axis=2), p.sum(axis=1)
    log_rows, log_columns, log_cells = (np.log(np.where(x > 0, x, 1.0)) for x in (rows, columns, p))
    of_rows, of_columns = -(rows * log_rows).sum(axis=1), -(columns * log_columns).sum(axis=1)
    shared = of_rows + of_columns + (p * log_cells).sum(axis=(1, 2))
    both = of_rows + of_columns
    constant = (of_rows <= 1e-12) | (of_columns <= 1e-12)
    value = np.where(constant, 0.0, 2 * np.maximum(shared, 0.0) / np.where(constant, 1.0, both))
    if constant[0]:
        return value, np.zeros(p.shape[1:])
    surprise = -(log_rows[0][:, None] + log_columns[0][None, :])
    return value, (2 * (log_cells[0] + surprise) - value[0] * surprise) / both[0]
