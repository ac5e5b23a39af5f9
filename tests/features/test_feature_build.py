"""From raw tables to a cohort: merging, cutting, the SQL, and errors that name the place and no patient."""

from __future__ import annotations

import itertools
import traceback
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest

from pipeline.errors import CohortLoomError, ConfigError, InputError, NotFoundError
from pipeline.features.build import CohortInputs, build_features, gather_inputs, write_features
from pipeline.features.evaluation_spec import TaskSpec
from pipeline.features.schema import TableSchema
from pipeline.features.source import SourceSpec
from pipeline.features.spec import ColumnSpec
from pipeline.features.split import PUBLISHED_KEY, assign, fingerprint
from pipeline.features.stored import read_features

if TYPE_CHECKING:
    from pipeline.features.build import Built

CANARY = "Zebulon-Quartermain-4711"


def by_subject(built: Built, column: str) -> dict[str, object]:
    return dict(zip(built.cohort.subject.tolist(), built.cohort.table.column(column).to_pylist(), strict=True))


def rows_by_subject(built: Built) -> dict[str, dict[str, object]]:
    return dict(zip(built.cohort.subject.tolist(), built.cohort.table.to_pylist(), strict=True))


# ---- which deliveries count


def test_month_before_the_first_delivery_names_the_first_usable_one(bench) -> None:
    bench.deliver("a", "2026-09-17", patient=bench.patients(range(20)))
    with pytest.raises(NotFoundError, match="first usable month is 2026-09-01"):
        bench.build("2026-08-01")
    assert bench.build("2026-09-01").cohort.n_rows == 20


def test_source_without_a_delivery_says_how_to_make_one(bench) -> None:
    with pytest.raises(NotFoundError, match="cohortloom deliver clinic PATH"):
        bench.build()


@pytest.mark.parametrize("month", ["2026-10", "2026-10-31", "2026-13-01", "October", "", "0000-01-01"])
def test_what_is_no_month_is_refused(bench, month: str) -> None:
    bench.deliver("a", "2026-09-17", patient=bench.patients(range(3)))
    with pytest.raises(ConfigError, match="is not a month"):
        bench.build(month)


def test_another_sources_deliveries_do_not_count(bench) -> None:
    bench.deliver("a", "2026-09-17", patient=bench.patients(range(20)))
    before = bench.build().cohort
    own, bench.source = bench.source, SourceSpec(name="clinic.b", format="fhir")
    bench.deliver("a", "2026-09-18", patient=bench.patients(range(50)))
    bench.source = own
    assert bench.build().cohort.n_rows == before.n_rows == 20


def test_provisional_until_the_month_is_over(bench) -> None:
    bench.deliver("a", "2026-10-02", patient=bench.patients(range(3)))

    def provisional(today: date) -> bool:
        spec = bench.spec()
        return gather_inputs(spec, bench.source, "2026-10-01", bench.lake, bench.lake.home, today=today).provisional

    assert provisional(date(2026, 10, 31))
    assert not provisional(date(2026, 11, 1))


def test_inputs_survive_json_and_tell_what_features_depend_on(bench) -> None:
    bench.deliver("a", "2026-10-02", patient=bench.patients(range(3)))

    def gather(spec) -> CohortInputs:
        return gather_inputs(spec, bench.source, "2026-10-01", bench.lake, bench.lake.home)

    first = gather(bench.spec())
    assert CohortInputs.from_dict(first.to_dict()) == first
    assert gather(bench.spec(generators={"vae": {"preset": "paper"}}, replicates=3)) == first
    assert gather(bench.spec(unit="stay")).spec_sha256 != first.spec_sha256
    assert gather(bench.spec(sql="SELECT key AS subject, gender FROM patient")).sql_sha256 != first.sql_sha256
    bench.deliver("b", "2026-10-03", patient=bench.patients(range(3, 4)))
    assert [d[0] for d in gather(bench.spec()).deliveries] == ["clinic--a", "clinic--b"]


