"""Code blocks: is each code as common as it should be, are there as many codes, and as many on each record?

Prevalence (presence, code by code), totals (all cells), abundance (distinct codes a record). Blocks stay sparse
throughout. The headline of a table with several blocks is its worst block. What rules codes must keep to, e.g. that a
man is not pregnant, is in `plausibility.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.evaluation.fidelity.by_column import resampled
from pipeline.evaluation.intervals import Z95
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext
    from pipeline.evaluation.encoding import Side
    from pipeline.evaluation.results import MetricResult
    from pipeline.features.schema import CodeBlock

    Shares = NDArray[np.float64]

SMALL = 11
"""Carriers below which a code is not named, and a count of real records not given."""
SHOWN = 50
EXPECTED = 5
"""Carriers that are expected where a code counts as lost or invented."""
CLOSE = 0.2
"""Relative difference up to which a code's prevalence counts as kept."""
BINS = 20
NO_BLOCK = "the table has no code block"
APD = MetricSpec(
    id="ehr.prev.apd",
    family="fidelity",
    direction=-1,
    range=(0.0, 1000.0),
    needs=frozenset({"T", "H", "S"}),
    version="1",
    title="Prevalence of codes: mean absolute difference (per 1,000)",
    caption="By how many of 1,000 records the number of carriers of a code differs from the holdout's, on average over "
    "the codes. Lower is better; the null is what two real samples of this size differ by.",
    source="absolute prevalence difference, Yan 2022, with the synthetic counts over the synthetic rows",
)
TOTAL = MetricSpec(
    id="ehr.code_freq.total_ratio",
    family="fidelity",
    direction=0,
    range=(0.0, np.inf),
    needs=frozenset({"H", "S"}),
    version="1",
    title="Codes a record, synthetic over real",
    caption="Sum of all cells of a code block a record, synthetic over holdout. 1 is right (the null); below 1 the "
    "synthetic patients are too healthy, above 1 too ill.",
    source="feature frequency of the ScoEHR reproduction, as a ratio",
)
ABUNDANCE = MetricSpec(
    id="ehr.abundance",
    family="fidelity",
    direction=-1,
    range=(0.0, 1.0),
    needs=frozenset({"T", "H", "S"}),
    version="1",
    title="Distinct codes a record (medical concept abundance)",
    caption="Total variation between the distributions of the number of distinct codes a record: 0 is the same, 1 has "
    "nothing in common. Lower is better; the null is what two real samples of this size differ by.",
    source="medical concept abundance, Yan 2022; bins of T, records without a code in one of their own",
)


@metric(APD, floor="ref_mode")
def apd(ctx: EvaluationContext) -> list[MetricResult]:
    """Absolute prevalence difference of each block with what else tells of prevalences; the worst codes by name."""
    blocks = _blocks(ctx)
    if not blocks:
        return [APD.not_applicable(NO_BLOCK)]
    rows: list[MetricResult] = []
    headlines: list[MetricResult] = []
    for block in blocks:
        shares = resampled(ctx, block.name)
        drawn = [(p[:, 0], q[:, 0]) for p, q in shares.drawn]
        real, made = shares.resampled[0][..., 0], shares.resampled[1][..., 0]
        common = _carriers(ctx.sides.train, block) >= SMALL
        for name, figure in _prevalence_figures(common, ctx.matched_size).items():
            values = [figure(p, q) for p, q in drawn]
            known = [v for v in values if np.isfinite(v)]
            resampled_values = np.array([figure(p, q) for p, q in zip(real, made, strict=True)])
            spread = resampled_values[np.isfinite(resampled_values)]
            row = APD.result(
                float(np.mean(known)) if known else None,
                se=float(spread.std(ddof=1)) if len(spread) > 1 else None,
                n=ctx.matched_size,
                null=_prevalence_null(name, drawn, common, ctx.matched_size),
                scope="column",
                key1=block.name,
                key2=name,
                note="" if known else "fewer than three codes of 11 training records, or no spread among them",
                draws=resampled_values if name == "" else None,
            )
            rows.append(row)
            if name == "":
                headlines.append(row)
        rows += _lost_and_invented(ctx, block)
        rows += _worst_codes(ctx, block, drawn)
    return [_headline(APD, headlines, lambda r: r.value or 0.0), *rows]


