"""Association of columns of any two kinds: correlation, correlation ratio, Cramér's V.

A mixed matrix: Pearson's correlation of two numbers (ordinal columns count as numbers; rows where both are known), the
correlation ratio of a number within the levels of a column, bias-corrected Cramér's V of two columns of levels; missing
is a level. The presence of a block's 200 most variable codes counts as columns of two levels. Squared, the V of a
two-level column and any other is a correlation ratio, so that one product of the rows gives all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.cells import MISSING
from pipeline.evaluation.fidelity.correlation import drawn
from pipeline.evaluation.fidelity.influence import error_of, holdout_draws
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec, TooFew

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext, PartName, RealSides
    from pipeline.evaluation.encoding import Side
    from pipeline.evaluation.results import MetricResult

    Matrix = NDArray[np.float64]

KINDS = ("number", "level", "code")
ASSOC = MetricSpec(
    id="fid.dep.assoc",
    family="fidelity",
    direction=-1,
    range=(0.0, 2.0),
    needs=frozenset({"T", "H", "S"}),
    version="1",
    title="Association error (RMSE)",
    caption="Root mean squared difference between the associations of all pairs of columns, holdout against synthetic: "
    "correlation of two numbers, correlation ratio of a number within levels, Cramér's V of two columns of levels. "
    "Lower is better; the null is what fresh real rows have.",
    source="Pearson; Fisher 1925 (correlation ratio); Cramér's V with Bergsma's correction (2013)",
)


@dataclass(frozen=True)
class Columns:
    """Some rows of one side, ready for associations.

    Attributes:
        numbers: (n, a) numbers, then the (n, q) codes as 0/1; 0 where unknown.
        known: (n, a + q) whether there is a value.
        levels: (n, l) level of each column, missing and unknown levels as levels of their own.
        sizes: (l,) how many levels each has.
        codes: How many of the numbers are codes.
    """

    numbers: NDArray[np.float32]
    known: NDArray[np.bool_]
    levels: NDArray[np.int64]
    sizes: NDArray[np.int64]
    codes: int

    @property
    def kinds(self) -> NDArray[np.int64]:
        """(d,) position in KINDS of each row of the matrix: numbers, codes, then columns of levels."""
        plain = self.numbers.shape[1] - self.codes
        return np.repeat([0, 2, 1], [plain, self.codes, self.levels.shape[1]])


class Associations:
    """The (d, d) matrix of associations of some rows, and the influence of each row on figures of it.

    Args:
        columns: The rows.
    """

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        n = len(columns.numbers)
        known = columns.known.astype(np.float32)
        have = np.maximum(known.sum(axis=0, dtype=np.float64), 1.0)
        mean = columns.numbers.sum(axis=0, dtype=np.float64) / have
        centred = np.where(columns.known, columns.numbers - mean, 0.0)
        spread = np.sqrt((centred**2).sum(axis=0) / have)
        flat = spread <= 1e-12 * np.maximum(1.0, np.abs(mean))
        self.unit: NDArray[np.float32] = (centred / np.where(flat, np.inf, spread)).astype(np.float32)
        self.known: NDArray[np.float32] = known
        self.together = np.maximum((known.T @ known).astype(np.float64), 1.0)
        self.correlation = self._pearson()
        p, levels = self.unit.shape[1], columns.levels.shape[1]
        self.squares = np.zeros((levels, p + levels))
        self.means: list[NDArray[np.float64]] = []
        for c in range(levels):
            self.squares[c, :p] = self._ratio(c)
            for other in range(levels):
                if other != c:
                    self.squares[c, p + other] = self._contingency(c, other)[0]
        self.floor = 1 / np.sqrt(max(n, 1))
        self.matrix, self.slope = self._associations(max(n, 2))

    def _pearson(self) -> Matrix:
        """(p, p) correlations over the rows where both are known, 0 for constants."""
        x, k = self.unit.astype(np.float64), self.known.astype(np.float64)
        sums, squares = x.T @ k, (x * x).T @ k
        n = self.together
        covariance = x.T @ x / n - sums * sums.T / n**2
        variance = np.maximum(squares / n - (sums / n) ** 2, 0.0)
        scale = np.sqrt(variance * variance.T)
        return np.where(scale > 1e-12, np.clip(covariance / np.where(scale > 1e-12, scale, 1.0), -1.0, 1.0), 0.0)

    def _ratio(self, c: int) -> NDArray[np.float64]:
        """(p,) squared correlation ratio of each number within the levels of column c; keeps the levels' means."""
        size, level = int(self.columns.sizes[c]), self.columns.levels[:, c]
        hot = np.zeros((size, len(level)), dtype=np.float32)
        hot[level, np.arange(len(level))] = 1.0
        rows = (hot @ self.known).astype(np.float64)
        means = (hot @ self.unit).astype(np.float64) / np.maximum(rows, 1.0)
        self.means.append(means)
        return np.clip((rows * means**2).sum(axis=0) / np.maximum(rows.sum(axis=0), 1.0), 0.0, 1.0)

    def _contingency(self, c: int, other: int) -> tuple[float, NDArray[np.float64]]:
        """Mean squared contingency of two columns of levels, and (n,) the influence of the rows on it."""
        a, b = self.columns.levels[:, c], self.columns.levels[:, other]
        wide = int(self.columns.sizes[other])
        cell = a * wide + b
        p = np.bincount(cell, minlength=int(self.columns.sizes[c]) * wide).reshape(-1, wide) / max(len(a), 1)
        rows, columns = (np.where(x > 0, x, 1.0) for x in (p.sum(axis=1), p.sum(axis=0)))
        ratio = p / rows[:, None] / columns[None, :]
        share = p * ratio
        slope = 2 * ratio - (share.sum(axis=1) / rows)[:, None] - (share.sum(axis=0) / columns)[None, :]
        return max(float(share.sum()) - 1.0, 0.0), slope.ravel()[cell]

    def _associations(self, n: int) -> tuple[Matrix, Matrix]:
        """The matrix, and its derivative: with respect to the correlation, or to the square of a ratio."""
        columns = self.columns
        p, codes = self.unit.shape[1], columns.codes
        d = p + columns.levels.shape[1]
        matrix, slope = np.zeros((d, d)), np.zeros((d, d))
        matrix[:p, :p], slope[:p, :p] = self.correlation, 1.0
        plain = p - codes
        matrix[plain:p, :plain] = np.abs(self.correlation[plain:, :plain])
        slope[plain:p, :plain] = np.sign(self.correlation[plain:, :plain])
        two = np.full((codes, codes), 2)
        corrected, rate = self._corrected(self.correlation[plain:, plain:] ** 2, two, two, n)
        matrix[plain:p, plain:p], slope[plain:p, plain:p] = corrected, rate * 2 * self.correlation[plain:, plain:]
        occupied = np.array([len(np.unique(columns.levels[:, c])) for c in range(columns.levels.shape[1])], dtype=int)
        ratio = np.sqrt(self.squares[:, :plain])
        matrix[p:, :plain], slope[p:, :plain] = ratio, 0.5 / np.maximum(ratio, self.floor)
        others = np.r_[np.full(codes, 2), occupied].astype(int)
        mine = np.broadcast_to(occupied[:, None], (len(occupied), len(others)))
        corrected, rate = self._corrected(
            self.squares[:, plain:], mine, np.broadcast_to(others[None, :], mine.shape), n
        )
        matrix[p:, plain:], slope[p:, plain:] = corrected, rate
        lower = np.tril_indices(d, -1)
        for x in (matrix, slope):
            x[lower[1], lower[0]] = x[lower]
            np.fill_diagonal(x, 0.0)
        return matrix, slope

    def _corrected(
        self, squared: Matrix, rows: NDArray[np.int64], columns: NDArray[np.int64], n: int
    ) -> tuple[Matrix, Matrix]:
        """Bias-corrected Cramér's V from mean squared contingency, and its derivative; 0 where a column is constant."""
        lowered = np.maximum(squared - (rows - 1) * (columns - 1) / (n - 1), 0.0)
        least = np.minimum(rows - (rows - 1) ** 2 / (n - 1), columns - (columns - 1) ** 2 / (n - 1)) - 1
        usable = least > 1e-9
        value = np.sqrt(np.where(usable, np.clip(lowered / np.where(usable, least, 1.0), 0.0, 1.0), 0.0))
        rate = np.where(value > 0, 0.5 / np.maximum(value, self.floor) / np.where(usable, least, 1.0), 0.0)
        return value, rate

    def influence(self, gradient: Matrix) -> NDArray[np.float64]:
        """(n,) influence of the rows on a figure with this (d, d) symmetric gradient (once a pair); its mean is 0."""
        p = self.unit.shape[1]
        n = len(self.unit)
        by_pair = gradient * self.slope
        scaled = (by_pair[:p, :p] * n / self.together).astype(np.float32)
        z = self.unit
        found = np.einsum("ij,ij->i", z @ scaled, z, dtype=np.float64) / 2
        own = (scaled * self.correlation).astype(np.float32)
        found -= np.einsum("ij,ij->i", (z * z) @ own, self.known, dtype=np.float64) / 2
        have = np.maximum(self.known.sum(axis=0, dtype=np.float64), 1.0)
        for c in range(self.columns.levels.shape[1]):
            weight = by_pair[p + c, :p] * n / have
            means, level = self.means[c], self.columns.levels[:, c]
            cross = z @ (2 * weight * means).T.astype(np.float32) - self.known @ (weight * means**2).T.astype(
                np.float32
            )
            found += cross[np.arange(n), level] - (z * z) @ (weight * self.squares[c, :p]).astype(np.float32)
            for other in range(c):
                if by_pair[p + c, p + other]:
                    found += by_pair[p + c, p + other] * self._contingency(c, other)[1]
        return found - found.mean()


