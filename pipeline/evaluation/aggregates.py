"""What the report may draw of the rows: shares of bins and levels with small counts suppressed, and sizes.

This is the only way from rows to the report. Real counts under 11 are suppressed, numeric axes are cut at the
training rows' 1st and 99th percentile, and no record, subject id, minimum or maximum leaves this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext
    from pipeline.features.schema import Column

SMALL = 11
BINS = 24
MOST_LEVELS = 12


def aggregates(ctx: EvaluationContext) -> dict[str, Any]:
    """Sizes of all parts, and for each column (in schema order) its histogram or level shares on both sides."""
    sides = ctx.sides
    order = {name: i for i, name in enumerate(sides.encoder.schema.names)}
    columns = sorted(sides.encoder.columns, key=lambda c: order[c.name])
    return {
        "sizes": {
            "train": len(sides.train),
            "holdout": len(sides.holdout),
            "reference": len(sides.reference0) + len(sides.reference1),
            "synthetic": len(ctx.synthetic),
            "columns": len(columns),
            "codes": sum(len(b.vocabulary) for b in sides.encoder.blocks),
        },
        "profile": sides.profile.name,
        "columns": [_levels(ctx, c) if c.discrete else _histogram(ctx, c) for c in columns],
        "blocks": [_codes(ctx, b.name, b.vocabulary) for b in sides.encoder.blocks],
    }


def _histogram(ctx: EvaluationContext, column: Column) -> dict[str, Any]:
    train = ctx.sides.train.values[column.name]
    known = train[~np.isnan(train)]
    real, made = ctx.sides.holdout.values[column.name], ctx.synthetic.values[column.name]
    found: dict[str, Any] = {
        "name": column.name,
        "kind": column.kind,
        "unit": column.unit or "",
        "description": column.description,
    }
    lo, hi = np.quantile(known, [0.01, 0.99]) if len(known) >= 10 * SMALL else (0.0, 0.0)
    if hi <= lo:
        return {**found, "edges": [], "real": [], "synthetic": []}
    distinct = np.unique(known[(known >= lo) & (known <= hi)])
    whole = bool((distinct == np.rint(distinct)).all()) and hi - lo < BINS
    edges = np.arange(np.floor(lo) - 0.5, np.ceil(hi) + 1.0) if whole else np.linspace(lo, hi, BINS + 1)
    return {
        **found,
        "edges": [float(f"{e:.6g}") for e in edges],
        "real": _shares(np.histogram(np.clip(real[~np.isnan(real)], lo, hi), edges)[0], suppress=True),
        "synthetic": _shares(np.histogram(np.clip(made[~np.isnan(made)], lo, hi), edges)[0], suppress=False),
    }


def _levels(ctx: EvaluationContext, column: Column) -> dict[str, Any]:
    levels = [{True: "yes", False: "no"}[v] if isinstance(v, bool) else str(v) for v in column.levels or []]
    codes = ctx.sides.holdout.codes[column.name], ctx.synthetic.codes[column.name]
    counts = [np.bincount(c[c >= 0], minlength=len(levels)) for c in codes]
    missing = [int((c == -1).sum()) for c in codes]
    strange = int((codes[1] == -2).sum())
    if len(levels) > MOST_LEVELS:
        first = np.sort(np.argsort(-counts[0], kind="stable")[: MOST_LEVELS - 1])
        counts = [np.append(c[first], c.sum() - c[first].sum()) for c in counts]
        levels = [levels[i] for i in first] + [f"{len(levels) - len(first)} others"]
    if missing[0] or missing[1]:
        levels, counts = [*levels, "missing"], [np.append(c, m) for c, m in zip(counts, missing, strict=True)]
    if strange:
        levels, counts = [*levels, "no level"], [np.append(counts[0], 0), np.append(counts[1], strange)]
    return {
        "name": column.name,
        "kind": column.kind,
        "unit": column.unit or "",
        "description": column.description,
        "levels": levels,
        "real": _shares(counts[0], suppress=True),
        "synthetic": _shares(counts[1], suppress=False),
    }


def _codes(ctx: EvaluationContext, name: str, vocabulary: list[str]) -> dict[str, Any]:
    """Prevalence of the codes that at least SMALL holdout rows carry; the 200 commonest."""
    real, made = ctx.sides.holdout.presence[name], ctx.synthetic.presence[name]
    counts = np.asarray(real.sum(axis=0)).ravel()
    shown = np.argsort(-counts, kind="stable")[:200]
    shown = shown[counts[shown] >= SMALL]
    shares = np.asarray(made.mean(axis=0)).ravel()
    return {
        "name": name,
        "codes": [vocabulary[i] for i in shown],
        "real": [round(float(counts[i]) / real.shape[0], 5) for i in shown],
        "synthetic": [round(float(shares[i]), 5) for i in shown],
        "left_out": len(vocabulary) - len(shown),
    }


def _shares(counts: NDArray[np.integer], *, suppress: bool) -> list[float | None]:
    """Shares of all; None for a count between 1 and 10 where they are suppressed.

    A single suppressed count could be told from the sum of the others, so the next smallest goes with it.
    """
    total = max(int(counts.sum()), 1)
    hidden = (counts > 0) & (counts < SMALL) if suppress else np.zeros(len(counts), dtype=bool)
    if hidden.sum() == 1:
        shown = np.flatnonzero(~hidden & (counts > 0))
        if len(shown):
            hidden[shown[np.argmin(counts[shown])]] = True
    return [None if h else round(float(c) / total, 5) for c, h in zip(counts, hidden, strict=True)]
