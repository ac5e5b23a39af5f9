"""How plain tables are read: several files, archives, encodings, headers, and files that cannot be used."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from pipeline.errors import InputError
from pipeline.features.source import SourceSpec, TableReading
from pipeline.ingest.tables import archives

ADULT = {
    "files": ["adult.*"],
    "header": ["age", "job", "sex"],
    "trim": True,
    "missing": ["?"],
    "comment": "|",
}


def zipped(**members: bytes) -> bytes:
    """A ZIP of members; `__` in a name stands for `/`."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "/"), data)
    return out.getvalue()


def outcomes(taken) -> dict[str, tuple[str, str]]:
    return {row["file"]: (row["outcome"], row["reason"]) for row in taken.rows("delivered_files")}


def parquet(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


def test_several_files_are_one_table_and_one_that_differs_is_set_aside_and_named(take):
    files = {
        "year_1.csv": b"id,x,note\n1,1,a\n2,2,b\n",
        "year_2.csv.gz": b"note,id,x\nc,3,0.5\n",  # another order, and a fraction only here
        "year_3.csv": b"id,y\n4,4\n",
        "readme.txt": b"see year_1.csv",
    }
    taken = take(files, format="table", tables={"claims": {"files": ["YEAR_?.csv"]}})
    assert taken.rows("claims") == [
        {"id": 1, "x": 1.0, "note": "a"},
        {"id": 2, "x": 2.0, "note": "b"},
        {"id": 3, "x": 0.5, "note": "c"},
    ]
    assert taken.rejects() == [("year_3.csv", 0, "other_columns")]
    assert outcomes(taken) == {
        "year_1.csv": ("taken", ""),
        "year_2.csv.gz": ("taken", ""),
        "year_3.csv": ("quarantined", "other_columns"),
        "readme.txt": ("no data", ""),
    }
    account = taken.account
    assert (account.in_, account.taken, account.files) == (4, {"claims": 3}, 3)
    assert "x, note of theirs it has not" in account.info["unusable_files"]["year_3.csv"]
    assert account.info["files_by_outcome"] == {"no data": 1, "quarantined": 1, "taken": 2}


def test_columns_that_are_not_kept_are_not_compared_and_not_read(take):
    files = {"a1.csv": b"id,x,name\n1,1,CANARY\n", "a2.csv": b"ID,x,y\n2,,9\n", "a3.csv": b"x\n3\n"}
    taken = take(files, format="table", tables={"a": {"files": ["a?.csv"], "columns": ["id", "x"]}})
    assert taken.rows("a") == [{"id": 1, "x": 1}, {"id": 2, "x": None}]
    assert taken.rejects() == [("a3.csv", 0, "other_columns")]
    assert "CANARY" not in str(taken.account.to_dict())


def test_a_declared_table_that_is_not_there_is_named(take):
    settings = {"a": {"files": ["a.csv"]}, "b": {"files": ["b.csv"]}}
    assert take({"a.csv": b"x\n1\n"}, format="table", tables=settings).account.info["absent_tables"] == ["b"]
    with pytest.raises(InputError, match=r"holds no table.*`tables` in sources.yaml"):
        take({"c.csv": b"x\n1\n"}, format="table", tables=settings)


def test_files_without_header_with_blanks_comments_and_codes_for_missing(take):
    files = {
        "adult.data": b"39, ?, Male\n50, Private, Female\n\n",
        "adult.test": b'|1x3 Cross validator\n25, "a\n|b", Male\n28, Local-gov | x, ?\n',
        "adult.more": b"Age, Job, Sex\n1, , \n",
    }
    taken = take(files, format="table", tables={"adult": ADULT})
    assert taken.rows("adult") == [
        {"age": 39, "job": None, "sex": "Male"},
        {"age": 50, "job": "Private", "sex": "Female"},
        {"age": 1, "job": None, "sex": None},
        {"age": 25, "job": "a\n|b", "sex": "Male"},
        {"age": 28, "job": "Local-gov | x", "sex": None},
    ]
    assert taken.account.quarantined == {}
    assert outcomes(taken)["adult.test"] == ("taken", "")


def test_rows_that_do_not_have_the_declared_columns_are_quarantined_with_their_line(take):
    files = {"adult.data": b"|c\n1, a, m\n2, b\n|c\n3, c, f, x\n"}
    taken = take(files, format="table", tables={"adult": ADULT})
    assert taken.rejects() == [("adult.data", 3, "wrong_field_count"), ("adult.data", 5, "wrong_field_count")]
    assert taken.account.taken == {"adult": 1}


def test_members_of_archives_are_files(take):
    archive = zipped(
        **{
            "deep__One.csv": b"x\n1\n",
            "two.parquet": parquet(pa.table({"y": [1.5, 2.5]})),
            "deep__One.schema.json": b'{"columns": [{"name": "x", "kind": "categorical", "dtype": "string"}]}',
            "__MACOSX__._One.csv": b"\0\1",
            "notes.txt": b"hello",
        }
    )
    taken = take({"d.ZIP": archive, "three.csv": b"z\n1\n"}, format="table")
    assert taken.account.taken == {"one": 1, "three": 1, "two": 2}
    assert taken.rows("one") == [{"x": "1"}]
    assert set(outcomes(taken)) == {
        "d.ZIP/deep/One.csv",
        "d.ZIP/deep/One.schema.json",
        "d.ZIP/notes.txt",
        "d.ZIP/two.parquet",
        "three.csv",
    }


def test_members_that_must_not_or_cannot_be_unpacked_do_not_hold_back_the_others(take):
    good = b"x\n" + b"1\n" * 2000
    archive = zipped(
        **{"good.csv": good, "..__up.csv": good, "__root.csv": good, "in.zip": zipped(a=b"x"), "c:win.csv": good}
    )
    locked = zipped(**{"locked.csv": good})
    at = locked.index(b"PK\x01\x02") + 8
    locked = locked[:at] + b"\x01" + locked[at + 1 :]  # flag 0 of its entry: encrypted
    torn = bytearray(zipped(**{"torn.csv": good, "whole.csv": good}))
    torn[50:60] = b"0123456789"
    taken = take({"a.zip": archive, "b.zip": locked, "c.zip": bytes(torn), "d.zip": archive[:99]}, format="table")
    assert taken.account.taken == {"good": 2000, "whole": 2000}
    assert {name: reason for name, (_, reason) in outcomes(taken).items() if reason} == {
        "a.zip/../up.csv": "unsafe_name",
        "a.zip//root.csv": "unsafe_name",
        "a.zip/c:win.csv": "unsafe_name",
        "a.zip/in.zip": "nested_archive",
        "b.zip/locked.csv": "encrypted",
        "c.zip/torn.csv": "bad_archive",
        "d.zip": "bad_archive",
    }
    assert taken.account.balanced


def test_an_archive_that_unpacks_to_far_too_much_is_not_unpacked(take, monkeypatch):
    monkeypatch.setattr(archives, "FREE_BYTES", 1 << 20)
    bomb = zipped(**{"bomb.csv": b"x\n" + b"0\n" * (1 << 20)})
    taken = take({"bomb.zip": bomb, "good.csv": b"x\n1\n"}, format="table")
    assert taken.rejects() == [("bomb.zip", 0, "too_large")]
    assert "times its size" in taken.account.info["unusable_files"]["bomb.zip"]


WORDS = "name,town\nJürgen,Köln\nZoë,Málaga\nFrançois,Besançon\n"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_says_the_encoding(take, encoding):
    taken = take({"t.csv": WORDS.replace("\n", "\r\n").encode(encoding)}, format="table")
    assert taken.rows("t")[1] == {"name": "Zoë", "town": "Málaga"}
    assert taken.account.in_ == 3


@pytest.mark.parametrize(("encoding", "found"), [("latin-1", "windows-1252"), ("utf-16-le", "utf-16-le")])
def test_another_encoding_is_told_and_read_only_where_it_is_declared(take, encoding, found):
    files = {"t.csv": WORDS.encode(encoding), "u.csv": b"x\n1\n"}
    taken = take(files, format="table")
    assert taken.rejects() == [("t.csv", 0, "not_utf8")]
    assert f"looks like {found}" in taken.account.info["unusable_files"]["t.csv"]
    taken = take(files, format="table", tables={"t": {"files": ["t.csv"], "encoding": encoding}})
    assert [row["town"] for row in taken.rows("t")] == ["Köln", "Málaga", "Besançon"]


def test_bytes_that_the_declared_encoding_does_not_know_set_their_row_aside(take):
    data = "a,b\n1,é\n".encode("windows-1252") + b"2,\x81\n3,z\n"
    taken = take({"t.csv": data}, format="table", tables={"t": {"files": ["t.csv"], "encoding": "windows-1252"}})
    assert taken.rows("t") == [{"a": 1, "b": "é"}, {"a": 3, "b": "z"}]
    assert taken.rejects() == [("t.csv", 3, "invalid_utf8")]


def test_line_ends_of_an_old_macintosh_and_mixed_ones(take):
    assert take({"t.csv": b"a,b\r1,2\r3,4\r"}, format="table").rows("t") == [{"a": 1, "b": 2}, {"a": 3, "b": 4}]
    taken = take({"t.csv": b"a,b\r\n1,2\n3,4\r\n5,6\n"}, format="table")
    assert [row["b"] for row in taken.rows("t")] == [2, 4, 6]


def test_names_that_repeat_get_a_number_as_pandas_gives_it(take):
    taken = take({"t.csv": b"id,x,x,X,x.1,\n1,2,3,4,5,6\n"}, format="table")
    assert taken.rows("t") == [{"id": 1, "x": 2, "x.2": 3, "X.3": 4, "x.1": 5, "unnamed_6": 6}]
    assert taken.account.info["renamed_columns"] == {"t": ["X.3", "x.2"]}


def test_a_row_that_repeats_the_header_is_no_row(take):
    taken = take({"t.csv": b"id,x\n1,2\nid, x\n3,4\n"}, format="table")
    assert taken.rows("t") == [{"id": 1, "x": 2}, {"id": 3, "x": 4}]
    assert taken.rejects() == [("t.csv", 3, "repeated_header")]


def test_a_first_row_is_no_header(take):
    data = b"39,Private,Male,CANARY\n20,Private,Male,a\n21,Local,Female,b\n"
    with pytest.raises(InputError, match=r"looks like a row.*header:") as caught:
        take({"t.csv": data}, format="table")
    assert "CANARY" not in str(caught.value)


def test_cells_of_blanks_are_missing_among_numbers_and_texts_among_texts(take):
    data = b"n,b,t\n1, true,x\n  , ,   \n 3,false,y\n"
    wanted = [{"n": 1, "b": True, "t": "x"}, {"n": None, "b": None, "t": "   "}, {"n": 3, "b": False, "t": "y"}]
    assert take({"t.csv": data}, format="table").rows("t") == wanted
    columns = [
        {"name": "n", "kind": "count", "dtype": "int64", "nullable": True},
        {"name": "b", "kind": "binary", "dtype": "bool", "nullable": False},
    ]
    taken = take({"t.csv": data, "t.schema.json": json.dumps({"columns": columns}).encode()}, format="table")
    assert taken.rejects() == [("t.csv", 3, "missing_value")]


def test_a_level_that_a_column_is_called_by_is_no_sign_of_a_missing_header(take):
    data = b"id,smoker,drinker,town\n1,smoker,no,x\n2,smoker,no,y\n"
    assert take({"t.csv": data}, format="table").account.taken == {"t": 2}


def test_numbers_that_a_double_cannot_hold_stay_text(take):
    taken = take({"t.csv": b"key,big\n12345678901234567890,1e300\n12345678901234567891,2\n"}, format="table")
    assert [row["key"] for row in taken.rows("t")] == ["12345678901234567890", "12345678901234567891"]
    assert taken.rows("t")[0]["big"] == 1e300


def test_a_long_cell_is_a_cell_in_both_ways_of_reading(take):
    long = "x" * 10_000_000
    taken = take({"a.csv": f"i,t\n1,{long}\n".encode(), "b.csv": f"i,t\n1,{long}\n2\n".encode()}, format="table")
    assert [len(taken.rows(name)[0]["t"]) for name in "ab"] == [10_000_000, 10_000_000]
    assert taken.rejects() == [("b.csv", 3, "wrong_field_count")]


def test_parquet_files_are_put_together_and_one_of_other_types_is_set_aside(take):
    one, two = pa.table({"x": [1, 2], "t": ["a", "?"]}), pa.table({"t": ["c"], "x": [3]})
    files = {
        "p1.parquet": parquet(one),
        "p2.data": parquet(two),
        "p3.parquet": parquet(pa.table({"x": ["3"], "t": ["d"]})),
    }
    files["p4.parquet"] = files["p1.parquet"][:40]
    files["p5.csv"] = b"x,t\n9,z\n"
    taken = take(files, format="table", tables={"p": {"files": ["p?.*"], "missing": ["?"]}})
    assert taken.rows("p") == [{"x": 1, "t": "a"}, {"x": 2, "t": None}, {"x": 3, "t": "c"}]
    assert {PurePosixPath(file).name: reason for file, _, reason in taken.rejects()} == {
        "p3.parquet": "other_columns",
        "p4.parquet": "not_parquet",
        "p5.csv": "other_columns",
    }


def test_one_file_that_cannot_be_used_does_not_hold_back_the_others_up_to_the_limit(take):
    rows = b"x,y\n" + b"1,2\n" * 5000
    files = {"a.csv": rows, "b.csv": b"1,2\n3,4\n", "c/A.csv": b"x\n1\n", "e.csv": b"", "quarantine.csv": b"x\n1\n"}
    taken = take(files, format="table", limit=0.05)
    assert taken.account.taken == {"a": 5000}
    assert outcomes(taken) == {
        "a.csv": ("taken", ""),
        "b.csv": ("quarantined", "no_header"),
        "c/A.csv": ("quarantined", "name_clash"),
        "e.csv": ("empty", ""),
        "quarantine.csv": ("quarantined", "name_clash"),
    }
    with pytest.raises(InputError, match=r"of the bytes cannot be read.*1 no_header"):
        take({"a.csv": rows, "b.csv": b"1,2\n" * 5000}, format="table", limit=0.05)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"encoding": "klingon"}, "no text encoding 'klingon'"),
        ({"encoding": "zip"}, "no text encoding 'zip'"),
        ({"header": ["a", "A"]}, "`header` repeats a name"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings, words):
    with pytest.raises(ValidationError, match=words):
        TableReading(files=["*"], **settings)