def test_inputs_pin_the_version_of_a_delivery_that_is_taken_in_again(bench) -> None:
    bench.deliver("a", "2026-10-02", patient=bench.patients(range(20)))
    spec = bench.spec()
    inputs = gather_inputs(spec, bench.source, "2026-10-01", bench.lake, bench.lake.home)
    bench.deliver("a", "2026-10-02", patient=bench.patients(range(30)))
    built = build_features(spec, bench.source, inputs, bench.lake, PUBLISHED_KEY)
    assert built.cohort.n_rows == 20
    bench.lake.tables.collect(keep=1, grace_seconds=0)
    with pytest.raises(NotFoundError, match=r"gone from the lake.*Gather the inputs again"):
        build_features(spec, bench.source, inputs, bench.lake, PUBLISHED_KEY)


def test_a_changed_key_refuses_the_next_month(bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.deliver("a", "2026-09-17", patient=bench.patients(range(20)))
    built = bench.build("2026-09-01")
    with bench.lake.tables.draft("features", {"cohort": "ward", "month": "2026-09-01"}) as draft:
        write_features(built, draft)
        draft.commit(info={"split_fingerprint": fingerprint(PUBLISHED_KEY)})
    monkeypatch.setenv("COHORTLOOM_SPLIT_KEY", "quite another key than before")
    with pytest.raises(ConfigError, match="split key has changed"):
        bench.build("2026-10-01")
    inputs = gather_inputs(bench.spec(), bench.source, "2026-10-01", bench.lake, bench.lake.home, new_split=True)
    with pytest.raises(ConfigError, match="not the one that the inputs were gathered with"):
        build_features(bench.spec(), bench.source, inputs, bench.lake, PUBLISHED_KEY)


# ---- several deliveries as one


def test_newest_delivery_wins_and_an_older_month_sees_the_older_state(bench) -> None:
    people = bench.patients(range(20))
    bench.deliver("z-first", "2026-08-31", patient=people, condition=bench.conditions(range(20), None))
    changed = bench.patients(range(5), gender="other")
    bench.deliver("a-second", "2026-09-30", patient=changed + bench.patients(range(20, 24)))
    old, new = bench.build("2026-08-01"), bench.build("2026-10-01")
    assert old.cohort.n_rows == 20
    assert new.cohort.n_rows == 24
    assert by_subject(old, "gender")["Patient/p0"] == "female"
    assert [by_subject(new, "gender")[f"Patient/p{i}"] for i in (0, 4, 5)] == ["other", "other", "male"]
    # The second delivery holds no conditions; those of the first are still there, once.
    assert by_subject(new, "conditions")["Patient/p0"] == 1


def test_same_day_deliveries_are_ordered_by_last_update(bench) -> None:
    late = bench.patients(range(20), gender="late", last_updated=datetime.fromisoformat("2026-09-02"))
    early = bench.patients(range(20), gender="early", last_updated=datetime.fromisoformat("2026-09-01"))
    bench.deliver("a", "2026-09-30", patient=late)
    bench.deliver("b", "2026-09-30", patient=early)
    assert set(by_subject(bench.build(), "gender").values()) == {"late"}


def test_all_components_of_the_newest_version_are_kept(bench) -> None:
    def pressure(systolic: float, parts: int) -> list[dict[str, object]]:
        common = {"key": "Observation/o", "id": "o", "patient": "Patient/p0"}
        return [common | {"component": i, "code": f"part{i}", "value_number": systolic + i} for i in range(parts)]

    people = bench.patients(range(12))
    bench.deliver("a", "2026-08-31", patient=people, observation=pressure(100.0, 3))
    bench.deliver("b", "2026-09-30", observation=pressure(200.0, 2))
    sql = """SELECT key AS subject, gender, coalesce((SELECT list(value_number ORDER BY component)::VARCHAR FROM observation
             WHERE patient = p.key), '[]') AS parts FROM patient AS p"""
    built = bench.build(spec=bench.spec(sql, columns={"parts": ColumnSpec(kind="categorical")}))
    assert by_subject(built, "parts")["Patient/p0"] == "[200.0, 201.0]"


def test_a_replacing_source_takes_the_newest_delivery_only(bench) -> None:
    bench.source = SourceSpec(name="clinic", format="table", dates="none", accumulate="replace")
    bench.deliver_table("a", "2026-08-31", ward=pa.table({"x": range(30)}))
    bench.deliver_table("b", "2026-09-30", ward=pa.table({"x": range(25)}))
    spec = bench.spec("SELECT x, x % 2 AS y FROM ward", subject="row", unit="row")
    assert bench.build("2026-09-01", spec).cohort.n_rows == 25
    assert bench.build("2026-08-01", spec).cohort.n_rows == 30
    assert bench.build("2026-09-01", spec).counts["deliveries"] == 1


def test_a_merging_table_source_puts_rows_together(bench) -> None:
    bench.source = SourceSpec(name="clinic", format="table", dates="none", accumulate="merge")
    bench.deliver_table("a", "2026-08-31", ward=pa.table({"x": range(30)}))
    bench.deliver_table("b", "2026-09-30", ward=pa.table({"x": range(25), "y": range(25)}))
    spec = bench.spec("SELECT x, y FROM ward", subject="row", unit="row")
    built = bench.build("2026-09-01", spec)
    assert built.cohort.n_rows == 55
    assert built.cohort.missing("y").sum() == 30


# ---- the end of the month


def future(bench) -> None:
    later, sooner = datetime.fromisoformat("2026-11-01"), datetime.fromisoformat("2026-10-31T23:59")
    people = bench.patients(range(20)) + bench.patients(range(20, 22), birth_date=date(2026, 11, 1))
    people[0] |= {"deceased": True, "deceased_at": later, "deceased_at_text": "2026-11-01"}
    people[1] |= {"deceased": True, "deceased_at": sooner}
    people[2] |= {"deceased": True, "deceased_at": None}
    bench.deliver(
        "a",
        "2026-10-31",
        patient=people,
        condition=[
            *bench.conditions(range(1), later),
            *bench.conditions(range(1, 2), sooner, abatement=later, clinical_status="resolved"),
            *bench.conditions(range(2, 3), None, recorded=later),
            *bench.conditions(range(3, 4), None),
        ],
        encounter=[{"key": "Encounter/e", "id": "e", "patient": "Patient/p0", "start": sooner, "end": later}],
        observation=[
            {"key": f"Observation/{i}", "patient": "Patient/p0", "component": 0, "effective": e, "issued": s}
            for i, (e, s) in enumerate([(sooner, later), (later, later), (None, later), (None, sooner)])
        ],
    )


STATE = """SELECT p.key AS subject, p.deceased, p.deceased_at, p.deceased_at_text,
    (SELECT count(*) FROM condition AS c WHERE c.patient = p.key) AS conditions,
    (SELECT max(clinical_status) FROM condition AS c WHERE c.patient = p.key) AS status,
    (SELECT max(abatement) FROM condition AS c WHERE c.patient = p.key) AS abatement,
    (SELECT max("end") FROM encounter AS e WHERE e.patient = p.key) AS left_at,
    (SELECT count(*) FROM observation AS o WHERE o.patient = p.key) AS observations
    FROM patient AS p"""


def state(bench, dates: str) -> dict[str, dict[str, object]]:
    bench.source = SourceSpec(name="clinic", format="fhir", dates=dates)
    from pipeline.features import build, merge

    spec = bench.spec(STATE)
    inputs = gather_inputs(spec, bench.source, "2026-10-01", bench.lake, bench.lake.home)
    raw = [build.raw_delivery(bench.lake, bench.source, *d) for d in inputs.deliveries]
    connection, _ = merge.open_views(bench.lake, bench.source, raw, inputs.as_of_end, threads=1, memory_limit="1GB")
    with connection:
        return {row["subject"]: row for row in connection.sql(STATE).to_arrow_table().to_pylist()}


def test_what_happens_after_the_end_of_the_month_is_invisible(bench) -> None:
    future(bench)
    seen = state(bench, "real")
    assert len(seen) == 20, "people born later are not there yet"
    p = [seen[f"Patient/p{i}"] for i in range(4)]
    assert [row["deceased"] for row in p] == [False, True, True, False]
    assert p[0]["deceased_at"] is p[0]["deceased_at_text"] is None
    assert [row["conditions"] for row in p] == [0, 1, 0, 1], "undated rows are seen, recorded stands in for onset"
    assert (p[1]["status"], p[1]["abatement"]) == ("active", None)
    assert p[0]["left_at"] is None
    assert p[0]["observations"] == 2


def test_shifted_dates_are_not_cut(bench) -> None:
    future(bench)
    seen = state(bench, "shifted")
    assert len(seen) == 22
    assert seen["Patient/p0"]["deceased"] is True
    assert seen["Patient/p0"]["observations"] == 4
    assert seen["Patient/p1"]["status"] == "resolved"


def test_sql_can_ask_for_the_end_of_the_month(bench) -> None:
    bench.deliver("a", "2026-02-03", patient=bench.patients(range(20)))
    sql = 'SELECT key AS subject, gender, m."day" AS d, m."at" AS t FROM patient, month_end AS m'
    row = rows_by_subject(bench.build("2026-02-01", bench.spec(sql)))["Patient/p0"]
    assert row["d"] == date(2026, 2, 28)
    assert row["t"] == datetime.fromisoformat("2026-02-28T23:59:59.999999")


# ---- the SQL


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("SELECT key AS subject,\n  gendr\nFROM patient", r"cohorts/ward\.sql:2: Binder Error.*gendr"),
        ("SELECT key AS subject\nFROM patient\nWHERE AND", r"cohorts/ward\.sql:3: Parser Error"),
        (
            "SELECT key AS subject\nFROM patients",
            r"cohorts/ward\.sql:2: .*no table 'patients'.*Did you mean 'patient'.*encounter",
        ),
        ("SELECT 1 AS subject; SELECT 2", "exactly one SELECT"),
        ("CREATE TABLE x AS SELECT 1", "exactly one SELECT"),
        ("", "exactly one SELECT"),
        ("SELECT key AS subject, gender FROM patient WHERE false", "gives no row"),
        ("SELECT key AS sbject, gender FROM patient", "no subject column 'subject'.*Did you mean 'sbject'"),
        ("SELECT nullif(key, 'Patient/p1') AS subject FROM patient", "1 rows have no subject"),
        ("SELECT 'x' AS subject, gender FROM patient", "19 rows repeat a subject"),
        ("SELECT key AS subject, [1, 2] AS l FROM patient", "column l: A column of type list.*cannot be modelled"),
        ("SELECT key AS subject, 'Infinity'::DOUBLE AS l FROM patient", "column l: 20 rows hold an infinite number"),
    ],
)
def test_sql_errors_say_what_and_where(bench, sql: str, says: str) -> None:
    bench.deliver("a", "2026-09-30", patient=bench.patients(range(20)))
    with pytest.raises(CohortLoomError, match=says):
        bench.build(spec=bench.spec(sql))


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT key AS subject,\n CAST(gender AS INTEGER) AS g FROM patient",
        "SELECT key AS subject,\n error(gender) AS g FROM patient",
        "SELECT key AS subject, strptime(gender, '%Y') AS g FROM patient",
        "SELECT gender AS subject, 1 AS x FROM patient",
    ],
)
def test_no_error_holds_a_cell(bench, sql: str) -> None:
    bench.deliver("a", "2026-09-30", patient=bench.patients(range(20), gender=CANARY))
    with pytest.raises(CohortLoomError) as caught:
        bench.build(spec=bench.spec(sql))
    whole = "".join(traceback.format_exception(caught.value))
    chain, error = [], caught.value
    while error is not None:
        chain.append(repr(error))
        error = error.__cause__ or error.__context__
    assert CANARY not in whole
    assert CANARY not in "".join(chain)


