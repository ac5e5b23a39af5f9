"""A seeded toy population whose dependences are known: mixed columns, or a sparse block of codes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipeline.features.cohort import Cohort, assemble
from pipeline.features.evaluation_spec import TaskSpec
from pipeline.features.schema import CodeBlock, Column, Resolution, TableSchema

if TYPE_CHECKING:
    from collections.abc import Callable

TASK = TaskSpec(name="outcome", label="died", positive=True, leak=["discharge"])
SCHEMA = TableSchema(
    columns=[
        Column(name="id", kind="identifier", dtype="string", role="id"),
        *(
            Column(
                name=n,
                kind="continuous",
                dtype="float64",
                nullable=n in ("lab_a", "lab_b"),
                resolution=Resolution(kind="decimals", digits=4),
                bounds=(-1e4, 1e4),
            )
            for n in ("age", "pressure", "lab_a", "lab_b", "lab_c")
        ),
        Column(name="visits", kind="count", dtype="int64", bounds=(0, 1000)),
        Column(name="sex", kind="binary", dtype="string", levels=["male", "female"]),
        Column(name="smoker", kind="binary", dtype="bool", levels=[False, True]),
        Column(name="ward", kind="categorical", dtype="string", levels=["a", "b", "c", "d"], nullable=True),
        Column(name="stage", kind="ordinal", dtype="string", levels=["I", "II", "III"]),
        Column(name="died", kind="binary", dtype="bool", levels=[False, True], role="label"),
        Column(name="discharge", kind="categorical", dtype="string", levels=["home", "other", "died"]),
    ],
    unit="patient",
)


def people(n: int, seed: int, *, prefix: str = "person") -> Cohort:
    """n people of the toy population: two hidden factors drive everything (correlations of 0.3 and more)."""
    rng = np.random.default_rng(seed)
    f, g = rng.normal(size=(2, n))

    def mixed(a: float, b: float) -> np.ndarray:
        return a * f + b * g + np.sqrt(max(1 - a * a - b * b, 0.0)) * rng.normal(size=n)

    def levels(x: np.ndarray, shares: list[float]) -> np.ndarray:
        return np.searchsorted(np.quantile(x, np.cumsum(shares)[:-1]), x)

    values = {
        "age": np.round(60 + 12 * mixed(0.8, 0.1), 4),
        "pressure": np.round(np.exp(4.6 + 0.2 * mixed(0.7, -0.4)), 4),
        "lab_a": np.round(np.exp(mixed(0.6, 0.6)), 4),
        "lab_b": np.round(mixed(-0.2, 0.9), 4),
        "lab_c": np.round(5 * mixed(0.7, 0.5), 4),
        "visits": rng.poisson(np.exp(0.8 + 0.7 * f)).astype(float),
        "sex": (mixed(0.6, 0.1) > 0).astype(int),
        "smoker": (mixed(0.1, 0.8) > 0.6).astype(int),
        "ward": levels(mixed(0.3, 0.8), [0.5, 0.3, 0.15, 0.05]),
        "stage": levels(mixed(0.7, 0.4), [0.5, 0.3, 0.2]),
        "died": (f + 0.8 * g + 0.9 * rng.normal(size=n) > 0.7).astype(int),
    }
    values["discharge"] = np.where(values["died"] == 1, 2, rng.integers(0, 2, n))
    for name in ("lab_a", "lab_b"):
        values[name] = np.where(rng.random(n) < 0.15 + 0.1 * (f > 0), np.nan, values[name])
    values["ward"] = np.where(rng.random(n) < 0.03, -1, values["ward"])
    subject = np.array([f"{prefix}-{seed}-{i:06d}" for i in range(n)])
    cohort = assemble(SCHEMA, values, subject=subject)
    table = cohort.table.set_column(0, cohort.table.schema.field(0), pa.array(subject))
    return replace(cohort, table=table)


def coded(n: int, seed: int, codes: int = 300) -> Cohort:
    """n people with a sparse block of codes driven by five hidden diseases, and two plain columns."""
    from scipy.sparse import csr_matrix

    shape = np.random.default_rng(99)
    loads = shape.gamma(0.25, 0.3, size=(5, codes)).clip(0, 0.7)
    rng = np.random.default_rng(seed)
    ill = rng.random((n, 5)) < 0.25
    matrix = csr_matrix((rng.random((n, codes)) < 1 - np.exp(-(ill @ loads) - 0.002)).astype(np.float32))
    schema = TableSchema(
        columns=[
            Column(name="age", kind="continuous", dtype="float64"),
            Column(name="ill", kind="binary", dtype="bool", levels=[False, True]),
        ],
        blocks=[CodeBlock(name="diagnoses", kind="binary", vocabulary=[f"C{i:03d}" for i in range(codes)])],
    )
    values = {"age": 50 + 10 * ill.sum(1) + rng.normal(size=n), "ill": ill.any(1).astype(int)}
    subject = np.array([f"coded-{seed}-{i:06d}" for i in range(n)])
    return assemble(schema, values, blocks={"diagnoses": matrix}, subject=subject)


def edited(cohort: Cohort, change: Callable[[str, pa.ChunkedArray], pa.Array | pa.ChunkedArray]) -> Cohort:
    columns = [change(n, cohort.table.column(n)) for n in cohort.table.column_names]
    return replace(cohort, table=pa.Table.from_arrays(columns, schema=cohort.table.schema))


def joined(a: Cohort, b: Cohort) -> Cohort:
    from scipy.sparse import vstack

    return replace(
        a,
        table=pa.concat_tables([a.table, b.table]),
        subject=np.concatenate([a.subject, b.subject]),
        blocks={k: vstack([a.blocks[k], b.blocks[k]], format="csr") for k in a.blocks},
    )