@metric(ASSOC)
def assoc(ctx: EvaluationContext) -> list[MetricResult]:
    """RMSE over all pairs of columns, and over the pairs of each two kinds."""
    varied, kinds = _varied(ctx.sides)
    if len(varied) < 2 or ctx.matched_size < 2:
        why = "fewer than two columns with spread" if len(varied) < 2 else TooFew(ctx.matched_size, 2, "rows a side")
        return [ASSOC.result(None, n=ctx.matched_size, note=why)]
    real, made = associations(ctx, "H"), associations(ctx, "S")
    i, j = np.triu_indices(len(varied), k=1)
    i, j = varied[i], varied[j]
    rows = [_rmse(ctx, real, made, (i, j), "")]
    for a, b in combinations_with_replacement(range(len(KINDS)), 2):
        low, high = np.minimum(kinds[i], kinds[j]), np.maximum(kinds[i], kinds[j])
        chosen = (low == a) & (high == b)
        if chosen.any() and not chosen.all():
            rows.append(_rmse(ctx, real, made, (i[chosen], j[chosen]), f"{KINDS[a]} and {KINDS[b]}"))
    return rows


def associations(ctx: EvaluationContext, name: PartName) -> tuple[Associations, list[Matrix]]:
    """Associations of a side's first matched draw, and the matrices of all draws."""
    keeper = ctx if name == "S" else ctx.sides

    def make() -> tuple[Associations, list[Matrix]]:
        first, *others = drawn(ctx, name)
        kept = Associations(columns_of(ctx.sides, ctx.side(name), first))
        rest = [Associations(columns_of(ctx.sides, ctx.side(name), rows)).matrix for rows in others]
        return kept, [kept.matrix, *rest]

    return keeper.once(f"association/{name}/{ctx.matched_size}", make)