@metric(TOTAL, floor="")
def total_ratio(ctx: EvaluationContext) -> list[MetricResult]:
    """Ratio of the mean row totals, interval on the log scale by subject; the mean cell of both sides beside it."""
    blocks = _blocks(ctx)
    if not blocks:
        return [TOTAL.not_applicable(NO_BLOCK)]
    rows: list[MetricResult] = []
    headlines: list[MetricResult] = []
    for block in blocks:
        real = ctx.sides.once(f"codes/total/{block.name}", lambda b=block: mean_total(ctx.sides.holdout, b.name))  # type: ignore[misc]
        made = mean_total(ctx.synthetic, block.name)
        headlines.append(_ratio(real, made, block.name, len(ctx.synthetic)))
        rows.append(headlines[-1])
        width = max(len(block.vocabulary), 1)
        for key, side in (("cell_mean_real", real), ("cell_mean_synthetic", made)):
            rows.append(
                TOTAL.result(side.mean / width, se=side.se / width, scope="column", key1=block.name, key2=key)
            )  # fmt: skip
        if ctx.with_plots:
            ctx.plots.setdefault("code_totals", []).append(_totals_plot(ctx, block))
    return [_headline(TOTAL, headlines, _from_one), *rows]


@metric(ABUNDANCE, floor="ref_mode")
def abundance(ctx: EvaluationContext) -> list[MetricResult]:
    """Total variation of the number of distinct codes a record; records without a code, mean numbers."""
    blocks = _blocks(ctx)
    if not blocks:
        return [ABUNDANCE.not_applicable(NO_BLOCK)]
    rows: list[MetricResult] = []
    headlines: list[MetricResult] = []
    for block in blocks:
        edges = ctx.sides.once(f"codes/bins/{block.name}", lambda b=block: abundance_edges(ctx.sides.train, b.name))  # type: ignore[misc]
        real, made = _distinct(ctx.sides.holdout, block.name), _distinct(ctx.synthetic, block.name)
        value, null, draws = _total_variation(ctx, np.searchsorted(edges, real, side="right"),
                                              np.searchsorted(edges, made, side="right"), len(edges) + 1)  # fmt: skip
        se = float(draws.std(ddof=1))
        size, about = ctx.matched_size, {"scope": "column", "key1": block.name}
        headlines.append(ABUNDANCE.result(value, se=se, n=size, null=null, draws=draws, **about))  # type: ignore[arg-type]
        above = ABUNDANCE.result(value - null, interval=(value - null - Z95 * se, value - null + Z95 * se), n=size,
                                 null=0.0, key2="above_chance", **about)  # type: ignore[arg-type]  # fmt: skip
        rows += [headlines[-1], above]
        for key, counts in (("real", real), ("synthetic", made)):
            empty = int((counts == 0).sum())
            hidden = key == "real" and 0 < empty < SMALL
            n = len(counts)
            rows.append(
                ABUNDANCE.result(None if hidden else empty / n, n=n, key2=f"empty_{key}",
                                 note=f"fewer than {SMALL} records" if hidden else "", **about)  # type: ignore[arg-type]
            )  # fmt: skip
            rows.append(ABUNDANCE.result(float(counts.mean()), n=n, key2=f"mean_{key}", **about))  # type: ignore[arg-type]
        if ctx.with_plots:
            ctx.plots.setdefault("code_abundance", []).append(_abundance_plot(block.name, edges, real, made))
    return [_headline(ABUNDANCE, headlines, lambda r: r.value or 0.0), *rows]


@dataclass(frozen=True)
class MeanTotal:
    """Mean row total of a block with its standard error, summed over subjects."""

    mean: float
    se: float


def mean_total(side: Side, block: str) -> MeanTotal:
    """Mean of the row sums of all cells of a block."""
    totals = np.asarray(side.counts[block].sum(axis=1), dtype=np.float64).ravel()
    mean = float(totals.mean()) if len(totals) else float("nan")
    sums = np.bincount(side.clusters, weights=totals - mean)
    return MeanTotal(mean, float(np.sqrt((sums**2).sum()) / max(len(totals), 1)))


def abundance_edges(train: Side, block: str) -> NDArray[np.float64]:
    """Lower ends of the bins but the first: none, then equal whole widths up to T's 99th percentile, then open."""
    counts = _distinct(train, block)
    top = float(np.quantile(counts, 0.99)) if len(counts) else 1.0
    width = max(1, int(np.ceil(top / (BINS - 2))))
    return np.arange(1, max(top, 1.0) + width, width, dtype=np.float64)[: BINS - 1]


def _blocks(ctx: EvaluationContext) -> list[CodeBlock]:
    return [b for b in ctx.sides.encoder.blocks if b.vocabulary]


def _headline(spec: MetricSpec, rows: list[MetricResult], bad: Callable[[MetricResult], float]) -> MetricResult:
    """The worst block's figure as that of the table; one that cannot be estimated is the worst."""
    lacking = [r for r in rows if r.value is None]
    worst = lacking[0] if lacking else max(rows, key=bad)
    note = worst.note or (f"worst block: {worst.key1}" if len(rows) > 1 else "")
    interval = None if worst.ci_lo is None or worst.ci_hi is None else (worst.ci_lo, worst.ci_hi)
    return spec.result(
        worst.value, se=worst.se, interval=interval, n=worst.n, null=worst.null_value, note=note, draws=worst.draws
    )


