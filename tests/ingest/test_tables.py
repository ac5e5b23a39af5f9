"""CSV and Parquet deliveries: types, missing values, quarantine, and real tables."""

from __future__ import annotations

import csv
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ConfigError, InputError
from pipeline.ingest.tables.reader import table_name


def parquet(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


def column(name: str, dtype: str, *, nullable: bool = True, kind: str = "continuous") -> dict:
    return {"name": name, "kind": kind, "dtype": dtype, "nullable": nullable}


SCHEMA = json.dumps(
    {
        "columns": [
            column("id", "string", nullable=False, kind="identifier"),
            column("age", "int64"),
            column("lab", "float64"),
            column("dead", "bool", kind="binary"),
            column("seen", "timestamp[us]", kind="datetime"),
        ]
    }
).encode()


def test_types_are_found_over_the_whole_file(take):
    rows = ["code,count,lab,flag,day,at,word,mixed,gap,spaced"]
    rows += [f"0{n},{n},36.69531,true,2020-01-02,2020-01-02T10:00:00-05:00,x,{n},, {n}" for n in range(10, 30000)]
    rows += ["7,7,-1e-3,FALSE,2020-01-03,2020-01-03 11:00:00,,1.5,,1"]
    taken = take({"My Table.CSV.gz": "\n".join(rows).encode()}, format="table")
    table = taken.table("my_table")
    types = {field.name: str(field.type) for field in table.schema}
    assert types == {
        "code": "string",
        "count": "int64",
        "lab": "double",
        "flag": "bool",
        "day": "date32[day]",
        "at": "timestamp[us]",
        "word": "string",
        "mixed": "double",
        "gap": "string",
        "spaced": "int64",
    }
    first, last = table.slice(0, 1).to_pylist()[0], table.slice(table.num_rows - 1).to_pylist()[0]
    assert (first["code"], first["lab"], first["gap"]) == ("010", 36.69531, None)
    assert first["at"].isoformat() == "2020-01-02T15:00:00"
    assert (last["lab"], last["flag"], last["word"]) == (-0.001, False, None)
    assert taken.account.taken == {"my_table": 29991}


def test_floats_survive_exactly(take):
    import random

    draw = random.Random(0)
    values = [draw.uniform(-1, 1) * 10 ** draw.randint(-20, 20) for _ in range(500)] + [5e-324, 1.7976931348623157e308]
    data = "x\n" + "\n".join(map(repr, values))
    assert take({"f.csv": data.encode()}, format="table").table("f")["x"].to_pylist() == values


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters_quotes_and_line_breaks_in_cells(take, delimiter):
    out = io.StringIO()
    rows = [["a", "b"], ["1", f"x{delimiter}y"], ["2", 'say "hi"'], ["3", "two\nlines"], ["4", ""]]
    csv.writer(out, delimiter=delimiter, lineterminator="\r\n").writerows(rows)
    taken = take({"t.csv": out.getvalue().encode()}, format="table")
    assert taken.rows("t") == [
        {"a": 1, "b": f"x{delimiter}y"},
        {"a": 2, "b": 'say "hi"'},
        {"a": 3, "b": "two\nlines"},
        {"a": 4, "b": None},
    ]
    assert taken.account.in_ == 4


def test_rows_that_do_not_fit_are_quarantined_and_the_others_are_as_they_were(take):
    good = ["a,b", "1,x", "2,y", '3,"z\nz"', "4,w"]
    bad = [*good[:2], "1,2,3", good[2], "only", good[3], "9,\udcff", "", good[4], '5,"open']
    clean = take({"t.csv": "\n".join(good).encode()}, format="table")
    taken = take({"t.csv": "\n".join(bad).encode("utf-8", "surrogateescape")}, format="table")
    assert taken.rejects() == [
        ("t.csv", 3, "wrong_field_count"),
        ("t.csv", 5, "wrong_field_count"),
        ("t.csv", 8, "invalid_utf8"),
        ("t.csv", 11, "wrong_field_count"),
    ]
    assert taken.version.files["t"].sha256 == clean.version.files["t"].sha256
    assert taken.account.in_ == 8


def test_a_schema_beside_the_file_is_enforced(take):
    rows = [
        "id,age,lab,dead,seen,extra",
        "007,63,1.5,yes,2020-01-02,x",
        "008,63.0,,0,2020-01-02T10:00:00Z,x",
        "009,old,1,1,2020-01-02,x",
        "010,6.5,1,1,2020-01-02,x",
        "011,1,nan,1,2020-01-02,x",
        "012,1,1,maybe,2020-01-02,x",
        "013,1,1,1,2020-02-31,x",
        ",1,1,1,2020-01-02,x",
        "015,99999999999999999999,1,1,,x",
        "016,,,,,",
    ]
    taken = take({"t.csv": "\n".join(rows).encode(), "t.schema.json": SCHEMA}, format="table")
    assert taken.rejects() == [
        *((("t.csv", line, "wrong_type")) for line in range(4, 9)),
        ("t.csv", 9, "missing_value"),
        ("t.csv", 10, "wrong_type"),
    ]
    assert [row["id"] for row in taken.rows("t")] == ["007", "008", "016"]
    assert taken.rows("t")[1]["age"] == 63
    assert taken.rows("t")[0]["dead"] is True
    assert taken.account.info["columns_not_in_schema"] == {"t": ["extra"]}
    assert [str(f.type) for f in taken.table("t").schema] == ["string", "int64", "double", "bool", "timestamp[us]"]


def test_a_truncated_gzip_keeps_whole_rows(take):
    rows = "a,b\n" + "".join(f"{n},{n * 0.37!r}\n" for n in range(5000))
    packed = gzip.compress(rows.encode())
    taken = take({"t.csv.gz": packed[: len(packed) // 2]}, format="table")
    kept = taken.table("t")["a"].to_pylist()
    assert kept == list(range(len(kept)))
    assert 0 < len(kept) < 5000
    assert taken.account.quarantined == {"gzip_truncated": 1}
    assert taken.account.in_ == len(kept) + 1


def test_parquet_plain_and_gzipped_beside_csv(take):
    table = pa.table({"x": [1.5, None, 3.0], "name": ["007", "b", None], "n": pa.array([1, 2, 3], pa.int32())})
    files = {"a.parquet": parquet(table), "b.parquet.gz": parquet(table), "c.csv": b"x\n1\n"}
    taken = take(files, format="table")
    assert taken.table("a").cast(table.schema).equals(table)
    assert taken.table("b").cast(table.schema).equals(table)
    assert taken.account.taken == {"a": 3, "b": 3, "c": 1}
    assert set(taken.version.files) == {"a", "b", "c", "quarantine", "delivered_files"}


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a.csv": b""}, "not even a header"),
        ({"a.csv": b"1,2,3\n4,5,6\n"}, "no column names"),
        ({"a.csv": b"\xff,y\n1,2\n"}, "not UTF-8"),
        ({"a.csv": b"x,y\n"}, "empty"),
        ({"note.txt": b"x"}, "empty"),
        ({"a.parquet": b"PAR1 no"}, "not a Parquet file"),
        ({"a.csv": b"id\n1\n", "a.schema.json": SCHEMA}, "4 columns of the schema are not in the file"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(take, files, words):
    with pytest.raises(InputError, match=words):
        take(files, format="table")


def test_a_bad_schema_file_is_a_config_error(take):
    with pytest.raises(ConfigError, match="not a TableSchema"):
        take({"a.csv": b"x\n1\n", "a.schema.json": b'{"columns": [{"name": "x"}]}'}, format="table")


def test_too_many_bad_rows_refuse_the_delivery(take):
    with pytest.raises(InputError, match=r"2 of 3 records \(66.7%\).*2 wrong_field_count \(first at a.csv:3\)"):
        take({"a.csv": b"x,y\n1,2\nCANARY\nCANARY\n"}, format="table", limit=0.1)


def test_table_names():
    assert [table_name(n) for n in ("Support.csv.gz", "a/b C-d.parquet", "2024.csv", "é.csv")] == [
        "support",
        "b_c_d",
        "t_2024",
        "table",
    ]


@pytest.mark.realdata
@pytest.mark.parametrize(("file", "rows"), [("support/support.csv.gz", 8873), ("support2/support2.csv.gz", 9105)])
def test_real_tables_cell_by_cell(take, real_data, file, rows):
    """Against the csv module: every number is the same number, every text the same text."""
    taken = take(real_data / file, format="table")
    (name,) = taken.account.taken
    table = taken.table(name)
    assert taken.account.taken == {name: rows}
    assert taken.account.quarantined == {}
    with gzip.open(real_data / file, "rt", newline="") as text:
        header, *cells = csv.reader(text)
    for position, field in enumerate(table.schema):
        ours, theirs = table[field.name].to_pylist(), [row[position] or None for row in cells]
        assert field.name == header[position].strip() or field.name.startswith("unnamed_")
        read = float if pa.types.is_floating(field.type) else int if pa.types.is_integer(field.type) else str
        assert ours == [None if cell is None else read(cell) for cell in theirs], field.name
    assert any(pa.types.is_floating(field.type) for field in table.schema)