def test_a_runtime_error_names_line_and_column(bench) -> None:
    bench.deliver("a", "2026-09-30", patient=bench.patients(range(20), gender=CANARY))
    with pytest.raises(ConfigError, match=r"ward\.sql:2: Conversion Error: it failed on the data, at column gender"):
        bench.build(spec=bench.spec("SELECT key AS subject,\n CAST(gender AS INTEGER) AS g FROM patient"))


def test_declared_columns_that_the_sql_does_not_give(bench) -> None:
    bench.deliver("a", "2026-09-30", patient=bench.patients(range(20)))
    with pytest.raises(ConfigError, match=r"does not give column 'gendre'.*Did you mean 'gender'"):
        bench.build(spec=bench.spec(columns={"gendre": ColumnSpec()}))
    with pytest.raises(ConfigError, match="does not give column 'died'"):
        bench.build(spec=bench.spec(tasks=[TaskSpec(name="t", label="died")]))
    with pytest.raises(ConfigError, match="kept beside the features"):
        bench.build(spec=bench.spec(columns={"subject": ColumnSpec()}))


def test_lineage_names_are_checked(bench) -> None:
    bench.deliver("a", "2026-09-30", patient=bench.patients(range(20)))

    def build(source: str):
        return bench.build(spec=bench.spec(columns={"gender": ColumnSpec(source=[source])}))

    assert build("patient.gender").lineage == {"gender": ["patient.gender"], "deceased": [], "conditions": []}
    with pytest.raises(ConfigError, match=r"names no raw table.*Did you mean 'patient'"):
        build("patent.gender")
    with pytest.raises(ConfigError, match=r"names no column of 'patient'.*Did you mean 'gender'"):
        build("patient.gendre")


