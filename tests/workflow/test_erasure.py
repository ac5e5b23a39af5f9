"""Erasing a person: what held them is gone from the whole of COHORTLOOM_HOME, and everybody else is as before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg
import pyarrow as pa
import pytest
from erasure_house import EVERYBODY, JUDGED, MONTH, SOURCES, SURNAME, TRAINED, House, claim, patient, visit

from pipeline.errors import ConfigError, NotFoundError, StoreError
from pipeline.store.lake import VersionStore
from pipeline.workflow import erasure
from pipeline.workflow.compute import Compute
from pipeline.workflow.erasure import already_erased, begun, come_back, erased, whom
from pipeline.workflow.holdings import every_version, stores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pipeline.store.home import Home


@pytest.fixture
def house(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    """Everybody in the first delivery; later visits of two people and one newcomer in the second."""
    import warnings

    from pipeline.evaluation import registry

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import assets.definitions  # noqa: F401
    few = ("schema.adherence", "fid.marg.jsd", "priv.exact_unique")
    monkeypatch.setattr(registry, "BUILT_IN", {name: registry.BUILT_IN[name] for name in few})
    cohorts = tmp_path / "cohorts"
    cohorts.mkdir()
    monkeypatch.setattr("pipeline.features.spec.BUILT_IN_COHORTS", cohorts)
    from assets.instance import open_instance

    with open_instance(home) as instance:
        made = House(home, cohorts, instance)
        one = {
            "Patient.ndjson": b"".join(patient(id, 1940 + i) for i, id in enumerate(EVERYBODY)),
            "Observation.ndjson": b"".join(visit(id, i % 3) for i, id in enumerate(EVERYBODY)),
        }
        two = {
            "Observation.ndjson": b"".join(visit(id, 7) for id in (TRAINED, JUDGED, EVERYBODY[0])),
            f"{SURNAME}-{TRAINED}.json": b'{"resourceType": "Bundle", ' + SURNAME.encode(),
            "more.ndjson": claim(TRAINED) + b"\n" + b"".join(patient(f"zz-canary-9{i}00", 1960 + i) for i in range(3)),
        }
        keys = [made.land("hospital", "one", one), made.land("hospital", "two", two)]
        monkeypatch.setattr(made.book.sources["hospital"], "max_quarantine_rate", 1.0)
        (cohorts / "sources.yaml").write_text(SOURCES.replace("made up}", "made up, max_quarantine_rate: 1}", 1))
        for key in keys:
            assert made.ingest(key) == ""
        yield made


def versions(house: House) -> set[tuple[str, str, str]]:
    return {(name, v.label, v.version) for name, store in stores(house.lake) for v in every_version(store)}


@pytest.mark.slow
def test_a_trained_person_is_gone_from_everywhere_and_everybody_else_is_as_before(house: House) -> None:
    assert house.run("people", MONTH) == ""
    assert house.ingest("hospital--one") == ""  # an older version of raw holds them too
    from pipeline.workflow.catalog import publish_catalog

    publish_catalog(house.lake, Compute())
    canaries = (TRAINED, f"{SURNAME}-{TRAINED}")
    before = house.rows(without=TRAINED)
    part = split_of(house)
    assert len(house.traces(*canaries)) > 8
    found = house.search(TRAINED)
    counts = found.counts()
    assert counts["deliveries"] == 2
    assert counts["raw versions"] == 3
    assert counts["features (train) versions"] == 1
    assert counts["model versions"] == counts["synthetic versions"] == counts["leaderboard versions"] == 1
    assert counts["report of evaluation versions"] == 1
    assert counts["catalog"] == 1
    proof = house.erase(TRAINED, rebuild=True)
    assert house.traces(*canaries) == []
    assert house.rows(without=TRAINED) == before
    assert split_of(house) == {s: p for s, p in part.items() if TRAINED not in s}
    assert proof["search_found"] == {}
    assert proof["not_rebuilt"] == {}
    assert {label.split("/")[0] for label in proof["rebuilt"]} == {"features", "model", "synthetic", "leaderboard"}
    assert not {(label, version) for label, version, _ in proof["purged"]} & {v[1:] for v in versions(house)}
    assert (
        proof["deliveries"]["hospital--one"]["records_before"] - 2
        == proof["deliveries"]["hospital--one"]["records_after"]
    )
    assert proof["renewed"] == {"hospital--one": "taken in again", "hospital--two": "taken in again"}
    spec = house.book.source("hospital")
    person = whom(house.lake, spec, TRAINED, None)
    assert erased(house.lake, spec) == {person.mark} == {proof["person"]}
    assert already_erased(house.lake, person) == proof
    assert come_back(house.lake, spec) == []
    again = house.land("hospital", "three", {"Patient.ndjson": patient(TRAINED, 1950)})
    assert house.ingest(again) == ""
    assert come_back(house.lake, spec) == ["hospital--three"]
    assert house.erase(TRAINED)["renewed"] == {"hospital--three": "gone: it held nobody else"}
    assert not (house.home.landing / "hospital" / "three").exists()
    assert house.traces(*canaries) == []


def split_of(house: House) -> dict[str, str]:
    features = house.lake.tables.resolve("features", {"cohort": "people", "month": MONTH})
    beside = house.lake.tables.read(features, "subjects")
    return dict(zip(beside.column("subject").to_pylist(), beside.column("split").to_pylist(), strict=True))


class Killed(BaseException):
    """Stands for SIGKILL: nothing may catch it."""


STEPS = [
    (erasure, "sweep", 1),
    (erasure, "take_out", 1),
    (erasure, "_renew", 1),
    (erasure, "_renew_events", 1),
    (VersionStore, "purge", 2),
    (erasure, "_purge", 1),
    (erasure, "_sweep_rest", 1),
    (erasure, "_renew_catalog", 1),
    (erasure, "_rebuild", 1),
    (erasure, "search", 1),
]


def dying(work: Callable[..., Any], at: int) -> Callable[..., Any]:
    """Does the work, and dies after the call number `at`."""
    calls = []

    def dies(*args: Any, **options: Any) -> Any:
        result = work(*args, **options)
        calls.append(1)
        if len(calls) == at:
            raise Killed
        return result

    return dies


def test_killed_at_any_step_the_same_command_ends_with_the_same_proof(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed again and again, each time one step further."""
    features(house)
    before = house.rows(without=TRAINED)
    names = versions(house)
    plan = house.search(TRAINED)
    for owner, name, at in STEPS:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, dying(getattr(owner, name), at))
            with pytest.raises(Killed):
                house.erase(TRAINED)
        person = whom(house.lake, house.book.source("hospital"), TRAINED, None)
        assert begun(house.lake, person), name
    proof = house.erase(TRAINED)
    assert house.traces(TRAINED) == []
    assert house.rows(without=TRAINED) == before
    held = {(h.version.label, h.version.version) for h in plan.versions}
    assert {(label, version) for label, version, _ in proof["purged"]} >= held
    assert set(proof["deliveries"]) == {"hospital--one", "hospital--two"}
    assert proof["deliveries"]["hospital--one"]["records_removed"] == 2
    assert not {(n, label, v) for n, label, v in names if (label, v) in held} & versions(house)
    with pytest.raises(NotFoundError, match="Nothing of source 'hospital' holds a person"):
        house.erase(TRAINED)


