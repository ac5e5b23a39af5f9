"""MEDS in: every row is taken in the types of MEDS or quarantined with its shard and row, and nothing is lost on the way."""

from __future__ import annotations

import io
import json
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from meds import DataSchema

from pipeline.errors import InputError
from pipeline.features.merge import RawDelivery, add_events, open_views
from pipeline.features.source import SourceSpec
from pipeline.ingest.events import build_events
from pipeline.ingest.meds import shards as meds_shards

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pipeline.store.lake import Lake

TIME = datetime(2020, 1, 1, 12)  # noqa: DTZ001


def parquet(columns: Mapping[str, Any]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(dict(columns)), out)
    return out.getvalue()


def shard(subjects: list[Any], codes: list[Any] | pa.Array | None = None, times: Any = None, **extra: Any) -> bytes:
    """A shard in the types of MEDS; columns can be given in others."""
    columns: dict[str, Any] = {
        "subject_id": pa.array(subjects, pa.int64()) if isinstance(subjects, list) else subjects,
        "time": times if times is not None else pa.array([TIME] * len(subjects), pa.timestamp("us")),
        "code": codes if codes is not None else pa.array(["A"] * len(subjects)),
        **extra,
    }
    return parquet(columns)


def dataset(**content: Any) -> bytes:
    return json.dumps({"meds_version": "0.4.1", **content}).encode()


def data(taken: Any) -> pa.Table:
    table = taken.table("meds")
    DataSchema.validate(table)
    return table


def test_a_whole_dataset_in_a_folder_of_its_own(take: Callable[..., Any]) -> None:
    taken = take(
        {
            "cohort/data/train/0.parquet": shard([7, 3], numeric_value=pa.array([1.5, None], pa.float32())),
            "cohort/data/held_out/0.parquet": shard([2], ward=pa.array(["W1"]).dictionary_encode()),
            "cohort/metadata/dataset.json": dataset(code_modifier_columns=["ward"], created_at=None),
            "cohort/metadata/codes.parquet": parquet(
                {"code": ["A", "A", None], "description": ["first", "again", "none"], "loinc": [1, 2, 3]}
            ),
            "cohort/metadata/subject_splits.parquet": parquet(
                {"subject_id": [7, 3, 2], "split": ["train", "mine", "held_out"]}
            ),
            "cohort/labels/death/0.parquet": parquet(
                {"subject_id": [7], "prediction_time": [TIME], "boolean_value": [True]}
            ),
            "README.md": b"read me",
        },
        format="meds",
    )
    table = data(taken)
    # In the order of the files' names, each as it was delivered.
    assert table.column("subject_id").to_pylist() == [2, 7, 3]
    assert table.column("numeric_value").to_pylist() == [None, 1.5, None]
    assert table.column_names == [
        "subject_id", "time", "code", "numeric_value", "text_value", "unit", "encounter_id", "ward",
    ]  # fmt: skip
    assert table.column("ward").to_pylist() == ["W1", None, None]
    assert table.schema.field("ward").type == pa.string()
    assert taken.rows("codes") == [{"code": "A", "description": "first", "parent_codes": None, "loinc": 1}]
    (label,) = taken.rows("labels")
    assert (label["subject_id"], label["boolean_value"], label["task"]) == (7, True, "death")
    account = taken.account
    assert account.balanced
    assert account.taken == {"codes": 1, "labels": 1, "meds": 3}
    assert account.superseded == {"codes": 1}
    assert account.not_modelled == {"dataset.json": 1, "subject_splits": 3}
    assert account.info["subject_splits"] == {"held_out": 1, "other": 1, "train": 1}
    assert account.info["dataset"] == {"meds_version": "0.4", "code_modifier_columns": ["ward"]}
    assert taken.rejects() == [("cohort/metadata/codes.parquet", 3, "missing_value")]
    assert "subject_splits" not in taken.version.files
    assert account.info["files_by_outcome"] == {
        "no data": 1,
        "not clinical": 1,
        "not modelled": 1,
        "partly taken": 1,
        "taken": 3,
    }