def columns_of(sides: RealSides, side: Side, rows: NDArray[np.int64]) -> Columns:
    """Some rows of a side as numbers, codes and levels; numbers on T's scale, which conditions the sums."""
    numbers, known, levels, sizes = [], [], [], []
    for column in sides.encoder.columns:
        if column.discrete and column.kind != "ordinal":
            code = side.codes[column.name][rows]
            size = len(column.levels or [])
            levels.append(np.where(code >= 0, code, size + (MISSING - code)))
            sizes.append(size + 2)
            continue
        if column.discrete:
            code = side.codes[column.name][rows]
            values = np.where(code >= 0, code, np.nan).astype(np.float64)
        else:
            rule = sides.encoder.numeric[column.name]
            values = (side.values[column.name][rows] - rule.mean) / (rule.std or 1.0)
        known.append(~np.isnan(values))
        numbers.append(np.where(known[-1], values, 0.0).astype(np.float32))
    codes = 0
    for block in sides.encoder.blocks:
        presence = side.presence[block.name][rows][:, sides.encoder.kept_codes[block.name]].toarray()
        codes += presence.shape[1]
        numbers += list(presence.T.astype(np.float32))
        known += [np.ones(len(rows), dtype=bool)] * presence.shape[1]
    n = len(rows)
    return Columns(
        np.stack(numbers, axis=1) if numbers else np.zeros((n, 0), dtype=np.float32),
        np.stack(known, axis=1) if known else np.zeros((n, 0), dtype=bool),
        np.stack(levels, axis=1) if levels else np.zeros((n, 0), dtype=np.int64),
        np.array(sizes, dtype=np.int64),
        codes,
    )


def _varied(sides: RealSides) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions in the matrix of the columns that vary in T, and the (d,) kinds of all."""

    def make() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        columns = columns_of(sides, sides.train, np.arange(len(sides.train)))
        numbers = [len(np.unique(x[k])) > 1 for x, k in zip(columns.numbers.T, columns.known.T, strict=True)]
        levels = [len(np.unique(x)) > 1 for x in columns.levels.T]
        return np.flatnonzero([*numbers, *levels]), columns.kinds

    return sides.once("association/varied", make)


def _rmse(
    ctx: EvaluationContext,
    real: tuple[Associations, list[Matrix]],
    made: tuple[Associations, list[Matrix]],
    pairs: tuple[NDArray[np.int64], NDArray[np.int64]],
    key1: str,
) -> MetricResult:
    value = float(
        np.mean([np.sqrt(np.mean((a[pairs] - b[pairs]) ** 2)) for a, b in zip(real[1], made[1], strict=True)])
    )
    difference = real[1][0][pairs] - made[1][0][pairs]
    size = float(np.sqrt(np.mean(difference**2)))
    gradient = np.zeros_like(real[1][0])
    if size > 0:
        gradient[pairs] = difference / (len(difference) * size)
    gradient += gradient.T
    left, right = real[0].influence(gradient), -made[0].influence(gradient)
    return ASSOC.result(
        value,
        se=error_of(ctx, left, right),
        n=ctx.matched_size,
        key1=key1,
        draws=holdout_draws(ctx, value, left) if not key1 else None,
    )