def test_table_names_are_plain():
    with pytest.raises(ValidationError, match="'My Table' must be lower-case"):
        SourceSpec(name="s", format="table", tables={"My Table": TableReading(files=["*"])})


def test_a_quotation_mark_within_a_cell_opens_nothing(take):
    rows = ["id,name,x", *(f"{i},n{i},{i * 2}" for i in range(1000))]
    rows[50], rows[950], rows[3] = (
        '49,5" pipe,98',
        '949,3" pipe,2',
        "2,x",
    )  # the short row sends the file to the slow reader
    rows[60] = '59,"two\nlines, and a "" mark",3'
    taken = take({"a.csv": "\n".join(rows).encode() + b"\n"}, format="table")
    assert (taken.account.in_, taken.account.quarantined) == (1000, {"wrong_field_count": 1})
    names = {row["id"]: row["name"] for row in taken.rows("a")}
    assert (names[49], names[949], names[59]) == ('5" pipe', '3" pipe', 'two\nlines, and a " mark')


def test_so_many_bad_rows_that_they_cannot_be_listed_refuse_the_delivery(take, monkeypatch):
    from pipeline.ingest import quarantine

    monkeypatch.setattr(quarantine, "MOST_REJECTS", 10)
    bad = "\n".join(["a,b", "1,2", *("x" for _ in range(11))]).encode()
    with pytest.raises(InputError, match="More than 10 records of one file"):
        take({"a.csv": bad}, format="table")


def test_types_of_a_wide_table_are_told_column_by_column(take):
    columns = 250
    cells = ["7", "0.5", "x", "2026-01-02"]
    lines = [",".join(f"n{i}" for i in range(columns)), ",".join(cells[i % 4] for i in range(columns))]
    table = take({"a.csv": "\n".join(lines).encode()}, format="table").table("a")
    assert [str(field.type) for field in table.schema] == [
        ["int64", "double", "string", "date32[day]"][i % 4] for i in range(columns)
    ]
