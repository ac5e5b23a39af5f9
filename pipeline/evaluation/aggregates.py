"""What the report may draw of the rows: shares of bins and levels with small counts suppressed, and sizes.

Real counts under 11 are suppressed, levels and codes that fewer than 11 training rows have are pooled and named
nowhere, numeric axes are cut at the training rows' 1st and 99th percentile, and no record, subject id, minimum or
maximum leaves this module. What metrics draw beside it keeps to the same rules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext, RealSides
    from pipeline.evaluation.encoding import Side
    from pipeline.features.schema import Column

SMALL = 11
BINS, FEWEST_BINS = 24, 3
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
            "reference0": len(sides.reference0),
            "reference1": len(sides.reference1),
            "synthetic": len(ctx.synthetic),
            "train_people": _people(sides.train),
            "holdout_people": _people(sides.holdout),
            "columns": len(columns),
            "codes": sum(len(b.vocabulary) for b in sides.encoder.blocks),
        },
        "profile": sides.profile.name,
        "known": list(ctx.plan.known_columns(sides.encoder.schema)),
        "columns": [_levels(ctx, c) if c.discrete else _histogram(ctx, c) for c in columns],
        "missing": _missing(ctx, columns),
        "blocks": [_codes(ctx, b.name, b.vocabulary) for b in sides.encoder.blocks],
    }


def rare_names(sides: RealSides) -> dict[str, list[str]]:
    """Column or block to its levels and codes that 1 to 10 training rows have: what the public report never names."""
    found = {}
    for column in sides.encoder.columns:
        if column.discrete and column.levels:
            codes = sides.train.codes[column.name]
            counts = np.bincount(codes[codes >= 0], minlength=len(column.levels))
            found[column.name] = [
                _said(v) for v, n in zip(column.levels, counts[: len(column.levels)], strict=True) if n < SMALL
            ]
    for block in sides.encoder.blocks:
        carried = np.asarray(sides.train.presence[block.name].sum(axis=0)).ravel()
        found[block.name] = [code for code, n in zip(block.vocabulary, carried, strict=True) if n < SMALL]
    return {name: names for name, names in found.items() if names}


def _people(side: Side) -> int:
    return len(np.unique(side.clusters))


def _missing(ctx: EvaluationContext, columns: list[Column]) -> list[dict[str, Any]]:
    """Share of missing cells, holdout and synthetic, of every column that has any."""
    found = []
    for column in columns:
        gone = [_gone(side, column) for side in (ctx.sides.holdout, ctx.synthetic)]
        if any(x.any() for x in gone):
            real = visible_shares(np.array([gone[0].sum(), (~gone[0]).sum()]), suppress=True)[0]
            found.append({"name": column.name, "real": real, "synthetic": round(float(gone[1].mean()), 5)})
    return found


def _gone(side: Side, column: Column) -> NDArray[np.bool_]:
    """(rows,) where the cell is missing."""
    return side.codes[column.name] == -1 if column.discrete else np.isnan(side.values[column.name])


def _said(level: object) -> str:
    """A level as the report writes it."""
    return {True: "yes", False: "no"}[level] if isinstance(level, bool) else str(level)


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
    bins = _bins(int((~np.isnan(real)).sum()))
    whole = bool((distinct == np.rint(distinct)).all()) and hi - lo < bins
    edges = np.arange(np.floor(lo) - 0.5, np.ceil(hi) + 1.0) if whole else np.linspace(lo, hi, bins + 1)
    return {
        **found,
        "edges": [float(f"{e:.6g}") for e in edges],
        "real": visible_shares(np.histogram(np.clip(real[~np.isnan(real)], lo, hi), edges)[0], suppress=True),
        "synthetic": visible_shares(np.histogram(np.clip(made[~np.isnan(made)], lo, hi), edges)[0], suppress=False),
    }


def _bins(real_rows: int) -> int:
    """Bins of a histogram: fewer where so few real rows would leave most bins under the count that may be shown."""
    return max(FEWEST_BINS, min(BINS, real_rows // (2 * SMALL)))


def _levels(ctx: EvaluationContext, column: Column) -> dict[str, Any]:
    levels = [_said(v) for v in column.levels or []]
    known = ctx.sides.train.codes[column.name]
    codes = ctx.sides.holdout.codes[column.name], ctx.synthetic.codes[column.name]
    counts = [np.bincount(c[c >= 0], minlength=len(levels)) for c in codes]
    often = np.bincount(known[known >= 0], minlength=len(levels)) >= SMALL
    if not often.all():
        pool = [int(c[~often].sum()) for c in counts]
        counts, levels = [c[often] for c in counts], [levels[i] for i in np.flatnonzero(often)]
        if any(pool):
            counts = [np.append(c, n) for c, n in zip(counts, pool, strict=True)]
            levels = [*levels, "rare levels"]
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
        "real": visible_shares(counts[0], suppress=True),
        "synthetic": visible_shares(counts[1], suppress=False),
    }


def _codes(ctx: EvaluationContext, name: str, vocabulary: list[str]) -> dict[str, Any]:
    """Prevalence of the codes that at least SMALL holdout and training rows carry; the 200 commonest."""
    real, made = ctx.sides.holdout.presence[name], ctx.synthetic.presence[name]
    counts = np.asarray(real.sum(axis=0)).ravel()
    counts = np.where(np.asarray(ctx.sides.train.presence[name].sum(axis=0)).ravel() >= SMALL, counts, 0)
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


def visible_shares(
    counts: NDArray[np.integer], *, suppress: bool, people: NDArray[np.integer] | None = None
) -> list[float | None]:
    """Shares of all; None for a count between 1 and 10 where they are suppressed.

    Where several of what is counted belong to a person, `people` says of how many people each count is.

    What is suppressed could be told from the sum of the others, so the next smallest go with it until a single count
    is none of theirs and they are SMALL together.
    """
    total = max(int(counts.sum()), 1)
    of = counts if people is None else people
    hidden = (of > 0) & (of < SMALL) if suppress else np.zeros(len(counts), dtype=bool)
    while hidden.any() and (hidden.sum() == 1 or of[hidden].sum() < SMALL):
        shown = np.flatnonzero(~hidden & (of > 0))
        if not len(shown):
            break
        hidden[shown[np.argmin(of[shown])]] = True
    return [None if h else round(float(c) / total, 5) for c, h in zip(counts, hidden, strict=True)]