def _from_one(row: MetricResult) -> float:
    """How far a ratio's interval reaches from 1, on the log scale."""
    ends = [x for x in (row.value, row.ci_lo, row.ci_hi) if x is not None]
    return max(abs(np.log(max(x, 1e-9))) for x in ends)


def _ratio(real: MeanTotal, made: MeanTotal, block: str, n: int) -> MetricResult:
    if not real.mean > 0:
        return TOTAL.result(
            None, n=n, null=1.0, scope="column", key1=block, note="no holdout record has a code of the block"
        )
    value = made.mean / real.mean
    log_se = float(np.hypot(real.se / real.mean, made.se / made.mean)) if made.mean > 0 else 0.0
    ends = (value * float(np.exp(-Z95 * log_se)), value * float(np.exp(Z95 * log_se)))
    return TOTAL.result(
        value, se=value * log_se, interval=ends, n=n, null=1.0, scope="column", key1=block,
        note="" if made.mean > 0 else "no synthetic record has a code of the block",
    )  # fmt: skip


def _prevalence_figures(common: NDArray[np.bool_], size: int) -> dict[str, Callable[[Shares, Shares], float]]:
    """Name to figure of two (codes,) arrays of prevalences; those after `rmse` are over the common codes."""
    from scipy.stats import rankdata

    half = 0.5 / max(size, 1)

    def logs(p: Shares, q: Shares) -> tuple[Shares, Shares]:
        return np.log(p[common] + half), np.log(q[common] + half)

    def pearson(x: Shares, y: Shares) -> float:
        x, y = x - x.mean() if len(x) else x, y - y.mean() if len(y) else y
        norm = np.sqrt((x @ x) * (y @ y))
        return float(x @ y / norm) if len(x) > 2 and norm > 1e-12 else float("nan")

    def slope(p: Shares, q: Shares) -> float:
        x, y = logs(p, q)
        x = x - x.mean() if len(x) else x
        return float(x @ y / (x @ x)) if len(x) > 2 and x @ x > 1e-12 else float("nan")

    def within(p: Shares, q: Shares) -> float:
        a, b = p[common], q[common]
        return float((np.abs(b - a) <= CLOSE * a).mean()) if len(a) else float("nan")

    return {
        "": lambda p, q: float(1000 * np.abs(p - q).mean()),
        "rmse": lambda p, q: float(1000 * np.sqrt(((p - q) ** 2).mean())),
        "pearson": lambda p, q: pearson(*logs(p, q)),
        "spearman": lambda p, q: pearson(*(rankdata(x) for x in logs(p, q))),
        "slope": slope,
        "within_20_percent": within,
    }


def _prevalence_null(
    name: str, drawn: list[tuple[Shares, Shares]], common: NDArray[np.bool_], size: int
) -> float | None:
    """What two real samples of this size are expected to give, from the pooled prevalences (normal limit)."""
    from scipy.stats import norm

    pooled = np.mean([(p + q) / 2 for p, q in drawn], axis=0)
    error = np.sqrt(pooled * (1 - pooled) * 2 / max(size, 1))
    if name == "":
        return float(1000 * np.sqrt(2 / np.pi) * error.mean())
    if name == "rmse":
        return float(1000 * np.sqrt((error**2).mean()))
    if name == "within_20_percent" and common.any():
        reach = np.divide(CLOSE * pooled, error, out=np.full(len(pooled), 0.0), where=error > 0)[common]
        return float((2 * norm.cdf(reach) - 1).mean())
    return {"slope": 1.0, "pearson": 1.0, "spearman": 1.0}.get(name)


def _lost_and_invented(ctx: EvaluationContext, block: CodeBlock) -> list[MetricResult]:
    """Codes that one side should have at least EXPECTED times and the other has not at all, on all rows."""
    real, made = _carriers(ctx.sides.holdout, block), _carriers(ctx.synthetic, block)
    n, m = len(ctx.sides.holdout), len(ctx.synthetic)
    kinds = {
        "lost": (real >= EXPECTED) & (real * m / n >= EXPECTED) & (made == 0),
        "invented": (made >= EXPECTED) & (made * n / m >= EXPECTED) & (real == 0),
    }
    return [
        APD.result(float(found.sum()), n=len(real), null=0.0, scope="column", key1=block.name, key2=key)
        for key, found in kinds.items()
    ]