def features(house: House, cohort: str = "people") -> None:
    """Only the feature table: enough where nothing is trained."""
    from assets.partitions import cohort_month_key
    from assets.run import _execute

    keys = [dg.AssetKey("cohort_inputs"), dg.AssetKey("features")]
    assert _execute("cohort_month", cohort_month_key(cohort, MONTH), keys, house.instance, None).success


def publish(house: House, release_id: str) -> None:
    """A model, synthetic rows and a release of the cell, linked as the steps link them."""
    features(house)
    cell = {"cohort": "people", "month": MONTH}
    made_of = house.lake.tables.resolve("features", cell)
    with house.lake.models.draft("model/independent", cell) as draft:
        model = draft.commit(inputs={made_of.label: made_of.sha256})
    with house.lake.tables.draft("synthetic/independent", cell) as draft:
        synthetic = draft.commit(inputs={model.label: model.sha256})
    with house.lake.tables.draft("release", cell) as draft:
        draft.add_table("data", pa.table({"x": [1]}))
        info = {"seal": "s", "release_id": release_id, "generator": "independent", "rows": 1, "status": "ok"}
        made = draft.commit(inputs={synthetic.label: synthetic.sha256}, info=info)
    entry = {"kind": "published", "month": MONTH, "seal": "s", "release_id": release_id, "generator": "independent"}
    house.lake.journal.append("release/people", {**entry, "sha256": made.sha256})


