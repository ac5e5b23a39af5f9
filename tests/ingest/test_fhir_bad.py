"""FHIR as it really comes: broken, cut, wrong, twice. Nothing is lost, and good records do not suffer for bad ones."""

from __future__ import annotations

import copy
import gzip
import json
from typing import Any

import pytest
from fhir_records import bundle, ndjson, observation, patient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.ingest.fhir import work as fhir_work
from pipeline.ingest.fhir.columns import TYPES
from pipeline.ingest.fhir.judge import judge
from pipeline.ingest.fhir.tables import RawTables
from pipeline.ingest.quarantine import REASONS
from pipeline.store.connection import connect
from pipeline.store.lake import Lake

BAD: dict[str, tuple[Any, str]] = {
    "broken": (b'{"resourceType":"Observation","id":"x', "not_json"),
    "trailing comma": (b'{"resourceType":"Observation","id":"x",}', "not_json"),
    "two on a line": (b'{"resourceType":"Patient","id":"a"}{"resourceType":"Patient","id":"b"}', "not_json"),
    "rest behind": (b'{"resourceType":"Patient","id":"a"} x', "not_json"),
    "utf-8": (b'{"resourceType":"Patient","id":"a\xff"}', "invalid_utf8"),
    "utf-8 in a field not read": (b'{"resourceType":"Patient","id":"a","x":"\xe4"}', "invalid_utf8"),
    "not an object": (b"[1]", "not_a_resource"),
    "null": (b"null", "not_a_resource"),
    "no type": ({"id": "x"}, "no_resource_type"),
    "no id": ({"resourceType": "Patient"}, "no_id"),
    "empty id": ({"resourceType": "Patient", "id": ""}, "no_id"),
    "id is a list": (patient(1, id=["x"]), "wrong_type"),
    "value is text": (observation(9, valueQuantity={"value": "high"}), "value_not_a_number"),
    "value is a number as text": (observation(9, valueQuantity={"value": "1.5"}), "value_not_a_number"),
    "value is NaN": (b'{"resourceType":"Observation","id":"x","valueQuantity":{"value":NaN}}', "not_json"),
    "value is too large": (b'{"resourceType":"Observation","id":"x","valueQuantity":{"value":1e999}}', "not_json"),
    "value is true": (observation(9, valueQuantity={"value": True}), "value_not_a_number"),
    "value of a component": (
        observation(9, component=[{"code": {}, "valueQuantity": {"value": "x"}}]),
        "value_not_a_number",
    ),
    "code is text": (observation(9, code="oops"), "wrong_type"),
    "coding is an object": (observation(9, code={"coding": {"code": "x"}}), "wrong_type"),
    "flag is a word": (observation(9, valueBoolean="yes"), "wrong_type"),
    "gender is an object": (patient(9, gender={"a": 1}), "wrong_type"),
    "no such day": (patient(9, birthDate="2019-02-30"), "invalid_date"),
    "no such month": (patient(9, birthDate="2019-13"), "invalid_date"),
    "other notation": (patient(9, birthDate="02/03/1970"), "invalid_date"),
    "words": (patient(9, birthDate="unknown"), "invalid_date"),
    "infinity": (patient(9, birthDate="infinity"), "invalid_date"),
    "no such hour": (observation(9, effectiveDateTime="2019-01-01T25:00:00Z"), "invalid_date"),
    "zone by name": (observation(9, effectiveDateTime="2019-01-01T10:00:00 Europe/Berlin"), "invalid_date"),
    "key twice": (b'{"resourceType":"Patient","id":"a","id":"b"}', "refused_by_reader"),
}


@pytest.mark.parametrize("kind", ["Patient", "Observation"])
def test_a_bad_line_is_quarantined_with_its_line_and_the_others_stay(take, kind):
    """One file for each kind of fault; the good lines around it give the bytes that they give without it."""
    make = patient if kind == "Patient" else observation
    around = {f"{name}.ndjson": (make(f"{n}a"), make(f"{n}b")) for n, name in enumerate(BAD)}
    clean = take({name: [one, other] for name, (one, other) in around.items()})
    taken = take({name: [one, b"", BAD[name[:-7]][0], other] for name, (one, other) in around.items()})
    assert taken.rejects() == sorted((f"{name}.ndjson", 3, reason) for name, (_, reason) in BAD.items())
    assert {reason for _, reason in BAD.values()} <= REASONS.keys()
    assert taken.account.in_ == 3 * len(BAD)
    assert taken.account.taken == {kind: 2 * len(BAD)}
    assert clean.account.info["tolerant_files"] == 0
    assert taken.version.files[TYPES[kind].table].sha256 == clean.version.files[TYPES[kind].table].sha256