def _worst_codes(ctx: EvaluationContext, block: CodeBlock, drawn: list[tuple[Shares, Shares]]) -> list[MetricResult]:
    """The SHOWN codes of largest difference among those that SMALL records of T, and of the holdout, carry."""
    gap = 1000 * np.mean([np.abs(p - q) for p, q in drawn], axis=0)
    real = _carriers(ctx.sides.holdout, block)
    shown = np.flatnonzero((_carriers(ctx.sides.train, block) >= SMALL) & (real >= SMALL))
    shown = shown[np.argsort(-gap[shown], kind="stable")][:SHOWN]
    p, q = real / len(ctx.sides.holdout), _carriers(ctx.synthetic, block) / len(ctx.synthetic)
    error = 1000 * np.sqrt((p * (1 - p) + q * (1 - q)) / max(ctx.matched_size, 1))
    return [
        APD.result(
            gap[i], se=error[i], n=ctx.matched_size, null=float(np.sqrt(2 / np.pi) * error[i]), scope="pair",
            key1=block.name, key2=block.vocabulary[i],
            note=f"{1000 * p[i]:.1f} of 1,000 real records carry it, {1000 * q[i]:.1f} synthetic ones",
        )
        for i in shown
    ]  # fmt: skip


def _carriers(side: Side, block: CodeBlock) -> NDArray[np.int64]:
    """(codes,) how many rows carry each code."""
    return np.diff(side.presence[block.name].tocsc().indptr).astype(np.int64)


def _distinct(side: Side, block: str) -> NDArray[np.int64]:
    """(n,) how many distinct codes each row carries."""
    return np.diff(side.presence[block].indptr).astype(np.int64)


def _total_variation(
    ctx: EvaluationContext, real: NDArray[np.int64], made: NDArray[np.int64], bins: int
) -> tuple[float, float, NDArray[np.float64]]:
    """Half the summed differences of the bins' shares over the matched draws, its null, and its bootstrap."""

    def shares(numbers: NDArray[np.int64], weights: NDArray[np.float32]) -> Shares:
        hot = np.zeros((len(numbers), bins), dtype=np.float32)
        hot[np.arange(len(numbers)), numbers] = 1.0
        return (weights @ hot).astype(np.float64) / np.maximum(weights.sum(axis=1, dtype=np.float64), 1e-12)[:, None]

    values, nulls = [], []
    for draw in ctx.matched:
        p = np.bincount(real[draw.real], minlength=bins) / ctx.matched_size
        q = np.bincount(made[draw.synthetic], minlength=bins) / ctx.matched_size
        pooled = (p + q) / 2
        values.append(np.abs(p - q).sum() / 2)
        nulls.append(np.sqrt(2 / np.pi * pooled * (1 - pooled) * 2 / ctx.matched_size).sum() / 2)
    first, (wr, ws) = ctx.matched[0], ctx.matched_weights
    gaps = shares(real[first.real], wr) - shares(made[first.synthetic], ws)
    return float(np.mean(values)), float(np.mean(nulls)), np.abs(gaps).sum(axis=1) / 2


def _totals_plot(ctx: EvaluationContext, block: CodeBlock) -> dict[str, Any]:
    """How many codes have a total of none, 1, 2 to 3, 4 to 7, ...; the synthetic totals brought to the holdout's size."""
    real = np.asarray(ctx.sides.holdout.counts[block.name].sum(axis=0), dtype=np.float64).ravel()
    made = np.asarray(ctx.synthetic.counts[block.name].sum(axis=0), dtype=np.float64).ravel()
    made = np.rint(made * len(ctx.sides.holdout) / len(ctx.synthetic))
    top = max(2.0, *np.r_[real, made].tolist())
    edges = np.r_[1.0, 2.0 ** np.arange(1, int(np.ceil(np.log2(top + 1))) + 1)]
    labels = ["none", "1", *(f"{int(a)}-{int(b - 1)}" for a, b in pairwise(edges[1:]))]
    numbers = [np.bincount(np.searchsorted(edges, x, side="right"), minlength=len(labels)) for x in (real, made)]
    return {
        "name": block.name,
        "labels": labels,
        "real": numbers[0][: len(labels)].tolist(),
        "synthetic": numbers[1][: len(labels)].tolist(),
    }


def _abundance_plot(
    name: str, edges: NDArray[np.float64], real: NDArray[np.int64], made: NDArray[np.int64]
) -> dict[str, Any]:
    """Shares of records by their number of distinct codes; real counts under SMALL suppressed."""
    from pipeline.evaluation.aggregates import visible_shares

    ends = [f"{int(a)}" if b - a == 1 else f"{int(a)}-{int(b - 1)}" for a, b in pairwise(edges)]
    counts = [np.bincount(np.searchsorted(edges, x, side="right"), minlength=len(edges) + 1) for x in (real, made)]
    return {
        "name": name,
        "labels": ["none", *ends, f"{int(edges[-1])} and more"],
        "real": visible_shares(counts[0], suppress=True),
        "synthetic": visible_shares(counts[1], suppress=False),
    }
