"""Taking one person out of a delivery: their records go, everything else keeps its bytes."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fhir_records import bundle, ndjson, observation, patient

from pipeline.features.source import SourceSpec, TableReading
from pipeline.features.split import PUBLISHED_KEY
from pipeline.ingest.erasure.person import Person
from pipeline.ingest.erasure.taking_out import look, sweep, take_out
from pipeline.ingest.erasure.taking_out_fhir import sift_document, sift_lines
from pipeline.ingest.erasure.tally import Tally
from pipeline.ingest.lines import ByteSource

if TYPE_CHECKING:
    from collections.abc import Callable

CANARY = "zz-canary-7781"
NAME = "Wimbledorf"


def person(id: str = CANARY, **fields: Any) -> Person:
    return Person(id=id, source="test", key=PUBLISHED_KEY, **fields)


def source(format: str = "fhir", **settings: Any) -> SourceSpec:
    return SourceSpec(name="test", format=format, **settings)


def canary(**fields: Any) -> dict[str, Any]:
    made = patient(1, name=[{"family": NAME}], identifier=[{"system": "urn:mrn", "value": "M-1"}], **fields)
    return {**made, "id": CANARY}


def of(number: int, link: str, **fields: Any) -> dict[str, Any]:
    return {**observation(number), "subject": {"reference": link}, **fields}


def contents(folder: Path) -> dict[str, bytes]:
    """Unpacked bytes by name."""
    found = [p for p in folder.rglob("*") if p.is_file()]
    return {p.relative_to(folder).as_posix(): b"".join(ByteSource(p).pieces()) for p in found}


@pytest.fixture
def taken(land: Callable[..., Any]) -> Callable[..., dict[str, bytes]]:
    """Land these files, take the person out, look that nobody is found any more; gives what is left."""

    def run(
        files: dict[str, Any], who: Person | None = None, format: str = "fhir", **settings: Any
    ) -> dict[str, bytes]:
        delivery = land(files)
        one = who or person()
        spec = source(format, **settings)
        before = contents(delivery.folder)
        seen = look(delivery.folder, spec, one)
        assert contents(delivery.folder) == before, "looking changes nothing"
        if seen.identifiers:
            one = Person(id=one.id, source=one.source, key=one.key, identifiers=frozenset(seen.identifiers))
            seen = look(delivery.folder, spec, one)
        done = take_out(delivery.folder, spec, one)
        assert done.to_dict() == seen.to_dict()
        again = look(delivery.folder, spec, one)
        assert not again.held
        assert again.before == done.after
        assert (delivery.folder / "_SUCCESS").exists()
        assert (delivery.folder / "_DELIVERY.json").exists()
        assert not list(delivery.folder.parent.glob(".erase-*"))
        left = contents(delivery.folder)
        marks = ("_SUCCESS", "_DELIVERY.json")
        return {name: data for name, data in left.items() if name not in marks}

    return run


LINKS = [
    f"Patient/{CANARY}",
    f"urn:uuid:{CANARY}",
    f"https://example.org/fhir/Patient/{CANARY}",
    f"https://example.org/fhir/Patient/{CANARY}/_history/2",
    "Patient?identifier=urn:mrn|M-1",
]


def test_lines_that_are_theirs_go_and_others_keep_their_bytes(taken: Callable[..., dict[str, bytes]]) -> None:
    odd = b'{"resourceType" : "Observation", "id":"odd", "subject":{"reference":"Patient/p2"}, "valueInteger": 1.50}\r'
    near = of(90, f"Patient/{CANARY}-2")
    broken_other = b'{"resourceType":"Patient","id":"p9'
    files = {
        "Patient.ndjson": [canary(), patient(2), b'{"resourceType":"Patient","id":"' + CANARY.encode(), broken_other],
        "Observation.ndjson.gz": [*(of(i, link) for i, link in enumerate(LINKS)), odd, near],
        "Coverage.ndjson": [
            {"resourceType": "Coverage", "id": "c1", "beneficiary": {"reference": LINKS[0]}},
            {"resourceType": "Coverage", "id": "c2", "beneficiary": {"reference": "Patient/p2"}},
            {"resourceType": "Provenance", "id": "v", "target": [{"reference": LINKS[0]}]},
            {"resourceType": "Encounter", "id": "e", "subject": {"identifier": {"system": "urn:mrn", "value": "M-1"}}},
            {"resourceType": "Patient", "id": "\\u0070x"},
        ],
    }
    left = taken(files)
    assert left["Patient.ndjson"] == ndjson([patient(2), broken_other])
    assert left["Observation.ndjson.gz"] == ndjson([odd, near])
    assert left["Coverage.ndjson"] == ndjson([files["Coverage.ndjson"][1], files["Coverage.ndjson"][4]])


def test_records_of_several_people_stay_without_the_one(taken: Callable[..., dict[str, bytes]]) -> None:
    twin = patient(2, link=[{"other": {"reference": LINKS[0], "display": NAME}, "type": "seealso"}])
    group = {
        "resourceType": "Group",
        "id": "g",
        "member": [{"entity": {"reference": "Patient/p2"}}, {"entity": {"reference": LINKS[0], "display": NAME}}],
    }
    spoken = of(3, "Patient/p2", note=[{"text": f"brother of {CANARY}."}], valueQuantity={"value": 1.50, "unit": "x"})
    left = taken({"all.ndjson": [canary(), twin, group, spoken]})
    text = left["all.ndjson"].decode()
    assert CANARY not in text
    assert NAME not in text
    read = [json.loads(line) for line in text.splitlines()]
    assert read[0] == patient(2, link=[{"other": {"display": "erased"}, "type": "seealso"}])
    assert read[1]["member"] == [{"entity": {"reference": "Patient/p2"}}, {"entity": {"display": "erased"}}]
    assert read[2] == {**spoken, "note": [{"text": "brother of erased."}]}


def test_a_short_id_means_nobody_in_other_text(taken: Callable[..., dict[str, bytes]]) -> None:
    keep = [patient(17), of(1, "Patient/p2", note=[{"text": "17 days"}]), of(2, "Patient/117")]
    theirs = [{**patient(1), "id": "17"}, of(3, "Patient/17"), {**patient(1), "id": 17}]
    left = taken({"all.ndjson": [*keep, *theirs], "part-17.ndjson": [patient(3)]}, person("17"))
    assert left == {"all.ndjson": ndjson(keep), "part-17.ndjson": ndjson([patient(3)])}


def test_bundles_lose_entries_and_those_of_one_patient_go_whole(taken: Callable[..., dict[str, bytes]]) -> None:
    entries = [
        json.dumps({"fullUrl": "urn:uuid:abc", "resource": canary()}, indent=1),
        json.dumps({"fullUrl": "urn:uuid:def", "resource": patient(2)}, indent=3),
        json.dumps({"resource": of(1, "urn:uuid:abc")}),
        json.dumps({"resource": of(2, "urn:uuid:def")}),
    ]
    shared = '{"resourceType": "Bundle",\n "type": "batch", "entry": [\n' + " ,\n".join(entries) + "\n ]}\n"
    own = bundle([canary(), of(5, LINKS[0]), {"resourceType": "Organization", "id": "org"}])
    nested = bundle([json.loads(own), patient(4)])
    left = taken(
        {
            "shared.json": shared.encode(),
            f"{NAME}_{CANARY}.json": own,
            "own.json.gz": own,
            "nested.json": nested,
            "lines.ndjson": [json.loads(own), json.loads(shared), patient(7)],
            "list.json": json.dumps([canary(), patient(5)]).encode(),
            "one.json": json.dumps(canary()).encode(),
            "others.json": bundle([patient(6)]),
        }
    )
    assert sorted(left) == ["lines.ndjson", "list.json", "nested.json", "others.json", "shared.json"]
    head, tail = '{"resourceType": "Bundle",\n "type": "batch", "entry": [\n', "\n ]}\n"
    assert left["shared.json"].decode() == head + entries[1] + " ,\n" + entries[3] + tail
    assert [e["resource"]["id"] for e in json.loads(left["nested.json"])["entry"]] == ["p4"]
    assert json.loads(left["list.json"]) == [patient(5)]
    assert left["others.json"] == bundle([patient(6)])
    assert len(left["lines.ndjson"].splitlines()) == 2
    assert not [name for name, data in left.items() if CANARY.encode() in data or NAME.encode() in data]


def test_what_cannot_be_read_goes_if_it_carries_the_id(taken: Callable[..., dict[str, bytes]]) -> None:
    cut = bundle([patient(2), of(1, "Patient/p2"), canary()])[:-60]
    files = {
        "cut.json": cut,
        "garbage.json": b"not JSON, of " + CANARY.encode(),
        f"{NAME}_{CANARY}.json": b'{"resourceType": "Bundle", ' + NAME.encode(),
        "notes.txt": f"call {CANARY} back".encode(),
        ".swap": CANARY.encode(),
        "readme.txt": b"nobody",
        f"{CANARY}/all.ndjson": [patient(8)],
        "Patient.ndjson": [patient(1)],
    }
    left = taken(files)
    assert sorted(left) == ["Patient.ndjson", "cut.json", f"erased-{person().mark[:8]}/all.ndjson", "readme.txt"]
    assert [e["resource"]["id"] for e in json.loads(left["cut.json"])["entry"]] == ["p2", "o1"]


def test_a_gzip_that_is_cut_loses_them_too(taken: Callable[..., dict[str, bytes]]) -> None:
    rows = ndjson([patient(2), canary(), *[of(i, "Patient/p2") for i in range(200)]])
    left = taken({"all.ndjson.gz": gzip.compress(rows)[:-40], "Patient.ndjson": [patient(1)]})
    assert left["all.ndjson.gz"].startswith(ndjson([patient(2), of(0, "Patient/p2")]))


CSV = '\ufeffMRN;name;note\r\n17;Ann;a\r\n18;Bob;"two\r\nlines; 17"\r\n 17.0 ;Ann;b\r\n017;Cid;c\r\n19;Dot;17\r\n17;too;many;fields\r\n'


def test_csv_rows_go_by_column_and_keep_every_other_byte(taken: Callable[..., dict[str, bytes]]) -> None:
    kept = '\ufeffMRN;name;note\r\n18;Bob;"two\r\nlines; 17"\r\n017;Cid;c\r\n19;Dot;17\r\n'
    who = person("17", column="mrn")
    left = taken({"a.csv": CSV.encode(), "b.csv.gz": CSV.encode()}, who, "table")
    assert left == {"a.csv": kept.encode(), "b.csv.gz": kept.encode()}


def test_a_quotation_mark_within_a_cell_takes_nobody_else_along(taken: Callable[..., dict[str, bytes]]) -> None:
    rows = ["mrn,note", *(f"{number},n" for number in range(1000, 1100))]
    rows[10], rows[90] = '1009,see;"a pipe', '1089,see;"b pipe'
    left = taken({"a.csv": ("\n".join(rows) + "\n").encode()}, person("1050", column="mrn"), "table")
    assert left["a.csv"].decode().splitlines() == [row for row in rows if not row.startswith("1050")]


def test_tables_without_the_column_are_named(land: Callable[..., Any]) -> None:
    delivery = land({"a.csv": b"code,label\n17,x\n", "b.parquet": b"no parquet", "c.csv": b""})
    seen = look(delivery.folder, source("table"), person("17", column="mrn"))
    assert not seen.held
    assert [*map(str, seen.unsearched)] == ["a.csv", "b.parquet (not readable as Parquet)", "c.csv (no header)"]


def test_files_that_no_reader_takes_are_named(land: Callable[..., Any]) -> None:
    files = {"a.ndjson": [patient(1), b"{broken"], "a.xml": b"<a/>", "old.zip": b"PK", f"{CANARY}.zip": b"PK"}
    delivery = land(files)
    seen = look(delivery.folder, source(), person())
    how = "(no reader takes it: searched as bytes only)"
    assert [*map(str, seen.unsearched)] == [f"a.xml {how}", "old.zip (not readable as a ZIP archive)"]
    assert seen.whole == 1
    short = look(delivery.folder, source(), person("bro")).to_dict()
    assert short["not_searched"][0] == "a.xml (no reader takes it: searched not at all, the id is short)"
    assert short["records_nobody_can_read"] == 1


def test_a_name_that_holds_the_id_is_written_without_it() -> None:
    one = person()
    label = f"raw/fhir/delivery=test--of-{CANARY}"
    assert CANARY not in one.mask(label)
    assert one.unmask(one.mask(label)) == label
    short = person("17")
    assert short.mask("test--2026-10-17") == "test--2026-10-17"
    assert short.unmask(short.mask("test--17: a.csv")) == "test--17: a.csv" != short.mask("test--17: a.csv")
    digits = person("12345678")
    assert digits.mask("12345678" * 8) == "12345678" * 8, "a hash is no name"


@pytest.mark.parametrize("name", ["a.parquet", "a.parquet.gz"])
def test_parquet_rows_go_and_leave_nothing_in_dictionaries(land: Callable[..., Any], tmp_path: Path, name: str) -> None:
    ids = pa.array(["p1", CANARY, None, "p2", CANARY])
    names = pa.array(["Ann", NAME, "Bob", "Cid", NAME]).dictionary_encode()
    table = pa.table({"who": ids, "name": names, "at": pa.array([1, 2, 3, 4, 5], pa.timestamp("us"))})
    pq.write_table(table, tmp_path / "made.parquet", row_group_size=2)
    delivery = land({name: (tmp_path / "made.parquet").read_bytes()})
    done = take_out(delivery.folder, source("table"), person(column="who"))
    assert (done.before, done.removed) == (5, 2)
    data = contents(delivery.folder)[name]
    assert NAME.encode() not in data
    left = pq.read_table(pa.BufferReader(data))
    assert left.column("who").to_pylist() == ["p1", None, "p2"]
    assert left.column("name").to_pylist() == ["Ann", "Bob", "Cid"]
    assert left.schema.field("at").type == pa.timestamp("us")
    numbered = pa.table({"who": pa.array([17, 18, None], pa.int64())})
    pq.write_table(numbered, delivery.folder / "n.parquet")
    assert take_out(delivery.folder, source("table"), person("17", column="who")).removed == 1


def test_a_file_that_cannot_be_written_stays_whole(land: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between two files, the same call ends with the same files."""
    files = {"a.ndjson": [canary(), patient(2)], "b.ndjson": [of(1, LINKS[0]), of(2, "Patient/p2")]}
    delivery = land(files)
    replace = Path.replace
    calls = []

    def dies(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        take_out(delivery.folder, source(), person())
    monkeypatch.undo()
    assert contents(delivery.folder)["b.ndjson"] == ndjson(files["b.ndjson"])
    take_out(delivery.folder, source(), person())
    assert contents(delivery.folder)["a.ndjson"] == ndjson([patient(2)])
    assert contents(delivery.folder)["b.ndjson"] == ndjson([of(2, "Patient/p2")])
    (delivery.folder.parent / ".erase-dead").mkdir()
    assert sweep(delivery.folder.parent) == 1


def test_the_id_is_in_no_repr() -> None:
    assert CANARY not in repr(person())
    assert person().mark != person("other").mark


@pytest.mark.parametrize(
    ("settings", "encode", "head"),
    [
        ({"encoding": "latin-1"}, "latin-1", b""),
        ({"encoding": "windows-1252"}, "windows-1252", b""),
        ({}, "utf-16-le", b"\xff\xfe"),
        ({}, "utf-16-be", b"\xfe\xff"),
        ({"encoding": "utf-16"}, "utf-16-le", b"\xff\xfe"),
        ({"encoding": "utf-16-le"}, "utf-16-le", b""),
        ({}, "utf-8", b"\xef\xbb\xbf"),
    ],
)
def test_tables_in_other_encodings_keep_their_bytes(
    taken: Callable[..., dict[str, bytes]], settings: dict[str, str], encode: str, head: bytes
) -> None:
    rows = ["who,naïve,x\r\n", "a,é,1\r\n", f'{CANARY},"ü\r\n",2\r\n', "b,ß,3"]
    tables = {"t": TableReading(files=["t.csv"], **settings)}
    body = head + "".join(rows).encode(encode)
    left = taken({"t.csv": body, "other.txt": b"x"}, person(column="who"), "table", tables=tables)
    assert left["t.csv"] == head + "".join([rows[0], rows[1], rows[3]]).encode(encode)


def test_tables_without_header_with_comments_and_by_any_name(taken: Callable[..., dict[str, bytes]]) -> None:
    tables = {"adult": TableReading(files=["adult.data"], header=["age", "who"], comment="|", trim=True, delimiter=",")}
    body = f"| made of\n39, {CANARY}\n50, p2\n| about {CANARY} too\n\n51, {CANARY}-2\n".encode()
    left = taken({"adult.data": body}, person(column="who"), "table", tables=tables)
    assert left == {"adult.data": f"| made of\n50, p2\n\n51, {CANARY}-2\n".encode()}


def test_rows_ended_as_a_macintosh_did(taken: Callable[..., dict[str, bytes]]) -> None:
    left = taken({"a.csv": f"who,x\r{CANARY},1\rp2,2\r".encode()}, person(column="who"), "table")
    assert left == {"a.csv": b"who,x\rp2,2\r"}


def test_a_table_that_is_not_in_its_encoding_is_named_and_stays(land: Callable[..., Any]) -> None:
    delivery = land({"a.csv": b"\xff\xfew\0h\0o\0\n\0\x00\xd8\0"})
    done = take_out(delivery.folder, source("table"), person(column="who"))
    assert [*map(str, done.unsearched)] == ["a.csv (not in its encoding)"]
    assert not done.held


def test_archives_that_cannot_be_read_are_named(land: Callable[..., Any]) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("a.csv", f"who\n{CANARY}\np2\n")
        archive.writestr("deep.zip", b"PK")
        archive.writestr("damaged.csv", b"who\nwho knows\n")
    body = inner.getvalue().replace(b"who knows", b"who lost!")
    delivery = land({"a.zip": body, "b.zip": b"PK no archive"})
    who = person(column="who")
    seen = look(delivery.folder, source("table"), who)
    assert "b.zip (not readable as a ZIP archive)" in map(str, seen.unsearched)
    assert "a.zip/damaged.csv (encrypted or damaged)" in map(str, seen.unsearched)
    done = take_out(delivery.folder, source("table"), who)
    assert done.to_dict() == seen.to_dict()
    with zipfile.ZipFile(delivery.folder / "a.zip") as archive:
        # What nobody can unpack cannot be packed again; it was in quarantine, and nobody used it.
        assert archive.namelist() == ["a.csv", "deep.zip"]
        assert archive.read("a.csv") == b"who\np2\n"
    assert (delivery.folder / "b.zip").read_bytes() == b"PK no archive"
    assert not look(delivery.folder, source("table"), who).held


def _zipped(files: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in files.items():
            archive.writestr(name, body)
    return made.getvalue()


def _rows(ids: list[str]) -> bytes:
    made = io.BytesIO()
    pq.write_table(pa.table({"subject_id": pa.array(ids)}), made)
    return made.getvalue()


@pytest.mark.parametrize("format", ["mimic3", "mimic4", "meds", "fhir"])
def test_archives_are_searched_whatever_the_format(land: Callable[..., Any], format: str) -> None:
    """No reader of these takes an archive; but what was handed over lies in the landing folder all the same."""
    files = {
        "mimic4demo/hosp/patients.csv.gz": gzip.compress(f"subject_id,x\n{CANARY},1\np2,2\n".encode()),
        "data/train/0.parquet": _rows([CANARY, "p2"]),
        "Patient.ndjson": ndjson([canary(), patient(2)]),
        "own.json": bundle([canary(), of(1, LINKS[0])]),
    }
    gone = {"mimic3": 1, "mimic4": 1, "meds": 1, "fhir": 3}[format]
    theirs = {"mimic3": ["mimic4demo/hosp/patients.csv.gz"], "meds": ["data/train/0.parquet"]}
    theirs |= {"mimic4": theirs["mimic3"], "fhir": ["Patient.ndjson", "own.json"]}
    packed = _zipped({name: body for name, body in files.items() if name in theirs[format]} | {"README": b"nobody"})
    delivery = land({"demo.zip": packed, "other.csv": b"x"})
    seen = look(delivery.folder, source(format), person())
    assert (seen.removed, [one for one in seen.unsearched if one.closed]) == (gone, [])
    take_out(delivery.folder, source(format), person())
    again = look(delivery.folder, source(format), person())
    assert (again.held, again.before) == (False, seen.before - gone)
    with zipfile.ZipFile(delivery.folder / "demo.zip") as archive:
        bodies = [archive.read(name) for name in archive.namelist()]
    left = [gzip.decompress(body) if body.startswith(b"\x1f\x8b") else body for body in bodies]
    assert not [body for body in left if CANARY.encode() in body]
    assert b"nobody" in left


def test_what_nobody_can_look_into_is_no_proof(land: Callable[..., Any]) -> None:
    """Not finding the id in bytes that are packed or encrypted says nothing: such files are told apart from the others."""
    inside = ("subject_id\n" + "p2\n" * 2000 + f"{CANARY}\n").encode()
    tarred = io.BytesIO()
    with tarfile.open(fileobj=tarred, mode="w:gz") as tar:
        info = tarfile.TarInfo("p.csv.gz")
        info.size = len(gzip.compress(inside))
        tar.addfile(info, io.BytesIO(gzip.compress(inside)))
    damaged = bytearray(gzip.compress(inside))
    damaged[12:16] = bytes(4)
    closed = {
        "all.tar.gz": tarred.getvalue(),
        "dump.7z": b"7z\xbc\xaf\x27\x1c" + bytes(9),
        "dump.xz": lzma.compress(inside),
        "dump.bin": bz2.compress(inside),
        "letter.pdf": b"%PDF-1.7 ...",
        "notes.gpg": b"\x85\x01",
        "patients.csv": lzma.compress(inside),
        "admissions.csv.gz": bytes(damaged),
        "nested.zip": _zipped({"deep.zip": _zipped({"p.csv": inside})}),
    }
    delivery = land({**closed, "README.md": b"nobody", "icustays.csv": b"subject_id\np2\n"})
    for who in (person(), person("17")):
        seen = look(delivery.folder, source("mimic3"), who)
        told = {one.file.partition("/")[0] for one in seen.unsearched if one.closed}
        assert (told, seen.held) == (set(closed), False)
        assert [one.file for one in seen.unsearched if not one.closed and one.file not in closed] == ["README.md"]
    gone = look(land({"a.ndjson": [patient(1)], "x.tar": inside, "y.7z": b"7z"}).folder, source(), person())
    assert gone.whole == 1, "an id in the open is found in any file"


def test_records_as_deep_as_readers_take_them() -> None:
    def deep(record: dict[str, Any]) -> bytes:
        head = json.dumps(record)[:-1]
        return (head + ',"extension":' + '[{"extension":' * 505 + f'"{LINKS[0]}"' + "}]" * 505 + "}").encode()

    own, other = deep(of(1, LINKS[0])), deep(of(2, "Patient/p2"))
    left = b"".join(sift_lines(iter([own + b"\n" + other + b"\n"]), person(), Tally()))
    assert left == other.replace(LINKS[0].encode(), b"erased") + b"\n"
    broken = b'{"resourceType":"Bundle","entry":[{"resource":' + other + b'},{"resource":' + own + b"},"
    kept = sift_document(broken, person(), Tally())
    assert kept is not None
    assert b'"o2"' in kept
    assert CANARY.encode() not in kept