@pytest.mark.parametrize(
    ("who", "options", "withdrawn"),
    [(TRAINED, {}, True), (TRAINED, {"keep_releases": True}, False), (JUDGED, {}, False)],
)
def test_releases_trained_on_the_person_are_withdrawn(
    house: House, who: str, options: dict[str, Any], withdrawn: bool
) -> None:
    from pipeline.workflow.released import published_versions

    name = f"people--{MONTH[:7]}--r1"
    publish(house, name)
    assert len(published_versions(house.lake)) == 1
    found = house.search(who)
    assert found.releases == {name: who == TRAINED}
    proof = house.erase(who, **options)
    assert proof["withdrawn"] == ([name] if withdrawn else [])
    assert proof["kept_releases"] == ([] if withdrawn else [name])
    assert len(published_versions(house.lake)) == (not withdrawn)
    assert house.traces(who) == []
    assert house.lake.models.assets() == []
    assert proof["not_rebuilt"] == {f"people {MONTH[:7]}": "not asked for"}


def test_without_the_landing_folder_the_raw_tables_are_filtered(house: House) -> None:
    import shutil

    before = house.rows(without=TRAINED)
    shutil.rmtree(house.home.landing / "hospital")
    proof = house.erase(TRAINED)
    words = "raw tables filtered: it is no longer in the landing folder"
    assert proof["renewed"] == {"hospital--one": words, "hospital--two": words}
    assert house.traces(TRAINED) == []
    rows = house.rows(without=TRAINED)
    assert rows == before
    raw = house.lake.tables.resolve("raw/fhir", {"delivery": "hospital--one"})
    from pipeline.ingest.account import Account

    account = Account.from_dict(raw.info["account"])
    assert account.balanced
    assert account.taken == {"Patient": 59, "Observation": 59}
    events = house.lake.tables.resolve("events", {"delivery": "hospital--one"})
    assert events.inputs == {raw.label: raw.sha256}


def test_plain_tables_go_by_the_person_column(house: House) -> None:
    rows = "".join(f"{100 + i},{'mf'[i % 2]},{1940 + i}\n" for i in range(60))
    key = house.land(
        "clinic", "one", {"visits.csv": f"patient_no,sex,born\n{rows}".encode(), "codes.csv": b"c,d\n107,x\n"}
    )
    assert house.ingest(key) == ""
    features(house, "rows")
    found = house.search("107", "clinic")
    assert found.counts()["raw versions"] == 1
    assert found.counts()["records in deliveries"] == 1
    assert [*map(str, found.unsearched)] == ["clinic--one: codes.csv"]
    proof = house.erase("107", "clinic")
    assert proof["not_searched"] == ["clinic--one: codes.csv"]
    raw = house.lake.tables.resolve("raw/table", {"delivery": key})
    assert 107 not in house.lake.tables.read(raw, "visits").column("patient_no").to_pylist()
    assert raw.files["visits"].rows == 59
    assert come_back(house.lake, house.book.source("clinic")) == []
    with pytest.raises(ConfigError, match="Set `person: COLUMN`"):
        whom(house.lake, house.book.source("bare"), "107", None)
    assert whom(house.lake, house.book.source("bare"), "107", "mrn").column == "mrn"


def test_an_unknown_person_is_said_so_without_any_id(house: House) -> None:
    with pytest.raises(NotFoundError) as error:
        house.erase("zz-canary-1")
    assert "zz-canary" not in str(error.value)
    assert house.lake.journal.entries("erasures/hospital") == []


def test_a_delivery_that_is_being_written_is_waited_for(house: House) -> None:
    (house.home.landing / "hospital" / "two" / "_SUCCESS").unlink()
    with pytest.raises(StoreError, match="still being written"):
        house.erase(TRAINED)
    assert house.traces(TRAINED)


