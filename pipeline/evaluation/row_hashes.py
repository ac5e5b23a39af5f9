"""Hashes of rows' contents: equal rows have equal hashes, whatever the order of columns, codes or levels' storage.

Canonical row order and exact copies rest on them. They are not keyed: they never leave the process.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from pipeline.features.schema import Column


def row_hashes(
    columns: Sequence[Column],
    codes: Mapping[str, NDArray[np.int64]],
    values: Mapping[str, NDArray[np.float64]],
    blocks: Mapping[str, csr_matrix],
    n: int,
) -> NDArray[np.uint64]:
    """(n,) 64-bit hashes of the rows' contents.

    Args:
        columns: Columns that count; discrete ones are read from `codes`, the others from `values`.
        codes: (n,) positions in the levels by column.
        values: (n,) numbers by column, NaN where missing.
        blocks: (n, codes) CSR matrices without stored zeros.
        n: Number of rows.
    """
    total = np.zeros(n, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for column in columns:
            if column.discrete:
                raw = codes[column.name].astype(np.int64).view(np.uint64)
            else:
                value = values[column.name] + 0.0
                value[np.isnan(value)] = np.nan
                raw = value.view(np.uint64)
            total += _mix(_mix(raw + np.uint64(0x9E3779B97F4A7C15)) ^ _salt(column.name))
        for name, matrix in blocks.items():
            total += _sparse_hashes(matrix, _salt(name))
    return total


def content_hashes(dense: NDArray[np.float32], sparse: Iterable[csr_matrix]) -> NDArray[np.uint64]:
    """(n,) 64-bit hashes of the rows of an (n, p) array and of (n, codes) CSR matrices beside it, by position."""
    total = np.zeros(len(dense), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for j in range(dense.shape[1]):
            raw = (dense[:, j] + np.float32(0)).view(np.uint32).astype(np.uint64)
            total += _mix(_mix(raw + np.uint64(0x9E3779B97F4A7C15)) ^ _salt(f"column {j}"))
        for j, matrix in enumerate(sparse):
            total += _sparse_hashes(matrix, _salt(f"block {j}"))
    return total


def _sparse_hashes(matrix: csr_matrix, salt: np.uint64) -> NDArray[np.uint64]:
    """(n,) sums over the rows' stored cells, in whatever order they are stored."""
    cell = _mix(matrix.indices.astype(np.uint64) + np.uint64(1)) ^ salt
    cell = _mix(cell + _mix(np.asarray(matrix.data, dtype=np.float64).view(np.uint64)))
    # Sums of 64-bit numbers wrap around, so that differences of running sums are exact.
    running = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(cell, dtype=np.uint64)])
    return running[matrix.indptr[1:]] - running[matrix.indptr[:-1]]


def _salt(name: str) -> np.uint64:
    return np.uint64(int.from_bytes(sha256(name.encode()).digest()[:8], "little"))


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser: spreads the bits of each number."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