def test_several_rows_a_subject_where_the_unit_allows_it(bench) -> None:
    bench.deliver("a", "2026-09-30", patient=bench.patients(range(20)))
    sql = "SELECT p.key AS subject, s.i AS stay, gender FROM patient AS p, range(3) AS s(i) ORDER BY random()"
    built = bench.build(spec=bench.spec(sql, unit="stay"))
    assert (built.cohort.n_rows, built.cohort.n_subjects) == (60, 20)
    assert built.cohort.table.column("stay").to_pylist() == [0, 1, 2] * 20
    parts = {(s, p) for s, p in zip(built.cohort.subject, built.cohort.split, strict=True)}
    assert len(parts) == 20, "all rows of a subject are in one part"


# ---- what comes out


def test_same_inputs_give_the_same_bytes_whatever_the_order_of_rows(bench) -> None:
    people = bench.patients(range(40))
    hashes = set()
    for name, rows in (("a", people), ("a", people[::-1])):
        bench.deliver(name, "2026-09-30", patient=rows)
        with bench.lake.tables.draft("features", {"cohort": "ward", "month": "2026-10-01"}) as draft:
            write_features(bench.build(), draft)
            hashes.add(draft.commit().sha256)
    assert len(hashes) == 1


def test_written_features_come_back_whole(bench) -> None:
    bench.deliver("a", "2026-09-30", patient=bench.patients(range(40)))
    built = bench.build()
    with bench.lake.tables.draft("features", {"cohort": "ward", "month": "2026-10-01"}) as draft:
        write_features(built, draft)
        version = draft.commit()
    back = read_features(bench.lake.tables, version)
    assert back.table.equals(built.cohort.table)
    assert back.schema == built.cohort.schema
    assert (back.subject == built.cohort.subject).all()
    assert (back.split == built.cohort.split).all()
    assert (back.tune == built.cohort.tune).all()
    assert set(version.files) == {"data", "subjects", "schema.json"}
    assert TableSchema.model_validate_json(bench.lake.tables.path(version, "schema.json").read_text()) == back.schema


