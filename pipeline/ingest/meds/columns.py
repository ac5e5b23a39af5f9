"""The columns of a MEDS table brought to their types: what a batch of rows becomes, and why a row does not fit.

A value is kept if the type can say it; one that the type says less exactly (a double as a 32-bit float, nanoseconds
as microseconds) is taken and counted. Which files are read, and what becomes of the rows, is in `reader.py`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pyarrow as pa

    Fitted = tuple[pa.Array, Any, int]
    """The values in their type, a mask of those that do not fit (null or None: all do), and how many were changed."""

_WHOLE: Final = r"^\s*[+-]?\d{1,18}(\.0+)?\s*$"
_NUMBER: Final = r"(?i)^\s*[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d{1,4})?|nan|inf|infinity)\s*$"


class UnfitError(Exception):
    """A column's type cannot be brought to what is wanted, whatever the values are."""


@dataclass(frozen=True)
class Wanted:
    """One column of a kind of table.

    Attributes:
        convert: Brings an Arrow array to the type.
        type: The type, for where the column is absent.
        required: May it not be null (or absent)?
        reason: Why a value that does not fit is set aside.
    """

    convert: Callable[[pa.Array], Fitted]
    type: pa.DataType
    required: bool = False
    reason: str = "wrong_type"


@dataclass
class Rows:
    """A batch of rows in the types that are wanted.

    Attributes:
        table: The rows that fit.
        rejected: Place in the batch (0-based), reason and the row's content as text, of those that do not.
        changed: Column to the number of values that the type says less exactly.
        casts: Columns that came in another type.
    """

    table: pa.Table
    rejected: list[tuple[int, str, bytes]]
    changed: Counter[str] = field(default_factory=Counter)
    casts: set[str] = field(default_factory=set)


