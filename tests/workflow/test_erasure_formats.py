"""Erasing a person of MIMIC, MEDS, archived tables and other FHIR versions: nothing of them is left, all others are as before."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zipfile
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ConfigError
from pipeline.features.spec import load_book
from pipeline.ingest.account import BESIDE_THE_DATA
from pipeline.ingest.delivery import content_hash, delivery
from pipeline.ingest.erasure.taking_out_files import SUBJECT, is_dictionary
from pipeline.ingest.lines import ByteSource
from pipeline.ingest.mimic.mimic3_tables import MIMIC3
from pipeline.ingest.mimic.mimic4_tables import MIMIC4
from pipeline.store.lake import Lake
from pipeline.workflow.compute import Compute
from pipeline.workflow.deliveries import FORMATS_WITH_EVENTS, make_events, take_in
from pipeline.workflow.erasure import NO_COHORT, Way, _rebuild, come_back, confirm, erase, unknown, whom
from pipeline.workflow.erasures import Plan
from pipeline.workflow.exporting import export_meds, export_of_delivery
from pipeline.workflow.holdings import search
from pipeline.workflow.raw_rows import filter_raw, patients, person_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.store.home import Home

GONE, STAYS, OTHER = "10000777", "10000888", "10000999"
SOURCES = """
three: {format: mimic3, dates: shifted, split_key: published}
four: {format: mimic4, dates: shifted, split_key: published}
meds: {format: meds, dates: none, split_key: published, max_quarantine_rate: 1}
tables: {format: table, dates: none, split_key: published, person: who}
fhir: {format: fhir, dates: none, split_key: published, max_quarantine_rate: 1}
"""


class House:
    """A home whose deliveries are taken in without an orchestrator."""

    def __init__(self, home: Home, cohorts: Path) -> None:
        cohorts.mkdir()
        (cohorts / "sources.yaml").write_text(SOURCES)
        self.home, self.lake, self.book = home, Lake(home), load_book([cohorts])

    def land(self, source: str, name: str, files: dict[str, bytes]) -> str:
        folder = self.home.landing / source / name
        for file, body in files.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(gzip.compress(body) if file.endswith(".gz") else body)
        told = {"as_of": "2026-10-15", "content": content_hash(folder)}
        (folder / "_DELIVERY.json").write_text(json.dumps(told))
        (folder / "_SUCCESS").touch()
        key = f"{source}--{name}"
        self.take_in(key)
        return key

    def take_in(self, key: str) -> str:
        source = self.book.source(key.partition("--")[0])
        take_in(self.lake, delivery(self.home, key), source, source.format, Compute())
        if source.format in FORMATS_WITH_EVENTS:
            make_events(self.lake, source, key, Compute())
        return ""

    def erase(self, id: str, source: str) -> dict[str, Any]:
        spec = self.book.source(source)
        found = search(self.lake, spec, self.book, whom(self.lake, spec, id, None))
        return erase(self.lake, spec, self.book, found, Way(self.take_in), Compute())

    def rows(self, key: str, *, without: str) -> dict[str, list[str]]:
        """Raw rows and events by table, but those in which an id stands."""
        found = {}
        format = self.book.source(key.partition("--")[0]).format
        for asset in (f"raw/{format}", "events"):
            version = self.lake.tables.current(asset, {"delivery": key})
            for name in version.files if version is not None else ():
                if name not in BESIDE_THE_DATA:
                    rows = map(str, self.lake.tables.read(version, name).to_pylist())
                    found[f"{asset}/{name}"] = sorted(row for row in rows if without not in row)
        return found

    def traces(self, canary: str) -> list[str]:
        """Files in which the id stands: by name, unpacked bytes, members of archives, cells of Parquet."""
        files = [path for path in self.home.root.rglob("*") if path.is_file()]
        held = [p for p in files if canary in p.as_posix() or canary in "\n".join(_texts(p))]
        return [path.relative_to(self.home.root).as_posix() for path in held]


def _texts(path: Path) -> Iterator[str]:
    body = b"".join(ByteSource(path).pieces())
    yield body.decode("latin-1")
    if path.suffix == ".parquet":
        yield str(pq.read_table(io.BytesIO(body)).to_pylist())
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            yield from (archive.read(name).decode("latin-1") for name in archive.namelist())


@pytest.fixture
def house(home: Home, tmp_path: Path) -> House:
    return House(home, tmp_path / "cohorts")


def mimic(release: Any, people: tuple[str, ...], *, upper: bool) -> dict[str, bytes]:
    """Every declared table with two rows a person (dictionaries: two rows), in the folders and cases of the release."""
    fresh = count(1)
    made = {}
    for table in release.tables.values():
        owned = SUBJECT in table.columns
        once = table.key == (SUBJECT,)
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([name.upper() if upper else name for name in table.columns])
        for person in people if owned else ("",):
            for _ in range(1 if once else 2):
                cells: dict[str, Any] = {"text": "x", "float": 1.5, "time": "2150-01-01 10:00:00", "date": "2150-01-01"}
                row = [
                    person if name == SUBJECT else next(fresh) if kind == "int" else cells[kind]
                    for name, kind in table.columns.items()
                ]
                texts = [
                    i for i, (name, kind) in enumerate(table.columns.items()) if name in table.key and kind == "text"
                ]
                for place in texts:
                    row[place] = f"k{next(fresh)}"
                if "poe_id" in table.columns and owned:  # as MIMIC-IV has it: the number of the person and another
                    row[list(table.columns).index("poe_id")] = f"{person}-{next(fresh)}"
                writer.writerow(row)
        name = f"{table.name.upper() if upper else table.name}.csv.gz"
        made[name if upper else f"hosp/{name}"] = out.getvalue().encode()
    return made


@pytest.mark.parametrize(("source", "release", "upper"), [("three", MIMIC3, True), ("four", MIMIC4, False)])
def test_a_person_of_mimic_is_gone_from_every_table(house: House, source: str, release: Any, upper: bool) -> None:
    files = mimic(release, (GONE, STAYS, OTHER), upper=upper)
    key = house.land(source, "one", files)
    alone = house.land(source, "two", mimic(release, (GONE,), upper=upper))
    before = house.rows(key, without=GONE)
    assert len(house.traces(GONE)) > 20
    proof = house.erase(GONE, source)
    assert house.traces(GONE) == []
    assert house.rows(key, without=GONE) == before
    owned = [table for table in release.tables.values() if SUBJECT in table.columns]
    rows = sum(1 if table.key == (SUBJECT,) else 2 for table in owned)
    counts = proof["deliveries"][key]
    assert (counts["records_removed"], counts["records_before"]) == (rows, 3 * rows)
    assert counts["files"] == len(owned)
    assert proof["renewed"] == {key: "taken in again", alone: "gone: it held nobody else"}
    assert not (house.home.landing / source / "two").exists()
    assert proof["column"] == SUBJECT
    assert proof["not_searched"] == []
    folder = house.home.landing / source / "one"
    assert json.loads((folder / "_DELIVERY.json").read_text())["content"] == content_hash(folder)
    # What stays keeps its bytes, and dictionaries are not touched.
    for name, body in files.items():
        kept = b"".join(line for line in body.splitlines(keepends=True) if f"{GONE}".encode() not in line)
        assert gzip.decompress((folder / name).read_bytes()) == kept, name
    assert come_back(house.lake, house.book.source(source)) == []
    house.land(source, "three", mimic(release, (GONE, STAYS), upper=upper))
    assert come_back(house.lake, house.book.source(source)) == [f"{source}--three"]


def test_mimic_rows_are_filtered_where_the_landing_folder_is_gone(house: House) -> None:
    import shutil

    key = house.land("four", "one", mimic(MIMIC4, (GONE, STAYS), upper=False))
    alone = house.land("four", "two", mimic(MIMIC4, (GONE,), upper=False))
    before = house.rows(key, without=GONE)
    shutil.rmtree(house.home.landing / "four")
    proof = house.erase(GONE, "four")
    assert proof["renewed"][key].startswith("raw tables filtered")
    assert proof["renewed"][alone] == "gone: it held nobody else"
    assert house.traces(GONE) == []
    assert house.rows(key, without=GONE) == before
    raw = house.lake.tables.resolve("raw/mimic4", {"delivery": key})
    assert raw.info["account"]["taken"]["patients"] == 1


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("folder", "format", "release"), [("mimic-iii-demo-1.4", "mimic3", MIMIC3), ("mimic-iv-demo-2.2", "mimic4", MIMIC4)]
)
def test_every_real_table_names_its_people_or_is_a_dictionary(
    real_data: Path, folder: str, format: str, release: Any
) -> None:
    seen = 0
    for path in (real_data / folder).rglob("*.csv.gz"):
        with gzip.open(path, "rt") as file:
            header = file.readline().strip().lower().split(",")
        table = path.name.lower().removesuffix(".csv.gz")
        assert (SUBJECT in header) != is_dictionary(format, table), table
        assert table in release.tables
        # Nobody can be reached through a dictionary by a stay or an order either.
        assert SUBJECT in header or not {"hadm_id", "stay_id", "icustay_id", "emar_id", "poe_id"} & set(header)
        seen += 1
    assert seen >= 26


def parquet(**columns: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


TIME = datetime(2020, 1, 1)  # noqa: DTZ001


def shard(*people: str, column: str = SUBJECT) -> bytes:
    numbers = [int(person) for person in people]
    return parquet(
        **{column: numbers},
        time=[TIME] * len(people),
        code=[f"CODE//{i}" for i in range(len(people))],
        note=pa.array([f"of {person}" for person in people]).dictionary_encode(),
    )


def test_a_person_of_a_meds_dataset_is_gone_from_shards_splits_and_labels(house: House) -> None:
    files = {
        "data/train/0.parquet": shard(GONE, GONE, STAYS),
        "data/held_out/0.parquet": shard(OTHER),
        "metadata/codes.parquet": parquet(code=["CODE//0"], description=["first"]),
        "metadata/dataset.json": b'{"meds_version": "0.4.0"}',
        "metadata/subject_splits.parquet": parquet(subject_id=[int(GONE), int(STAYS)], split=["train", "train"]),
        "labels/death/0.parquet": parquet(
            subject_id=[int(STAYS), int(GONE)], prediction_time=[TIME] * 2, boolean_value=[True, False]
        ),
    }
    key = house.land("meds", "one", files)
    old = house.land("meds", "old", {"data/0.parquet": shard(STAYS, GONE, column="patient_id")})
    alone = house.land("meds", "alone", {"data/0.parquet": shard(GONE), "metadata/codes.parquet": parquet(code=["C"])})
    before = {k: house.rows(k, without=GONE) for k in (key, old)}
    proof = house.erase(GONE, "meds")
    assert house.traces(GONE) == []
    assert {k: house.rows(k, without=GONE) for k in (key, old)} == before
    assert proof["renewed"] == {key: "taken in again", old: "taken in again", alone: "gone: it held nobody else"}
    assert proof["deliveries"][key]["records_removed"] == 4
    assert proof["not_searched"] == []
    left = house.home.landing / "meds" / "one"
    assert (left / "data/held_out/0.parquet").read_bytes() == files["data/held_out/0.parquet"]
    assert pq.read_table(left / "metadata" / "subject_splits.parquet").column(SUBJECT).to_pylist() == [int(STAYS)]
    raw = house.lake.tables.resolve("raw/meds", {"delivery": key})
    assert patients(house.lake, raw, SUBJECT) == {STAYS, OTHER}


def test_the_proof_names_the_exports_that_nothing_here_reaches(house: House, tmp_path: Path) -> None:
    key = house.land("meds", "one", {"data/0.parquet": shard(GONE, STAYS)})
    export_meds(house.lake, export_of_delivery(house.book.source("meds"), key), tmp_path / "out", Compute())
    proof = house.erase(GONE, "meds")
    assert [line.partition(",")[0] for line in proof["exports"]] == [key]
    fresh = export_meds(house.lake, export_of_delivery(house.book.source("meds"), key), tmp_path / "again", Compute())
    assert (fresh.events, fresh.subjects) == (1, 1)


def test_a_broken_shard_is_named_as_not_searched(house: House) -> None:
    broken = b"PAR1" + GONE.encode()
    house.land("meds", "one", {"data/0.parquet": shard(GONE, STAYS), "data/1.parquet": broken})
    proof = house.erase(GONE, "meds")
    assert proof["could_not_be_searched"] == ["meds--one: data/1.parquet (not readable as Parquet)"]


def test_what_stands_beside_the_data_is_looked_through_too(house: House) -> None:
    with house.lake.tables.draft("raw/fhir", {"delivery": "fhir--one"}) as draft:
        files = pa.array([f"{GONE}.json", "b.json"])
        draft.add_table("patient", pa.table({"key": [f"Patient/{STAYS}"]}))
        draft.add_table("quarantine", pa.table({"file": files}))
        draft.add_table("delivered_files", pa.table({"file": files}))
        draft.add_table("deleted_resources", pa.table({"key": [f"Patient/{GONE}", f"Patient/{STAYS}"]}))
        raw = draft.commit(info={"account": {"taken": {"Patient": 1, "(deletion)": 2}, "in": 3}})
    person = whom(house.lake, house.book.source("fhir"), GONE, None)
    assert person_rows(house.lake, raw, person) == 3
    fresh = filter_raw(house.lake, raw, person)
    assert person_rows(house.lake, fresh, person) == 0
    assert house.lake.tables.read(fresh, "deleted_resources").to_pylist() == [{"key": f"Patient/{STAYS}"}]
    assert fresh.info["account"] == {"taken": {"Patient": 1, "(deletion)": 1}, "in": 2}


def zipped(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in members.items():
            archive.writestr(zipfile.ZipInfo(name, (2020, 1, 2, 3, 4, 6)), body, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def test_a_person_is_taken_out_of_the_members_of_an_archive(house: House) -> None:
    visits = f"who,what\n{GONE},a\n{STAYS},b\n".encode()
    members = {
        "in/visits.csv": visits,
        "labs.csv.gz": gzip.compress(f"who,value\n{STAYS},1\n{GONE},2\n".encode()),
        "wide.parquet": parquet(who=[GONE, OTHER], x=[1, 2]),
        "README.txt": b"as delivered",
        f"scan-{GONE}.pdf": b"%PDF",
    }
    key = house.land("tables", "one", {"all.zip": zipped(members), "lone.zip": zipped({"d.csv": b"who,v\nzz,1\n"})})
    untouched = (house.home.landing / "tables" / "one" / "lone.zip").read_bytes()
    before = house.rows(key, without=GONE)
    proof = house.erase(GONE, "tables")
    assert house.traces(GONE) == []
    assert house.rows(key, without=GONE) == before
    assert proof["deliveries"][key]["records_removed"] == 3
    folder = house.home.landing / "tables" / "one"
    assert (folder / "lone.zip").read_bytes() == untouched
    with zipfile.ZipFile(folder / "all.zip") as archive:
        assert archive.namelist() == ["in/visits.csv", "labs.csv.gz", "wide.parquet", "README.txt"]
        assert archive.read("in/visits.csv") == f"who,what\n{STAYS},b\n".encode()
        assert archive.getinfo("README.txt").date_time == (2020, 1, 2, 3, 4, 6)


@pytest.mark.parametrize(
    "record",
    [
        # STU3
        {
            "resourceType": "Observation",
            "subject": {"reference": f"Patient/{GONE}"},
            "context": {"reference": "Encounter/e"},
        },
        {"resourceType": "ProcedureRequest", "subject": {"reference": f"Patient/{GONE}"}},
        {"resourceType": "EligibilityRequest", "patient": {"reference": f"Patient/{GONE}"}},
        {"resourceType": "ResearchSubject", "individual": {"reference": f"Patient/{GONE}"}},
        # R5
        {"resourceType": "Consent", "subject": {"reference": f"Patient/{GONE}"}},
        {"resourceType": "Account", "subject": [{"reference": f"Patient/{GONE}"}]},
        {"resourceType": "EnrollmentRequest", "candidate": {"reference": f"Patient/{GONE}"}},
        {"resourceType": "DeviceUsage", "patient": {"reference": f"Patient/{GONE}"}},
        {"resourceType": "Immunization", "patient": {"reference": f"Patient/{GONE}/_history/2"}},
        {"resourceType": "MedicationStatement", "reason": [{"reference": {"reference": f"Patient/{GONE}"}}]},
    ],
)
def test_records_of_other_fhir_versions_are_the_persons_too(house: House, record: dict[str, Any]) -> None:
    from pipeline.ingest.erasure.taking_out import take_out

    others = [{"resourceType": "Patient", "id": STAYS}, {"resourceType": "Patient", "id": OTHER}]
    folder = house.home.landing / "fhir" / "one"
    folder.mkdir(parents=True)
    lines = [json.dumps(one).encode() + b"\n" for one in [others[0], {"id": "x", **record}, others[1]]]
    (folder / "all.ndjson").write_bytes(b"".join(lines))
    spec = house.book.source("fhir")
    assert take_out(folder, spec, whom(house.lake, spec, GONE, None)).removed == 1
    assert (folder / "all.ndjson").read_bytes() == lines[0] + lines[2]


def test_the_statement_that_a_patient_was_deleted_goes(house: House) -> None:
    def deleted(id: str) -> dict[str, Any]:
        done = {"status": "204", "lastModified": "2026-01-02T03:04:05Z"}
        return {"request": {"method": "DELETE", "url": f"Patient/{id}"}, "response": done}

    history = {"resourceType": "Bundle", "type": "history", "entry": [deleted(STAYS), deleted(GONE)]}
    other = {"resource": {"resourceType": "Patient", "id": OTHER}, "request": {"method": "PUT", "url": "x"}}
    body = json.dumps({**history, "entry": [*history["entry"], other]}).encode()
    key = house.land("fhir", "one", {"history.json": body})
    assert len(house.traces(GONE)) >= 2
    assert house.erase(GONE, "fhir")["renewed"] == {key: "taken in again"}
    assert house.traces(GONE) == []
    left = json.loads((house.home.landing / "fhir" / "one" / "history.json").read_text())
    assert left["entry"] == [deleted(STAYS), other]
    raw = house.lake.tables.resolve("raw/fhir", {"delivery": key})
    assert [row["key"] for row in house.lake.tables.read(raw, "deleted_resources").to_pylist()] == [f"Patient/{STAYS}"]


def test_a_column_is_for_plain_tables_only(house: House) -> None:
    with pytest.raises(ConfigError, match="--column is for plain tables"):
        whom(house.lake, house.book.source("four"), GONE, "hadm_id")


def test_a_file_that_nobody_can_look_into_stands_in_the_proof_until_it_is_gone(house: House) -> None:
    rows = f"who,x\n{GONE},1\n{STAYS},2\n".encode()
    key = house.land("tables", "one", {"a.csv": rows, "copy.tar.gz": b"as of a tar"})
    proof = house.erase(GONE, "tables")
    closed = [f"{key}: copy.tar.gz (packed, encrypted or no text: what is in it could not be searched)"]
    assert (proof["could_not_be_searched"], proof["not_searched"], proof["search_found"]) == (closed, [], {})
    spec = house.book.source("tables")

    def again() -> Any:
        return search(house.lake, spec, house.book, whom(house.lake, spec, GONE, None))

    assert confirm(house.lake, again(), proof) == proof, "nothing new is entered"
    said = str(unknown(spec, again()))
    assert "that could be searched" in said
    assert "1 FILE COULD NOT BE SEARCHED" in said
    (house.home.landing / "tables" / "one" / "copy.tar.gz").unlink()
    fresh = confirm(house.lake, again(), proof)
    assert (fresh["could_not_be_searched"], fresh["deliveries"]) == ([], proof["deliveries"])
    assert fresh["id"] != proof["id"]
    assert "that could be searched" not in str(unknown(spec, again()))


def test_a_cohort_that_is_gone_is_not_to_be_made_again(house: House) -> None:
    plan = Plan(cells=[["typo", "2026-09-01"]])
    assert _rebuild(house.lake, plan, house.book, Way(house.take_in)) == ({}, {"typo 2026-09": NO_COHORT})
    runs = Way(house.take_in, lambda cohort, month: pytest.fail("it is run"))
    assert _rebuild(house.lake, plan, house.book, runs)[1] == {"typo 2026-09": NO_COHORT}
