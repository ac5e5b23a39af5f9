"""Texts that would be numbers or dates if they were written another way: told, with what reads them, and never a value."""

from __future__ import annotations

import dataclasses
import datetime as dt
import re

import duckdb
import pytest

from pipeline.ingest.report import DeliveryFacts, headline, markdown, next_steps, sections
from pipeline.ingest.tables.written_otherwise import forms_of, hint, sql_of

DAY = dt.date(2026, 12, 31)


@pytest.mark.parametrize(
    ("cells", "forms", "read"),
    [
        (["60,5", " 70 ", None, ""], ["decimal comma"], [60.5, 70.0, None, None]),
        (["1.234,5", "-0,5"], ["decimal comma"], [1234.5, -0.5]),
        (["1,234.5", "12,000"], ["thousands comma"], [1234.5, 12000.0]),
        (["1,234", "2,345"], ["decimal comma", "thousands comma"], [1.234, 2.345]),
        (["31.12.2026", "1.2.2026"], ["DD.MM.YYYY"], [DAY, dt.date(2026, 2, 1)]),
        (["31.12.26"], ["DD.MM.YY"], [DAY]),
        (["12/31/2026", "01/02/2026"], ["MM/DD/YYYY"], [DAY, dt.date(2026, 1, 2)]),
        (["31/12/2026", "01/02/2026"], ["DD/MM/YYYY"], [DAY, dt.date(2026, 2, 1)]),
        (["01/02/2026"], ["MM/DD/YYYY", "DD/MM/YYYY"], [dt.date(2026, 1, 2)]),
        (["31.12.2026 09:05"], ["DD.MM.YYYY hh:mm"], [dt.datetime.fromisoformat("2026-12-31T09:05")]),
        (["60,5", "about 70"], [], []),
        (["007", "010"], [], []),
        (["31.12.2026", "31.02.2026"], [], []),
        (["a,b"], [], []),
        ([None, ""], [], []),
    ],
)
def test_forms_and_what_reads_them(cells: list[str | None], forms: list[str], read: list[object]) -> None:
    with duckdb.connect() as connection:
        connection.execute('CREATE TABLE t ("a ""b" VARCHAR)')
        connection.executemany("INSERT INTO t VALUES (?)", [[cell] for cell in cells])
        assert forms_of(connection, "t", ['a "b']) == ({'a "b': forms} if forms else {})
        if forms:
            reads = sql_of('a "b', forms[0])
            assert reads in hint('a "b', forms)
            values = connection.execute(f"SELECT {reads} FROM t").fetchall()
            assert [value for (value,) in values] == read


def test_one_value_far_down_that_is_no_number_is_seen() -> None:
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE t AS SELECT i || ',5' AS x FROM range(500) r(i) UNION ALL SELECT 'none'")
        assert forms_of(connection, "t", ["x"]) == {}


def test_the_report_names_the_columns_and_what_to_write(take) -> None:
    stay = "Zebulon;81,5;31.12.2026;x\n".encode("cp1252")
    files = {
        "stays.csv": b"who;weight;came;note\n" + stay + b"Ann;60;1.1.2026;\n",
        "Zebulon/SOURCE.md": b"where it is from",
        "Zebulon_Ann.pdf": b"a letter",
        "Zebulon.notes": b"a note",
    }
    taken = take(files, format="table", person="patient")
    info = taken.account.info
    assert info["written_otherwise"] == {"stays": {"weight": ["decimal comma"], "came": ["DD.MM.YYYY"]}}
    assert info["without_person"] == ["stays"]
    version = dataclasses.replace(taken.version, info={**taken.version.info, "as_of": "2026-10-31"})
    facts = DeliveryFacts.of(taken.lake.tables, version)
    assert headline(facts)[:2] == ("look", "Taken in, with remarks")
    assert [step.split(" ")[0] for step in next_steps(facts)] == ["2", "The"]
    found = {section.name: section for section in sections(facts)}
    types = {row[1]: (row[2], "strptime" in str(row[3]), "replace(" in str(row[3])) for row in found["types"].rows}
    # Exactly the file's columns: the folder `delivery=...` above it is none.
    assert types == {
        "who": ("text", False, False),
        "weight": ("text", False, True),
        "came": ("text", True, False),
        "note": ("text", False, False),
    }
    # A letter may be called by a patient: its name is hashed, and its kind tells which file it is.
    names = [str(name) for name, *_ in found["beside"].rows]
    assert names[0] == "SOURCE.md"
    assert [re.sub("[0-9a-f]{12}", "#", name) for name in sorted(names[1:], key=lambda n: n[-3:])] == [
        "file # (.pdf)", "file # (other)"
    ]  # fmt: skip
    assert "SOURCE.md" in [row[0] for row in found["each"].rows]
    kept = markdown(facts)
    assert "strptime" in kept
    assert "SOURCE.md" not in kept
    assert "Zebulon" not in str(sections(facts))


def test_a_delimiter_that_delimits_nothing(take) -> None:
    tables = {"t": {"files": ["*.csv"], "delimiter": ";"}}
    assert take({"t.csv": b"id,x\n1,2\n"}, format="table", tables=tables).account.info["one_column"] == ["t"]
    assert "one_column" not in take({"t.csv": b"id\n1\n"}, format="table", tables=tables).account.info