def test_bundle_entries_are_quarantined_by_number(take):
    entries = [
        {"resource": patient(1)},
        {"request": {"method": "PUT", "url": "Patient/2"}},
        {"resource": {"id": "x"}},
        {"resource": observation(1, valueQuantity={"value": "high"})},
        "not an entry",
        {"resource": observation(2)},
    ]
    document = json.dumps({"resourceType": "Bundle", "type": "batch", "entry": entries}).encode()
    taken = take({"Canary_Name.json": document, "no.json": b"<html>", "cut.json": bundle([patient(3)])[:-40]})
    assert taken.rejects() == [
        ("Canary_Name.json", 2, "no_resource"),
        ("Canary_Name.json", 3, "no_resource_type"),
        ("Canary_Name.json", 4, "value_not_a_number"),
        ("Canary_Name.json", 5, "no_resource"),
        ("cut.json", 0, "not_json"),
        ("no.json", 0, "not_json"),
    ]
    assert taken.account.taken == {"Patient": 1, "Observation": 1}


@pytest.mark.parametrize("keep", [0.2, 0.6, 0.95])
def test_a_truncated_gzip_keeps_what_stands_before_the_cut(take, keep):
    records = [observation(n, valueQuantity={"value": n * 0.37}) for n in range(3000)]
    packed = gzip.compress(ndjson(records))
    taken = take({"Observation.ndjson.gz": packed[: int(len(packed) * keep)], "p.ndjson": [patient(1)]})
    ids = [row["id"] for row in taken.rows("observation")]
    assert ids == [f"o{n}" for n in range(len(ids))]
    assert 0 < len(ids) < 3000
    ((file, line, reason),) = taken.rejects()
    assert (file, line, reason) == ("Observation.ndjson.gz", len(ids) + 1, "gzip_truncated")
    assert taken.account.in_ == len(ids) + 2


def test_a_gzip_cut_in_its_last_bytes_loses_nothing(take):
    packed = gzip.compress(ndjson([observation(n) for n in range(10)]))
    taken = take({"Observation.ndjson.gz": packed[:-6]})
    assert taken.account.taken == {"Observation": 10}
    assert taken.account.quarantined == {"gzip_truncated": 1}


