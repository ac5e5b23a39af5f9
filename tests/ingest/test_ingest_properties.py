"""Properties of the delivery account: counts that are known by construction, and what must make no difference."""

from __future__ import annotations

import csv
import gzip
import io
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from fhir_records import bundle, ndjson, observation, patient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError

lean = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
FHIR = settings(lean, max_examples=12)
TABLES = settings(lean, max_examples=40)

BAD_LINES: dict[bytes, str] = {
    b'{"resourceType":"Patient","id":"x"': "not_json",
    b'{"resourceType":"Patient","id":"\xff"}': "invalid_utf8",
    b"[1,2]": "not_a_resource",
    b'{"id":"x"}': "no_resource_type",
    b'{"resourceType":"Observation"}': "no_id",
    b'{"resourceType":"Patient","id":"x","birthDate":"2019-02-30"}': "invalid_date",
    b'{"resourceType":"Observation","id":"x","valueQuantity":{"value":"7"}}': "value_not_a_number",
    b'{"resourceType":"Patient","id":["x"]}': "wrong_type",
}
LINES = st.lists(
    st.one_of(
        st.integers(0, 5).map(lambda n: ("Patient", n)),
        st.integers(0, 5).map(lambda n: ("Observation", n)),
        st.just(("Claim", 0)),
        st.sampled_from(sorted(BAD_LINES)).map(lambda line: ("bad", line)),
        st.sampled_from([b"", b" ", b"\t", b"\r"]).map(lambda line: ("blank", line)),
    ),
    min_size=1,
    max_size=25,
)


def line_of(kind: str, what: Any) -> Any:
    if kind in ("bad", "blank"):
        return what
    made = {"Patient": patient, "Observation": observation}.get(kind)
    return made(what) if made else {"resourceType": kind, "id": "c"}


@FHIR
@given(st.lists(LINES, min_size=1, max_size=3), st.booleans())
def test_the_account_of_lines_is_known_by_construction(take, files, packed):
    end = ".ndjson.gz" if packed else ".ndjson"
    every = [(f"f{n}{end}", at, *line) for n, lines in enumerate(files) for at, line in enumerate(lines, start=1)]
    told = [entry for entry in every if entry[2] != "blank"]
    content = {f"f{n}{end}": [line_of(*line) for line in lines] for n, lines in enumerate(files)}
    if not told:
        with pytest.raises(InputError, match="empty"):
            take(content)
        return
    taken = take(content)
    account = taken.account
    kept = [(kind, what) for _, _, kind, what in told if kind in ("Patient", "Observation")]
    assert account.balanced
    assert account.in_ == len(told)
    assert account.taken == Counter(kind for kind, _ in set(kept))
    assert account.superseded == Counter(kind for kind, _ in kept) - Counter(kind for kind, _ in set(kept))
    assert account.not_modelled.get("Claim", 0) == sum(kind == "Claim" for _, _, kind, _ in told)
    assert taken.rejects() == sorted((file, at, BAD_LINES[what]) for file, at, kind, what in told if kind == "bad")
    assert sorted(row["id"] for row in taken.rows("patient")) == sorted({f"p{n}" for k, n in kept if k == "Patient"})
    by_file = {row["file"]: row for row in taken.rows("delivered_files")}
    for n, lines in enumerate(files):
        row = by_file[f"f{n}{end}"]
        counts = Counter(kind for kind, _ in lines)
        assert (row["records"], row["quarantined"]) == (len(lines) - counts["blank"], counts["bad"])
        assert (row["taken"], row["not_modelled"]) == (counts["Patient"] + counts["Observation"], counts["Claim"])


RECORDS = [patient(n) for n in range(3)] + [
    observation(n, n % 3, valueQuantity={"value": n / 7, "unit": "x"}, issued="2020-01-01T00:00:00Z") for n in range(9)
]


