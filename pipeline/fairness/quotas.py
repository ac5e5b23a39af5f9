"""Rows drawn until every cell of outcome, group and stratum has the rows that it is to have, on top of any generator.

A row that is kept is as the generator drew it: nothing is written into it, and none is kept twice. What cannot be
filled within the cap is left out and told. Real rows are never looked at here.

Source: quota sampling; the shares are those of `targets.py` or `decisions.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pipeline.errors import UnsupportedError
from pipeline.generators.rejection import TRIES
from pipeline.generators.seeds import derive_seed, stream

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd
    from numpy.typing import NDArray

    from pipeline.features.cohort import Cohort

    Draw = Callable[[int, int, pd.DataFrame | None], Cohort]
    """(rows, seed, conditions) to rows."""

CHUNK = 10_000
"""Candidates that are held at once."""
SMALLEST_DRAW = 256
PASSES = 50
IDLE_PASSES = 8
"""Passes in a row that bring nothing, after which the open cells are given up."""
MOST_LACKING = 0.1
"""Share of the rows that may be lacking before the table is not what was asked for."""


class Asking(Protocol):
    """What candidates of chosen cells can be asked for."""

    def frame(self, need: NDArray[np.int64], most: int) -> pd.DataFrame | None:
        """Conditions for up to `most` candidates of the cells in need, one row each; None if there are none to be told."""


@dataclass
class Filled:
    """Rows that fill the cells, and what it took.

    Attributes:
        rows: The rows, in random order.
        wanted: (cells,) rows asked for.
        kept: (cells,) rows found.
        offered: (cells,) candidates that were in each cell.
        drawn: Candidates in all.
        passes: Draws.
        asked: Candidates that were drawn for the cells in need.
    """

    rows: Cohort
    wanted: NDArray[np.int64]
    kept: NDArray[np.int64]
    offered: NDArray[np.int64]
    drawn: int
    passes: int
    asked: int = 0

    @property
    def lacking(self) -> NDArray[np.int64]:
        """(cells,) rows that were not found."""
        return self.wanted - self.kept

    @property
    def acceptance(self) -> float:
        """Share of the candidates that were kept."""
        return float(self.kept.sum()) / max(self.drawn, 1)


@dataclass
class _Basket:
    """Rows kept so far."""

    wanted: NDArray[np.int64]
    cell_of: Callable[[Cohort], NDArray[np.int64]]
    parts: list[Cohort] = field(default_factory=list)
    kept: NDArray[np.int64] = field(init=False)
    offered: NDArray[np.int64] = field(init=False)
    drawn: int = 0

    def __post_init__(self) -> None:
        self.kept, self.offered = np.zeros_like(self.wanted), np.zeros_like(self.wanted)

    def take(self, rows: Cohort) -> int:
        """Keep of some candidates what is still needed, in their order; gives how many were kept."""
        cell = self.cell_of(rows)
        self.drawn += rows.n_rows
        inside = np.flatnonzero(cell >= 0)
        self.offered += np.bincount(cell[inside], minlength=len(self.wanted))
        order = inside[np.argsort(cell[inside], kind="stable")]
        sorted_cells = cell[order]
        rank = np.arange(len(order)) - np.searchsorted(sorted_cells, sorted_cells)
        chosen = np.sort(order[rank < self.need[sorted_cells]])
        if len(chosen):
            self.parts.append(rows.take(chosen))
            self.kept += np.bincount(cell[chosen], minlength=len(self.wanted))
        return len(chosen)

    @property
    def need(self) -> NDArray[np.int64]:
        return self.wanted - self.kept


def fill(
    draw: Draw,
    wanted: NDArray[np.int64],
    cell_of: Callable[[Cohort], NDArray[np.int64]],
    *,
    seed: int,
    first: list[Cohort],
    asking: Asking | None = None,
    names: Callable[[int], str] = str,
) -> Filled:
    """Rows that fill the cells.

    Args:
        draw: Draws candidates.
        wanted: (cells,) rows of each cell.
        cell_of: Number of the cell of each row, negative for none.
        seed: Seeds of the draws are derived from it.
        first: Candidates that were drawn already.
        asking: What a generator that draws conditions natively is asked for; None draws whatever comes.
        names: Name of a cell, for messages.

    Raises:
        UnsupportedError: more than a tenth of the rows cannot be found; says which cell lacks most.
    """
    basket = _Basket(wanted, cell_of)
    for part in first:
        basket.take(part)
    n, idle, passes, asked = int(wanted.sum()), 0, len(first), 0
    attempt, most = 0, TRIES * max(n, SMALLEST_DRAW)
    while (
        basket.need.any() and attempt < PASSES * max(1, -(-n // CHUNK)) and basket.drawn < most and idle < IDLE_PASSES
    ):
        with_seed = derive_seed(seed, "fair", attempt)
        frame = asking.frame(basket.need, CHUNK) if asking is not None else None
        try:
            rows = draw(_size(basket) if frame is None else len(frame), with_seed, frame)
        except UnsupportedError:
            if frame is None:
                raise
            # What it says it can be asked for it hardly ever draws: as everybody else then.
            asking, attempt = None, attempt + 1
            continue
        asked += 0 if frame is None else rows.n_rows
        got = basket.take(rows)
        idle = 0 if got else idle + 1
        attempt, passes = attempt + 1, passes + 1
    lacking = basket.need
    if lacking.sum() > MOST_LACKING * n:
        worst = int(np.argmax(lacking))
        raise UnsupportedError(
            f"{int(lacking.sum()):,} of {n:,} rows could not be found among {basket.drawn:,} that were drawn: '{names(worst)}' "
            f"lacks {int(lacking[worst]):,} of {int(wanted[worst]):,}.",
            where="fairness",
            todo="The generator hardly ever draws such rows: ask for fewer rows or coarser groups, or use another generator.",
        )
    rows = shuffled(basket.parts, seed)
    return Filled(rows, wanted, basket.kept, basket.offered, basket.drawn, passes, asked)


def _size(basket: _Basket) -> int:
    """Candidates of the next draw: what the cell that is furthest behind will need, as far as can be told."""
    need, rate = basket.need, (basket.offered + 0.5) / (basket.drawn + 1)
    return int(np.clip((need / rate).max() * 1.1, SMALLEST_DRAW, CHUNK))


def shuffled(parts: list[Cohort], seed: int) -> Cohort:
    """Rows one after the other in random order, so that any first part of them is like the whole; ids counted from 1."""
    import pyarrow as pa
    from scipy.sparse import vstack

    from pipeline.features.cohort import Cohort
    from pipeline.features.visits import stacked_events, take_events

    schema = parts[0].schema
    n = sum(part.n_rows for part in parts)
    order = stream(seed, "fair order").permutation(n)
    table = pa.concat_tables([p.table for p in parts]).combine_chunks().take(pa.array(order))
    numbered = np.array([f"synthetic-{i:07d}" for i in range(1, n + 1)], dtype=str)
    for i, column in enumerate(schema.columns):
        if column.kind == "identifier":
            ids = pa.array(numbered) if column.dtype == "string" else pa.array(np.arange(1, n + 1)).cast(column.dtype)
            table = table.set_column(i, table.schema.field(i), ids)
    blocks = {b.name: vstack([p.blocks[b.name] for p in parts], format="csr")[order] for b in schema.blocks}
    visits = [p.events for p in parts if p.events is not None]
    events = take_events(stacked_events(visits, [p.n_rows for p in parts]), order, n) if visits else None
    return Cohort(table=table, schema=schema, subject=numbered, blocks=blocks, events=events)
