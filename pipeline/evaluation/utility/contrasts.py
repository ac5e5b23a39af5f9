"""Sub-group contrasts: an analysis' first effect in each level of a column, less that in T's commonest level.

The analysis is fitted inside each level, without the column. What the contrasts are compared by is in `effects.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.utility.analyses import FEWEST_ROWS, Analysis, Estimates, level_text, synthetic_rows
from pipeline.evaluation.utility.effects import Effects

if TYPE_CHECKING:
    from pipeline.evaluation.context import EvaluationContext
    from pipeline.features.evaluation_spec import AnalysisSpec


def contrasts(ctx: EvaluationContext, spec: AnalysisSpec) -> Effects:
    """The first covariate's effect in each level of the contrast, less that in T's commonest: real and synthetic."""
    sides = ctx.sides
    column = str(spec.contrast)
    codes = sides.train.codes.get(column)
    if codes is None:
        return _none()
    counts = np.bincount(codes[codes >= 0], minlength=1)
    order = np.argsort(-counts, kind="stable")

    def of_level(level: int) -> tuple[Analysis, Estimates]:
        analysis = Analysis(sides, spec, without=column)
        parts = [
            analysis.data(side, np.flatnonzero(side.codes[column] == level)) for side in (sides.train, sides.holdout)
        ]
        return analysis, analysis.fit(parts)

    def real() -> dict[int, tuple[Analysis, Estimates]]:
        found = {int(level): of_level(int(level)) for level in order if counts[level] >= FEWEST_ROWS}
        return {level: pair for level, pair in found.items() if not pair[1].reason and pair[0].first}

    fits = sides.once(f"contrast/{spec.name}", real)
    if len(fits) < 2:
        return _none()
    rows = synthetic_rows(ctx)
    share = len(rows) / (len(sides.train) + len(sides.holdout))
    made = {
        level: analysis.fit([analysis.data(ctx.synthetic, rows[ctx.synthetic.codes[column][rows] == level])])
        for level, (analysis, _) in fits.items()
    }
    # Where as many real rows would have too few events in a level, nothing is to be learnt of it.
    judged = [
        level for level in fits if not (made[level].reason and fits[level][1].too_few(int(share * fits[level][1].rows)))
    ]
    if len(judged) < 2:
        return _none()
    base, *others = judged
    levels = next(c.levels for c in sides.encoder.columns if c.name == column) or []
    names: list[str] = []
    figures: list[list[float]] = []
    for level in others:
        for i in fits[base][0].first:
            names.append(
                f"{fits[base][0].names[i]}: {column} = {level_text(levels[level])} against {level_text(levels[base])}"
            )
            figures.append(
                [x for of in ({k: v[1] for k, v in fits.items()}, made) for x in _less(of[level], of[base], i)]
            )
    real_coef, real_se, made_coef, made_se = np.array(figures).T
    kept = np.isfinite(real_coef)
    named = [n for n, k in zip(names, kept, strict=True) if k]
    return Effects(named, real_coef[kept], real_se[kept], made_coef[kept], made_se[kept])


def _none() -> Effects:
    none = np.zeros(0)
    return Effects([], none, none, none, none)


def _less(level: Estimates, base: Estimates, i: int) -> tuple[float, float]:
    """Difference of an effect between two groups of different people, and its error."""
    return float(level.coef[i] - base.coef[i]), float(np.hypot(level.se[i], base.se[i]))