def test_a_truncated_bundle_gives_its_whole_entries(take):
    packed = gzip.compress(bundle([patient(1), *(observation(n, x=str(hash(n))) for n in range(500))]))
    taken = take({"one.json.gz": packed[: len(packed) // 2]})
    assert taken.account.taken["Patient"] == 1
    assert 0 < taken.account.taken["Observation"] < 500
    assert taken.account.quarantined == {"gzip_truncated": 1}


@pytest.mark.parametrize("break_at", ["end", "middle", "byte"])
def test_a_broken_plain_bundle_gives_the_entries_before_the_break(take, break_at):
    document = bundle([patient(1), *(observation(n) for n in range(20))])
    middle = document.index(b'"o10"')
    broken = {
        "end": document[:middle],
        "middle": document[:middle] + b"," + document[middle:],
        "byte": document[:middle] + b"\xff" + document[middle:],
    }[break_at]
    taken = take({"one.json": broken})
    assert taken.account.taken == {"Patient": 1, "Observation": 10}
    reason = "invalid_utf8" if break_at == "byte" else "not_json"
    assert taken.rejects() == [("one.json", 12, reason)]
    (row,) = taken.rows("quarantine")
    assert 0 < row["bytes"] < len(broken)  # what was taken is not counted as lost


def test_bundles_in_lines_arrays_and_bundles_are_taken_apart(take):
    one, two = (json.loads(bundle([patient(n), observation(n, n)])) for n in (1, 2))
    for entry, number in ((one["entry"][1], 1), (two["entry"][1], 2)):
        entry["resource"]["subject"]["reference"] = f"urn:uuid:p{number}"
    outer = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": one}, {"resource": two}]}
    for files in (
        {"bundles.ndjson": [one, two]},
        {"list.json": json.dumps([one, two]).encode()},
        {"outer.json": json.dumps(outer).encode()},
        {"mixed.ndjson": [patient(2), one, observation(2, 2)]},
    ):
        taken = take(files)
        assert taken.account.to_dict()["in"] == 4
        assert taken.account.taken == {"Patient": 2, "Observation": 2}
        assert [row["patient"] for row in taken.rows("observation")] == ["Patient/p1", "Patient/p2"]
    bad = take({"bundles.ndjson": [one, {"resourceType": "Bundle", "entry": [{"resource": {"id": "x"}}]}]})
    assert bad.rejects() == [("bundles.ndjson", 2, "no_resource_type")]


def test_many_broken_bundles_are_too_much_however_few_records_they_count_as(take):
    good = bundle([patient(1), *(observation(n) for n in range(200))])
    files = {f"{n}.json": good for n in range(8)} | {f"bad{n}.json": good[50:] for n in range(2)}
    with pytest.raises(InputError, match=r"2 of 1,610 records \(0\.1%\) cannot be used, 20\.0% of the bytes"):
        take(files, limit=0.05)


def test_one_cut_file_is_kept_and_many_are_too_much(take):
    good = gzip.compress(bundle([patient(1), *(observation(n) for n in range(200))]))
    files = {f"{n}.json.gz": good for n in range(8)} | {"cut.json.gz": good[:-4]}
    taken = take(files, limit=0.05)
    assert taken.account.taken["Observation"] == 200
    assert taken.account.quarantined == {"gzip_truncated": 1}
    with pytest.raises(InputError, match=r"2 of 10 files end early"):
        take({**files, "too.json.gz": good[:-4]}, limit=0.05)


def test_byte_order_mark_and_windows_line_ends(take):
    data = b"\xef\xbb\xbf" + ndjson([patient(1), patient(2)]).replace(b"\n", b"\r\n") + b"\r\n  \r\n"
    taken = take({"Patient.ndjson": data, "one.json": b"\xef\xbb\xbf" + bundle([patient(3)])})
    assert taken.account.to_dict() | {"info": 0, "bytes": 0} == {
        "in": 3,
        "taken": {"Patient": 3},
        "not_modelled": {},
        "superseded": {},
        "quarantined": {},
        "files": 2,
        "bytes": 0,
        "info": 0,
    }


def test_a_huge_line_is_set_aside(take, monkeypatch):
    monkeypatch.setattr("pipeline.ingest.lines.LINE_LIMIT", 2000)
    monkeypatch.setattr("pipeline.ingest.lines.CHUNK", 512)
    taken = take({"x.ndjson": [patient(1), patient(2, note="x" * 9000), b"{", patient(3)]})
    assert taken.rejects() == [("x.ndjson", 2, "too_long"), ("x.ndjson", 3, "not_json")]


def test_names_of_files_do_not_leak(take):
    records = bundle([patient(1), {"id": "x"}])
    files = {"Ann Canary.json": records, "Canary.fhir": records, "notes.Canary": b"words", "README.md": b"words"}
    taken = take(files)
    assert taken.account.taken == {"Patient": 1}
    assert taken.account.superseded == {"Patient": 1}
    assert "anary" not in json.dumps(taken.version.info)
    assert taken.account.info["other_files"] == {"(other)": 1, ".md": 1}
    with pytest.raises(InputError, match="no_resource_type") as refused:
        take(files, limit=0)
    assert "anary" not in str(refused.value)


def test_mixed_files_and_stray_types_find_their_tables(take):
    files = {
        "a.ndjson": [patient(1), observation(1)],
        "b.ndjson": [*(observation(n) for n in range(2, 300)), patient(2), {"resourceType": "Claim", "id": "c"}],
        "c.ndjson": [*({"resourceType": "Claim", "id": str(n)} for n in range(300)), patient(3)],
    }
    taken = take(files)
    assert taken.account.taken == {"Patient": 3, "Observation": 299}
    assert taken.account.not_modelled == {"Claim": 301}
    assert [row["id"] for row in taken.rows("patient")] == ["p1", "p2", "p3"]


def test_processes_and_spans_change_nothing(take, monkeypatch):
    records = [observation(n) if n % 7 else b'{"broken' for n in range(400)]
    files = {"x.ndjson": records, "y.json": bundle([patient(1), {"id": 1}]), "z.json": bundle([patient(2)])}
    alone = take(files, threads=1)
    monkeypatch.setattr(fhir_work, "SPAN", 5000)
    monkeypatch.setattr(fhir_work, "ALONE", 0)
    spread = take(files, threads=2)
    assert spread.rejects() == alone.rejects()
    assert spread.account.to_dict() == alone.account.to_dict()
    for name in ("observation", "patient"):
        assert spread.table(name).equals(alone.table(name))


def test_the_limit_refuses_with_counts_and_places_and_without_values(take):
    records = [patient(1), *(observation(n, valueQuantity={"value": "CANARY"}) for n in range(3)), b"{CANARY"]
    with pytest.raises(InputError) as refused:
        take({"x.ndjson": records, "CANARY_Ann.json": b"CANARY"}, limit=0.05)
    message = str(refused.value)
    assert "5 of 6 records (83.3%)" in message
    assert "3 value_not_a_number (first at x.ndjson:2)" in message
    assert "2 not_json (first at bundle " in message
    assert "CANARY" not in message
    assert refused.value.__context__ is None  # nothing of DuckDB's messages hangs on it


@pytest.mark.parametrize(
    "files", [{}, {"x.ndjson": b"\n\n"}, {"LICENSE.txt": b"text"}, {"x.json": b'{"resourceType":"Bundle"}'}]
)
def test_an_empty_delivery_is_refused(take, files):
    with pytest.raises(InputError, match="empty"):
        take(files)


# ---- the judge and the reader hold the same rules

_LEAVES = st.sampled_from(
    [
        None,
        "",
        "x",
        "2019",
        "2019-02",
        "2019-02-30",
        "2019-02-28T10:00:00Z",
        "1.5",
        1,
        -2.5,
        True,
        False,
        [],
        {},
        "{",
        ["a"],
        {"a": 1},
    ]
)
_FIELDS = {
    "Patient": [
        "id",
        "gender",
        "birthDate",
        "deceasedBoolean",
        "deceasedDateTime",
        "maritalStatus",
        "extension",
        "meta",
    ],
    "Observation": [
        "id",
        "status",
        "code",
        "category",
        "effectiveDateTime",
        "valueQuantity",
        "valueBoolean",
        "component",
    ],
    "Condition": ["clinicalStatus", "onsetDateTime", "subject", "encounter", "recordedDate"],
}


@st.composite
def _mutants(draw: Any) -> dict[str, Any]:
    kind = draw(st.sampled_from(list(_FIELDS)))
    base = {"Patient": patient(1), "Observation": observation(1)}.get(kind, {"resourceType": kind, "id": "c"})
    record = copy.deepcopy(base)
    for name in draw(st.lists(st.sampled_from(_FIELDS[kind]), max_size=3)):
        inner = draw(st.sampled_from(["", "value", "coding", "text", "lastUpdated", "reference", "valueQuantity"]))
        leaf = draw(_LEAVES)
        value = {inner: leaf} if inner else leaf
        record[name] = draw(st.sampled_from([value, [value]]))
    return record


def test_judge_and_reader_agree(tmp_path, home):
    """What the judge lets through DuckDB takes, and what it refuses DuckDB refuses: else neighbours would matter."""
    path = tmp_path / "one.ndjson"
    with (
        connect({}, spill=tmp_path / "spill") as connection,
        Lake(home).tables.draft("raw/fhir", {"delivery": "test--d1"}) as draft,
    ):
        reader = RawTables(connection, draft)

        @settings(max_examples=250, deadline=None, derandomize=True)
        @given(_mutants())
        def agree(record: dict[str, Any]) -> None:
            path.write_bytes(ndjson([record]))
            kind, reason = judge(json.loads(ndjson([record])))
            assert kind
            assert reader._copy(kind, [path], tmp_path / "out.parquet", 0) == (reason is None), reason

        agree()


_LINES = st.one_of(
    st.integers(0, 30).map(lambda n: ndjson([patient(n)])),
    st.integers(0, 30).map(lambda n: ndjson([observation(n, of=n)])),
    st.integers(0, 3).map(lambda n: ndjson([{"resourceType": "Claim", "id": str(n)}])),
    st.sampled_from([bad if isinstance(bad, bytes) else ndjson([bad]).strip() for bad, _ in BAD.values()]).map(
        lambda line: line + b"\n"
    ),
    st.sampled_from([b"\n", b"  \n", b"\r\n"]),
    st.binary(max_size=12).map(lambda raw: raw.replace(b"\n", b"") + b"\n"),
)


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(_LINES, max_size=25), min_size=1, max_size=3), st.booleans(), st.floats(0.3, 1.0))
def test_any_mixture_of_good_and_bad_lines_balances(take, files, packed, keep):
    data: dict[str, bytes] = {"ok.ndjson": ndjson([patient("ok")])}
    lines = 1
    for number, parts in enumerate(files):
        raw = b"".join(parts)
        data[f"{number}.ndjson"] = raw
        lines += sum(1 for line in raw.split(b"\n") if line.strip())
    if packed:
        whole = gzip.compress(data["0.ndjson"], mtime=0)
        data["9.ndjson.gz"] = whole[: max(12, int(len(whole) * keep))]
    account = take(data).account
    assert account.balanced
    assert account.in_ == lines if not packed else account.in_ >= lines
