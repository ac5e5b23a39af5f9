"""An encoder that is learned under differential privacy: what the schema declares is public, the rest is paid for.

The encoder is of the same class as the ordinary one, so that every generator works on it unchanged. What is measured
and how the budget is split over it is here; how a column's domain is found is in `private_domains.py`, the mechanisms in
`pipeline/privacy/run.py`. No level, bound or grid that was told from data reaches the encoder as it was told.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from pipeline.encoding.encoder import Encoded, LevelCodec, NumberCodec, TableEncoder, refuse_infinite
from pipeline.encoding.private_codecs import block_codec, declared_codec, named_codec, number_codec, other_state
from pipeline.encoding.private_domains import (
    Grid,
    bounds_from,
    bounds_histogram,
    declared_grid,
    fullest_bin,
    grid_from,
    grid_histogram,
    public_levels,
    scaler_from,
    within_type,
)
from pipeline.errors import UnsupportedError
from pipeline.features.cohort import level_codes
from pipeline.privacy.accounting import zcdp_rho

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.encoding.encoder import EncodingSettings
    from pipeline.features.cohort import Cohort
    from pipeline.features.schema import Column, Level, TableSchema
    from pipeline.privacy.run import PrivateRun

CODES_PER_ROW = 32
"""Codes of a block that a row counts with in the measurement of prevalences, chosen at random where it has more."""
_DELTA_OF_LEVELS = 0.5


def refusal(schema: TableSchema, preprocessing: str) -> str:
    """Why a private training cannot take a schema; empty if it can.

    Args:
        schema: Of the training rows.
        preprocessing: "paid" or "public" (`TrainingPrivacy.preprocessing`).
    """
    chosen = [b.name for b in schema.blocks if "vocabulary" in b.inferred]
    if chosen:
        return (
            f"the vocabulary of block '{chosen[0]}' was chosen on patients' data. Declare one (a public code list, and "
            "nothing under the block's `inferred`), or leave the block out."
        )
    if preprocessing == "paid":
        return ""
    open_ = [c.name for c in schema.modelled() if _unpaid(c)]
    if not open_:
        return ""
    return (
        f"{len(open_)} columns have levels, bounds or a grid that the schema does not declare, the first is '{open_[0]}'. "
        "Declare them, or let `preprocessing: paid` find them under privacy."
    )


def private_encoder(cohort: Cohort, settings: EncodingSettings, run: PrivateRun) -> TableEncoder:
    """Levels, distributions and codes of all columns, for all that `run` has.

    Args:
        cohort: The rows, bounded (`privacy/bounding.py`).
        settings: How columns are protected; `rare_rows` counts noisy rows here.
        run: The budget for the encoding; it is spent whole.

    Returns:
        An encoder whose schema holds only what was declared or paid for: levels that passed, bounds and grids found.

    Raises:
        UnsupportedError: no level of a column is common enough, or a code block's vocabulary is private.
    """
    reason = refusal(cohort.schema, run.privacy.preprocessing)
    if reason:
        raise UnsupportedError(f"A private training is refused: {reason}")
    plan = _Plan.of(cohort, run)
    columns = {c.name: c for c in cohort.schema.modelled()}
    stable = {name: _stable_levels(cohort, columns[name], plan, run) for name in plan.stable}
    grids = _grids(cohort, plan, run)
    counted = _counts(cohort, plan, grids, run)
    fine = {name: grid.refined(counted[name][:-1], plan.sd) for name, grid in grids.items()}
    parts = plan.ask(
        run,
        {name: _histogram(grid, cohort.values(name)) for name, grid in fine.items()},
        f"parts of {len(fine)} columns",
    )
    levels: dict[str, LevelCodec] = {}
    numbers: dict[str, NumberCodec] = {}
    for name, column in columns.items():
        if name in stable:
            levels[name] = named_codec(column, *stable[name], cohort.n_rows, plan.epsilon_levels)
        elif column.discrete:
            levels[name] = declared_codec(column, counted[name], settings.rare_rows, plan.sd)
        else:
            scaler = scaler_from(grids[name], counted[name][:-1], fine[name], parts[name])
            numbers[name] = number_codec(column, scaler, grids[name], counted[name], plan.sd)
    _warn_of("levels", [name for name, found in stable.items() if not found[0]], run)
    blocks = {
        b.name: block_codec(cohort, b.name, counted[b.name], settings.rare_rows, plan.sd) for b in cohort.schema.blocks
    }
    private = {name: codec.column for name, codec in levels.items()}
    private |= {name: codec.column for name, codec in numbers.items()}
    schema = cohort.schema.model_copy(update={"columns": [private.get(c.name, c) for c in cohort.schema.columns]})
    _tell(cohort.schema, run)
    return TableEncoder(schema, levels, numbers, blocks)


def private_rows(encoder: TableEncoder, cohort: Cohort, rng: np.random.Generator) -> tuple[Encoded, Cohort]:
    """The rows as a private encoder sees them, and the cohort under its schema.

    Each row for itself: a level that did not pass becomes the pooled state (of an ordinal column the nearest level that
    did), a number outside the bounds the nearest one, a missing cell where missing did not pass a draw from the noisy
    frequencies.
    """
    states = {}
    for name, codec in encoder.levels.items():
        codes = level_codes(cohort.table.column(name).combine_chunks(), codec.column)
        other = codes == -2
        state = codec.encode(np.where(other, -1, codes))
        if other.any():
            state[other] = other_state(codec, cohort, name, other)
        lost = state < 0
        if lost.any():
            state[lost] = rng.choice(codec.states, size=int(lost.sum()), p=codec.frequency)
        states[name] = state
    uniforms = {}
    for name, number in encoder.numbers.items():
        uniform = number.scaler.to_uniform(cohort.values(name), rng)
        gone = np.isnan(uniform)
        uniforms[name] = uniform if number.has_missing else np.where(gone, rng.random(len(uniform)), uniform)
    blocks = {k: c.dense(cohort.blocks[k]) for k, c in encoder.blocks.items()}
    return Encoded(cohort.n_rows, states, uniforms, blocks), replace(cohort, schema=encoder.schema)


# ---- the plan: which questions are asked, and what each may cost


@dataclass
class _Plan:
    """How the budget is split; every number follows from the schema, the budget and the number of rows.

    Attributes:
        stable: Discrete columns whose levels were told from data.
        bounds: Numeric columns whose bounds were.
        grids: Numeric columns whose grid was, and does not follow from the type.
        epsilon_levels: For each of `stable`.
        delta_levels: The same.
        questions: Histograms that are measured, a column or block each.
        rho: Cost of a histogram if Gaussian noise is less, else 0.
        epsilon: Cost of a histogram if Laplace noise is less.
        sd: Standard deviation of the noise in a histogram's count.
    """

    stable: list[str]
    bounds: list[str]
    grids: list[str]
    epsilon_levels: float = 0.0
    delta_levels: float = 0.0
    questions: int = 0
    rho: float = 0.0
    epsilon: float = 0.0
    sd: float = 0.0
    reach: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, cohort: Cohort, run: PrivateRun) -> _Plan:
        columns = cohort.schema.modelled()
        plan = cls(
            stable=[c.name for c in columns if c.discrete and public_levels(c) is None],
            bounds=[c.name for c in columns if c.numeric and _unknown_bounds(c)],
            grids=[c.name for c in columns if c.numeric and declared_grid(c) is None],
        )
        # A row is once in a column's histogram, and with so many codes in a block's.
        plan.reach = {b.name: min(CODES_PER_ROW, len(b.vocabulary)) for b in cohort.schema.blocks}
        numeric = sum(c.numeric for c in columns)  # counted twice: in cells, then in parts of full cells
        once = len(columns) - len(plan.stable) + len(plan.bounds) + len(plan.grids) + numeric
        plan.questions = once + sum(plan.reach.values())
        whole = len(plan.stable) + plan.questions
        epsilon, delta = run.own_epsilon, run.own_delta
        if plan.stable:
            plan.epsilon_levels = epsilon / whole
            plan.delta_levels = _DELTA_OF_LEVELS * delta / len(plan.stable)
            delta *= 1 - _DELTA_OF_LEVELS
        if plan.questions:
            share = epsilon * plan.questions / whole
            rho = zcdp_rho(share, delta)
            gaussian = np.sqrt(plan.questions / (2 * rho))
            laplace = np.sqrt(2) * plan.questions / share
            plan.sd = run.rows_per_subject * float(min(gaussian, laplace))
            if gaussian < laplace:
                plan.rho = rho / plan.questions
            else:
                plan.epsilon = share / plan.questions
        return plan

    def ask(self, run: PrivateRun, counts: dict[str, NDArray[np.float64]], what: str) -> dict[str, NDArray[np.float64]]:
        """Noisy histograms, measured as one vector."""
        if not counts:
            return {}
        # One row changes each column's histogram by 1, a block's by 1 in each of up to `reach` places.
        changes = sum(self.reach.get(name, 1) for name in counts)
        flat = np.concatenate(list(counts.values()))
        if self.rho:
            noisy = run.gaussian(flat, l2=float(np.sqrt(changes)), rho=self.rho * changes, what=what)
        else:
            noisy = run.laplace(flat, l1=float(changes), epsilon=self.epsilon * changes, what=what)
        ends = np.cumsum([len(part) for part in counts.values()])
        return dict(zip(counts, np.split(noisy, ends[:-1]), strict=True))


def _unknown_bounds(column: Column) -> bool:
    return column.bounds is None or "bounds" in column.inferred


def _unpaid(column: Column) -> bool:
    if column.discrete:
        return public_levels(column) is None
    return _unknown_bounds(column) or declared_grid(column) is None


# ---- measuring


def _stable_levels(
    cohort: Cohort, column: Column, plan: _Plan, run: PrivateRun
) -> tuple[list[Level], NDArray[np.float64], float]:
    """Levels that pass the threshold, their noisy counts, and the noisy count of missing cells."""
    codes = cohort.codes(column.name)
    assert column.levels is not None
    counts = np.bincount(codes[codes >= 0], minlength=len(column.levels))
    # Only what occurs is looked at: a level that nobody has must not be told from the schema's list either.
    seen = np.flatnonzero(counts)
    kept, noisy = run.stable(
        np.r_[int((codes < 0).sum()), counts[seen]],
        epsilon=plan.epsilon_levels,
        delta=plan.delta_levels,
        what=f"levels of '{column.name}'",
        known=1,
    )
    levels = [column.levels[i] for i in seen[kept[1:]]]
    return levels, noisy[1:][kept[1:]], float(noisy[0])


def _grids(cohort: Cohort, plan: _Plan, run: PrivateRun) -> dict[str, Grid]:
    """Bounds and grid of every numeric column, declared or found."""
    columns = [c for c in cohort.schema.modelled() if c.numeric]
    values = {c.name: cohort.values(c.name) for c in columns}
    for name, numbers in values.items():
        refuse_infinite(name, numbers)
    asked = {f"bounds/{n}": bounds_histogram(values[n]) for n in plan.bounds}
    asked |= {f"grid/{n}": grid_histogram(values[n], cohort.schema.column(n)) for n in plan.grids}
    noisy = plan.ask(run, asked, f"bounds of {len(plan.bounds)} and grids of {len(plan.grids)} columns")
    grids = {}
    drowned: list[str] = []
    for column in columns:
        name = column.name
        if name in plan.grids:
            resolution = grid_from(noisy[f"grid/{name}"], column, plan.sd)
        else:
            found = declared_grid(column)
            resolution = None if found is None else found.resolution
        bounds = column.bounds
        if name in plan.bounds:
            found_bounds = bounds_from(noisy[f"bounds/{name}"], plan.sd, gaussian=plan.rho > 0)
            if found_bounds is None:
                drowned.append(name)
            bounds = within_type(found_bounds or fullest_bin(noisy[f"bounds/{name}"]), column)
        assert bounds is not None
        grids[name] = Grid.over(bounds, resolution, rows=cohort.n_rows, sd=plan.sd)
    _warn_of("bounds", drowned, run)
    return grids


def _warn_of(what: str, columns: list[str], run: PrivateRun) -> None:
    """Say whose levels or bounds noise has hidden: what stands in their place has nothing to do with the data."""
    if columns:
        run.warn(
            f"At this epsilon no {what} of {len(columns)} columns could be told from noise (the first is '{columns[0]}'): "
            f"what is drawn of them is arbitrary. Declare their {what} in the schema, or ask for a larger epsilon."
        )


def _counts(cohort: Cohort, plan: _Plan, grids: dict[str, Grid], run: PrivateRun) -> dict[str, NDArray[np.float64]]:
    """Noisy histograms of all columns that still need one (the last cell is missing) and of all blocks."""
    counts: dict[str, NDArray[np.float64]] = {}
    for column in cohort.schema.modelled():
        name = column.name
        if name in plan.stable:
            continue
        if column.discrete:
            levels = public_levels(column)
            assert levels is not None
            place = level_codes(
                cohort.table.column(name).combine_chunks(), column.model_copy(update={"levels": levels})
            )
            size = len(levels)
        else:
            place, size = grids[name].place(cohort.values(name)), grids[name].cells
        # What is none of the levels (-2) is counted nowhere: it changes no cell.
        cells = np.where(place == -1, size, place)
        counts[name] = np.bincount(cells[cells >= 0], minlength=size + 1).astype(np.float64)
    rng = run.rng("codes of a row")
    for block in cohort.schema.blocks:
        matrix = cohort.blocks[block.name].tocsr()
        matrix.eliminate_zeros()
        counts[block.name] = _capped_counts(matrix.indptr, matrix.indices, matrix.shape[1], plan.reach[block.name], rng)
    return plan.ask(run, counts, f"histograms of {len(counts)} columns and blocks")


def _capped_counts(
    first: NDArray[np.integer], codes: NDArray[np.integer], width: int, most: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """(width,) rows that have each code, every row counting with at most so many of its codes, drawn at random.

    What a row does not count with is made up for by weighing nothing: the sensitivity stays `most`.
    """
    row = np.repeat(np.arange(len(first) - 1), np.diff(first))
    order = np.lexsort((rng.random(len(codes)), row))
    place = np.arange(len(codes)) - np.repeat(first[:-1], np.diff(first))
    return np.bincount(codes[order[place < most]], minlength=width).astype(np.float64)


def _histogram(grid: Grid, values: NDArray[np.float64]) -> NDArray[np.float64]:
    place = grid.place(values)
    return np.bincount(place[place >= 0], minlength=grid.cells).astype(np.float64)


def _tell(schema: TableSchema, run: PrivateRun) -> None:
    """Notes for the report: what is taken as public."""
    kinds = sum("kind" in c.inferred for c in schema.modelled())
    if kinds:
        run.note(
            f"Names, types and kinds of columns are taken as public; the kinds of {kinds} columns were told from the data."
        )
    if schema.blocks:
        run.note(
            f"Prevalences of codes count at most {CODES_PER_ROW} codes a row, so those of rows with more are too small."
        )
