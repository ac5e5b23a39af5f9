"""A TableSchema from data: what the author declared is verified, what was left out is told from the training rows.

Levels, bounds, kinds and grids come from training rows only, so that nothing of the holdout reaches a generator;
whether a column may be missing is told from all rows, because the schema is enforced on all of them when written.
How a grid is found is written down in `resolution.py`.

Kinds (spec 0.1; DESIGN section 11 holds where they differ), over the training rows' non-missing values:
two values or a bool is `binary`; text with more than 90 % distinct values is an `identifier`, other text is
`categorical`; whole numbers from 0 up are `count` if they reach 0 or 1 or have at most 64 distinct values, other
numbers are `continuous`; dates and times are `datetime`; `ordinal` is only ever declared. No message holds a value.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from pipeline.errors import ConfigError, InputError, nearest
from pipeline.features.cohort import level_codes, numbers
from pipeline.features.resolution import infer_resolution, moved
from pipeline.features.schema import (
    DISCRETE,
    NUMERIC,
    TOLD,
    Column,
    DType,
    Kind,
    Level,
    Resolution,
    TableSchema,
    Told,
    arrow_type,
)
from pipeline.features.spec import ColumnSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

MOST_LEVELS = 256
RARE_ROWS = 11
"""Levels with fewer training rows are pooled by the encoders; here they only do not count against `MOST_LEVELS`."""
_IDENTIFIER_RATIO = 0.9
_NUMBERED_RATIO = 0.5
NAMED_LIKE_AN_ID = re.compile(r"(?i:(^|[_ .-])(id|nbr|nr|no|mrn|ssn|key)$)|[a-z]I[dD]$")
"""Whole numbers under such a name that mostly differ say who a row is: learned as numbers, real ones would come out."""
_FEW_NUMBERS = 64
_PAIRS: dict[str, list[Level]] = {"bool": [False, True], "int32": [0, 1], "int64": [0, 1], "float64": [0.0, 1.0]}


def normalise(table: pa.Table, columns: Mapping[str, ColumnSpec] | None = None) -> pa.Table:
    """The same cells in the few types that a schema knows, NaN as missing.

    Dictionaries are decoded; decimals become float64 (int64 without decimals), small integers int32, unsigned ones
    int64; times are naive UTC in microseconds. A declared dtype wins.

    Raises:
        ConfigError: a column of a type that cannot be modelled, an infinite number, a declared dtype that does not fit.
    """
    arrays: list[pa.ChunkedArray] = []
    types: list[pa.DataType] = []
    for name in table.column_names:
        declared = (columns or {}).get(name, ColumnSpec()).dtype
        array = _plain(table.column(name), name)
        target = arrow_type(declared or _dtype(array.type, name))
        array = _cast(array, target, name, declared is not None)
        if pa.types.is_floating(array.type):
            infinite = int(pc.sum(pc.is_inf(array)).as_py() or 0)
            if infinite:
                raise ConfigError(f"{infinite} rows hold an infinite number.", where=_where(name))
            array = pc.if_else(pc.is_nan(array), pa.scalar(None, target), array)
        arrays.append(array)
        types.append(target)
    return pa.Table.from_arrays(
        arrays, schema=pa.schema([pa.field(n, t) for n, t in zip(table.column_names, types, strict=True)])
    )


def conform(table: pa.Table, schema: TableSchema) -> pa.Table:
    """The table in exactly `schema.arrow()`: its columns in order, its types, its nullability.

    Raises:
        InputError: a column is missing, does not fit its type, or misses cells that the schema says are there.
    """
    absent = [n for n in schema.names if n not in table.column_names]
    if absent:
        raise InputError(
            f"{len(absent)} columns of the schema are not in the table, the first is '{absent[0]}'.",
            todo=nearest(absent[0], table.column_names),
        )
    picked = table.select(schema.names)
    specs = {c.name: ColumnSpec(dtype=c.dtype) for c in schema.columns}
    try:
        picked = normalise(picked, specs)
    except ConfigError as error:
        raise InputError(error.what, where=error.where, todo=error.todo) from None
    for column in schema.columns:
        gone = picked.column(column.name).null_count
        if gone and not column.nullable:
            raise InputError(
                f"{gone} cells are missing in a column that the schema says is complete.", where=_where(column.name)
            )
    return pa.Table.from_arrays(picked.columns, schema=schema.arrow())


def infer_schema(
    table: pa.Table,
    train: NDArray[np.bool_] | None = None,
    columns: Mapping[str, ColumnSpec] | None = None,
    unit: str = "row",
) -> TableSchema:
    """The schema of a table.

    Args:
        table: (n rows); types are normalised first, so the rows are `conform(table, schema)` afterwards.
        train: (n,) True for the rows to learn from; None takes all.
        columns: what the author says of columns, by name.
        unit: what one row is: patient, stay or row.

    Raises:
        ConfigError: a declaration contradicts the data (column and number of rows), a column cannot be modelled, or
            one has no value in the training rows.
    """
    given = dict(columns or {})
    unknown = [n for n in given if n not in table.column_names]
    if unknown:
        raise ConfigError(
            f"Column '{unknown[0]}' is declared but not in the table.", todo=nearest(unknown[0], table.column_names)
        )
    table = normalise(table, given)
    mask = np.ones(table.num_rows, dtype=bool) if train is None else np.asarray(train, dtype=bool)
    if not mask.any():
        raise InputError(
            f"None of the {table.num_rows} rows are for training.", todo="More subjects are needed to tell a schema."
        )
    rows = pa.array(np.flatnonzero(mask))
    described = [
        _column(name, table.column(name).combine_chunks(), rows, given.get(name, ColumnSpec()))
        for name in table.column_names
    ]
    try:
        return TableSchema(columns=described, unit=unit)
    except ValidationError as error:
        raise ConfigError(str(error.errors()[0]["msg"])) from None


def _column(name: str, array: pa.Array, rows: pa.Array, spec: ColumnSpec) -> Column:
    """One column: kind, then levels or bounds and grid, each declared (and verified on all rows) or inferred."""
    dtype = _dtype(array.type, name)
    train = array.take(rows)
    seen = train.drop_null()
    if not len(seen):
        raise ConfigError(
            f"None of the {len(train)} training rows holds a value.",
            where=_where(name),
            todo="Leave the column out of the SQL until there are values.",
        )
    if spec.nullable is False and array.null_count:
        raise ConfigError(
            f"{array.null_count} rows hold no value, and it is declared `nullable: false`.",
            where=_where(name),
            todo="Leave it out, or fill them in the SQL.",
        )
    kind = spec.kind or _kind(name, seen, dtype)
    if spec.kind is None and kind == "binary" and len(spec.levels or []) > 2:
        kind = "categorical"  # two of the declared levels occur
    _kind_fits(name, array, kind, dtype)
    settings: dict[str, Any] = {
        "name": name,
        "kind": kind,
        "dtype": dtype,
        "role": "id" if kind == "identifier" and spec.role == "feature" else spec.role,
        "nullable": array.null_count > 0 if spec.nullable is None else spec.nullable,
        "unit": spec.unit,
        "description": spec.description,
        "source": list(spec.source),
        "inferred": _told(kind, dtype, spec),
    }
    if kind in DISCRETE:
        _refuse(name, spec.bounds is not None, "bounds", kind)
        _refuse(name, spec.resolution is not None, "resolution", kind)
        settings["levels"] = _levels(name, seen, kind, dtype) if spec.levels is None else spec.levels
    else:
        _refuse(name, spec.levels is not None, "levels", kind)
    try:
        column = Column(**settings)
    except ValidationError as error:
        raise ConfigError(str(error.errors()[0]["msg"]), where=_where(name)) from None
    if kind in DISCRETE:
        return _verify_levels(column, array, declared=spec.levels is not None)
    return column if kind == "identifier" else _with_numbers(column, array, train, spec)


def _told(kind: Kind, dtype: DType, spec: ColumnSpec) -> tuple[Told, ...]:
    """What the data say of the column and its author does not; a type says by itself which levels a bool has."""
    by_type = {"levels": dtype == "bool" or kind not in DISCRETE, "bounds": kind not in NUMERIC}
    by_type["resolution"] = by_type["bounds"]
    told = tuple(what for what in TOLD if not by_type.get(what, False) and getattr(spec, what) is None)
    return () if kind == "identifier" else told


def _kind(name: str, seen: pa.Array, dtype: DType) -> Kind:
    """The kind by the rule in the module's docstring; `seen` are the training values without nulls, never empty."""
    distinct = int(pc.count_distinct(seen).as_py())
    if dtype in ("timestamp[us]", "date32[day]"):
        return "datetime"
    if dtype == "bool":
        return "binary"
    if dtype == "string":
        if distinct == 2:
            return "binary"
        if distinct > _IDENTIFIER_RATIO * len(seen) and distinct > 2:
            return "identifier"
        common = sum(c >= RARE_ROWS for c in pc.value_counts(seen).field("counts").to_pylist())
        if common > MOST_LEVELS:
            raise ConfigError(
                f"The text has {common} levels of {RARE_ROWS} rows or more; at most {MOST_LEVELS} can be modelled.",
                where=_where(name),
                todo="Group the levels in the SQL, or declare kind: identifier.",
            )
        return "categorical"
    if distinct == 2:
        return "binary"
    if dtype in ("int32", "int64"):
        smallest = pc.min(seen).as_py()
        if distinct > max(_FEW_NUMBERS, _NUMBERED_RATIO * len(seen)) and NAMED_LIKE_AN_ID.search(name):
            return "identifier"
        if smallest >= 0 and (smallest <= 1 or distinct <= _FEW_NUMBERS):
            return "count"
    return "continuous"


