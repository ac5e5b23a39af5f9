"""Protected groups and their cells with a label, as generators of the family see them: in vectors, in rows, out of proportion.

Several protected columns are crossed. A cell's number is group * labels + label. How far a cell is out of proportion is the log
of its odds among drawn rows over its odds among training rows (LDS; Bt-GAN, definition 7), with 1/2 added to every count
(Jeffreys), so that it is finite. Figures of published rows are `pipeline/evaluation/fairness/representation.py`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import ConfigError
from pipeline.fairness.cells import level_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from pipeline.encoding.encoder import Encoded, LevelCodec, TableEncoder
    from pipeline.generators.adversarial.vector import RowBlocks

MOST_GROUPS = 500
SMALL = 11
"""Rows below which a group's labels would be single people's: it is not balanced, nor named in a report."""
FEW = 20
"""Real rows below which a cell's weight is made of those of its group and its label."""
MILD, STRONG = -float(np.log(0.9)), -float(np.log(0.8))
MOST_RATIO = 50.0


@dataclass(frozen=True)
class Groups:
    """The crossed groups of the protected columns.

    Attributes:
        columns: The protected columns.
        sizes: States of each, missing and pooled rare levels included.
        names: Name of each crossed group.
    """

    columns: tuple[str, ...]
    sizes: tuple[int, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, encoder: TableEncoder, columns: Sequence[str]) -> Groups:
        """The groups of these columns.

        Raises:
            ConfigError: there would be more than 500.
        """
        sizes = tuple(encoder.levels[k].states for k in columns)
        if np.prod(sizes, dtype=np.int64) > MOST_GROUPS:
            raise ConfigError(
                f"The protected columns make {int(np.prod(sizes, dtype=np.int64)):,} groups, more than {MOST_GROUPS}.",
                where="protected",
                todo="Name fewer columns, or columns with fewer levels.",
            )
        names = [""]
        for column in columns:
            parts = [f"{column} = {s}" for s in state_names(encoder.levels[column])]
            names = [", ".join(filter(None, [name, part])) for name in names for part in parts]
        return cls(tuple(columns), sizes, tuple(names))

    def __len__(self) -> int:
        return len(self.names)

    def of_rows(self, rows: Encoded) -> NDArray[np.int64]:
        """(n,) group of each row."""
        return self.crossed([rows.states[k] for k in self.columns], rows.n)

    def crossed(self, states: Sequence[NDArray[np.integer]], n: int) -> NDArray[np.int64]:
        """(n,) group of each row from its state in each column."""
        number = np.zeros(n, dtype=np.int64)
        for state, size in zip(states, self.sizes, strict=True):
            number = number * size + state
        return number

    def ones(self, vectors: Tensor, blocks: RowBlocks) -> Tensor:
        """(n, groups) one-hots of (n, width) vectors, differentiable in them."""
        out = vectors.new_ones(len(vectors), 1)
        for column, size in zip(self.columns, self.sizes, strict=True):
            part = vectors[:, blocks.start(column) : blocks.start(column) + size]
            out = (out[:, :, None] * part[:, None, :]).flatten(1)
        return out


def state_names(level: LevelCodec) -> list[str]:
    """A name for each state of a column."""
    levels = level.column.levels or []
    names = [level_name(levels[i]) for i in level.kept]
    return [*names, *["rare levels"] * level.has_rare, *["missing"] * level.has_missing]


def independent(real: NDArray[np.integer]) -> NDArray[np.int64]:
    """(groups, labels) rows of each cell if as many of each group had each label."""
    product = np.outer(real.sum(axis=1), real.sum(axis=0)) / max(1, int(real.sum()))
    return np.asarray(np.rint(product), dtype=np.int64)


