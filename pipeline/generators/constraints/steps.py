"""The reversible steps by which rules are kept exactly: real columns to the columns that are learned, and back.

A step takes columns away and gives others in their place (`forward`); from drawn rows it gives the first ones back in
such a way that its rule holds in every row (`back`). Which steps a cohort gets is decided in `planning.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from pipeline.features.cohort import assemble
from pipeline.features.constraint_spec import Derivation, OnlyWith, Sum
from pipeline.features.resolution import on_grid
from pipeline.generators.constraints.rules import code_places, computed_values, expression_of, outsiders

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from pipeline.features.cohort import Cohort
    from pipeline.features.schema import Column, TableSchema

YES = 1
SLACK = 1e-9
"""Relative rounding error below which two numbers of a rule count as equal."""


@dataclass
class Cells:
    """Rows as arrays: positions of levels (-1 missing) of discrete columns, float64 (NaN missing) of the others.

    Attributes:
        n: Number of rows.
        columns: Real columns and those that are learned, by name.
        blocks: Code blocks.
        rng: Draws the cells that a generator left missing where its other cells say there is one.
        fixed: Real columns that the caller fixed: they are taken as they are.
        broken: What is wrong with rows that no step can mend.
        counts: What was mended, for the record.
    """

    n: int
    columns: dict[str, NDArray[Any]]
    blocks: dict[str, csr_matrix]
    rng: np.random.Generator
    fixed: dict[str, NDArray[Any]] = field(default_factory=dict)
    broken: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def blame(self, what: str, rows: NDArray[np.bool_]) -> None:
        """Note that rows are wrong."""
        self.broken[what] = self.broken.get(what, np.zeros(self.n, dtype=bool)) | rows

    def filled(self, values: NDArray[Any], need: NDArray[np.bool_]) -> NDArray[Any]:
        """`values` with a cell of another row wherever one is needed and missing (one stays missing if none has any)."""
        gone = _gone(values)
        open_rows, donors = np.flatnonzero(need & gone), np.flatnonzero(~gone)
        if len(open_rows) and len(donors):
            values = values.copy()
            values[open_rows] = values[self.rng.choice(donors, size=len(open_rows))]
            self.counts["cells_filled"] = self.counts.get("cells_filled", 0) + len(open_rows)
        return values


class Ends(BaseModel):
    """Smallest and largest number that a column may come back with: as protected as if it had been learned itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    low: float | None = Field(default=None, description="Smallest number; None for no limit.")
    high: float | None = Field(default=None, description="Largest number; None for no limit.")

    def outside(self, values: NDArray[np.float64]) -> NDArray[np.bool_]:
        """(n,) True where a number lies beyond."""
        low = -np.inf if self.low is None else self.low
        high = np.inf if self.high is None else self.high
        with np.errstate(invalid="ignore"):
            return (values < low) | (values > high)


class Step(BaseModel):
    """Base of the steps. `present` and `alone` name learned columns that say whether the cell is there, and hold it
    where the columns that it is computed from are missing; None where the training rows need neither."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    rule: str = Field(description="The rule's text, for messages.")


class Difference(Step):
    """`dependent` is learned as its distance from the first of `anchors` that is there."""

    kind: Literal["difference"] = "difference"
    dependent: str = Field(description="Real column that is taken away.")
    anchors: list[str] = Field(description="Real columns; the first that is there counts.")
    sign: Literal[1, -1] = Field(description="1: dependent is at least the anchor; -1: at most.")
    strict: bool = Field(default=False, description="May the two not be equal?")
    gap: str = Field(description="Learned column: the distance, 0 or more.")
    always: bool = Field(description="Is the dependent column's cell there in every row?")
    present: str | None = None
    alone: str | None = None
    ends: Ends = Ends()

    def needs(self, schema: TableSchema) -> list[str]:
        """Real columns that must be back before this one."""
        return self.anchors

    @property
    def gives(self) -> list[str]:
        """Real columns that it gives back."""
        return [self.dependent]

    def forward(self, real: dict[str, NDArray[Any]], grid: Column) -> dict[str, NDArray[Any]]:
        """The learned columns of real rows; `grid` is the column of the distance. A row that breaks the rule gets the
        smallest distance that keeps it."""
        values, anchor = real[self.dependent], first_present([real[a] for a in self.anchors])
        gap = self.sign * (values - anchor)
        with np.errstate(invalid="ignore"):
            wrong = gap <= 0 if self.strict else gap < 0
        made = {self.gap: snapped(np.where(wrong, grid_step(grid) if self.strict else 0.0, gap), grid)}
        if self.present is not None:
            made[self.present] = np.where(np.isnan(values), 0, YES)
        if self.alone is not None:
            made[self.alone] = np.where(np.isnan(anchor), values, np.nan)
        return made

    def back(self, cells: Cells, schema: TableSchema) -> None:
        """Write `dependent` from the learned columns."""
        column = schema.column(self.dependent)
        anchor = first_present([cells.columns[a] for a in self.anchors])
        free = np.isnan(anchor)
        if self.dependent in cells.fixed:
            values = cells.fixed[self.dependent]
        else:
            gap = cells.columns[self.gap]
            there = ~np.isnan(gap)
            if self.always:
                there = np.ones(cells.n, dtype=bool)
            elif self.present is not None:
                there = cells.columns[self.present] == YES
            values = anchor + self.sign * cells.filled(gap, there & ~free)
            values = self._onto_grid(values, anchor, column)
            own = cells.columns[self.alone] if self.alone is not None else values
            values = np.where(free, cells.filled(own, there & free), values)
            values = np.where(there, values, np.nan)
            cells.blame(f"{self.dependent} within its bounds", self.ends.outside(values))
        cells.columns[self.dependent] = values
        low, high = (anchor, values) if self.sign == 1 else (values, anchor)
        with np.errstate(invalid="ignore"):
            cells.blame(self.rule, low >= high if self.strict else low > high)

    def _onto_grid(
        self, values: NDArray[np.float64], anchor: NDArray[np.float64], column: Column
    ) -> NDArray[np.float64]:
        """On the column's grid, and one point further where rounding would break the rule."""
        values = snapped(values, column)
        step = grid_step(column)
        if step:
            short = self.sign * (values - anchor)
            with np.errstate(invalid="ignore"):
                wrong = (short <= 0) if self.strict else (short < 0)
            values = np.where(wrong, snapped(values + self.sign * step, column), values)
        return values