def _kind_fits(name: str, array: pa.Array, kind: Kind, dtype: DType) -> None:
    """Refuse a declared kind that the type or the numbers contradict."""
    if kind in ("continuous", "count") and dtype not in ("float64", "float32", "int64", "int32"):
        raise ConfigError(f"A {kind} column needs numbers, its type is {dtype}.", where=_where(name))
    if kind == "datetime" and dtype not in ("timestamp[us]", "date32[day]"):
        raise ConfigError(f"A datetime column needs dates or times, its type is {dtype}.", where=_where(name))
    if kind in DISCRETE and dtype in ("timestamp[us]", "date32[day]"):
        raise ConfigError(f"A {kind} column cannot be of type {dtype}.", where=_where(name), todo="Cast it to text.")
    if kind == "identifier" and dtype not in ("string", "int64", "int32"):
        raise ConfigError(f"An identifier is text or a whole number, its type is {dtype}.", where=_where(name))
    if kind == "count":
        values = np.asarray(pc.cast(array.drop_null(), pa.float64(), safe=False))
        bad = int(np.sum((values < 0) | (values != np.rint(values))))
        if bad:
            raise ConfigError(
                f"Declared a count, but {bad} rows are negative or not whole.",
                where=_where(name),
                todo="Declare kind: continuous, or mend the SQL.",
            )


