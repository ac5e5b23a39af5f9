"""Exact k-nearest neighbours, in blocks of a fixed memory budget, on the CPU and on a GPU by the same code.

Candidates come from float32 products on a torch device and are measured again in float64 on the CPU; where rounding
could have hidden a nearer row, all rows within it are measured again. So the result depends neither on the device nor
on the size of the blocks, and ties are broken by position. Equal rows are searched once. No full distance matrix is
ever held, and no index structure is built: at these widths neither trees nor graphs help.
The kinds of distance are in `distances.py`.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.distances import Points, Rows, counts_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix
    from torch import Tensor

    from pipeline.evaluation.distances import Loaded

BUDGET_BYTES = 16 * 2**20
MATRICES = 3
"""Matrices of the size of a block that are held at once."""
REFERENCE_ROWS = 8_192
"""Reference rows in a block; a block of codes is dense in them, 35 MB at 1,071 codes."""
SPARE = 8
"""Candidates beyond k that are measured again in float64: float32 products lose near-duplicates by cancellation."""
PAIRS = 2_000_000
"""Pairs that are measured again at once where rounding or ties leave it open which rows are nearest."""
SMALL_WORK = 50_000_000
"""Up to so many products one thread is used: several that wait for one another on a busy machine are slower."""


@dataclass(frozen=True)
class Neighbours:
    """(n, k) distances, ascending, and the positions of the neighbours. k is less than asked where rows are few."""

    distance: NDArray[np.float64]
    index: NDArray[np.int64]

    def kth(self, k: int) -> NDArray[np.float64]:
        """(n,) distance to the k-th neighbour (1-based), or to the last where there are fewer."""
        return self.distance[:, min(k, self.distance.shape[1]) - 1]


def knn(
    query: Rows,
    reference: Rows,
    k: int,
    *,
    own: NDArray[np.int64] | None = None,
    budget_bytes: int = BUDGET_BYTES,
    device: str = "cpu",
) -> Neighbours:
    """The k nearest rows of `reference` for each row of `query`.

    Args:
        query: (n) rows.
        reference: (m) rows of the same kind, columns and blocks.
        k: How many neighbours; at most m (m - 1 with `own`) come back.
        own: (n,) where in `reference` each query row itself stands, -1 where it does not: it is no neighbour of
            itself (by position, so that a duplicate of it is one, at distance 0).
        budget_bytes: Memory for one block of distances; the result does not depend on it.
        device: torch device that does the products; the result does not depend on it.

    Returns:
        Distances in float64 (0 for equal rows) and positions; ties are broken by position.
    """
    n, m = len(query), len(reference)
    wanted = min(k, m if own is None else m - 1)
    if wanted <= 0 or n == 0 or query.parts == 0:
        return Neighbours(np.zeros((n, max(wanted, 0))), np.zeros((n, max(wanted, 0)), dtype=np.int64))
    asked, asked_as = _distinct(query.hashes())
    known, known_as = _distinct(reference.hashes())
    groups = min(wanted + (own is not None), len(known))
    query, reference = query.take(asked), reference.take(known)
    with _threads(len(asked) * len(known), device):
        total, group = _search(query, reference, groups, budget_bytes, device)
    total, group = total[asked_as], group[asked_as]
    if len(known) == m and own is None:
        return Neighbours(query.length(total), known[group])
    total, index = _members(total, group, known_as, wanted + (own is not None))
    if own is not None:
        total[index == own[:, None]] = np.inf
    order = np.lexsort((index, total), axis=1)[:, :wanted]
    return Neighbours(query.length(np.take_along_axis(total, order, axis=1)), np.take_along_axis(index, order, axis=1))


def cosine_nearest(
    query: csr_matrix,
    reference: csr_matrix,
    k: int,
    *,
    own: NDArray[np.int64] | None = None,
    device: str = "cpu",
) -> Neighbours:
    """The k nearest rows by cosine distance (1 - cosine) of counts; see `knn`, and `EvaluationContext.near` for sides.

    Args:
        query: (n, codes) counts; an empty row is at distance 0 from empty rows and 1 from all others.
        reference: (m, codes) counts of the same codes.
        k: How many neighbours.
        own: (n,) where in `reference` each query row itself stands, -1 where it does not.
        device: torch device that does the products.
    """
    return knn(counts_of([query]), counts_of([reference]), k, own=own, device=device)


def _distinct(hashes: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the first of each group of equal rows, ascending, and (n,) the number of each row's group."""
    _, first, group = np.unique(hashes, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[group]


def _members(
    total: NDArray[np.float64], group: NDArray[np.int64], group_of: NDArray[np.int64], most: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Each of (n, k) groups replaced by the first `most` of its rows; places that are not filled are at infinity."""
    order = np.argsort(group_of, kind="stable")
    sizes = np.bincount(group_of)
    starts = np.cumsum(sizes) - sizes
    most = min(most, int(sizes.max()))
    nth = np.arange(most)
    filled = nth < sizes[group][:, :, None]
    index = order[np.minimum(starts[group][:, :, None] + nth, len(order) - 1)]
    far = np.where(filled, total[:, :, None], np.inf)
    return far.reshape(len(total), -1), np.where(filled, index, -1).reshape(len(total), -1)


def _search(
    query: Rows, reference: Rows, k: int, budget_bytes: int, device: str
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(n, k) exact sums of the parts of the nearest rows and their positions, by (distance, position)."""
    n, m = len(query), len(reference)
    best, where = np.full((n, k), np.inf), np.full((n, k), m, dtype=np.int64)
    slack = query.slack(reference)
    columns_at_once = min(m, REFERENCE_ROWS)
    rows_at_once = max(1, int(budget_bytes // (4 * MATRICES * columns_at_once)))
    for start in range(0, m, columns_at_once):
        chunk = reference.take(slice(start, start + columns_at_once))
        loaded = chunk.loaded(device)
        for lo in range(0, n, rows_at_once):
            rows = slice(lo, lo + rows_at_once)
            near, index = _nearest(query.take(rows), chunk, loaded, min(k, len(chunk)), slack, device)
            near, index = np.hstack([best[rows], near]), np.hstack([where[rows], index + start])
            order = np.lexsort((index, near), axis=1)[:, :k]
            best[rows], where[rows] = np.take_along_axis(near, order, axis=1), np.take_along_axis(index, order, axis=1)
    return best, where


def _nearest(
    block: Rows, chunk: Rows, loaded: Loaded, k: int, slack: float, device: str
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The k nearest rows of a chunk of the reference, exactly."""
    approximate = block.against(loaded, device)
    take = min(k + SPARE, len(chunk))
    found = approximate.topk(take, dim=1, largest=False, sorted=False)
    near = found.indices.cpu().numpy()
    exact = block.exact(chunk, np.repeat(np.arange(len(block)), take), near.ravel()).reshape(near.shape)
    order = np.lexsort((near, exact), axis=1)[:, :k]
    exact, near = np.take_along_axis(exact, order, axis=1), np.take_along_axis(near, order, axis=1)
    if take < len(chunk):
        # What is no candidate lies at `farthest - slack` or beyond: only nearer rows than that are settled.
        farthest = found.values.amax(dim=1).cpu().numpy().astype(np.float64)
        _settle(block, chunk, approximate, slack, exact, near, np.flatnonzero(exact[:, -1] >= farthest - slack))
    return exact, near


def _settle(
    block: Rows,
    chunk: Rows,
    approximate: Tensor,
    slack: float,
    exact: NDArray[np.float64],
    near: NDArray[np.int64],
    rows: NDArray[np.int64],
) -> None:
    """Measure again all rows that may be among the nearest of `rows`; fills (n, k) `exact` and `near` in place."""
    import torch

    k = exact.shape[1]
    # Twice: once for the row itself, once for rounding the limit.
    limit = np.nextafter((exact[rows, -1] + 2 * slack).astype(np.float32), np.float32(np.inf))
    step = max(1, PAIRS // len(chunk))
    for lo in range(0, len(rows), step):
        some = rows[lo : lo + step]
        at = torch.as_tensor(some, device=approximate.device)
        edge = torch.as_tensor(limit[lo : lo + step], device=approximate.device)
        row, column = (approximate[at] <= edge[:, None]).nonzero(as_tuple=True)
        left, right = row.cpu().numpy(), column.cpu().numpy()
        total = block.exact(chunk, some[left], right)
        order = np.lexsort((right, total, left))
        starts = np.searchsorted(left, np.arange(len(some)))
        first = order[starts[:, None] + np.arange(k)]
        exact[some], near[some] = total[first], right[first]


@contextmanager
def _threads(products: int, device: str) -> Iterator[None]:
    """One thread for little work; and products in full float32 on a GPU, whatever the process has asked for."""
    import torch

    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    if products <= SMALL_WORK:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)


__all__ = ["Neighbours", "Points", "cosine_nearest", "knn"]
