"""Cohorts to files and back, and plain files to tables."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv
from scipy.sparse import csr_matrix, random_array

from pipeline.errors import ConfigError, InputError, NotFoundError, StoreError
from pipeline.features.cohort import Cohort
from pipeline.features.schema import CodeBlock, Column, TableSchema
from pipeline.features.stored import read_beside, read_cohort, read_features, schema_json, write_cohort
from pipeline.features.tables import as_cohort, cohort_from_file, read_schema, read_table, write_table

CANARY = "Zebulon-Quartermain-4711"


def cohort(n: int = 50, codes: int = 300) -> Cohort:
    rng = np.random.default_rng(1)
    schema = TableSchema(
        columns=[
            Column(name="sex", kind="binary", dtype="string", levels=["f", "m"]),
            Column(name="bmi", kind="continuous", dtype="float64", nullable=True),
        ],
        blocks=[
            CodeBlock(name="icd", kind="count", vocabulary=[f"C{i}" for i in range(codes)]),
            CodeBlock(name="drugs", kind="binary", vocabulary=["a", "b"]),
        ],
    )
    table = pa.table(
        {"sex": rng.choice(["f", "m"], n), "bmi": pa.array(rng.normal(size=n), mask=rng.random(n) < 0.2)},
        schema=schema.arrow(),
    )
    icd = random_array((n, codes), density=0.02, rng=rng, data_sampler=lambda size: rng.integers(1, 9, size))
    return Cohort(
        table=table,
        schema=schema,
        subject=np.array([f"s{i}" for i in range(n)]),
        split=rng.choice(["train", "holdout"], n),
        tune=np.zeros(n, dtype=bool),
        blocks={"icd": csr_matrix(icd.astype(np.int32)), "drugs": csr_matrix((n, 2), dtype=np.int32)},
    )


def same(one: Cohort, two: Cohort) -> bool:
    blocks = all((one.blocks[k] != two.blocks[k]).nnz == 0 for k in one.blocks)
    return one.table.equals(two.table) and one.schema == two.schema and (one.subject == two.subject).all() and blocks


def test_a_cohort_with_blocks_comes_back_whole(tmp_path: Path, lake) -> None:
    whole = cohort()
    write_cohort(whole, tmp_path / "c")
    back = read_cohort(tmp_path / "c")
    assert same(whole, back)
    assert (back.split == whole.split).all()
    assert back.tune is not None
    assert not back.tune.any()
    with lake.tables.draft("features", {"cohort": "a", "month": "2026-10-01"}) as draft:
        write_cohort(whole, draft)
        version = draft.commit()
    assert same(whole, read_features(lake.tables, version))
    for name in ("data", "subjects", "block_icd", "block_drugs"):
        stored = lake.tables.path(version, name).read_bytes()
        assert stored == (tmp_path / "c" / f"{name}.parquet").read_bytes(), "folder and store write the same bytes"


def test_a_block_is_stored_long_and_in_one_order(tmp_path: Path) -> None:
    whole = cohort(codes=9)
    write_cohort(whole, tmp_path / "a")
    coo = whole.blocks["icd"].tocoo()
    order = np.random.default_rng(3).permutation(coo.nnz)
    shuffled = csr_matrix((coo.data[order], (coo.row[order], coo.col[order])), shape=coo.shape)
    other = Cohort(**{**whole.__dict__, "blocks": {**whole.blocks, "icd": shuffled}})
    write_cohort(other, tmp_path / "b")
    one, two = ((tmp_path / f / "block_icd.parquet") for f in "ab")
    assert one.read_bytes() == two.read_bytes()
    long = pq.read_table(one)
    assert long.schema.names == ["row", "code", "value"]
    assert long.num_rows == coo.nnz


def test_synthetic_rows_have_no_split_but_extra_columns_beside_them(tmp_path: Path) -> None:
    whole = cohort()
    drawn = Cohort(**{**whole.__dict__, "split": None, "tune": None})
    write_cohort(drawn, tmp_path / "c", extra={"_replicate": pa.array([0, 1] * 25)})
    back = read_cohort(tmp_path / "c")
    assert back.split is back.tune is None
    assert back.table.schema.equals(whole.schema.arrow())
    assert read_beside(tmp_path / "c").column_names == ["subject", "_replicate"]
    with pytest.raises(ConfigError, match="'subject' cannot be an extra column"):
        write_cohort(drawn, tmp_path / "d", extra={"subject": pa.array([0] * 50)})


def test_a_schema_that_the_rows_break_is_not_written(tmp_path: Path) -> None:
    whole = cohort()
    strict = whole.schema.model_copy(deep=True)
    strict.columns[1].nullable = False
    with pytest.raises(InputError, match=r"column bmi: .* cells are missing"):
        write_cohort(Cohort(**{**whole.__dict__, "schema": strict}), tmp_path / "c")


def test_a_block_name_that_is_no_file_name(tmp_path: Path) -> None:
    schema = TableSchema(columns=[], blocks=[CodeBlock(name="../out", kind="binary", vocabulary=["a"])])
    odd = Cohort(
        table=pa.table({}).select([]), schema=schema, subject=np.array([], str), blocks={"../out": csr_matrix((0, 1))}
    )
    with pytest.raises(ConfigError, match="usable as a file name"):
        write_cohort(odd, tmp_path / "c")


def test_no_cohort_in_a_folder(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="holds no cohort"):
        read_cohort(tmp_path)


TABLE = pa.table({"a": pa.array([1, 2, None]), "b": ["x", "y,\nz", None], "c": [0.5, None, 2.25]})


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.tsv", "t.parquet", "t.parquet.gz", "T.CSV"])
def test_plain_files_are_read_alike(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    buffer = pa.BufferOutputStream()
    if "parquet" in name:
        pq.write_table(TABLE, buffer)
    else:
        csv.write_csv(TABLE, buffer, csv.WriteOptions(delimiter="\t" if "tsv" in name else ","))
    raw = buffer.getvalue().to_pybytes()
    path.write_bytes(gzip.compress(raw, mtime=0) if name.endswith("gz") else raw)
    assert read_table(path).equals(TABLE)


def test_a_schema_decides_the_types_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("zip,n,more\n01234,1,9\n04711,2,9\n")
    schema = TableSchema(
        columns=[
            Column(name="n", kind="continuous", dtype="float32"),
            Column(name="zip", kind="categorical", dtype="string", levels=["01234", "04711"]),
        ]
    )
    (tmp_path / "s.json").write_text(schema_json(schema))
    table = read_table(tmp_path / "t.csv", tmp_path / "s.json")
    assert table.schema.equals(schema.arrow())
    assert table.column("zip").to_pylist() == ["01234", "04711"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("t.xlsx", b"PK", "ends neither in"),
        ("t.csv", f"a,b\n1,2\n3,4,{CANARY}\n".encode(), "not a valid table"),
        ("t.csv", b"", "not a valid table"),
        ("t.parquet", b"PAR1 but not really", "not a valid table"),
        ("t.csv.gz", gzip.compress(b"a,b\n1,2\n", mtime=0)[:-9], "cannot be read"),
        ("t.csv.gz", b"a,b\n1,2\n", "cannot be read"),
    ],
)
def test_files_that_are_no_table(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=says) as caught:
        read_table(tmp_path / name)
    error: BaseException | None = caught.value
    while error is not None:
        assert CANARY not in repr(error)
        error = error.__cause__ or error.__context__


def test_missing_files_and_broken_schemas(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such file"):
        read_table(tmp_path / "nowhere.csv")
    with pytest.raises(NotFoundError, match="no such schema file"):
        read_schema(tmp_path / "nowhere.json")
    (tmp_path / "s.json").write_text('{"columns": [{"name": "a", "kind": "number", "dtype": "int64"}]}')
    with pytest.raises(ConfigError, match=r"columns\.0\.kind"):
        read_schema(tmp_path / "s.json")


def test_a_plain_table_becomes_a_cohort() -> None:
    made = as_cohort(pa.table({"a": [1, 1, 2], "b": ["x", "x", "y"]}))
    assert made.n_rows == made.n_subjects == 3
    assert made.split is None


def test_a_file_becomes_a_cohort_with_its_subjects_aside(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("person,zip,n\np2,01234,1\np1,04711,2\np2,04711,3\n")
    made = cohort_from_file(tmp_path / "t.csv", subject="person")
    assert made.subject.tolist() == ["p2", "p1", "p2"]
    assert made.schema.names == ["zip", "n"]
    schema = TableSchema(columns=[Column(name="zip", kind="binary", dtype="string", levels=["01234", "04711"])])
    (tmp_path / "s.json").write_text(schema_json(schema))
    typed = cohort_from_file(tmp_path / "t.csv", schema_file=tmp_path / "s.json", subject="person")
    assert typed.table.column("zip").to_pylist() == ["01234", "04711", "04711"]
    assert typed.n_subjects == 2
    with pytest.raises(ConfigError, match=r"t\.csv: There is no subject column 'persn'.*Did you mean 'person'"):
        cohort_from_file(tmp_path / "t.csv", subject="persn")


@pytest.mark.parametrize("name", ["s.parquet", "s.csv", "s.csv.gz"])
def test_written_tables_are_read_back_and_have_the_same_bytes(tmp_path: Path, name: str) -> None:
    write_table(TABLE, tmp_path / "out" / name)
    first = (tmp_path / "out" / name).read_bytes()
    write_table(TABLE, tmp_path / "out" / name)
    assert (tmp_path / "out" / name).read_bytes() == first
    assert read_table(tmp_path / "out" / name).equals(TABLE)


def test_a_table_is_written_in_known_formats_only(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must end in"):
        write_table(TABLE, tmp_path / "s.xlsx")
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be written"):
        write_table(TABLE, tmp_path / "file" / "s.csv")