def _levels(name: str, seen: pa.Array, kind: Kind, dtype: DType) -> list[Level]:
    """All training values, sorted; a binary column of numbers or bools has both levels even if one was not seen."""
    if kind == "ordinal" and dtype == "string":
        raise ConfigError(
            "The order of text cannot be told from the data.", where=_where(name), todo="Declare its levels in order."
        )
    levels: list[Level] = sorted(pc.unique(seen).to_pylist())
    pair = _PAIRS.get(dtype, [])
    if kind == "binary" and set(levels) < set(pair):
        return pair
    if kind == "binary" and len(levels) > 2:
        raise ConfigError(f"Declared binary, but there are {len(levels)} levels.", where=_where(name))
    return levels


def _verify_levels(column: Column, array: pa.Array, *, declared: bool) -> Column:
    """Declared levels must be of the column's type and hold for every row; inferred ones need only hold in train."""
    if declared:
        try:
            pa.array(column.levels, type=arrow_type(column.dtype))
        except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError):
            raise ConfigError(
                f"The declared levels are not of the column's type {column.dtype}.",
                where=_where(column.name),
                todo="Quote text levels in the YAML, or declare the dtype.",
            ) from None
        outside = int(np.sum(level_codes(array, column) == -2))
        if outside:
            raise ConfigError(
                f"{outside} rows hold a value that is not among the {len(column.levels or [])} declared levels.",
                where=_where(column.name),
                todo="Add the level, or map it in the SQL.",
            )
    return column