def disparities(drawn: NDArray[np.number], real: NDArray[np.number]) -> NDArray[np.float64]:
    """LDS of each cell, for counts of drawn and of training rows in one shape."""

    def log_odds(count: NDArray[np.number]) -> NDArray[np.float64]:
        return np.asarray(np.log((count + 0.5) / (count.sum() - count + 0.5)), dtype=np.float64)

    return log_odds(drawn) - log_odds(real)


def standard_errors(drawn: NDArray[np.number], real: NDArray[np.number]) -> NDArray[np.float64]:
    """Of `disparities`, to first order for rare cells: the root of 1 / drawn + 1 / real."""
    return np.asarray(np.sqrt(1 / (drawn + 0.5) + 1 / (real + 0.5)), dtype=np.float64)


def weights(drawn: NDArray[np.number], real: NDArray[np.number], kappa: float = 1.0) -> NDArray[np.float64]:
    """(groups, labels) weight of a training row in each cell: exp(-kappa LDS), the largest at most 50 times the smallest.

    Under-represented cells weigh more. The published weight, LDS over the sum of all LDS, is negative for most of them. A cell
    of fewer than 20 training rows takes the product of its group's and its label's weights.
    """
    out = np.exp(-kappa * disparities(drawn, real))
    alone = np.outer(
        np.exp(-kappa * disparities(drawn.sum(axis=1), real.sum(axis=1))),
        np.exp(-kappa * disparities(drawn.sum(axis=0), real.sum(axis=0))),
    )
    return bounded(np.where(real < FEW, alone, out), real)


def adapted(now: NDArray[np.float64], drawn: NDArray[np.number], real: NDArray[np.number]) -> NDArray[np.float64]:
    """Weights moved a quarter of the way against what is out of proportion for certain."""
    found = disparities(drawn, real)
    told = (np.abs(found) > np.maximum(MILD, 2 * standard_errors(drawn, real))) & (real >= FEW)
    return bounded(now * np.exp(-0.25 * np.where(told, found, 0.0)), real)


def bounded(weight: NDArray[np.float64], real: NDArray[np.number]) -> NDArray[np.float64]:
    """Weights of which none is more than 50 times another, of mean 1 over the training rows."""
    root = np.sqrt(MOST_RATIO)
    middle = np.exp(np.average(np.log(weight), weights=np.maximum(real, 1e-9)))
    clipped = np.clip(weight / middle, 1 / root, root)
    return np.asarray(clipped / np.average(clipped, weights=np.maximum(real, 1e-9)), dtype=np.float64)


def information(counts: NDArray[np.number]) -> float:
    """Mutual information in nats of group and label, from (groups, labels) counts."""
    joint = counts / max(1.0, float(counts.sum()))
    product = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    at = joint > 0
    return float((joint[at] * np.log(joint[at] / product[at])).sum())


def category(disparity: float, drawn: int) -> str:
    """In words: missing (also: none drawn), under, adequate, over or over+."""
    if drawn == 0 or disparity < -STRONG:
        return "missing"
    if disparity < -MILD:
        return "under"
    if disparity <= MILD:
        return "adequate"
    return "over" if disparity <= STRONG else "over+"


def table(names: Sequence[str], drawn: NDArray[np.int64], wanted: NDArray[np.int64]) -> list[dict[str, str | float]]:
    """A line a cell of which at least 11 rows are wanted: name, shares, LDS, category. Smaller cells are left out.

    Args:
        names: of the cells, in the order of the flattened counts.
        drawn: counts of drawn rows.
        wanted: counts of training rows, or of what is asked for.
    """
    found = disparities(drawn, wanted).ravel()
    lines = zip(names, drawn.ravel().tolist(), wanted.ravel().tolist(), found.tolist(), strict=True)
    return [
        {
            "cell": name,
            "wanted": count / max(1, int(wanted.sum())),
            "drawn": got / max(1, int(drawn.sum())),
            "lds": lds,
            "category": category(lds, got),
        }
        for name, got, count, lds in lines
        if count >= SMALL
    ]
