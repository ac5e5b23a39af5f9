"""A prespecified analysis as arrays: which rows count, which columns become which terms, fitted to one side or several.

Numbers, counts and ordinal levels are one term each, per standard deviation of T (an ordinal one is a trend). A binary
column is its second level against its first, a categorical one each level against T's commonest; levels with fewer
than 11 training rows or under 1 % go together as "other levels" (with the reference if they are still under 11). All of
this is fitted on T. Rows with a missing cell,
or with what is no level, are left out and counted (complete cases). The arithmetic is in `regression.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.utility.effects import Effects
from pipeline.evaluation.utility.regression import Regression, fit_cox, fit_glm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext, RealSides
    from pipeline.evaluation.encoding import Side
    from pipeline.features.evaluation_spec import AnalysisSpec
    from pipeline.features.schema import Level

FEWEST_ROWS = 11
FEWEST_SHARE = 0.01
EVENTS_A_TERM = 5
"""Events (rows of a linear or Poisson outcome) for each coefficient below which an analysis is not run."""
OTHER = "other levels"


@dataclass(frozen=True)
class Data:
    """Complete cases of an analysis.

    Attributes:
        terms: (n, p) features.
        outcome: (n,) outcome; of a Cox model 1 for an event.
        time: (n,) follow-up of a Cox model, else empty.
        clusters: (n,) subject numbers.
        rows: (n,) positions in the side.
        left_out: Rows with a missing cell.
    """

    terms: NDArray[np.float64]
    outcome: NDArray[np.float64]
    time: NDArray[np.float64]
    clusters: NDArray[np.int64]
    rows: NDArray[np.int64]
    left_out: int


@dataclass(frozen=True)
class Estimates:
    """Coefficients of an analysis on some rows, without the intercept.

    Attributes:
        names: p names, e.g. "age (per 12 a)" or "sex = male".
        coef: (p,) estimates, on the scale of the linear predictor; NaN where not estimable.
        covariance: (p, p) robust by subject.
        n: Complete cases.
        left_out: Rows with a missing cell.
        limiting: Events (rows of the rarer outcome, rows) that the precision hangs on.
        shares: (p,) share of T that is in a term's levels; 1 of a number.
        needed: About how many rows there would have to be; 0 if there are enough.
        reason: Why there is no estimate.
    """

    names: tuple[str, ...]
    coef: NDArray[np.float64]
    covariance: NDArray[np.float64]
    n: int
    left_out: int
    limiting: int
    shares: NDArray[np.float64]
    needed: int = 0
    reason: str = ""

    @property
    def se(self) -> NDArray[np.float64]:
        """(p,) robust standard errors."""
        return np.sqrt(np.diag(self.covariance))

    @property
    def rows(self) -> int:
        """All rows, complete or not."""
        return self.n + self.left_out

    @property
    def needed_rows(self) -> int:
        """About how many rows of these people the analysis needs."""
        return ceil(EVENTS_A_TERM * len(self.names) * self.rows / self.limiting) if self.limiting else 0

    def too_few(self, rows: int) -> bool:
        """Would so many rows of the same people have too few events for this analysis?"""
        return self.limiting * rows < EVENTS_A_TERM * len(self.names) * self.rows

    def draws(self, rng: np.random.Generator, draws: int) -> NDArray[np.float64]:
        """(draws, p) draws from the estimates' normal distribution; NaN where not estimable."""
        found = np.full((draws, len(self.coef)), np.nan)
        known = np.flatnonzero(np.isfinite(self.coef))
        noise = rng.normal(size=(draws, len(known)))
        if len(known):
            values, vectors = np.linalg.eigh(self.covariance[np.ix_(known, known)])
            found[:, known] = self.coef[known] + (noise * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
        return found


@dataclass(frozen=True)
class Term:
    """One column of an analysis: a number scaled by T, or a 0/1 for some levels."""

    column: str
    name: str
    mean: float = 0.0
    std: float = 1.0
    levels: tuple[int, ...] = ()
    share: float = 1.0


class Analysis:
    """An analysis with its terms fitted on T.

    Args:
        sides: The real sides.
        spec: What is asked.
        without: A covariate that is left out (the contrast's column, inside one of its levels).
    """

    def __init__(self, sides: RealSides, spec: AnalysisSpec, *, without: str | None = None) -> None:
        self.spec = spec
        self.covariates = [c for c in spec.covariates if c != without]
        self.terms = [t for c in self.covariates for t in _terms(sides.train, c)]
        self.first = [i for i, t in enumerate(self.terms) if t.column == self.covariates[0]] if self.covariates else []
        self.scale = 1.0
        self.problem = problem_of(sides.train, spec)
        if spec.kind == "linear" and not self.problem:
            known = number_of(sides.train, spec.outcome)
            self.scale = float(np.nanstd(known)) or 1.0 if np.isfinite(known).any() else 1.0

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the coefficients."""
        return tuple(t.name for t in self.terms)

    def data(self, side: Side, rows: NDArray[np.int64]) -> Data:
        """The complete cases among some rows of a side."""
        terms = (
            np.column_stack([_values(side, t)[rows] for t in self.terms]) if self.terms else np.zeros((len(rows), 0))
        )
        time = np.zeros(0)
        if self.spec.kind in ("logistic", "cox"):
            outcome = event_of(side, self.spec)[rows]
        else:
            outcome = number_of(side, self.spec.outcome)[rows] / self.scale
        whole = np.isfinite(terms).all(axis=1) & np.isfinite(outcome)
        if self.spec.kind == "poisson":
            whole &= outcome >= 0
        if self.spec.time is not None:
            time = number_of(side, self.spec.time)[rows]
            whole &= np.isfinite(time) & (time >= 0)
            time = time[whole]
        return Data(terms[whole], outcome[whole], time, side.clusters[rows][whole], rows[whole], int((~whole).sum()))

    def fit(self, parts: Sequence[Data]) -> Estimates:
        """The analysis on the rows of several sides together, whose subjects are different people."""
        data = _together(parts)
        n, p = len(data.outcome), len(self.terms)
        limiting = n
        if self.spec.kind in ("logistic", "cox"):
            events = int(data.outcome.sum())
            limiting = events if self.spec.kind == "cox" else min(events, n - events)
        nothing = Estimates(
            self.names, np.full(p, np.nan), np.full((p, p), np.nan), n, data.left_out, limiting,
            np.array([t.share for t in self.terms]),
        )  # fmt: skip
        if self.problem or not p:
            return replace(nothing, reason=self.problem or "no covariate varies among the training rows")
        if limiting < EVENTS_A_TERM * p:
            reason = f"{limiting} {'rows' if limiting == n else 'events'} for {p} coefficients"
            return replace(nothing, needed=nothing.needed_rows, reason=reason)
        found = self._fit(data)
        own = slice(len(found.coef) - p, None)
        return replace(nothing, coef=found.coef[own], covariance=found.covariance[own, own], reason=found.reason)

    def _fit(self, data: Data) -> Regression:
        if self.spec.kind == "cox":
            return fit_cox(data.terms, data.time, data.outcome > 0.5, data.clusters)
        whole = np.column_stack([np.ones(len(data.terms)), data.terms])
        return fit_glm(self.spec.kind, whole, data.outcome, data.clusters)


@dataclass(frozen=True)
class Fitted:
    """One analysis on all that it is fitted to."""

    spec: AnalysisSpec
    train: Estimates
    pooled: Estimates
    holdout: Estimates
    synthetic: Estimates


def real_fits(sides: RealSides, spec: AnalysisSpec) -> tuple[Analysis, Estimates, Estimates, Estimates]:
    """The analysis, and its estimates on T, on T and H together, and on H; the same for every generator."""

    def make() -> tuple[Analysis, Estimates, Estimates, Estimates]:
        analysis = Analysis(sides, spec)
        train, holdout = (analysis.data(s, np.arange(len(s))) for s in (sides.train, sides.holdout))
        return analysis, analysis.fit([train]), analysis.fit([train, holdout]), analysis.fit([holdout])

    return sides.once(f"inference/{spec.name}", make)


def fitted(ctx: EvaluationContext) -> list[Fitted]:
    """All prespecified analyses on all sides, made once."""

    def make() -> list[Fitted]:
        found = []
        for spec in ctx.plan.analyses:
            analysis, train, pooled, holdout = real_fits(ctx.sides, spec)
            synthetic = analysis.fit([analysis.data(ctx.synthetic, synthetic_rows(ctx))])
            found.append(Fitted(spec, train, pooled, holdout, synthetic))
        return found

    return ctx.once("inference", make)


def effects_between(real: Estimates, synthetic: Estimates) -> Effects:
    """The effects that the real side can estimate, on both sides.

    One that S cannot estimate is left out where S has too few rows for real people to fare better.
    """
    rare = ~np.isfinite(synthetic.coef) & (real.shares * synthetic.rows < 2 * FEWEST_ROWS)
    kept = np.isfinite(real.coef) & ~rare
    names = [n for n, k in zip(real.names, kept, strict=True) if k]
    return Effects(names, real.coef[kept], real.se[kept], synthetic.coef[kept], synthetic.se[kept])


def event_of(side: Side, spec: AnalysisSpec) -> NDArray[np.float64]:
    """(n,) 1 where the outcome is its positive level, 0 at another level, NaN where missing, no level, or a number."""
    if spec.outcome not in side.codes:
        return np.full(len(side), np.nan)
    column = next(c for c in side.encoder.columns if c.name == spec.outcome)
    levels = [str(level) for level in column.levels or []]
    positive = len(levels) - 1 if spec.positive is None else _place(spec.positive, levels)
    code = side.codes[spec.outcome]
    return np.where(code < 0, np.nan, (code == positive).astype(np.float64))


def synthetic_rows(ctx: EvaluationContext) -> NDArray[np.int64]:
    """At most as many rows of S as T has: the analyst of the synthetic cohort has no more than that of the real one."""
    size = min(len(ctx.synthetic), len(ctx.sides.train))
    return ctx.sides.sample(len(ctx.synthetic), size, "util.inference", "synthetic", ctx.replicate)


def _place(level: Level, levels: list[str]) -> int:
    return levels.index(str(level)) if str(level) in levels else -9


def _together(parts: Sequence[Data]) -> Data:
    shift, clusters = 0, []
    for part in parts:
        clusters.append(part.clusters + shift)
        shift += int(part.clusters.max()) + 1 if len(part.clusters) else 0
    return Data(
        np.concatenate([p.terms for p in parts]),
        np.concatenate([p.outcome for p in parts]),
        np.concatenate([p.time for p in parts]),
        np.concatenate(clusters),
        np.concatenate([p.rows for p in parts]),
        sum(p.left_out for p in parts),
    )


def problem_of(train: Side, spec: AnalysisSpec) -> str:
    """Why this kind of regression cannot be run on these columns; "" if it can."""
    columns = {c.name: c for c in train.encoder.columns}
    outcome = columns[spec.outcome]
    if spec.kind in ("logistic", "cox") and not (outcome.discrete and outcome.levels):
        return f"the outcome '{spec.outcome}' has no levels"
    if spec.kind in ("linear", "poisson") and outcome.discrete and outcome.kind == "categorical":
        return f"the outcome '{spec.outcome}' is not a number"
    if spec.time is not None and columns[spec.time].discrete and columns[spec.time].kind == "categorical":
        return f"the follow-up '{spec.time}' is not a number"
    return ""


def number_of(side: Side, name: str) -> NDArray[np.float64]:
    """(n,) values of a numeric column; of ordinal and binary ones their level as a number where levels are numbers."""
    if name in side.values:
        return side.values[name]
    column = next(c for c in side.encoder.columns if c.name == name)
    levels = column.levels or []
    plain = all(isinstance(level, int | float) for level in levels)
    worth = np.array([float(level) if plain else i for i, level in enumerate(levels)] + [np.nan], dtype=np.float64)
    return worth[np.where(side.codes[name] >= 0, side.codes[name], -1)]


def _values(side: Side, term: Term) -> NDArray[np.float64]:
    """(n,) a term's feature; NaN where the cell is missing or no level."""
    if not term.levels:
        return (number_of(side, term.column) - term.mean) / term.std
    code = side.codes[term.column]
    return np.where(code < 0, np.nan, np.isin(code, term.levels).astype(np.float64))


def _terms(train: Side, name: str) -> list[Term]:
    column = next(c for c in train.encoder.columns if c.name == name)
    if not column.discrete or column.kind == "ordinal":
        values = number_of(train, name)
        known = values[np.isfinite(values)]
        std = float(known.std()) if len(known) else 0.0
        if std == 0:
            return []
        unit = f" {column.unit}" if column.unit else ""
        said = f"per {std:.3g}{unit}" if not column.discrete else "trend"
        return [Term(name, f"{name} ({said})", float(known.mean()), std)]
    levels = column.levels or []
    counts = np.bincount(train.codes[name][train.codes[name] >= 0], minlength=len(levels))
    common = counts >= max(FEWEST_ROWS, FEWEST_SHARE * counts.sum())
    reference = 0 if column.kind == "binary" and common.all() else int(np.argmax(counts))
    shown = [i for i in range(len(levels)) if common[i] and i != reference]
    rare = tuple(i for i in range(len(levels)) if not common[i])
    shares = counts / max(counts.sum(), 1)
    found = [Term(name, f"{name} = {level_text(levels[i])}", levels=(i,), share=float(shares[i])) for i in shown]
    if rare and counts[list(rare)].sum() >= FEWEST_ROWS:
        found.append(Term(name, f"{name} = {OTHER}", levels=rare, share=float(shares[list(rare)].sum())))
    return found


def level_text(level: Level) -> str:
    """A level in words."""
    return {True: "yes", False: "no"}[level] if isinstance(level, bool) else str(level)
