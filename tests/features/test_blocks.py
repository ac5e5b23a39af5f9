"""Code blocks of a cohort: the matrix is what pandas counts, the vocabulary is told from training, records add up."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from pipeline.errors import ConfigError, InputError
from pipeline.features.build import gather_inputs
from pipeline.features.source import SourceSpec
from pipeline.features.spec import load_book
from pipeline.features.stored import read_cohort, write_cohort

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.features.build import Built

PATIENTS = "SELECT subject, age FROM people"
CODES = "SELECT subject, code FROM given"


@pytest.fixture
def ward(bench):
    """The workbench with a plain-table source; `bench.give(people, given)` hands over both tables."""
    bench.source = SourceSpec(name="clinic", format="table", dates="none", accumulate="replace")

    def give(people: pd.DataFrame, given: pd.DataFrame) -> None:
        tables = {"people": people, "given": given}
        bench.deliver_table("a", "2026-10-05", **{n: pa.Table.from_pandas(t, preserve_index=False) for n, t in tables.items()})  # fmt: skip

    def cohort(codes: str = CODES, sql: str = PATIENTS, *, block: dict | None = None, **settings):
        (bench.folder / "codes.sql").write_text(codes)
        return bench.spec(sql, blocks={"dx": {"sql": "codes.sql", **(block or {})}}, **settings)

    bench.give, bench.cohort = give, cohort
    return bench


def made_up(patients: int = 300, events: int = 6000, codes: int = 120) -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(7)
    people = pd.DataFrame({"subject": [f"p{i}" for i in range(patients)], "age": rng.integers(20, 90, patients)})
    popular = np.minimum((rng.pareto(0.7, events) * 2).astype(int), codes - 1)
    names = np.array([f"{100 + i}.{i % 10}" for i in range(codes)])
    # Ten people more than there are rows, and a patient without any code.
    given = pd.DataFrame({"subject": [f"p{i}" for i in rng.integers(1, patients + 10, events)], "code": names[popular]})
    given.loc[::97, "code"] = None
    given.loc[::89, "code"] = "strange"
    return people, given


def dense(built: Built) -> pd.DataFrame:
    block = built.cohort.schema.blocks[0]
    return pd.DataFrame(
        built.cohort.blocks["dx"].toarray(), index=built.cohort.subject.tolist(), columns=block.vocabulary
    )


@pytest.mark.parametrize("kind", ["binary", "count"])
@pytest.mark.parametrize(("min_subjects", "max_codes"), [(11, None), (1, None), (3, 7)])
def test_the_matrix_is_what_pandas_counts(ward, kind: str, min_subjects: int, max_codes: int | None) -> None:
    people, given = made_up()
    ward.give(people, given)
    block = {"kind": kind, "normalise": "icd9", "roll_up": "3_characters", "min_subjects": min_subjects}
    built = ward.build(spec=ward.cohort(block={**block, "max_codes": max_codes}))
    train = built.cohort.subject[built.cohort.split == "train"]
    there = given[given.subject.isin(people.subject) & given.code.notna()].copy()
    there["code"] = there.code.where(there.code != "strange", "STRANGE").where(
        there.code == "strange", there.code.str[:3]
    )
    counted = pd.crosstab(there.subject, there.code)
    seen = (counted[counted.index.isin(train)] > 0).sum()
    ranked = sorted(seen[seen >= min_subjects].index, key=lambda c: (-seen[c], c))
    kept = sorted(ranked[:max_codes])
    expected = counted[kept].reindex(built.cohort.subject, fill_value=0)
    found = dense(built)
    assert list(found.columns) == kept
    assert (found.to_numpy() == (expected.to_numpy() > 0 if kind == "binary" else expected.to_numpy())).all()
    assert (found.loc["p0"] == 0).all()
    account = built.blocks["dx"]
    assert account.records == len(given) == account.taken + sum(t.records for t in account.left_out.values())
    assert account.taken == int(counted[kept].to_numpy().sum())
    assert account.left_out["of no row"].records == (~given.subject.isin(people.subject)).sum()
    assert account.left_out["no code"].records == (given.code.isna() & given.subject.isin(people.subject)).sum()
    assert account.as_they_are["malformed"].codes == 1
    assert account.left_out.get("beyond max_codes", account).codes >= 0
    assert account.cells == (found.to_numpy() > 0).sum()
    assert built.counts["block/dx/codes"] == len(kept)


def test_only_training_subjects_decide_on_the_vocabulary(ward) -> None:
    people, given = made_up()
    ward.give(people, given)
    first = ward.build(spec=ward.cohort(block={"min_subjects": 5}))
    others = set(first.cohort.subject[first.cohort.split != "train"].tolist())
    more = pd.DataFrame({"subject": sorted(others), "code": "only-others"})
    fewer = given[given.subject.isin(others)].iloc[:0]
    ward.give(people, pd.concat([given[~given.subject.isin(others)], fewer, more]))
    second = ward.build(spec=ward.cohort(block={"min_subjects": 5}))
    assert second.cohort.schema.blocks[0].vocabulary == first.cohort.schema.blocks[0].vocabulary
    assert second.blocks["dx"].left_out["not in training"].records == len(others)


def test_same_records_in_another_order_give_the_same_block(ward) -> None:
    people, given = made_up(events=800)
    ward.give(people, given)
    first = ward.build(spec=ward.cohort())
    ward.give(people.sample(frac=1, random_state=1), given.sample(frac=1, random_state=2))
    second = ward.build(spec=ward.cohort())
    assert first.cohort.schema == second.cohort.schema
    assert (first.cohort.blocks["dx"] != second.cohort.blocks["dx"]).nnz == 0
    assert first.blocks == second.blocks


def test_versions_numbers_and_a_mapping_with_several_groups(ward) -> None:
    people = pd.DataFrame({"subject": [f"p{i}" for i in range(60)], "age": range(60)})
    rows = []
    for i in range(60):
        rows += [
            (f"p{i}", "E86.0", 10, 2),
            (f"p{i}", "E8600", 9, 3),
            (f"p{i}", "E11", 10, 0),
            (f"p{i}", "Z00", None, 1),
        ]
    ward.give(people, pd.DataFrame(rows, columns=["subject", "code", "version", "n"]))
    (ward.folder / "map.csv").write_text("code,system,group\nE86.0,ICD10CM,water\nE860,ICD10CM,salt\n")
    sql = "SELECT subject, code, version, n FROM given"
    block = {"kind": "count", "normalise": "icd", "min_subjects": 1}
    roll_up = {"files": ["map.csv"], "ungrouped": "3_characters"}
    built = ward.build(spec=ward.cohort(sql, block={**block, "roll_up": roll_up}))
    assert dense(built).iloc[0].to_dict() == {"ICD9CM//E860": 3, "Z00": 1, "salt": 2, "water": 2}
    account = built.blocks["dx"]
    assert (account.records, account.taken) == (240, 180)
    assert account.left_out["no count"].records == 60
    assert {r: t.records for r, t in account.as_they_are.items()} == {"no group": 60, "no version": 60}
    built = ward.build(
        spec=ward.cohort(sql, block={**block, "roll_up": {"files": ["map.csv"]}, "malformed": "leave_out"})
    )
    assert built.cohort.schema.blocks[0].vocabulary == ["salt", "water"]
    assert {r: t.records for r, t in built.blocks["dx"].left_out.items()} == {
        "no count": 60,
        "no group": 60,
        "no version": 60,
    }


def test_a_block_joins_stays_by_a_key_that_is_no_feature(ward) -> None:
    people = pd.DataFrame(
        {"subject": [f"p{i // 2}" for i in range(80)], "stay": range(80), "age": [i // 2 for i in range(80)]}
    )
    given = pd.DataFrame({"stay": range(0, 80, 2), "code": "a"})
    ward.give(people, given)
    sql, codes = "SELECT subject, stay, age FROM people", "SELECT stay, code FROM given"
    built = ward.build(spec=ward.cohort(codes, sql, block={"by": "stay", "min_subjects": 1}, unit="stay"))
    assert built.cohort.schema.names == ["age"]
    assert built.cohort.blocks["dx"].sum() == 40
    # Rows of a subject are the same but for the key: one of each two has the code, whichever comes first.
    assert [int(n) for n in np.add.reduceat(built.cohort.blocks["dx"].toarray().ravel(), range(0, 80, 2))] == [1] * 40
    rowwise = ward.cohort(codes, "SELECT stay, age FROM people", block={"by": "stay", "min_subjects": 1}, unit="row", subject="row")  # fmt: skip
    assert ward.build(spec=rowwise).cohort.blocks["dx"].sum() == 40
    with pytest.raises(InputError, match=r"Several rows of the cohort have the same 'subject'.*`by`"):
        ward.build(
            spec=ward.cohort("SELECT 'p1' AS subject, code FROM given", "SELECT subject, age FROM people", unit="stay")
        )
    with pytest.raises(ConfigError, match="does not give column 'visit', which a block joins on"):
        ward.build(spec=ward.cohort(codes, sql, block={"by": "visit"}, unit="stay"))
    with pytest.raises(ConfigError, match="cannot be declared as a feature"):
        ward.build(spec=ward.cohort(codes, sql, block={"by": "stay"}, unit="stay", columns={"stay": {}}))


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("SELECT subject FROM given", r"codes.sql: The block's SQL does not give column 'code'"),
        ("SELECT code FROM given", "does not give column 'subject'"),
        ("SELECT subject, code, 1 AS claim FROM given", "not 'claim' too"),
        ("SELECT subject, code, 9 AS version, 'x' AS system FROM given", "not 'system' too"),
        ("SELECT subject, code, 1.5 AS n FROM given", "`n` is a whole number"),
        ("SELECT subject, code FROM gven", r"codes.sql:1.*there is no table 'gven'. Did you mean 'given'"),
        ("SELECT subject, code FROM read_csv('/etc/passwd')", "reaches for a file"),
        ("SELECT 1; SELECT 2", "exactly one SELECT"),
    ],
)
def test_a_block_that_cannot_be_made_says_why(ward, sql: str, words: str) -> None:
    people, given = made_up(events=800)
    ward.give(people, given)
    with pytest.raises(ConfigError, match=words):
        ward.build(spec=ward.cohort(sql))


def test_no_common_code_is_refused_and_no_message_holds_a_code(ward) -> None:
    people = pd.DataFrame({"subject": [f"p{i}" for i in range(50)], "age": range(50)})
    ward.give(people, pd.DataFrame({"subject": people.subject, "code": [f"secret-{i}" for i in range(50)]}))
    with pytest.raises(InputError, match=r"No code of 50 records is left.*lower min_subjects") as error:
        ward.build(spec=ward.cohort())
    assert "secret" not in str(error.value)
    with pytest.raises(InputError, match=r"codes.sql, column subject: None of the 50 records"):
        ward.build(spec=ward.cohort("SELECT 'x' || subject AS subject, code FROM given"))


def test_a_block_sees_the_month_as_the_cohort_does(bench) -> None:
    days = [datetime.fromisoformat(day) for day in ("2026-09-03", "2026-10-20")]
    conditions = [
        row | {"key": f"{row['key']}-{k}", "id": f"{row['id']}-{k}", "code": f"c{k}"}
        for k, day in enumerate(days)
        for row in bench.conditions(range(60), day)
    ]
    bench.deliver("a", "2026-08-31", patient=bench.patients(range(60)), condition=conditions)
    (bench.folder / "codes.sql").write_text("SELECT patient AS subject, code FROM condition")
    (bench.folder / "events.sql").write_text(
        "SELECT 'Patient/' || s.source_id AS subject, e.code FROM events e JOIN subjects s USING (subject_id) "
        "WHERE e.code LIKE '%c_'"
    )
    blocks = {"dx": {"sql": "codes.sql", "source": ["condition.code"]}}
    spec = bench.spec("SELECT key AS subject, gender FROM patient", blocks=blocks)
    assert bench.build("2026-09-01", spec).cohort.schema.blocks[0].vocabulary == ["c0"]
    built = bench.build("2026-10-01", spec)
    assert built.cohort.schema.blocks[0].vocabulary == ["c0", "c1"]
    assert built.lineage["dx"] == ["condition.code"]
    with pytest.raises(ConfigError, match="names no column of 'condition'"):
        bench.build(spec=bench.spec("SELECT key AS subject, gender FROM patient", blocks={"dx": {**blocks["dx"], "source": ["condition.kode"]}}))  # fmt: skip
    through_events = bench.spec("SELECT key AS subject, gender FROM patient", blocks={"dx": {"sql": "events.sql"}})
    assert bench.build("2026-09-01", through_events).blocks["dx"].records == 60


def test_features_depend_on_the_block_its_sql_and_its_mapping(ward) -> None:
    people, given = made_up(events=800)
    ward.give(people, given)
    (ward.folder / "map.csv").write_text("code,group\n100.0,a\n")

    def spec_hash(codes: str = CODES, **block) -> str:
        spec = ward.cohort(codes, block={"normalise": "icd9", "roll_up": {"files": ["map.csv"]}, **block})
        return gather_inputs(spec, ward.source, "2026-10-01", ward.lake, ward.lake.home).spec_sha256

    plain = gather_inputs(ward.spec(PATIENTS), ward.source, "2026-10-01", ward.lake, ward.lake.home).spec_sha256
    hashes = [plain, spec_hash(), spec_hash(kind="count"), spec_hash(CODES + " "), spec_hash(min_subjects=12)]
    (ward.folder / "map.csv").write_text("code,group\n100.0,b\n")
    assert len({*hashes, spec_hash()}) == 6


def test_code_blocks_alone_are_a_cohort(ward, tmp_path: Path) -> None:
    people, given = made_up()
    ward.give(people, given)
    built = ward.build(spec=ward.cohort(sql="SELECT subject FROM people"))
    cohort = built.cohort
    assert (cohort.n_rows, cohort.table.num_columns) == (300, 0)
    assert cohort.part("train").n_rows == (cohort.split == "train").sum()
    write_cohort(cohort, tmp_path / "out")
    again = read_cohort(tmp_path / "out")
    assert again.schema == cohort.schema
    assert (again.subject == cohort.subject).all()
    assert (again.blocks["dx"] != cohort.blocks["dx"]).nnz == 0


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ("{dx: {sql: none.sql}}", "The SQL file 'none.sql' does not exist"),
        ("{dx: {sql: w.sql, roll_up: {files: [none.csv]}}}", "The mapping file 'none.csv' does not exist"),
        ("{age: {sql: w.sql}}", "'age' is a block and a column"),
        ("{a b: {sql: w.sql}}", "must be called by letters"),
        ("{dx: {sql: w.sql, normalize: icd9}}", "blocks.dx.normalize"),
    ],
)
def test_a_cohort_file_with_a_wrong_block_says_so(tmp_path: Path, blocks: str, words: str) -> None:
    (tmp_path / "sources.yaml").write_text("s: {format: table}\n")
    (tmp_path / "w.sql").write_text("SELECT 1")
    (tmp_path / "w.yaml").write_text(
        f"source: s\nsubject: x\nsql: w.sql\ncolumns: {{age: {{}}}}\nblocks: {blocks}\ngenerators: {{}}\n"
    )
    assert words in load_book([tmp_path]).broken["w"]
