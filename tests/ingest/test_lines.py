"""Files byte by byte: counts, cuts and blank lines, held against plain Python."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.ingest import lines as module
from pipeline.ingest.lines import ByteSource, lines, survey
from pipeline.ingest.tables import archives

_BYTES = st.lists(st.sampled_from([b"\n", b"\r\n", b" ", b"\t", b"{", b",", b"}", b"]", b"x" * 7]), max_size=40)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(_BYTES, st.integers(1, 9), st.booleans())
def test_survey_counts_as_python_does(tmp_path_factory, parts, size, packed):
    data = b"".join(parts)
    folder = tmp_path_factory.mktemp("s")
    path = folder / "x"
    path.write_bytes(gzip.compress(data) if packed else data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", size)
        patch.setattr(module._Pairs, "BLOCK", size + 1)
        found = survey(path, folder / "plain")
    assert found.records == sum(1 for line in data.split(b"\n") if line.strip())
    assert (found.bytes, found.cut, found.plain.read_bytes()) == (len(data), False, data)
    assert found.odd == (b",}" in data or b",]" in data)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.binary(max_size=9), max_size=9))
def test_lines_do_not_depend_on_chunks(chunks):
    data = b"".join(chunks)
    found = list(lines(iter(chunks)))
    assert [line.data for line in found] == (
        data.split(b"\n")[:-1] if data.endswith(b"\n") else data.split(b"\n")
    ) * bool(data)
    assert [line.number for line in found] == list(range(1, len(found) + 1))
    assert [line.ended for line in found] == [True] * data.count(b"\n") + [False] * (len(found) - data.count(b"\n"))


def test_gzip_members_in_a_row_padding_and_damage(tmp_path):
    one, two = gzip.compress(b"one\n"), gzip.compress(b"two\n")
    for packed, text, cut in (
        (one + two, b"one\ntwo\n", False),
        (one + two + b"\0" * 20, b"one\ntwo\n", False),
        (one + two[:-3], b"one\ntwo\n", True),
        (one + b"rubbish", b"one\n", True),
        (one[:10] + b"\xff" * 9, b"", True),
        (one[:4], b"", True),
    ):
        (tmp_path / "x").write_bytes(packed)
        source = ByteSource(tmp_path / "x")
        assert b"".join(source.chunks()) == text
        assert source.cut is cut


_BOMB = gzip.compress(b"a,b\n" + b"0,0\n" * (1 << 20), mtime=0)
_COHORT = {
    "patients.csv": b"subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod\n10,F,21,2125,2011 - 2013,\n",
    "admissions.csv": b"subject_id,hadm_id,admittime,dischtime\n10,100,2125-02-24 14:38:00,2125-03-04 14:02:00\n",
}
_PATIENT = {"p.ndjson": b'{"resourceType":"Patient","id":"a"}\n'}


@pytest.mark.parametrize(
    ("kind", "bomb", "others", "settings"),
    [
        ("table", "x.csv.gz", {"y.csv": b"a\n1\n"}, {}),
        ("table", "x.csv.gz", {"y.csv": b"a\n1\n"}, {"tables": {"y": {"files": ["*.csv"], "encoding": "latin-1"}}}),
        ("table", "x.parquet.gz", {"y.csv": b"a\n1\n"}, {}),
        ("mimic4", "labevents.csv.gz", _COHORT, {}),
        ("mimic4", "notes.csv.gz", _COHORT, {}),
        ("fhir", "x.ndjson.gz", _PATIENT, {}),
        ("fhir", "x.json.gz", _PATIENT, {}),
    ],
)
def test_a_gzip_that_would_fill_the_disk_is_set_aside(take, monkeypatch, kind, bomb, others, settings):
    monkeypatch.setattr(archives, "FREE_BYTES", 1 << 16)
    monkeypatch.setattr(archives, "MOST_RATIO", 100)
    taken = take({bomb: _BOMB, **others}, format=kind, **settings)
    assert taken.rejects() == [(bomb, 0, "too_large")]
    assert taken.account.quarantined == {"too_large": 1}
    outcomes = {row["file"]: row["outcome"] for row in taken.rows("delivered_files")}
    assert outcomes == {bomb: "quarantined", **dict.fromkeys(others, "taken")}
    assert taken.account.balanced


def test_erasure_reads_on_where_a_gzip_is_larger_than_likely(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "FREE_BYTES", 1 << 16)
    (tmp_path / "x").write_bytes(_BOMB)
    assert sum(map(len, ByteSource(tmp_path / "x").pieces())) == 4 + (1 << 22)