def test_rows_that_do_not_fit_are_quarantined_by_shard_and_row(take: Callable[..., Any]) -> None:
    taken = take(
        {
            "data/0.parquet": shard([1, None, 3], ["A", "B", None]),
            "data/1.parquet": shard(
                pa.array(["4", "x", "6", " 7 ", "9" * 19, None]),
                times=pa.array(
                    ["2020-01-01T13:00:00+01:00", "2020-01-01", "2020-02-30", None, "2020-01-01", "2020-01-01"]
                ),
                numeric_value=pa.array(["1", "2", "3", "much", "5", "6"]),
            ),
            "data/2.parquet": shard([10, 11, 12], numeric_value=pa.array([1e300, 0.1, float("nan")])),
        },
        format="meds",
    )
    table = data(taken)
    assert taken.rejects() == [
        ("data/0.parquet", 2, "missing_value"),
        ("data/0.parquet", 3, "missing_value"),
        ("data/1.parquet", 2, "wrong_type"),
        ("data/1.parquet", 3, "invalid_date"),
        ("data/1.parquet", 4, "value_not_a_number"),
        ("data/1.parquet", 5, "wrong_type"),
        ("data/1.parquet", 6, "missing_value"),
        ("data/2.parquet", 1, "value_not_a_number"),
    ]
    assert table.column("subject_id").to_pylist() == [1, 4, 11, 12]
    assert table.column("time").to_pylist() == [TIME] * 4
    assert taken.account.balanced
    assert taken.account.in_ == 12
    assert taken.account.info["values_changed"] == {"numeric_value": 1}
    assert taken.account.info["columns_cast"] == ["meds.numeric_value", "meds.subject_id", "meds.time"]
    files = {row["file"]: (row["outcome"], row["reason"]) for row in taken.rows("delivered_files")}
    assert files["data/1.parquet"] == ("partly taken", "invalid_date,missing_value,value_not_a_number,wrong_type")
    hashes = [row["sha256"] for row in taken.rows("quarantine")]
    assert len(set(hashes)) == len(hashes)


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("subject_id", pa.array([5], pa.int32()), 5),
        ("subject_id", pa.array([2**63 - 1], pa.uint64()), 2**63 - 1),
        ("subject_id", pa.array([-5.0]), -5),
        ("subject_id", pa.array(["5.0"], pa.large_string()), 5),
        ("time", pa.array([TIME.replace(tzinfo=UTC)], pa.timestamp("ns", tz="Europe/Berlin")), TIME),
        ("time", pa.array([TIME], pa.timestamp("s")), TIME),
        ("time", pa.array([date(2020, 1, 1)], pa.date32()), datetime(2020, 1, 1)),  # noqa: DTZ001
        ("time", pa.nulls(1), None),
        ("code", pa.array(["A"]).dictionary_encode(), "A"),
        ("code", pa.array([17]), "17"),
        ("numeric_value", pa.array([17]), 17.0),
        ("numeric_value", pa.array(["+1.5e3"]), 1500.0),
        ("numeric_value", pa.array([True]), 1.0),
        ("text_value", pa.array([1.5]), "1.5"),
        ("text_value", pa.array(["long"]).dictionary_encode(), "long"),
        ("unit", pa.array(["mg"], pa.large_string()), "mg"),
    ],
)
def test_other_types_are_cast_without_loss(take: Callable[..., Any], column: str, values: Any, expected: Any) -> None:
    base = {"subject_id": pa.array([1]), "time": pa.array([TIME], pa.timestamp("us")), "code": pa.array(["A"])}
    taken = take({"data/0.parquet": parquet({**base, column: values})}, format="meds")
    assert data(taken).column(column).to_pylist() == [expected]
    assert taken.account.info["values_changed"] == {}


def test_nanoseconds_that_are_lost_are_counted(take: Callable[..., Any]) -> None:
    times = pa.array([1_500, 2_000], pa.timestamp("ns"))
    taken = take({"data/0.parquet": shard([1, 1], times=times)}, format="meds")
    assert taken.account.info["values_changed"] == {"time": 1}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"PAR1 and no more", "not_parquet"),
        (shard([1, 2])[:-20], "not_parquet"),
        (parquet({"subject_id": [1], "time": [TIME]}), "other_columns"),
        (shard([1], [["A"]]), "wrong_type"),
        (shard(pa.array([b"1"])), "wrong_type"),
    ],
)
def test_a_file_that_cannot_be_used_does_not_hold_back_the_others(
    take: Callable[..., Any], bad: bytes, reason: str
) -> None:
    taken = take({"data/0.parquet": bad, "data/1.parquet": shard([1, 2])}, format="meds")
    assert taken.rejects() == [("data/0.parquet", 0, reason)]
    assert data(taken).num_rows == 2
    assert taken.account.balanced
    with pytest.raises(InputError, match=r"more than the 1\.0% that the source allows"):
        take({"data/0.parquet": bad, "data/1.parquet": shard([1, 2])}, format="meds", limit=0.01)


