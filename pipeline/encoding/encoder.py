"""A cohort to states and uniforms, and back: the one encoder that all generators share.

A discrete column becomes one state a row (its kept levels, then a pooled rare level, then missing); a numeric column
becomes a uniform in (0, 1), NaN where missing (`scalers.py`); a code block stays a sparse matrix (`blocks.py`).
Missing is a state of its own and is never imputed. Identifiers are dropped and numbered anew on decoding. Everything
is learned from training rows only. Models turn states and uniforms into their own inputs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.encoding.blocks import BlockCodec
from pipeline.encoding.scalers import QuantileScaler, distinct_subjects
from pipeline.errors import ConfigError
from pipeline.features.cohort import assemble
from pipeline.features.schema import RARE_LEVEL, Column, Resolution, TableSchema

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from pipeline.features.cohort import Cohort


@dataclass(frozen=True)
class EncodingSettings:
    """What is protected when a column is learned; the fields are those of `TabularConfig`."""

    rare_rows: int = 11
    atom_rows: int = 5
    extreme_rows: int = 5
    max_cells: int = 1000


@dataclass(frozen=True)
class LevelCodec:
    """The states of a discrete column.

    States 0 .. kept-1 are the levels in `kept` (positions in the schema's levels); then, where there are, one state
    for the pooled rare levels and one for missing.

    Attributes:
        column: The column.
        kept: (kept,) positions of the levels that are modelled, in the schema's order.
        to_state: (levels,) the state of each level of the schema.
        has_rare: Is there a state of pooled rare levels?
        has_missing: Is there a state for missing?
        frequency: (states,) share of each state among the training rows.
    """

    column: Column
    kept: NDArray[np.int64]
    to_state: NDArray[np.int64]
    has_rare: bool
    has_missing: bool
    frequency: NDArray[np.float64]

    @classmethod
    def fit(cls, column: Column, codes: NDArray[np.int64], subject: NDArray[np.integer], rare_rows: int) -> LevelCodec:
        """Learn from (n,) level positions (-1 missing).

        Levels of a categorical column that fewer than `rare_rows` subjects have are pooled into one state, redrawn
        from the other levels on decoding; those of an ordinal column join the nearest kept level. The two levels of a
        binary column are always kept: a rare flag is no category of its own.
        """
        if (codes == -2).any():
            raise ConfigError(
                f"{int((codes == -2).sum())} cells hold a value that is none of the column's levels.",
                where=f"column '{column.name}'",
                todo="Infer the schema from these rows, or add the levels.",
            )
        assert column.levels is not None
        size = len(column.levels)
        seen = codes >= 0
        holders = distinct_subjects(codes[seen], subject[seen], size)
        enough = holders >= (1 if column.kind == "binary" else rare_rows)
        if seen.any() and not enough.any():
            enough[int(np.argmax(holders))] = True
        named = [i for i, level in enumerate(column.levels) if level == RARE_LEVEL]
        pool = (holders > 0) & ~enough
        if named and pool.any():
            enough[named[0]] = True
            pool[named[0]] = False
        kept = np.flatnonzero(enough)
        has_rare = bool(pool.any()) and column.kind != "ordinal" and not named
        to_state = np.full(size, len(kept) if has_rare else 0, dtype=np.int64)
        to_state[kept] = np.arange(len(kept))
        if len(kept) and not has_rare:
            other = ~enough
            near = np.abs(np.flatnonzero(other)[:, None] - kept[None, :]).argmin(axis=1)
            to_state[other] = np.searchsorted(kept, named[0]) if named else near
        states = np.where(seen, to_state[np.maximum(codes, 0)], len(kept) + int(has_rare))
        has_missing = bool((~seen).any())
        frequency = np.bincount(states, minlength=len(kept) + int(has_rare) + int(has_missing)) / max(1, len(codes))
        return cls(column, kept, to_state, has_rare, has_missing, frequency)

    @property
    def states(self) -> int:
        """Number of states."""
        return len(self.frequency)

    @property
    def missing_state(self) -> int | None:
        """The state that stands for missing, None if training had no missing cell."""
        return self.states - 1 if self.has_missing else None

    @property
    def rare_state(self) -> int | None:
        """The state of pooled rare levels, None if nothing was pooled."""
        return len(self.kept) if self.has_rare else None

    def encode(self, codes: NDArray[np.integer]) -> NDArray[np.int64]:
        """(n,) states for (n,) level positions; a missing cell where training had none becomes -1."""
        codes = np.asarray(codes, dtype=np.int64)
        missing = -1 if self.missing_state is None else self.missing_state
        return np.where(codes >= 0, self.to_state[np.maximum(codes, 0)] if len(self.to_state) else missing, missing)

    def decode(self, states: NDArray[np.integer], rng: np.random.Generator) -> tuple[NDArray[np.int64], int]:
        """(n,) level positions (-1 missing) for (n,) states, and how many cells were redrawn from a pooled state."""
        states = np.asarray(states, dtype=np.int64)
        table = np.full(max(1, self.states), -1, dtype=np.int64)
        table[: len(self.kept)] = self.kept
        codes = table[states]
        redraw = np.zeros(len(states), dtype=bool) if self.rare_state is None else states == self.rare_state
        if redraw.any():
            weight = self.frequency[: len(self.kept)]
            codes[redraw] = rng.choice(self.kept, size=int(redraw.sum()), p=weight / weight.sum())
        return codes, int(redraw.sum())


def refuse_infinite(name: str, values: NDArray[np.float64]) -> None:
    """Raise `ConfigError` with the column's name where (n,) numbers are not all finite or missing."""
    if np.isinf(values).any():
        raise ConfigError(
            f"{int(np.isinf(values).sum())} cells are infinite.",
            where=f"column '{name}'",
            todo="Make them missing in the cohort's SQL.",
        )


@dataclass(frozen=True)
class NumberCodec:
    """A numeric column: the share of missing cells and the distribution of the others."""

    column: Column
    scaler: QuantileScaler
    missing_rate: float

    @classmethod
    def fit(
        cls, column: Column, values: NDArray[np.float64], subject: NDArray[np.integer], settings: EncodingSettings
    ) -> NumberCodec:
        """Learn from (n,) float64, NaN where missing."""
        refuse_infinite(column.name, values)
        seen = ~np.isnan(values)
        grid = column.resolution
        if grid is None and column.dtype in ("int64", "int32", "date32[day]"):
            grid = Resolution(kind="decimals", digits=0)
        scaler = QuantileScaler.fit(
            values[seen],
            subject=subject[seen],
            resolution=grid,
            bounds=column.bounds,
            atom_rows=settings.atom_rows,
            extreme_rows=settings.extreme_rows,
            max_cells=settings.max_cells,
        )
        return cls(column, scaler, float((~seen).mean()) if len(values) else 0.0)

    @property
    def has_missing(self) -> bool:
        """Did training have missing cells in this column?"""
        return self.missing_rate > 0


@dataclass
class Encoded:
    """Rows as models see them.

    Attributes:
        n: Number of rows.
        states: (n,) int64 a discrete column.
        uniforms: (n,) float64 a numeric column, NaN where missing.
        blocks: (n, codes used) int16 counts a code block.
    """

    n: int
    states: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    uniforms: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    blocks: dict[str, NDArray[np.int16]] = field(default_factory=dict)

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> Encoded:
        """The given rows, in that order."""
        index = np.flatnonzero(rows) if np.asarray(rows).dtype == bool else np.asarray(rows)
        return Encoded(
            n=len(index),
            states={k: v[index] for k, v in self.states.items()},
            uniforms={k: v[index] for k, v in self.uniforms.items()},
            blocks={k: v[index] for k, v in self.blocks.items()},
        )

    @classmethod
    def concatenate(cls, parts: list[Encoded]) -> Encoded:
        """The rows of all parts, one after the other."""
        first = parts[0]
        return cls(
            n=sum(p.n for p in parts),
            states={k: np.concatenate([p.states[k] for p in parts]) for k in first.states},
            uniforms={k: np.concatenate([p.uniforms[k] for p in parts]) for k in first.uniforms},
            blocks={k: np.concatenate([p.blocks[k] for p in parts]) for k in first.blocks},
        )


@dataclass(frozen=True)
class TableEncoder:
    """All codecs of a schema, in table order."""

    schema: TableSchema
    levels: dict[str, LevelCodec]
    numbers: dict[str, NumberCodec]
    blocks: dict[str, BlockCodec]

    @classmethod
    def fit(cls, cohort: Cohort, settings: EncodingSettings) -> TableEncoder:
        """Learn levels, distributions and code caps from all rows of `cohort` (the caller passes training rows)."""
        _, subject = np.unique(cohort.subject, return_inverse=True)
        levels: dict[str, LevelCodec] = {}
        numbers: dict[str, NumberCodec] = {}
        for column in cohort.schema.modelled():
            if column.discrete:
                codes = cohort.codes(column.name)
                levels[column.name] = LevelCodec.fit(column, codes, subject, settings.rare_rows)
            else:
                numbers[column.name] = NumberCodec.fit(column, cohort.values(column.name), subject, settings)
        blocks = {
            b.name: BlockCodec.fit(
                b.name,
                cohort.blocks[b.name],
                binary=b.kind == "binary",
                subject=subject,
                rare_rows=settings.rare_rows,
                atom_rows=settings.atom_rows,
            )
            for b in cohort.schema.blocks
        }
        return cls(cohort.schema, levels, numbers, blocks)

    def encode(self, cohort: Cohort, rng: np.random.Generator) -> Encoded:
        """States and uniforms of a cohort; ties of numeric columns are broken at random."""
        return Encoded(
            n=cohort.n_rows,
            states={k: c.encode(cohort.codes(k)) for k, c in self.levels.items()},
            uniforms={k: c.scaler.to_uniform(cohort.values(k), rng) for k, c in self.numbers.items()},
            blocks={k: c.dense(cohort.blocks[k]) for k, c in self.blocks.items()},
        )

    def decode(
        self,
        rows: Encoded,
        rng: np.random.Generator,
        *,
        fixed_codes: Mapping[str, NDArray[np.int64]] | None = None,
        fixed_values: Mapping[str, NDArray[np.float64]] | None = None,
    ) -> tuple[Cohort, dict[str, int]]:
        """A cohort in exactly the training schema, and how many cells were redrawn from a pooled rare level.

        `fixed_codes` (level positions, -1 missing) and `fixed_values` (NaN missing) overwrite whole columns.
        """
        columns: dict[str, NDArray[Any]] = {}
        redrawn = 0
        for name, level in self.levels.items():
            columns[name], count = level.decode(rows.states[name], rng)
            redrawn += 0 if fixed_codes and name in fixed_codes else count
        for name, number in self.numbers.items():
            columns[name] = number.scaler.from_uniform(rows.uniforms[name])
        columns.update(fixed_codes or {})
        columns.update(fixed_values or {})
        blocks: dict[str, csr_matrix] = {k: c.sparse(rows.blocks[k]) for k, c in self.blocks.items()}
        return assemble(self.schema, columns, blocks=blocks), {"rare_levels_redrawn": redrawn}

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Every array of every codec, under `encoder/<n>/<array>`; the number is the place in the manifest."""
        out: dict[str, NDArray[Any]] = {}
        for i, level in enumerate(self.levels.values()):
            out[f"encoder/level-{i:05d}/kept"] = level.kept
            out[f"encoder/level-{i:05d}/to_state"] = level.to_state
            out[f"encoder/level-{i:05d}/frequency"] = level.frequency
        for i, number in enumerate(self.numbers.values()):
            out.update({f"encoder/number-{i:05d}/{k}": v for k, v in number.scaler.tensors().items()})
        for i, block in enumerate(self.blocks.values()):
            out.update({f"encoder/block-{i:05d}/{k}": v for k, v in block.tensors().items()})
        return out

    def manifest(self) -> dict[str, Any]:
        """Schema and settings of every codec, for JSON."""
        return {
            "schema": self.schema.model_dump(mode="json"),
            "levels": [
                {"name": k, "has_rare": c.has_rare, "has_missing": c.has_missing} for k, c in self.levels.items()
            ],
            "numbers": [
                {"name": k, "missing_rate": c.missing_rate, **c.scaler.manifest()} for k, c in self.numbers.items()
            ],
            "blocks": [{"name": k, "binary": c.binary, "width": c.width} for k, c in self.blocks.items()],
        }

    @classmethod
    def restore(cls, tensors: Mapping[str, NDArray[Any]], manifest: Mapping[str, Any]) -> TableEncoder:
        """The encoder back from what `tensors` and `manifest` gave."""
        schema = TableSchema(**manifest["schema"])
        levels: dict[str, LevelCodec] = {}
        for i, entry in enumerate(manifest["levels"]):
            part = _below(tensors, f"encoder/level-{i:05d}/")
            levels[entry["name"]] = LevelCodec(
                column=schema.column(entry["name"]),
                kept=np.asarray(part["kept"], dtype=np.int64),
                to_state=np.asarray(part["to_state"], dtype=np.int64),
                has_rare=bool(entry["has_rare"]),
                has_missing=bool(entry["has_missing"]),
                frequency=np.asarray(part["frequency"], dtype=np.float64),
            )
        numbers = {
            entry["name"]: NumberCodec(
                column=schema.column(entry["name"]),
                scaler=QuantileScaler.restore(_below(tensors, f"encoder/number-{i:05d}/"), entry),
                missing_rate=float(entry["missing_rate"]),
            )
            for i, entry in enumerate(manifest["numbers"])
        }
        blocks = {
            entry["name"]: BlockCodec.restore(_below(tensors, f"encoder/block-{i:05d}/"), entry)
            for i, entry in enumerate(manifest["blocks"])
        }
        return cls(schema, levels, numbers, blocks)


def _below(tensors: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