def test_what_killed_runs_left_is_swept(house: House) -> None:
    """A draft, a version that was never pointed to, and a spill folder of a dead process."""
    raw = house.lake.tables.resolve("raw/fhir", {"delivery": "hospital--one"})
    folder = house.lake.tables.root / raw.label
    (folder / ".tmp-dead").mkdir()
    (folder / ".tmp-dead" / "patient.ndjson").write_text(TRAINED)
    spill = house.home.spill / "events-dead"
    spill.mkdir(parents=True)
    (spill / "x.parquet").write_text(TRAINED)
    (house.home.landing / "hospital" / ".erase-dead").mkdir()
    (house.home.landing / "hospital" / ".erase-dead" / "x").write_text(TRAINED)
    house.erase(TRAINED)
    assert house.traces(TRAINED) == []


def test_snapshots_of_backups_are_swept_or_waited_for(house: House) -> None:
    """A killed backup leaves links to everything that there was."""
    from pipeline.store.backup import SNAPSHOT, back_up
    from pipeline.store.disk import hold, release

    snapshot = house.home.root / f"{SNAPSHOT}dead"
    snapshot.mkdir()
    (snapshot / "Patient.ndjson").hardlink_to(house.home.landing / "hospital" / "one" / "Patient.ndjson")
    held = hold(snapshot)
    assert held is not None
    with pytest.raises(StoreError, match="backup is being taken"):
        house.erase(TRAINED)
    release(held)
    assert house.search(TRAINED).half_made == 1
    house.erase(TRAINED)
    assert not snapshot.exists()
    assert house.traces(TRAINED) == []
    assert back_up(house.lake, house.home.root.parent / "b.tar").files


def test_a_delivery_that_is_called_by_the_id(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dagster knows it by its name: said in the proof, and no reason to fail. The journal has the hash instead."""
    key = house.land("hospital", f"of-{TRAINED}", {"Patient.ndjson": patient(TRAINED, 1950)})
    assert house.ingest(key) == ""
    with monkeypatch.context() as patch:
        patch.setattr(erasure, "_purge", dying(erasure._purge, 1))
        with pytest.raises(Killed):
            house.erase(TRAINED)
    proof = house.erase(TRAINED)
    assert set(proof["id_elsewhere"]) == {"dagster"}
    assert proof["search_found"] == {}
    named = f"hospital--of-erased-{proof['person']}"
    assert proof["renewed"][named] == "gone: it held nobody else"
    assert TRAINED not in str(house.lake.journal.entries("erasures/hospital"))
    assert not (house.home.landing / "hospital" / f"of-{TRAINED}").exists()
    with pytest.raises(NotFoundError, match="files in dagster, which nothing here can change"):
        house.erase(TRAINED)


def test_a_release_that_was_never_announced_goes(house: House) -> None:
    name = f"people--{MONTH[:7]}--r1"
    publish(house, name)
    cell = {"cohort": "people", "month": MONTH}
    announced = house.lake.tables.resolve("release", cell)
    for release_id in (name, f"people--{MONTH[:7]}--r2"):
        with house.lake.tables.draft("release", cell) as draft:
            draft.add_table("data", pa.table({"x": [2]}))
            draft.commit(inputs=announced.inputs, info={**announced.info, "release_id": release_id})
    proof = house.erase(TRAINED, keep_releases=True)
    assert proof["kept_releases"] == [name]
    assert proof["withdrawn"] == []
    left = [version for version in every_version(house.lake.tables) if version.asset == "release"]
    assert left == [announced]
    assert house.lake.tables.history("release", cell) == [announced]


def test_with_an_object_store_the_proof_says_what_it_does_not_cover(house: House) -> None:
    assert erasure.not_covered(house.lake) == []
    from pipeline.store.address import StoreAddress

    house.lake.address = StoreAddress("bucket")  # the stores stay local: only what is said is looked at
    proof = house.erase(TRAINED)
    assert any("cache/" in line for line in proof["not_covered"])
    assert any("Noncurrent" in line for line in proof["not_covered"])
