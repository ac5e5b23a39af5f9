"""Codes of blocks: the commonest first, each from one shallow tree on a few columns and a few commoner codes.

A thousand codes cannot all look at each other. Each looks at those columns and commoner codes that tell most about it,
and its leaves must hold enough people who have it; codes that fewer than `rare_level_rows` subjects have look at
nothing. Leaves store the counts above zero and how many zeros there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.generators.cart.order import indicators
from pipeline.generators.cart.predictors import Predictors
from pipeline.generators.cart.trees import DonorTree, Growth, grow, with_donors, without_zeros
from pipeline.generators.seeds import derive_seed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from pipeline.encoding.encoder import Encoded, TableEncoder
    from pipeline.generators.cart.columns import TrainingRows

MOST_COLUMNS = 6
DEPTH = 6
EXPECTED = 5
"""People with the code that a leaf is expected to hold."""
SAMPLE = 10_000
SIGNIFICANT = 10.0
"""Least n r^2 of two codes (chi-squared with one degree of freedom, p = .0016)."""
STRIPE = 512
KEY = "\x1f"
"""No column's name begins with it."""


@dataclass(frozen=True)
class Code:
    """A code of a block: where it lies, and the key under which others look at it."""

    key: str
    block: str
    position: int


@dataclass(frozen=True)
class CodeModel:
    """The tree of one code and what it looks at."""

    code: Code
    predictors: Predictors
    tree: DonorTree


def codes_in_order(encoder: TableEncoder) -> list[Code]:
    """Every code that some training row has, common ones first, the most prevalent before the others."""
    found = [
        (not block.common[i], -float(block.prevalence[i]), name, i)
        for name, block in encoder.blocks.items()
        for i in range(len(block.used))
    ]
    return [Code(f"{KEY}{k}", name, i) for k, (_, _, name, i) in enumerate(sorted(found, key=lambda x: x[:2]))]


def counts_of(rows: Encoded, code: Code) -> NDArray[np.int16]:
    """(n,) counts of one code."""
    return rows.blocks[code.block][:, code.position]


def earlier_of(
    encoder: TableEncoder, rows: Encoded, codes: list[Code], columns: list[str], most_codes: int
) -> list[tuple[str, ...]]:
    """For each code the keys of what it looks at: columns by mutual information, commoner codes by correlation.

    Both are told from the first 10,000 rows; a code that too few subjects have looks at nothing.
    """
    if not codes:
        return []
    part = rows.take(np.arange(min(rows.n, SAMPLE)))
    common = [c for c in codes if encoder.blocks[c.block].common[c.position]]
    present = np.stack([counts_of(part, c) > 0 for c in common], axis=1).astype(np.float32) if common else None
    out: list[tuple[str, ...]] = [()] * len(codes)
    if present is None:
        return out
    told = _told_by_columns(encoder, part, columns, present)
    rate = present.mean(axis=0)
    scaled = (present - rate) / np.sqrt(np.maximum(rate * (1 - rate), 1e-9))
    for start in range(0, len(common), STRIPE):
        stripe = slice(start, start + STRIPE)
        strength = (scaled.T @ scaled[:, stripe] / part.n) ** 2
        for i in range(start, min(start + STRIPE, len(common))):
            earlier = strength[:i, i - start]
            near = np.argsort(-earlier, kind="stable")[:most_codes]
            near = near[earlier[near] * part.n > SIGNIFICANT]
            best = np.argsort(-told[:, i], kind="stable")[:MOST_COLUMNS]
            best = best[told[best, i] > 0]
            out[i] = (*(columns[j] for j in best), *(common[j].key for j in near))
    return out


def _told_by_columns(
    encoder: TableEncoder, part: Encoded, columns: list[str], present: NDArray[np.float32]
) -> NDArray[np.float64]:
    """(columns, codes) mutual information of a column with having the code, less what chance gives."""
    rate = present.mean(axis=0, dtype=np.float64)
    out = np.zeros((len(columns), present.shape[1]))
    for i, name in enumerate(columns):
        pieces = indicators(encoder, part, name)
        share = pieces.mean(axis=0, dtype=np.float64)[:, None]
        both = (pieces.T @ present).astype(np.float64) / part.n
        with np.errstate(divide="ignore", invalid="ignore"):
            have = np.where(both > 0, both * np.log(both / (share * rate)), 0.0)
            lack = share - both
            not_have = np.where(lack > 1e-12, lack * np.log(lack / (share * (1 - rate))), 0.0)
        out[i] = (have + not_have).sum(axis=0) - (pieces.shape[1] - 1) / (2 * part.n)
    return np.nan_to_num(out)


def fit_code(
    data: TrainingRows, code: Code, earlier: tuple[str, ...], leaf: int, most_rows: int, seed: int
) -> CodeModel:
    """The tree of one code."""
    rng = np.random.default_rng(derive_seed(seed, "code", code.block, code.position))
    held, _ = data.chosen(1.0, most_rows, rng)
    counts = counts_of(data.rows, code)[held]
    present = counts > 0
    plain = {name: data.plain[name][held] for name in earlier}
    target = np.log1p(counts.astype(np.float64))[:, None]
    predictors = Predictors.ordered_for(data.encoder, earlier, plain, target)
    matrix = predictors.matrix(plain, len(held))
    rare_side = max(1, min(int(present.sum()), int((~present).sum()))) if counts.max(initial=0) <= 1 else present.sum()
    least = max(leaf, -(-EXPECTED * len(held) // max(1, int(rare_side))))
    growth = Growth(least, derive_seed(seed, "ties", code.block, code.position) % 2**32, depth=DEPTH)
    tree = grow(matrix, present.astype(np.int64) if counts.max(initial=0) <= 1 else target, growth)
    return CodeModel(code, predictors, without_zeros(with_donors(tree, matrix, counts, data.subject[held], leaf)))


def draw_code(
    model: CodeModel, plain: Mapping[str, NDArray[np.float32]], n: int, rng: np.random.Generator
) -> NDArray[np.int16]:
    """(n,) counts for rows whose columns and commoner codes are in `plain`."""
    _, place = model.tree.draw(model.predictors.matrix(plain, n), rng)
    stored = np.r_[model.tree.donors, np.zeros(1, dtype=np.int16)]
    return stored[place].astype(np.int16)
