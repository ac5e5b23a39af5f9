"""A fixed part of the fuzzer's runs (`benchmarks/fuzz.py`) over made-up deliveries, and what it has found by name."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fhir_records import bundle, observation, patient

from pipeline.errors import ConfigError, InputError, StoreError
from pipeline.features.source import SourceSpec
from pipeline.ingest.fhir.tables import RawTables
from pipeline.ingest.readers import read_delivery
from pipeline.ingest.tables.csv_rows import MOST_COLUMNS
from pipeline.ingest.tables.files import MOST_LETTERS
from pipeline.store.lake import Lake

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import fuzz
from fuzzing.cases import undamaged
from fuzzing.checks import Ingested, check
from fuzzing.deliveries import CANARY, seeds

RUNS = 8
"""Runs a format."""


@pytest.mark.slow
@pytest.mark.parametrize("format", fuzz.FORMATS)
def test_damaged_deliveries_keep_the_account(format):
    """In a process of its own: the fuzzer forks, which it may only where no thread has been started."""
    asked = ["--format", format, "--made-up", "--runs", str(RUNS)]
    done = subprocess.run([sys.executable, fuzz.__file__, *asked], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "; 0 with findings" in done.stdout
    taken = re.search(r"(\d+) taken", done.stdout)
    assert taken is not None
    assert int(taken[1]) > RUNS // 2


def test_the_fuzzer_sees_what_it_should(take, tmp_path):
    """A row that is lost, a cell that is NULL, a value that is said: each is found."""
    seed = next(s for s in seeds("table") if s.name == "made-up tables")
    case = undamaged("table", seed)
    taken = take(seed.files, format="table")
    tables = {name: taken.lake.tables.path(taken.version, name) for name in taken.version.files}
    account = taken.account.to_dict()

    def findings(account=account, page="", **changed):
        return check(case, Ingested(account, {**tables, **changed}, None, page, ""), None)

    assert findings() == []
    people = pq.read_table(tables["people"])
    lost, empty = tmp_path / "lost.parquet", tmp_path / "empty.parquet"
    pq.write_table(people.slice(1), lost)
    ages = pa.array([None, *people["age"].to_pylist()[1:]], people.schema.field("age").type)
    pq.write_table(people.set_column(people.column_names.index("age"), "age", ages), empty)
    assert "59 records in the table, 60 taken" in findings(people=lost)[0]
    assert findings(people=empty) == ["people.csv: column 2, line 2: NULL in silence"]
    assert " in, " in findings(account={**account, "in": account["in"] - 1})[0]
    assert "patient's value" in findings(page=f"<b>{CANARY}i3</b>")[0]
    assert "patient's value" in findings(account={**account, "info": {**account["info"], "x": f"{CANARY}i3"}})[0]


# ---- found by the fuzzer


def test_rows_set_aside_by_a_second_reading_are_counted(take):
    """Rows that fit no schema send the file through the tolerant reader, which may set further rows aside itself."""
    schema = b'{"columns": [{"name": "a", "kind": "count", "dtype": "int64", "nullable": true}]}'
    taken = take({"t.csv": b"a,b\n1,x\n\rw,x\n2,x\n", "t.schema.json": schema}, format="table")
    account = taken.account
    assert account.balanced
    assert account.in_ == sum(account.taken.values()) + len(taken.rejects())
    assert taken.rows("t") == [{"a": 1}, {"a": 2}]


def test_a_broken_schema_says_nothing_of_what_stands_in_it(take):
    with pytest.raises(ConfigError, match=r"not a TableSchema") as caught:
        take({"t.csv": b"a\n1\n", "t.schema.json": b"CANARY,1\n"}, format="table")
    assert "CANARY" not in str(caught.value)
    assert caught.value.__context__ is None  # pydantic's errors hold the input


def test_more_columns_than_are_read(take):
    wide = ",".join(f"x{n}" for n in range(MOST_COLUMNS + 1)).encode()
    taken = take({"wide.csv": wide + b"\n", "t.csv": b"a,b\n1,2\n"}, format="table")
    assert taken.rejects() == [("wide.csv", 0, "too_many_columns")]
    assert taken.account.taken == {"t": 1}


def test_a_first_row_of_values_names_no_column(take):
    files = {"a.csv": b"id,age,day\n1,2,2020-01-01\n", "b.csv": b"CANARY,2.5,2020-01-02\n7,3.5,2020-01-01\n"}
    taken = take(files, format="table")
    assert taken.rejects() == [("b.csv", 0, "no_header")]
    parts = {"p1.csv": files["a.csv"], "p2.csv": b"CANARY,x,y\n1,2,3\n"}
    taken = take(parts, format="table", tables={"p": {"files": ["p?.csv"]}})
    assert taken.account.quarantined == {"other_columns": 1}
    assert "CANARY" not in str(taken.account.to_dict())


@pytest.mark.parametrize("first", [b"a,b\x0c1,CANARY", "a,b\u20281,CANARY".encode(), b"a,b,7,2150-01-01 10:00:00"])
def test_a_header_with_a_row_in_it_is_none(take, first):
    taken = take({"t.csv": first + b"\n2,x\n", "u.csv": b"a,b\n1,2\n"}, format="table")
    assert taken.rejects() == [("t.csv", 0, "no_header")]
    assert "CANARY" not in str(taken.account.to_dict())


def test_columns_that_may_be_values_are_not_told(take):
    header = b"row_id,subject_id,gender,dob,extra,10:15:00\n"
    stays = b"row_id,subject_id,hadm_id,admittime,dischtime\n1,1,2,2100-01-01 10:00:00,2100-01-02 10:00:00\n"
    files = {"PATIENTS.csv": header + b"1,1,F,2070-01-01 00:00:00,x,y\n", "ADMISSIONS.csv": stays}
    undeclared = take(files, format="mimic3").account.info["undeclared_columns"]
    assert undeclared == {"patients": ["(no usual name)", "extra"]}


@pytest.mark.parametrize("lines", [3, 3000])
def test_a_cell_of_many_lines_stays_one_where_another_row_is_bad(take, lines):
    note = "line\n" * lines
    taken = take({"t.csv": f'id,text\n1,"{note}"\n2\n3,x\n'.encode()}, format="table")
    assert taken.rejects() == [("t.csv", lines + 3, "wrong_field_count")]
    assert taken.rows("t") == [{"id": 1, "text": note}, {"id": 3, "text": "x"}]


def test_a_very_long_name_of_a_file_is_cut(take):
    long = "n" * 251
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(f"{long * 2}.csv", "a,b\n1,2\n")
    taken = take({f"{long}.csv": b"a,b\n1,2\n3,4\n", "x.zip": packed.getvalue()}, format="table")
    assert sorted(taken.account.taken.values()) == [1, 2]
    assert all(len(name) == MOST_LETTERS and name.startswith("nnn") for name in taken.account.taken)


def test_a_name_of_a_file_does_not_break_a_message(take):
    with pytest.raises(InputError, match=r"^a\?b\?\.csv: The file is empty") as caught:
        take({"a\nb\x1b.csv": b"\n"}, format="table")
    assert "\n" not in str(caught.value)


def test_a_first_line_that_fits_no_row_is_no_header(take):
    """The end of a row, where the beginning of a file is missing."""
    rows = "".join(f"{n},x,2020-01-01,y\n" for n in range(5))
    taken = take({"t.csv": f"2020-01-0,CANARY\n{rows}".encode(), "u.csv": b"a,b\n1,2\n"}, format="table")
    assert taken.rejects() == [("t.csv", 0, "no_header")]


def test_years_may_be_columns(take):
    assert take({"t.csv": b"country,2019,2020\nx,1,2\n"}, format="table").account.taken == {"t": 1}


def test_too_little_memory_is_said_in_our_words(home, land):
    columns = ",".join(f"x{n}" for n in range(3000))
    came = land({"t.csv": f"{columns}\n{columns.replace('x', 'CANARY')}\n".encode()})
    source = SourceSpec(name="test", format="table")
    with Lake(home).tables.draft("raw/table", {"delivery": came.key}) as draft, pytest.raises(StoreError) as caught:
        read_delivery(came, draft, source, memory_limit="1MB")
    assert "DuckDB needs more memory" in str(caught.value)
    assert "CANARY" not in str(caught.value)
    assert caught.value.__context__ is None


def test_rows_of_a_table_that_is_not_modelled_may_hold_line_breaks(take):
    header = b"row_id,subject_id,gender,dob\n"
    stays = b"row_id,subject_id,hadm_id,admittime,dischtime\n1,1,2,2100-01-01 10:00:00,2100-01-02 10:00:00\n"
    files = {
        "PATIENTS.csv": header + b"1,1,F,2070-01-01 00:00:00\n",
        "ADMISSIONS.csv": stays,
        "NOTES.csv": b'id,text\n1,"two\nlines"\n2,"a\n\nb"\n',
    }
    assert take(files, format="mimic3").account.not_modelled == {"notes": 2}


def test_an_empty_delivery_of_a_table_is_refused(take):
    with pytest.raises(InputError, match="empty"):
        take({"t.csv": b"", "u.csv": b"\n"}, format="table")


def test_one_record_of_another_version_speaks_for_no_other(take):
    stays = [{"resourceType": "Encounter", "id": f"e{n}", "status": "finished"} for n in range(4)]
    stays[1]["actualPeriod"] = {"start": "2020-01-01"}  # of R5
    taken = take({"e.ndjson": stays})
    assert [row["status"] for row in taken.rows("encounter")] == ["finished"] * 4
    assert [row["start_text"] for row in taken.rows("encounter")] == [None, "2020-01-01", None, None]


def test_a_file_full_of_repeated_keys_is_not_halved_record_by_record(take, monkeypatch):
    """A trial of DuckDB a record would take hours where an export repeats a key in every one."""
    halved: list[int] = []
    halve = RawTables._halve

    def counted(self, kind, records, offset):
        halved.append(len(records))
        return halve(self, kind, records, offset)

    monkeypatch.setattr(RawTables, "_halve", counted)
    twice = [b'{"resourceType":"Patient","id":"a%d","x":1,"gender":"male","gender":"male"}' % n for n in range(300)]
    unread = b'{"resourceType":"Patient","id":"u","x":{"y":1,"y":2},"x":3}'
    deep = b'{"resourceType":"Patient","id":"d","maritalStatus":{"coding":[{"code":"M"},{"code":"S","code":"M"}]}}'
    taken = take({"p.ndjson": [patient(1), *twice, unread, deep]})
    assert [row["id"] for row in taken.rows("patient")] == ["p1", "u"]
    assert taken.account.quarantined == {"refused_by_reader": 301}
    assert halved == [2]


@pytest.mark.parametrize("levels", [100, 200, 350])
def test_deep_nesting_where_nothing_is_read(take, levels):
    """orjson reads 1,024 levels and writes 254."""
    deep: dict = {}
    for _ in range(levels):
        deep = {"x": [deep]}
    files = {"a.json": bundle([patient(1, extra=deep)]), "b.ndjson": [patient(2, extra=deep)]}
    files["c.json"] = bundle([observation(1, extra=deep, valueQuantity={"value": "x"}), observation(2, deep=[deep])])
    taken = take(files)
    assert taken.account.taken == {"Patient": 2, "Observation": 1}
    assert taken.rejects() == [("c.json", 1, "value_not_a_number")]