def _with_numbers(column: Column, array: pa.Array, train: pa.Array, spec: ColumnSpec) -> Column:
    """Bounds and grid of a numeric column."""
    everything, learned = numbers(array, column), numbers(train, column)
    if spec.bounds is None:
        bounds = (float(np.nanmin(learned)), float(np.nanmax(learned)))
    else:
        bounds = spec.bounds
        outside = int(np.sum((everything < bounds[0]) | (everything > bounds[1])))
        if outside:
            raise ConfigError(
                f"{outside} rows are outside the declared bounds.",
                where=_where(column.name),
                todo="Widen the bounds, or clean the values in the SQL.",
            )
    resolution: Resolution | None
    if spec.resolution is None:
        resolution = infer_resolution(learned, column.kind, column.dtype)
    else:
        resolution = spec.resolution
        off = moved(everything, resolution, column.dtype)
        if off:
            raise ConfigError(
                f"The declared resolution would move {off} of the real values.",
                where=_where(column.name),
                todo="Leave it out: it is then inferred from the training rows.",
            )
    try:
        return Column(**{**column.model_dump(), "bounds": bounds, "resolution": resolution})
    except ValidationError as error:
        raise ConfigError(str(error.errors()[0]["msg"]), where=_where(column.name)) from None


def _plain(array: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Dictionaries decoded, zoned times as naive UTC."""
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    if pa.types.is_timestamp(array.type):
        # Casting a zoned time to a naive one keeps the instant, in UTC; finer than microseconds is cut off.
        array = pc.cast(array, pa.timestamp("us"), safe=False)
    return array


def _dtype(kind: pa.DataType, name: str) -> DType:
    """The schema's type for an Arrow type."""
    t = pa.types
    if t.is_boolean(kind):
        return "bool"
    if kind in (pa.int64(), pa.uint32(), pa.uint64()):
        return "int64"
    if t.is_integer(kind):
        return "int32"
    if t.is_float16(kind) or t.is_float32(kind):
        return "float32"
    if t.is_float64(kind):
        return "float64"
    if t.is_decimal(kind):
        return "int64" if kind.scale == 0 else "float64"
    if t.is_string(kind) or t.is_large_string(kind) or t.is_string_view(kind) or t.is_null(kind):
        return "string"
    if t.is_timestamp(kind):
        return "timestamp[us]"
    if t.is_date(kind):
        return "date32[day]"
    raise ConfigError(
        f"A column of type {kind} cannot be modelled.",
        where=_where(name),
        todo="Turn it into numbers or text in the SQL.",
    )


def _cast(array: pa.ChunkedArray, target: pa.DataType, name: str, declared: bool) -> pa.ChunkedArray:
    # Decimals to floats, and float64 to a declared float32, may round: that is what was asked for.
    rounding_allowed = pa.types.is_floating(target)
    try:
        return pc.cast(array, target, safe=not rounding_allowed)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        pass  # Arrow's message holds a cell value, so ours is raised outside its context.
    raise ConfigError(
        f"The values do not fit the {'declared ' if declared else ''}type {target}.",
        where=_where(name),
        todo="Change the dtype, or cast in the SQL.",
    )


def _refuse(name: str, given: bool, what: str, kind: Kind) -> None:
    if given:
        raise ConfigError(
            f"A {kind} column has no {what}.", where=_where(name), todo=f"Remove {what} or change the kind."
        )


def _where(name: str) -> str:
    return f"column {name}"
