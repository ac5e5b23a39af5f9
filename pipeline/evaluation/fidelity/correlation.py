"""Correlation matrices of mixed rows, and how figures made of them vary.

A matrix is of the matched draws of one side. Features are those of `LinearDesign`: numbers, binary columns as 0/1,
ordinal columns as positions, nominal columns as one 0/1 column a level, code blocks as presence of their 200 most
variable codes; missing cells stand at the mean of T and are told by 0/1 mask columns. All codes of a block are
compared from products of sparse rows. What the figures are is in `dependence.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.linear_design import LinearDesign

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from pipeline.evaluation.context import EvaluationContext, PartName, RealSides
    from pipeline.evaluation.encoding import Side

    Matrix = NDArray[np.float64]
    Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]

FEWEST_CARRIERS = 11
"""Training rows that carry a code below which it is left out of the figure of all codes, and never named in a report."""
CHUNK = 2_048
"""Rows that are dense at once."""
DENSE_ROW = 0.15
"""Mean share of codes a row beyond which products of all codes are faster dense."""


@dataclass(frozen=True)
class Correlated:
    """Correlations of one side.

    Attributes:
        matrices: (p, p) correlations of each matched draw, 0 for constant features.
        unit: (size, p) float32 standardised features of the first draw, 0 where constant.
        constant: Most features that are constant in a draw.
    """

    matrices: list[Matrix]
    unit: NDArray[np.float32]
    constant: int


@dataclass(frozen=True)
class Design:
    """The encoded features and the pairs of them that are compared.

    Pairs inside one source column (levels of one column, a value and its mask) are fixed by the marginals and left out.
    """

    linear: LinearDesign
    pairs: Pairs
    ranked: NDArray[np.int64]
    """Features whose ranks differ from their values: numbers and ordinal columns."""

    @property
    def names(self) -> list[str]:
        """Names of the features."""
        return self.linear.names


def design_of(sides: RealSides) -> Design:
    """The features, fitted on T; made once."""

    def make() -> Design:
        linear = LinearDesign(sides.train)
        many = {c.name for c in sides.encoder.columns if c.numeric or c.kind == "ordinal"}
        ranked = [i for i, (n, g) in enumerate(zip(linear.names, linear.groups, strict=True)) if n == g and g in many]
        return Design(linear, apart(linear.groups), np.array(ranked, dtype=np.int64))

    return sides.once("correlation/design", make)


def apart(groups: Sequence[str]) -> Pairs:
    """Positions i < j of all pairs of features that come from different columns."""
    numbers = np.unique(np.array(groups, dtype=str), return_inverse=True)[1] if groups else np.zeros(0, dtype=np.int64)
    i, j = np.triu_indices(len(numbers), k=1)
    differ = numbers[i] != numbers[j]
    return i[differ], j[differ]


def correlated(ctx: EvaluationContext, name: PartName, *, ranks: bool = False) -> Correlated:
    """Correlations of a side over the matched draws; with `ranks` of the features' ranks (Spearman's)."""
    keeper = ctx if name == "S" else ctx.sides
    key = f"correlation/{name}/{ctx.matched_size}/{'ranks' if ranks else 'values'}"

    def make() -> Correlated:
        design = design_of(ctx.sides)
        matrices, unit, constant = [], np.zeros((0, 0), dtype=np.float32), 0
        for number, rows in enumerate(drawn(ctx, name)):
            features = design.linear.transform(ctx.side(name), rows)
            if ranks:
                features = _ranked(features, design.ranked)
            matrix, flat = correlations(features)
            if not number:
                unit = standardised(features)
            matrices.append(matrix)
            constant = max(constant, flat)
        return Correlated(matrices, unit, constant)

    return keeper.once(key, make)


def drawn(ctx: EvaluationContext, name: PartName) -> list[NDArray[np.int64]]:
    """The rows of each matched draw of a side."""
    if name == "H":
        return [draw.real for draw in ctx.matched]
    if name == "S":
        return [draw.synthetic for draw in ctx.matched]
    return [ctx.rows(name, "matched", r) for r in range(len(ctx.matched))]


def correlations(x: NDArray[np.floating]) -> tuple[Matrix, int]:
    """(p, p) Pearson correlations of (n, p) numbers, 0 for constant columns, and how many columns are constant."""
    x = np.asarray(x, dtype=np.float64)
    centred = x - x.mean(axis=0)
    flat = (x == x[:1]).all(axis=0)
    norm = np.sqrt((centred**2).sum(axis=0))
    centred /= np.where(flat | (norm == 0), np.inf, norm)
    return np.clip(centred.T @ centred, -1.0, 1.0), int(flat.sum())


def standardised(x: NDArray[np.floating]) -> NDArray[np.float32]:
    """(n, p) float32: centred, divided by the standard deviation, 0 for constant columns."""
    values = np.asarray(x, dtype=np.float64)
    spread = values.std(axis=0)
    flat = (values == values[:1]).all(axis=0) | (spread == 0)
    return ((values - values.mean(axis=0)) / np.where(flat, np.inf, spread)).astype(np.float32)


def row_influence(unit: NDArray[np.floating], matrix: Matrix, gradient: Matrix) -> NDArray[np.float64]:
    """(n,) influence of rows on a figure of their correlations; its mean is 0.

    Args:
        unit: (n, p) standardised features, 0 where constant.
        matrix: (p, p) their correlations.
        gradient: (p, p) symmetric: the figure's derivative with respect to each pair's correlation, counted once a
            pair, 0 elsewhere.

    Source: the influence of a correlation is z_i z_j - C_ij (z_i² + z_j²) / 2 (Devlin, Gnanadesikan, Kettenring 1975).
    """
    slope = gradient.astype(np.float32)
    own = (gradient * matrix).sum(axis=1).astype(np.float32)
    found = np.empty(len(unit))
    for lo in range(0, len(unit), CHUNK):
        z = np.asarray(unit[lo : lo + CHUNK], dtype=np.float32)
        found[lo : lo + CHUNK] = (np.einsum("ij,ij->i", z @ slope, z) - (z * z) @ own) / 2
    return found


def pair_draws(unit: NDArray[np.float32], matrix: Matrix, pairs: Pairs, weights: NDArray[np.float32]) -> Matrix:
    """(draws, pairs) correlations under (draws, n) bootstrap weights, to first order."""
    share = weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-12)
    squares = share @ (unit * unit)
    found = np.empty((len(weights), len(pairs[0])))
    for lo in range(0, len(pairs[0]), 1_000):
        i, j = pairs[0][lo : lo + 1_000], pairs[1][lo : lo + 1_000]
        at = matrix[i, j]
        found[:, lo : lo + 1_000] = at + share @ (unit[:, i] * unit[:, j]) - at * (squares[:, i] + squares[:, j]) / 2
    return found


def code_correlations(presence: csr_matrix) -> Matrix:
    """(codes, codes) correlations of zeros and ones from their products, 0 for codes that all or no rows carry."""
    n = presence.shape[0]
    ones = np.asarray(presence.sum(axis=0, dtype=np.float64)).ravel()
    if presence.nnz > DENSE_ROW * n * presence.shape[1]:
        together = np.zeros((len(ones), len(ones)))
        for lo in range(0, n, CHUNK):
            part = presence[lo : lo + CHUNK].toarray().astype(np.float32)
            together += part.T @ part
    else:
        together = np.asarray((presence.T @ presence).toarray(), dtype=np.float64)
    share = ones / max(n, 1)
    covariance = together / max(n, 1) - np.outer(share, share)
    spread = np.sqrt(np.maximum(share * (1 - share), 0.0))
    scale = np.where((ones == 0) | (ones == n), np.inf, spread)
    return np.clip(covariance / np.outer(scale, scale), -1.0, 1.0)


def code_influence(presence: csr_matrix, matrix: Matrix, gradient: Matrix) -> NDArray[np.float64]:
    """(n,) `row_influence` of zeros and ones, dense a chunk of rows at a time."""
    share = np.asarray(presence.mean(axis=0, dtype=np.float64)).ravel()
    scale = np.where((share <= 0) | (share >= 1), np.inf, np.sqrt(np.maximum(share * (1 - share), 0.0)))
    middle, width = share.astype(np.float32), scale.astype(np.float32)
    return np.concatenate(
        [
            row_influence((presence[lo : lo + CHUNK].toarray() - middle) / width, matrix, gradient)
            for lo in range(0, presence.shape[0], CHUNK)
        ]
        or [np.zeros(0)]
    )


def common_codes(sides: RealSides) -> dict[str, NDArray[np.int64]]:
    """Of each block the codes that at least `FEWEST_CARRIERS` training rows carry, and one does not."""

    def make() -> dict[str, NDArray[np.int64]]:
        found = {}
        for name, matrix in sides.train.presence.items():
            carriers = np.asarray(matrix.sum(axis=0)).ravel()
            found[name] = np.flatnonzero((carriers >= FEWEST_CARRIERS) & (carriers < matrix.shape[0]))
        return found

    return sides.once("correlation/common_codes", make)


def code_rows(side: Side, codes: dict[str, NDArray[np.int64]], rows: NDArray[np.int64]) -> csr_matrix:
    """(rows, codes) presence of the given codes of all blocks, side by side."""
    from scipy.sparse import csr_matrix, hstack

    return csr_matrix(hstack([side.presence[name][rows][:, chosen] for name, chosen in codes.items()], format="csr"))


def _ranked(features: NDArray[np.float32], columns: NDArray[np.int64]) -> NDArray[np.float32]:
    """The features with some of them replaced by their ranks; those of two values would only be shifted and scaled."""
    from scipy.stats import rankdata

    found = features.copy()
    found[:, columns] = rankdata(features[:, columns], axis=0)
    return found