def test_roles_follow_from_tasks_and_protected_attributes(bench) -> None:
    bench.deliver("a", "2026-09-30", patient=bench.patients(range(40)))
    spec = bench.spec(tasks=[TaskSpec(name="t", label="deceased")], protected=["gender"])
    schema = bench.build(spec=spec).cohort.schema
    assert {c.name: c.role for c in schema.columns} == {
        "gender": "protected",
        "deceased": "label",
        "conditions": "feature",
    }


def test_nothing_is_inferred_from_the_holdout(bench) -> None:
    people = bench.patients(range(200))
    split, _ = assign([p["key"] for p in people], PUBLISHED_KEY)
    for person, part in zip(people, split, strict=True):
        person["gender"] = "only outside train" if part != "train" and person["gender"] == "male" else person["gender"]
        person["birth_date"] = date(1900, 1, 1) if part != "train" else person["birth_date"]
    bench.deliver("a", "2026-09-30", patient=people)
    cohort = bench.build(spec=bench.spec("SELECT key AS subject, gender, birth_date FROM patient")).cohort
    assert cohort.schema.column("gender").levels == ["female", "male"]
    outside = cohort.codes("gender") == -2
    assert outside.any()
    assert (cohort.split[outside] != "train").all()
    assert set(np.array(cohort.table.column("gender").to_pylist())[outside]) == {"only outside train"}
    assert cohort.schema.column("birth_date").bounds[0] > (date(1900, 1, 1) - date(1970, 1, 1)).days


