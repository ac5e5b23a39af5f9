"""A figure of every column and block: over the matched draws, with its null expectation and bootstrap, then summed up.

What is computed of a column is in `marginal.py` (shares of bins, cumulative curves); here is how it is averaged over
draws, resampled by subject, and turned into rows: mean (the headline), median and worst, then column by column. A code
block counts as one column: the mean over its codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext
    from pipeline.evaluation.encoding import Side
    from pipeline.evaluation.results import MetricResult, MetricSpec

    Shares = NDArray[np.float64]


@dataclass(frozen=True)
class Compared:
    """A column's figure: value, null expectation, (draws,) bootstrap values (None without any), rows a side."""

    value: float
    null: float
    draws: NDArray[np.float64] | None
    n: int


class Binned:
    """A column as bin numbers of both sides, or a block as presence of both sides.

    Args:
        ctx: Both sides.
        name: Of a column or block.
    """

    def __init__(self, ctx: EvaluationContext, name: str) -> None:
        self.block = name in ctx.sides.holdout.presence
        if self.block:
            self.real, self.synthetic = ctx.sides.holdout.presence[name], ctx.synthetic.presence[name]
            return
        column = next(c for c in ctx.sides.encoder.columns if c.name == name)
        self.real, self.size = ctx.sides.once(f"bins/{name}", lambda: ctx.sides.holdout.bins(column))
        self.synthetic, _ = ctx.once(f"bins/{name}", lambda: ctx.synthetic.bins(column))

    def shares(self, rows: NDArray[np.int64], weights: NDArray[np.float32] | None, *, real: bool) -> Shares:
        """Shares of the bins: (bins,), or (draws, bins) with weights; of a block (..., codes, 2): present, absent."""
        data = (self.real if real else self.synthetic)[rows]
        w = np.full((1, len(rows)), 1.0, dtype=np.float32) if weights is None else weights
        total = np.maximum(w.sum(axis=1, dtype=np.float64), 1e-12)[:, None]
        if self.block:
            present = (data.T @ w.T).T.astype(np.float64) / total
            found = np.stack([present, 1 - present], axis=-1)
        elif weights is None:
            found = np.bincount(data, minlength=self.size)[None].astype(np.float64) / total
        else:
            hot = np.zeros((len(rows), self.size), dtype=np.float32)
            hot[np.arange(len(rows)), data] = 1.0
            found = (w @ hot).astype(np.float64) / total
        return found[0] if weights is None else found


@dataclass(frozen=True)
class Resampled:
    """Shares of a column on the matched draws and under the bootstrap, kept for all figures made of them.

    Attributes:
        drawn: (real, synthetic) shares of each matched draw.
        resampled: The same of the first draw under bootstrap weights, (draws, ...).
    """

    drawn: list[tuple[Shares, Shares]]
    resampled: tuple[Shares, Shares]


def resampled(ctx: EvaluationContext, name: str) -> Resampled:
    """The shares of a column or block; computed once for a synthetic cohort."""

    def make() -> Resampled:
        parts = Binned(ctx, name)
        first, (wr, ws) = ctx.matched[0], ctx.matched_weights
        real = ctx.sides.once(
            f"shares/{name}/{ctx.matched_size}",
            lambda: (
                [parts.shares(draw.real, None, real=True) for draw in ctx.matched],
                parts.shares(first.real, wr, real=True),
            ),
        )
        return Resampled(
            [
                (p, parts.shares(draw.synthetic, None, real=False))
                for p, draw in zip(real[0], ctx.matched, strict=False)
            ],
            (real[1], parts.shares(first.synthetic, ws, real=False)),
        )

    return ctx.once(f"shares/{name}", make)


def compare(
    ctx: EvaluationContext,
    name: str,
    figure: Callable[[Shares, Shares], Shares],
    null: Callable[[Shares, int], Shares],
) -> Compared:
    """A figure of two shares over the matched draws, its null, and its bootstrap on the first draw.

    Args:
        ctx: Both sides.
        name: Of a column or block.
        figure: Figure of two arrays of shares, over their last axis.
        null: What two real samples are expected to give, from their pooled shares and the rows a side.
    """
    shares = resampled(ctx, name)
    size = ctx.matched_size
    draws = figure(*shares.resampled)
    return Compared(
        float(np.mean([np.mean(figure(p, q)) for p, q in shares.drawn])),
        float(np.mean([np.mean(null((p + q) / 2, size)) for p, q in shares.drawn])),
        draws.mean(axis=1) if draws.ndim > 1 else draws,
        size,
    )


def discrete(ctx: EvaluationContext) -> Iterator[str]:
    """Names of the discrete columns and of the blocks."""
    for column in ctx.sides.encoder.columns:
        if column.discrete:
            yield column.name
    for block in ctx.sides.encoder.blocks:
        yield block.name


def summed_up(ctx: EvaluationContext, spec: MetricSpec, found: dict[str, Compared]) -> list[MetricResult]:
    """Mean (the headline), median and worst over the columns, then the columns."""
    if not found:
        return [spec.not_applicable("the table has no column of this kind")]
    values = np.array([c.value for c in found.values()])
    nulls = np.array([c.null for c in found.values()])
    draws = [c.draws for c in found.values() if c.draws is not None]
    stacked = np.stack(draws) if len(draws) == len(found) else None
    worst = np.max if spec.direction < 0 else np.min
    rows = []
    for key, summary in (("", np.mean), ("median", np.median), ("worst", worst)):
        drawn = None if stacked is None else summary(stacked, axis=0)
        null = float(summary(nulls[np.isfinite(nulls)])) if np.isfinite(nulls).any() else None
        rows.append(
            spec.result(
                float(summary(values)),
                se=None if drawn is None else float(drawn.std(ddof=1)),
                n=ctx.matched_size,
                null=null if key != "worst" else None,
                key1=key,
                draws=drawn if key == "" else None,
            )
        )
    for name, c in found.items():
        se = None if c.draws is None else float(c.draws.std(ddof=1))
        rows.append(spec.result(c.value, se=se, n=c.n, null=c.null, scope="column", key1=name))
    return rows


def independent_rows(side: Side, rows: int) -> float:
    """How many independent rows so many of a side are worth at least: one for each subject.

    Tests that assume independent rows are given this many; where each row is its own subject it is `rows`.
    """
    subjects = int(side.clusters.max()) + 1 if len(side) else 0
    return rows * subjects / max(len(side), 1)