@FHIR
@given(st.permutations(RECORDS), st.lists(st.integers(0, 12), max_size=3), st.data())
def test_how_records_lie_in_files_changes_no_row(take, records, cuts, data):
    """Order, splitting, packing, bundles in place of lines, and records that are there twice."""
    edges = [0, *sorted(cuts), len(records)]
    again = data.draw(st.lists(st.sampled_from(RECORDS), max_size=3))
    files: dict[str, bytes] = {}
    for n, (begin, end) in enumerate(pairwise(edges)):
        part = [*records[begin:end], *(again if n == 0 else [])]
        form = data.draw(st.sampled_from(["lines", "lines, packed", "bundle", "bundle, packed", "members"]))
        plain = bundle(part) if form.startswith("bundle") else ndjson(part)
        name = f"{n}.json" if form.startswith("bundle") else f"{n}.ndjson"
        if form == "members":
            plain = gzip.compress(plain[: len(plain) // 2]) + gzip.compress(plain[len(plain) // 2 :])
        elif form.endswith("packed"):
            plain = gzip.compress(plain)
        files[name] = plain
    taken = take(files)
    assert taken.account.taken == {"Patient": 3, "Observation": 9}
    assert sum(taken.account.superseded.values()) == len(again)
    assert taken.account.in_ == 12 + len(again)
    straight = {row["id"]: row for row in taken.rows("observation")}
    assert [straight[f"o{n}"]["value_number"] for n in range(9)] == [n / 7 for n in range(9)]
    assert [straight[f"o{n}"]["patient"] for n in range(9)] == [f"Patient/p{n % 3}" for n in range(9)]
    assert {row["issued"].isoformat() for row in straight.values()} == {"2020-01-01T00:00:00"}


# Any text but NUL (no CSV has it) and half surrogates (no UTF-8 has them).
CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


@TABLES
@given(
    st.integers(2, 4).flatmap(lambda n: st.lists(st.lists(CELL, min_size=n, max_size=n), min_size=1, max_size=6)),
    st.sampled_from(",;\t|"),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.booleans(),
)
def test_text_survives_csv(take, rows, delimiter, end, quote_all, packed):
    names = [f"c{place}" for place in range(len(rows[0]))]
    # A row of nothing but blanks is none, and a column of numbers would be one of numbers.
    rows = [["word"] * len(names), *(["x" + row[0], *row[1:]] for row in rows)]
    if not quote_all:  # Python quotes a carriage return only where it is part of the line end
        rows = [[cell.replace("\r", "") for cell in row] for row in rows]
    out = io.StringIO(newline="")
    quoting = csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL
    csv.writer(out, delimiter=delimiter, lineterminator=end, quoting=quoting).writerows([names, *rows])
    data = out.getvalue().encode()
    taken = take({"t.csv.gz" if packed else "t.csv": data}, format="table")
    assert taken.account.to_dict() | {"info": 0, "bytes": 0} == {
        "in": len(rows),
        "taken": {"t": len(rows)},
        "not_modelled": {},
        "superseded": {},
        "quarantined": {},
        "files": 1,
        "bytes": 0,
        "info": 0,
    }
    assert taken.rows("t") == [dict(zip(names, (cell or None for cell in row), strict=True)) for row in rows]


ROWS = st.lists(
    st.sampled_from(["1,x", "2,y", '3,"z"', '4,"two\nlines"', "5", "6,a,b", '7,"open" x', "\xff", "", "n,s"]),
    min_size=1,
    max_size=20,
)


@TABLES
@given(ROWS)
def test_the_account_of_rows_is_known_by_construction(take, rows):
    body = "n,s\n1,w\n" + "".join(f"{row}\n" for row in rows)
    taken = take({"t.csv": body.encode("latin-1")}, format="table")
    bad = {"5": "wrong_field_count", "6,a,b": "wrong_field_count", '7,"open" x': "wrong_field_count"}
    bad |= {"\xff": "invalid_utf8", "n,s": "repeated_header"}
    line, expected = 3, []
    for row in rows:
        if row in bad:
            expected.append(("t.csv", line, bad[row]))
        line += 1 + row.count("\n")
    assert taken.rejects() == expected
    good = [row for row in rows if row and row not in bad]
    assert taken.account.in_ == 1 + len(good) + len(expected)
    assert [row["n"] for row in taken.rows("t")] == [1, *(int(row[0]) for row in good)]
    assert [row["s"] for row in taken.rows("t")][1:] == [row[2:].strip('"') for row in good]