def test_counts_add_up(bench) -> None:
    bench.deliver("a", "2026-09-30", patient=bench.patients(range(100)))
    counts = bench.build().counts
    assert counts["rows"] == counts["subjects"] == counts["raw/patient"] == 100
    assert sum(v for k, v in counts.items() if k.startswith("subjects/")) == 100


def test_too_few_subjects_to_train_on(bench) -> None:
    outside = next(i for i in itertools.count() if assign([f"Patient/p{i}"], PUBLISHED_KEY)[0][0] != "train")
    bench.deliver("a", "2026-09-30", patient=bench.patients(range(outside, outside + 1)))
    with pytest.raises(InputError, match="None of the 1 subjects falls into the training half"):
        bench.build()


def test_row_subjects_keep_their_part_when_the_file_is_reordered_and_grows(bench) -> None:
    bench.source = SourceSpec(name="clinic", format="table", dates="none", accumulate="replace")
    rng = np.random.default_rng(0)
    first = pa.table({"x": rng.normal(size=60), "y": rng.integers(0, 5, 60)})
    grown = pa.concat_tables(
        [pa.table({"x": rng.normal(size=9), "y": rng.integers(0, 5, 9)}), first.take(list(range(59, -1, -1)))]
    )
    spec = bench.spec("SELECT x, y FROM ward", subject="row", unit="row")
    bench.deliver_table("a", "2026-08-31", ward=first)
    bench.deliver_table("b", "2026-09-30", ward=grown)
    old, new = bench.build("2026-08-01", spec).cohort, bench.build("2026-09-01", spec).cohort
    parts = dict(zip(new.table.column("x").to_pylist(), new.split, strict=True))
    assert [parts[x] for x in old.table.column("x").to_pylist()] == old.split.tolist()


def test_times_with_a_zone_become_utc(bench) -> None:
    bench.deliver("a", "2026-09-30", patient=bench.patients(range(20)))
    sql = "SELECT key AS subject, gender, TIMESTAMPTZ '2026-01-01 00:30:00+02' AS t FROM patient"
    cohort = bench.build(spec=bench.spec(sql)).cohort
    assert cohort.table.column("t")[0].as_py() == datetime(2025, 12, 31, 22, 30, tzinfo=UTC).replace(tzinfo=None)


def test_events_hold_the_visible_rows_and_the_newest_versions(bench) -> None:
    future(bench)
    bench.deliver("b", "2026-10-31", condition=bench.conditions(range(3, 4), None, code="newer"))
    sql = """SELECT s.source_id AS subject, count(*) AS n, bool_or(e.code LIKE '%newer') AS newer
             FROM subjects AS s JOIN events AS e USING (subject_id) WHERE e.code LIKE '%44054006' OR e.code LIKE '%newer'
             GROUP BY ALL"""
    connection_rows = rows_by_subject(bench.build(spec=bench.spec(sql)))
    assert connection_rows == {"p1": {"n": 1, "newer": False}, "p3": {"n": 1, "newer": True}}
    assert not list(bench.lake.home.spill.glob("events-*"))