class Computed(Step):
    """`target` is not learned but computed anew."""

    kind: Literal["computed"] = "computed"
    formula: Derivation | Sum = Field(description="The rule itself.")
    present: str | None = None
    alone: str | None = None
    ends: Ends = Ends()

    def needs(self, schema: TableSchema) -> list[str]:
        """Real columns that must be back before this one."""
        return list(expression_of(self.formula, schema).columns)

    @property
    def gives(self) -> list[str]:
        """Real columns that it gives back."""
        return [self.formula.target]

    def forward(self, real: dict[str, NDArray[Any]], computed: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """The learned columns of real rows; `computed` is what the formula gives for them."""
        values = real[self.formula.target]
        made: dict[str, NDArray[Any]] = {}
        if self.present is not None:
            made[self.present] = np.where(_gone(values), 0, YES)
        if self.alone is not None:
            made[self.alone] = np.where(_gone(computed), values, _nothing(values))
        return made

    def back(self, cells: Cells, schema: TableSchema) -> None:
        """Write `target` from its operands."""
        column = schema.column(self.formula.target)
        computed = computed_values(part_of(cells, schema, self.needs(schema), column), self.formula)
        values: NDArray[Any] = computed.astype(np.int64) if column.discrete else computed
        cells.blame(f"{column.name} is one of its levels", values == -2)
        free = _gone(values)
        there = np.ones(cells.n, dtype=bool) if self.present is None else cells.columns[self.present] == YES
        own = values
        if self.alone is not None:
            own = cells.columns[self.alone]
            if self.present is not None:
                own = cells.filled(own, there & free)
        if not column.nullable:
            own = cells.filled(own, free)
        values = np.where(free, own, values)
        values = np.where(there, values, _nothing(values))
        if not column.discrete:
            cells.blame(f"{column.name} within its bounds", self.ends.outside(values))
        if column.name in cells.fixed:
            cells.blame(f"{column.name} as it was asked for", ~same(values, cells.fixed[column.name]))
        cells.columns[column.name] = values


class Merged(Step):
    """Discrete columns learned as one: a combination is one level."""

    kind: Literal["merged"] = "merged"
    columns: list[str] = Field(description="Real columns that are taken away.")
    name: str = Field(description="Learned column.")
    combinations: list[list[int]] = Field(description="Positions of levels, -1 for missing; one list a level.")
    shares: list[float] | None = Field(default=None, description="Share of the training rows; None if it is private.")

    def needs(self, schema: TableSchema) -> list[str]:
        """Real columns that must be back before this one."""
        return []

    @property
    def gives(self) -> list[str]:
        """Real columns that it gives back."""
        return self.columns

    def forward(self, real: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The learned column of real rows; one that has none of the combinations gets the most similar one."""
        rows, places = self._rows(real), self.places(real)
        table = np.array(self.combinations)
        for row in np.unique(rows[places < 0], axis=0):
            places[(rows == row).all(axis=1)] = int((table != row).sum(axis=1).argmin())
        return {self.name: places}

    def places(self, real: dict[str, NDArray[Any]]) -> NDArray[np.int64]:
        """(n,) which combination each row has; -2 where it is none of them."""
        return positions(np.array(self.combinations), self._rows(real))

    def _rows(self, real: dict[str, NDArray[Any]]) -> NDArray[np.int64]:
        return np.stack([real[name] for name in self.columns], axis=1)

    def back(self, cells: Cells, schema: TableSchema) -> None:
        """Write the columns."""
        table = np.array(self.combinations)[cells.columns[self.name]]
        for j, name in enumerate(self.columns):
            cells.columns[name] = table[:, j]
            if name in cells.fixed:
                cells.blame(f"{name} as it was asked for", table[:, j] != cells.fixed[name])


class Zeroed(Step):
    """Codes taken from people who cannot have them."""

    kind: Literal["zeroed"] = "zeroed"
    only: OnlyWith = Field(description="The rule itself.")

    def needs(self, schema: TableSchema) -> list[str]:
        """Real columns that must be back before this one."""
        return list(self.only.codes.only)

    @property
    def gives(self) -> list[str]:
        """No column: it works on a block."""
        return []

    def back(self, cells: Cells, schema: TableSchema) -> None:
        """Take the codes away."""
        block = str(self.only.codes.block)
        outside = outsiders(part_of(cells, schema, self.needs(schema), None), self.only)
        cells.blocks[block], count = without_codes(cells.blocks[block], outside, code_places(schema, self.only))
        cells.counts["codes_taken_away"] = cells.counts.get("codes_taken_away", 0) + count


AnyStep = Annotated[Difference | Computed | Merged | Zeroed, Field(discriminator="kind")]


def first_present(arrays: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """(n,) the first of several numbers that is not missing."""
    found = arrays[0].copy()
    for other in arrays[1:]:
        found = np.where(np.isnan(found), other, found)
    return found


def snapped(values: NDArray[np.float64], column: Column) -> NDArray[np.float64]:
    """Numbers on a column's grid, as it is stored."""
    whole = column.dtype in ("int64", "int32", "date32[day]")
    if column.resolution is None:
        return np.round(values) if whole else values
    return on_grid(values, column.resolution)


def grid_step(column: Column) -> float:
    """Distance of neighbouring points of a column's grid; 0 where there is none."""
    grid = column.resolution
    if grid is None:
        return 1.0 if column.dtype in ("int64", "int32", "date32[day]") else 0.0
    return {"decimals": 10.0**-grid.digits, "step": grid.step, "atoms": 0.0}[grid.kind]


def same(values: NDArray[Any], wanted: NDArray[Any]) -> NDArray[np.bool_]:
    """(n,) True where two cells are equal, or both missing."""
    if values.dtype.kind != "f":
        return np.asarray(values == wanted)
    return np.isclose(values, wanted, rtol=SLACK, atol=SLACK, equal_nan=True)


def positions(table: NDArray[np.integer], rows: NDArray[np.integer]) -> NDArray[np.int64]:
    """(n,) the place of each row in `table` (distinct rows); -2 where it is not there."""
    _, key = np.unique(np.concatenate([table, rows]), axis=0, return_inverse=True)
    key = key.ravel()
    place = np.full(int(key.max()) + 1, -2, dtype=np.int64)
    place[key[: len(table)]] = np.arange(len(table))
    return place[key[len(table) :]]


def without_codes(matrix: csr_matrix, rows: NDArray[np.bool_], codes: NDArray[np.int64]) -> tuple[csr_matrix, int]:
    """The matrix without some codes of some rows, and how many cells that took away."""
    from scipy.sparse import csr_matrix as csr

    found = matrix.tocoo()
    chosen = np.zeros(matrix.shape[1], dtype=bool)
    chosen[codes] = True
    gone = rows[found.row] & chosen[found.col] & (found.data != 0)
    kept = ~gone
    return csr((found.data[kept], (found.row[kept], found.col[kept])), shape=matrix.shape), int(gone.sum())


def part_of(cells: Cells, schema: TableSchema, names: list[str], beside: Column | None) -> Cohort:
    """Some real columns of the rows as a cohort; `beside` is in its schema with nothing in its cells."""
    from pipeline.features.schema import TableSchema

    chosen = [schema.column(name) for name in names]
    columns = {name: cells.columns[name] for name in names}
    if beside is not None:
        chosen.append(beside.model_copy(update={"nullable": True}))
        columns[beside.name] = np.full(cells.n, -1) if beside.discrete else np.full(cells.n, np.nan)
    small = TableSchema(columns=[c.model_copy(update={"nullable": True}) for c in chosen])
    return assemble(small, columns)


def _gone(values: NDArray[Any]) -> NDArray[np.bool_]:
    return np.isnan(values) if values.dtype.kind == "f" else values < 0


def _nothing(values: NDArray[Any]) -> float | int:
    return np.nan if values.dtype.kind == "f" else -1
