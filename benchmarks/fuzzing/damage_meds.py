"""Damage to the Parquet files and the JSON of a MEDS dataset: types, values, columns, and the bytes of a page."""

from __future__ import annotations

import io
import random
from typing import Any

from fuzzing.damage import Damage, pick
from fuzzing.deliveries import Files
from fuzzing.values import anything, text


def _parquet(rng: random.Random, files: Files) -> tuple[str, Any] | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    there = [name for name in files if name.endswith(".parquet")]
    if not there:
        return None
    data = [name for name in there if name.startswith("data/")]
    name = rng.choice(sorted(data if data and rng.random() < 0.7 else there))
    try:
        return name, pq.read_table(io.BytesIO(files[name]))
    except (pa.ArrowException, OSError):
        return None


def _write(files: Files, name: str, table: Any) -> None:
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(table, out)
    files[name] = out.getvalue()


def cells(rng: random.Random, files: Files) -> str:
    """Other values in a column, of a type that can say them or as text."""
    import pyarrow as pa

    if (found := _parquet(rng, files)) is None or not found[1].num_rows:
        return "nothing"
    name, table = found
    place = rng.randrange(table.num_columns)
    column = table.column_names[place]
    values = table.column(place).to_pylist()
    some = range(len(values)) if rng.random() < 0.2 else [rng.randrange(len(values))]
    fresh = rng.choice([anything(rng), text(rng), None, float("nan"), float("inf"), 1e39, -5, 2**62, "2019-02-30"])
    fresh = fresh[:500] if isinstance(fresh, str | list) and len(some) > 1 else fresh
    for at in some:
        values[at] = fresh
    try:
        made = pa.array(values)
    except (pa.ArrowException, OverflowError, ValueError, TypeError):
        try:
            made = pa.array([None if v is None else str(v) for v in values], pa.string())
        except UnicodeEncodeError:
            return "nothing"
    if pa.types.is_null(made.type):
        made = pa.nulls(len(values), table.schema.field(place).type)
    _write(files, name, table.set_column(place, column, made))
    return f"{name}: {column} of {len(some)} rows (first {some[0] + 1}) = {str(fresh)[:30]!r}, {made.type}"


def types(rng: random.Random, files: Files) -> str:
    """A column in another type that may or may not say the same."""
    import pyarrow as pa

    if (found := _parquet(rng, files)) is None:
        return "nothing"
    name, table = found
    place = rng.randrange(table.num_columns)
    column = table.column_names[place]
    kind = rng.choice(
        [pa.int8(), pa.int32(), pa.uint64(), pa.float64(), pa.float16(), pa.string(), pa.large_string(), pa.binary(),
         pa.bool_(), pa.date32(), pa.timestamp("ns"), pa.timestamp("s", "Europe/Berlin"), pa.time64("us"),
         pa.decimal128(38, 4), pa.duration("us"), pa.null(), pa.dictionary(pa.int32(), pa.string()),
         pa.list_(pa.int64()), pa.struct([("a", pa.int64())]), pa.string_view()]
    )  # fmt: skip
    try:
        made = table.column(place).cast(kind, safe=False)
    except (pa.ArrowException, OverflowError):
        made = pa.nulls(table.num_rows, kind)
    try:
        _write(files, name, table.set_column(place, column, made))
    except (pa.ArrowException, OSError):
        return "nothing"
    return f"{name}: {column} as {kind}"


def columns(rng: random.Random, files: Files) -> str:
    """Columns that are missing, repeated, renamed, added or very many."""
    import pyarrow as pa

    if (found := _parquet(rng, files)) is None:
        return "nothing"
    name, table = found
    place = rng.randrange(table.num_columns)
    how = rng.choice(["gone", "renamed", "twice", "case", "added", "many", "reversed", "index"])
    names = table.column_names
    if how == "gone":
        table = table.remove_column(place)
    elif how == "renamed":
        table = table.rename_columns([text(rng)[:500] if i == place else n for i, n in enumerate(names)])
    elif how == "twice":
        table = table.append_column(names[place], table.column(place))
    elif how == "case":
        table = table.rename_columns([n.upper() if i == place else n for i, n in enumerate(names)])
    elif how == "added":
        table = table.append_column(text(rng)[:500] or "x", pa.array([str(anything(rng))[:500]] * table.num_rows))
    elif how == "index":
        table = table.append_column("__index_level_0__", pa.array(range(table.num_rows)))
    elif how == "many":
        one = pa.array([1] * table.num_rows)
        table = pa.table(
            {**{n: table.column(n) for n in names}, **{f"x{n}": one for n in range(rng.choice([500, 5000]))}}
        )
    else:
        table = table.select(names[::-1])
    try:
        _write(files, name, table)
    except (UnicodeEncodeError, pa.ArrowException):
        return "nothing"
    return f"{name}: column {names[place]} {how}"


def rows(rng: random.Random, files: Files) -> str:
    """Rows twice, in another order, missing or very many."""
    import pyarrow as pa

    if (found := _parquet(rng, files)) is None:
        return "nothing"
    name, table = found
    how = rng.choice(["twice", "reversed", "none", "many", "halves"])
    size = table.num_rows
    if how == "twice":
        table = pa.concat_tables([table, table])
    elif how == "reversed":
        table = table.take(pa.array(range(size - 1, -1, -1), pa.int64()))
    elif how == "none":
        table = table.slice(0, 0)
    elif how == "many" and size:
        table = pa.concat_tables([table] * (200_000 // size))
    else:
        table = table.slice(0, size // 2)
    _write(files, name, table)
    return f"{name}: rows {how}"


def described(rng: random.Random, files: Files) -> str:
    """`dataset.json` that says something else."""
    import json

    name = "metadata/dataset.json"
    if name not in files:
        return "nothing"
    told: dict[str, Any] = {"dataset_name": "x", "meds_version": "0.4.1"}
    key = rng.choice(["meds_version", "dataset_name", "created_at", "site_id_columns", "x", text(rng)[:300]])
    told[key] = rng.choice([anything(rng), text(rng)[:1000], "0.3.3", "0.9", "1.0.0", "0.4", ["a", "b"]])
    files[name] = json.dumps(told if rng.random() < 0.8 else anything(rng)).encode()
    return f"{name}: {key[:30]!r} = {str(told[key])[:30]!r}"


def elsewhere(rng: random.Random, files: Files) -> str:
    """A file in another folder of the dataset."""
    name = pick(rng, files)
    fresh = rng.choice(
        ["data/x.parquet", "labels/x.parquet", "metadata/x.parquet", "a/data/0.parquet", "DATA/0.parquet"]
    )
    files[fresh] = files[name] if rng.random() < 0.5 else files.pop(name)
    return f"{name} at {fresh}"


PARQUET: list[Damage] = [cells, types, columns, rows]
"""What can be done to any Parquet file."""
MEDS: list[Damage] = [cells, cells, cells, types, types, columns, rows, described, elsewhere]
"""What can be done to a MEDS dataset, as often as it is drawn."""