def test_a_shard_in_which_no_value_of_a_column_fits_is_set_aside_row_by_row(take: Callable[..., Any]) -> None:
    beyond = pa.array([2**62, 2**62], pa.timestamp("ms"))
    labels = {"subject_id": [1], "prediction_time": pa.array([0], pa.timestamp("us")), "boolean_value": ["perhaps"]}
    taken = take(
        {
            "data/0.parquet": shard([1, 2]),
            "data/1.parquet": shard([1, 2], times=beyond),
            "data/2.parquet": shard([3], unit=pa.array([b"\xff"], pa.binary())),
            "labels/t/0.parquet": parquet(labels),
        },
        format="meds",
    )
    assert [(file, row) for file, row, _ in taken.rejects()] == [
        ("data/1.parquet", 1),
        ("data/1.parquet", 2),
        ("data/2.parquet", 1),
        ("labels/t/0.parquet", 1),
    ]
    assert taken.account.taken == {"meds": 2}


def test_a_shard_that_breaks_in_the_middle_gives_no_row_at_all(
    take: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meds_shards, "BATCH", 100)
    out = io.BytesIO()
    pq.write_table(
        pa.table({"subject_id": range(1000), "time": [TIME] * 1000, "code": [f"c{i}" * 9 for i in range(1000)]}),
        out,
        row_group_size=100,
    )
    broken = bytearray(out.getvalue())
    broken[len(broken) // 2 : len(broken) // 2 + 200] = b"\xff" * 200
    taken = take({"data/0.parquet": bytes(broken), "data/1.parquet": shard([1, 2])}, format="meds")
    assert taken.rejects() == [("data/0.parquet", 0, "not_parquet")]
    assert data(taken).num_rows == 2


def test_extra_columns_of_several_types_are_put_together(take: Callable[..., Any]) -> None:
    taken = take(
        {
            "data/0.parquet": shard([1], a=pa.array([1]), b=pa.array([1]), c=pa.nulls(1), d=pa.array([["x"]])),
            "data/1.parquet": shard([2], a=pa.array([1.5]), b=pa.array(["y"]), c=pa.array(["z"]), d=pa.array(["w"])),
        },
        format="meds",
    )
    table = data(taken)
    assert {name: table.column(name).to_pylist() for name in "abcd"} == {
        "a": [1.0, 1.5],
        "b": ["1", "y"],
        "c": [None, "z"],
        "d": ['["x"]', "w"],
    }


def test_what_meds_promises_of_order_is_looked_at_and_told(take: Callable[..., Any]) -> None:
    later = datetime(2021, 1, 1)  # noqa: DTZ001
    times = pa.array([later, TIME, None, TIME], pa.timestamp("us"))
    taken = take({"data/0.parquet": shard([1, 1, 1, 2], times=times), "data/1.parquet": shard([2, 3])}, format="meds")
    assert taken.account.info["rows_out_of_order"] == 1
    assert taken.account.info["subjects_in_several_shards"] == 1


def test_the_first_names_of_meds_0_3_are_upgraded(take: Callable[..., Any]) -> None:
    old = {"patient_id": [5], "time": [TIME], "code": ["A"], "numeric_value": pa.array([1], pa.float32())}
    taken = take(
        {
            "data/0.parquet": parquet(old),
            "metadata/dataset.json": dataset(meds_version="0.3.0"),
            "metadata/patient_splits.parquet": parquet({"patient_id": [5], "split": ["train"]}),
        },
        format="meds",
    )
    assert data(taken).column("subject_id").to_pylist() == [5]
    assert "patient_id" not in taken.table("meds").column_names
    assert taken.account.info["subject_splits"] == {"train": 1}


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"0.parquet": shard([1])}, "holds no MEDS dataset"),
        ({"data/0.parquet": shard([1]), "metadata/dataset.json": dataset(meds_version="0.2")}, "This is MEDS 0.2"),
        ({"data/0.parquet": parquet({"patient_id": [1], "events": [[{"time": TIME}]]})}, "before 0.3"),
        ({"a/data/0.parquet": shard([1]), "b/data/0.parquet": shard([2])}, "holds 2 MEDS datasets"),
        ({"data/0.parquet": shard([])}, "no event"),
    ],
)
def test_what_is_no_dataset_of_today_is_refused_in_one_sentence(
    take: Callable[..., Any], files: dict[str, bytes], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        take(files, format="meds")


@pytest.mark.parametrize("content", [b"{", b'["0.4"]', b'{"meds_version": 4}', b"\xff"])
def test_a_broken_dataset_json_is_set_aside_and_the_events_are_taken(take: Callable[..., Any], content: bytes) -> None:
    taken = take({"data/0.parquet": shard([1]), "metadata/dataset.json": content}, format="meds")
    assert [(file, line) for file, line, _ in taken.rejects()] == [("metadata/dataset.json", 0)]
    assert taken.account.taken == {"meds": 1}
    assert taken.account.info["missing_metadata"] == ["metadata/codes.parquet"]
    assert taken.table("codes").num_rows == 0


def test_events_are_what_was_delivered_under_the_numbers_of_the_dataset(take: Callable[..., Any]) -> None:
    large = 2**63 - 1  # as the house's own numbers, it has more digits than a source's id would be taken for
    taken = take(
        {"data/0.parquet": shard([large, -4, 5], ["B", "A", "A"], unit=pa.array(["mg", None, None]))}, format="meds"
    )
    with taken.lake.tables.draft("events", {"delivery": "d"}) as draft:
        tables = {"meds": taken.lake.tables.path(taken.version, "meds")}
        assert build_events(tables, draft, format="meds", source="test")["events"] == 3
        made = draft.commit()
    events = taken.lake.tables.read(made, "data")
    assert events.column("subject_id").to_pylist() == [-4, 5, large]
    assert events.column("unit").to_pylist() == [None, None, "mg"]
    assert taken.lake.tables.read(made, "subjects").column("source_id").to_pylist() == ["-4", "5", str(large)]


def seen(lake: Lake, deliveries: list[Any], end: date, sql: str, **settings: Any) -> list[tuple[Any, ...]]:
    """What a cohort's SQL sees of deliveries, the first the oldest."""
    source = SourceSpec(name="test", format="meds", **settings)
    raw = [
        RawDelivery(f"test--d{i}", date(2026, 1, i), {n: lake.tables.path(d.version, n) for n in d.version.files})
        for i, d in enumerate(deliveries, start=1)
    ]
    connection, columns = open_views(lake, source, raw, end, threads=1, memory_limit="1GB")
    with connection:
        add_events(connection, lake, source, columns, memory_limit="1GB")
        return connection.execute(sql).fetchall()


def test_an_event_delivered_again_is_one_event_and_twins_in_a_delivery_are_two(take: Callable[..., Any]) -> None:
    codes = {"code": ["A", "B"], "description": ["old", "only"]}
    one = take(
        {"data/0.parquet": shard([1, 1, 2], ["A", "A", "B"]), "metadata/codes.parquet": parquet(codes)}, format="meds"
    )
    two = take(
        {
            "data/0.parquet": shard([1, 2, 3], ["A", "B", "C"]),
            "metadata/codes.parquet": parquet({"code": ["A"], "description": ["new"]}),
        },
        format="meds",
    )
    count = "SELECT subject_id, code, count(*) FROM {} GROUP BY ALL ORDER BY ALL"
    for table in ("meds", "events"):
        got = seen(one.lake, [one, two], date(2026, 12, 31), count.format(table))
        assert got == [(1, "A", 2), (2, "B", 1), (3, "C", 1)], table
    said = seen(one.lake, [one, two], date(2026, 12, 31), "SELECT code, description FROM codes ORDER BY code")
    assert said == [("A", "new"), ("B", "only")]


def test_where_dates_are_real_a_month_sees_no_later_event(take: Callable[..., Any]) -> None:
    times = pa.array([datetime(2026, 1, 31, 23), datetime(2026, 2, 1), None], pa.timestamp("us"))  # noqa: DTZ001
    label = {"subject_id": [1, 1], "prediction_time": [TIME, datetime(2026, 3, 1)], "integer_value": [1, 2]}  # noqa: DTZ001
    taken = take({"data/0.parquet": shard([1, 2, 3], times=times), "labels/los.parquet": parquet(label)}, format="meds")
    end, sql = (
        date(2026, 1, 31),
        "SELECT (SELECT count(*) FROM meds), (SELECT count(*) FROM events), count(*) FROM labels",
    )
    assert seen(taken.lake, [taken], end, sql, dates="real") == [(2, 2, 1)]
    assert seen(taken.lake, [taken], end, sql, dates="shifted") == [(3, 3, 2)]


def test_no_cell_is_ever_in_the_words_of_an_error(take: Callable[..., Any]) -> None:
    canary = "zz-canary-7781"
    with pytest.raises(InputError) as caught:
        take({"data/0.parquet": shard(pa.array([canary] * 5))}, format="meds", limit=0.1)
    text = str(caught.value)
    assert "5 wrong_type" in text
    assert canary not in text


def test_reading_is_the_same_whatever_the_batches_are(
    take: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [i // 7 for i in range(1000)]
    files = {"data/0.parquet": shard([None if i % 97 == 0 else s for i, s in enumerate(ids)])}
    whole = take(files, format="meds")
    monkeypatch.setattr(meds_shards, "BATCH", 64)
    parts = take(files, format="meds")
    assert parts.table("meds").equals(whole.table("meds"))
    assert parts.rejects() == whole.rejects()
    assert pc.max(parts.table("meds").column("subject_id")).as_py() == 142