def fit(batch: pa.Table, wanted: Mapping[str, Wanted], extra: Mapping[str, pa.DataType]) -> Rows:
    """Bring a batch to the wanted columns, and to `extra` ones that are kept as they are.

    Args:
        batch: Rows as they stand in the file.
        wanted: Columns by name; those that the batch lacks become null.
        extra: Further columns and the types that they have in all files together.

    Raises:
        UnfitError: a column of a type from which there is no way.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    made: dict[str, pa.Array] = {}
    there = {name: place for place, name in enumerate(batch.column_names)}  # asking the table is slow with thousands
    rows = Rows(batch, [])
    reasons = pa.nulls(batch.num_rows, pa.string())
    for name, want in wanted.items():
        if name not in there:
            made[name] = pa.nulls(batch.num_rows, want.type)
            continue
        came = plain(batch.column(name))
        values, misfit, changed = want.convert(came)
        made[name] = values
        if came.type != want.type:
            rows.casts.add(name)
        if changed:
            rows.changed[name] += changed
        if misfit is not None and pc.any(misfit).as_py():
            reasons = pc.if_else(pc.and_(misfit, pc.is_null(reasons)), want.reason, reasons)
    for name, want in wanted.items():
        if want.required:
            absent = pc.and_(pc.is_null(made[name]), pc.is_null(reasons))
            reasons = pc.if_else(absent, "missing_value", reasons)
    for name, kind in extra.items():
        made[name] = _kept(plain(batch.column(there[name])), kind) if name in there else _none(batch, kind)
    table = pa.table(made)
    if reasons.null_count < batch.num_rows:
        good = pc.is_null(reasons)
        for place in pc.indices_nonzero(pc.invert(good)).to_pylist():
            rows.rejected.append((place, reasons[place].as_py(), row_bytes(batch, place)))
        table = table.filter(good)
    rows.table = table
    return rows


def plain(column: Any) -> pa.Array:
    """One array without dictionary: a dictionary would carry along values of rows that are not there any more."""
    import pyarrow as pa

    values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks)
    return values.cast(values.type.value_type) if pa.types.is_dictionary(values.type) else values


def to_subject(values: pa.Array) -> Fitted:
    """int64; whole floats and texts of digits are numbers too."""
    import pyarrow as pa
    import pyarrow.compute as pc

    types, came = pa.types, values.type
    if came == pa.int64() or types.is_null(came):
        return values.cast(pa.int64()), None, 0
    if types.is_uint64(came):
        misfit = pc.fill_null(pc.greater(values, pa.scalar(2**63 - 1, pa.uint64())), False)
        return _without(values, misfit).cast(pa.int64()), misfit, 0
    if types.is_integer(came):
        return values.cast(pa.int64()), None, 0
    if types.is_floating(came) or types.is_decimal(came):
        number = values.cast(pa.float64())
        whole = pc.and_(pc.equal(number, pc.floor(number)), pc.less(pc.abs(number), 2.0**53))
        misfit = pc.and_(pc.is_valid(number), pc.invert(pc.fill_null(whole, False)))
        return _without(number, misfit).cast(pa.int64()), misfit, 0
    if _is_text(came):
        text = values.cast(pa.string())
        misfit = pc.fill_null(pc.invert(pc.match_substring_regex(text, _WHOLE)), False)
        bare = pc.replace_substring_regex(pc.utf8_trim_whitespace(_without(text, misfit)), r"\.0+$", "")
        return pc.replace_substring_regex(bare, r"^\+", "").cast(pa.int64()), misfit, 0
    raise UnfitError


def to_time(values: pa.Array) -> Fitted:
    """timestamp[us], naive UTC; what has a zone is brought to UTC, a day is its first moment."""
    import pyarrow as pa
    import pyarrow.compute as pc

    types, came, wanted = pa.types, values.type, pa.timestamp("us")
    if came == wanted or types.is_null(came):
        return values.cast(wanted), None, 0
    if types.is_timestamp(came):
        naive = values.cast(pa.timestamp(came.unit))  # the instant in UTC
        if came.unit == "ns":
            fresh = naive.cast(wanted, safe=False)
            lost = pc.not_equal(fresh.cast(pa.timestamp("ns")), naive)
            return fresh, None, int(pc.sum(lost).as_py() or 0)
        return _each(naive, lambda column: column.cast(wanted), wanted)
    if types.is_date(came):
        return _each(values, lambda column: column.cast(wanted), wanted)
    if _is_text(came):
        return _each_text(values.cast(pa.string()))
    raise UnfitError


def to_code(values: pa.Array) -> Fitted:
    """string; numbers become their digits."""
    import pyarrow as pa

    types = pa.types
    if _is_text(values.type) or types.is_integer(values.type) or types.is_null(values.type):
        return values.cast(pa.string()), None, 0
    raise UnfitError


def to_float32(values: pa.Array) -> Fitted:
    """float32; a number beyond its range does not fit, and one that it says less exactly counts as changed."""
    import pyarrow as pa
    import pyarrow.compute as pc

    types, came = pa.types, values.type
    if came == pa.float32() or types.is_null(came):
        return values.cast(pa.float32()), None, 0
    unread = None
    if _is_text(came):
        text = values.cast(pa.string())
        unread = pc.fill_null(pc.invert(pc.match_substring_regex(text, _NUMBER)), False)
        values = pc.replace_substring_regex(pc.utf8_trim_whitespace(_without(text, unread)), r"^\+", "")
    elif types.is_boolean(came):
        values = values.cast(pa.int8())
    elif not (types.is_integer(came) or types.is_floating(came) or types.is_decimal(came)):
        raise UnfitError
    number = values.cast(pa.float64(), safe=False)
    fresh = number.cast(pa.float32(), safe=False)
    beyond = pc.fill_null(pc.and_(pc.is_finite(number), pc.invert(pc.is_finite(fresh))), False)
    back = fresh.cast(pa.float64())
    other = pc.and_(pc.not_equal(back, number), pc.invert(pc.is_nan(number)))
    changed = int(pc.sum(pc.and_(pc.fill_null(other, False), pc.invert(beyond))).as_py() or 0)
    return _without(fresh, beyond), beyond if unread is None else pc.or_(unread, beyond), changed


def to_text(values: pa.Array) -> Fitted:
    """large_string; numbers, dates and truth values are written out."""
    import pyarrow as pa

    if pa.types.is_nested(values.type) or pa.types.is_binary(values.type):
        raise UnfitError
    return values.cast(pa.string()).cast(pa.large_string()), None, 0


def to_exactly(wanted: pa.DataType) -> Callable[[pa.Array], Fitted]:
    """A converter to a type that every value of the column must be able to say."""

    def convert(values: pa.Array) -> Fitted:
        import pyarrow as pa

        if pa.types.is_nested(values.type):
            raise UnfitError
        return _each(values, lambda column: column.cast(wanted), wanted)

    return convert


def together(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The type in which the values of two files can stand in one column; text where there is no better one."""
    import pyarrow as pa

    if one == other:
        return one
    try:
        schema = pa.unify_schemas([pa.schema([("c", one)]), pa.schema([("c", other)])], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.string()
    return schema.field("c").type


def stored_type(kind: pa.DataType) -> pa.DataType:
    """The type in which an extra column is kept: its own, without dictionary; a column of nothing is text."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return stored_type(kind.value_type)
    return pa.string() if pa.types.is_null(kind) or pa.types.is_large_string(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _without(values: pa.Array, misfit: Any) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.if_else(misfit, pa.scalar(None, values.type), values)


def _none(batch: pa.Table, kind: pa.DataType) -> pa.Array:
    import pyarrow as pa

    return pa.nulls(batch.num_rows, kind)


def _kept(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """An extra column in the type that it has in all files together."""
    import pyarrow as pa

    if values.type == kind:
        return values
    try:
        return values.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        texts = [
            None if v is None else v if isinstance(v, str) else json.dumps(v, default=str) for v in values.to_pylist()
        ]
        return pa.array(texts, pa.string()).cast(kind)


def _each(values: pa.Array, convert: Callable[[pa.Array], pa.Array], wanted: pa.DataType) -> Fitted:
    """All at once; where one value does not fit, one by one. A type that has no way fails without any value too."""
    import pyarrow as pa

    try:
        return convert(values), None, 0
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OverflowError):
        pass
    if not len(values):
        raise UnfitError
    pieces, misfit = [], []
    for place in range(len(values)):
        try:
            pieces.append(convert(values.slice(place, 1)))
            misfit.append(False)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OverflowError):
            pieces.append(pa.nulls(1, wanted))
            misfit.append(True)
    return pa.concat_arrays(pieces), pa.array(misfit), 0


def _each_text(text: pa.Array) -> Fitted:
    """ISO texts to naive UTC, each distinct text once."""
    import pyarrow as pa
    import pyarrow.compute as pc

    packed = text.dictionary_encode()
    found: list[datetime | None] = []
    for value in packed.dictionary.to_pylist():
        try:
            moment = datetime.fromisoformat(value.strip())
            found.append(moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment)
        except (ValueError, OverflowError):
            found.append(None)
    values = pa.array(found, pa.timestamp("us")).take(packed.indices)
    return values, pc.and_(pc.is_valid(text), pc.is_null(values)), 0


def row_bytes(batch: pa.Table, place: int) -> bytes:
    """A row as text, for its hash: a Parquet file has no bytes of a row."""
    import pyarrow as pa

    try:
        row = batch.slice(place, 1).to_pylist()[0]
    except (OverflowError, ValueError):  # a date that Python cannot say, a text that is no UTF-8
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as stream:
            stream.write_table(batch.slice(place, 1))
        return bytes(sink.getvalue())
    return json.dumps(row, default=str, sort_keys=True).encode("utf-8", "surrogatepass")
