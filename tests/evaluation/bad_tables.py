"""Tables, code blocks, real parts and plans that are odd, broken or too small, by name; made of the toy population."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix
from toy_people import SCHEMA, TASK, edited, people

from pipeline.evaluation.context import Parts
from pipeline.evaluation.intake import take_in_rows
from pipeline.evaluation.plan import EvaluationPlan
from pipeline.features.cohort import Cohort
from pipeline.features.evaluation_spec import AnalysisSpec, Condition, RuleSpec, TaskSpec

Change = Callable[[Cohort], Cohort]
COLUMNS = [c.name for c in SCHEMA.columns if c.name != "id"]
CODES = 60
ANALYSES = (
    AnalysisSpec(name="death", kind="logistic", outcome="died", covariates=["age", "sex", "ward"], contrast="smoker"),
    AnalysisSpec(name="pressure", kind="linear", outcome="pressure", covariates=["age", "lab_a"], contrast="sex"),
    AnalysisSpec(name="visits", kind="poisson", outcome="visits", covariates=["age", "smoker"]),
    AnalysisSpec(name="survival", kind="cox", outcome="died", time="visits", covariates=["age", "sex"]),
)
RULE = RuleSpec(
    name="died at home",
    when=[Condition(column="died", op="==", value=True)],
    never=[Condition(column="discharge", op="==", value="home")],
)
FULL = EvaluationPlan(
    tasks=(TASK,), protected=("sex", "ward", "age"), analyses=ANALYSES, rules=(RULE,), known=("age", "sex", "ward"),
    secrets=("stage", "lab_c", "died"), profile="quick",
)  # fmt: skip


def first(cohort: Cohort, n: int) -> Cohort:
    return cohort.take(np.arange(n))


def nobody(cohort: Cohort) -> Cohort:
    return cohort.take(np.array([], dtype=np.int64))


def each(change: Callable[[pa.ChunkedArray], pa.Array], *names: str) -> Change:
    """The named columns changed; all but the id if none is named."""
    wanted = names or COLUMNS
    return lambda cohort: edited(cohort, lambda name, x: change(x) if name in wanted else x)


def constant(x: pa.ChunkedArray) -> pa.Array:
    return x.take(pa.array(np.zeros(len(x), dtype=int)))


def missing(x: pa.ChunkedArray) -> pa.Array:
    return pa.nulls(len(x), x.type)


def not_finite(x: pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    if x.type != pa.float64():
        return x
    values = np.array(x.to_numpy(), dtype=float)
    values[::7], values[1::7], values[2::7] = np.inf, -np.inf, np.nan
    return pa.array(values)


def scaled(by: float) -> Change:
    return each(lambda x: pa.array(np.array(x.to_numpy(), dtype=float) * by) if x.type == pa.float64() else x)


def filled(value: object) -> Callable[[pa.ChunkedArray], pa.Array]:
    return lambda x: pa.array([value] * len(x))


def taken_in(change: Callable[[pa.Table], pa.Table]) -> Change:
    """The table changed and brought back under the schema, as a file is."""
    return lambda cohort: take_in_rows(change(cohort.table), SCHEMA).cohort


def other_types(table: pa.Table) -> pa.Table:
    """Truths as text, levels as codes, whole numbers as floats, a number as a date, a level as a time."""
    n = table.num_rows
    changed = {
        "died": pa.array(["yes" if v else "no" for v in table.column("died").to_pylist()]),
        "smoker": table.column("smoker").cast(pa.int64()),
        "sex": pa.array(np.arange(n) % 2),
        "visits": table.column("visits").cast(pa.float64()),
        "age": pa.array(np.arange(n), pa.int32()).cast(pa.date32()),
        "ward": pa.array(np.arange(n), pa.int64()).cast(pa.timestamp("us")),
    }
    return pa.table({name: changed.get(name, table.column(name)) for name in table.column_names})


def as_text(table: pa.Table) -> pa.Table:
    return pa.table({n: table.column(n).cast(pa.string()) for n in table.column_names})


def extra_and_reordered(table: pa.Table) -> pa.Table:
    names = [*table.column_names[::-1], "SECRET"]
    return table.append_column("SECRET", pa.array(["SECRET"] * table.num_rows)).select(names)


def nonsense(table: pa.Table) -> pa.Table:
    return pa.table({n: pa.array([f"SECRET{i}" for i in range(table.num_rows)]) for n in table.column_names})


SYNTHETIC: dict[str, Change] = {
    "columns lacking": taken_in(lambda t: t.select(["age", "sex", "died", "lab_b"])),
    "everything as text, a column too many, reordered": taken_in(lambda t: extra_and_reordered(as_text(t))),
    "other types": taken_in(other_types),
    "nonsense in every cell": taken_in(nonsense),
    "no value at all": each(missing),
    "unseen levels": each(filled("elsewhere"), "ward", "sex", "stage", "discharge"),
    "constant": each(constant),
    "infinite cells": each(not_finite),
    "enormous numbers": scaled(1e300),
    "one row": lambda c: first(c, 1),
    "thirty rows": lambda c: first(c, 30),
    "many more rows": lambda _: people(1300, 66, prefix="made"),
    "a label of one class": each(filled(True), "died"),
    "a label without a value": each(missing, "died"),
    "one row repeated": lambda c: c.take(np.zeros(200, dtype=int)),
    "several rows a subject": lambda c: replace(
        c.take(np.repeat(np.arange(80), 3)), subject=np.repeat(np.arange(80), 3).astype(str)
    ),
}


def asking(**asked: object) -> EvaluationPlan:
    return replace(FULL, **asked)  # type: ignore[arg-type]


def in_parts(change: Change, *names: str) -> Callable[[Parts], Parts]:
    """The named real parts changed; all four if none is named."""
    return lambda p: replace(p, **{n: change(getattr(p, n)) for n in names or vars(p)})


def copied(name: str, other: str) -> Change:
    return lambda cohort: edited(cohort, lambda n, x: cohort.table.column(other) if n == name else x)


def analysis(name: str, kind: str, outcome: str, *covariates: str, **more: str) -> AnalysisSpec:
    return AnalysisSpec(name=name, kind=kind, outcome=outcome, covariates=list(covariates), **more)  # type: ignore[arg-type]


def as_it_is(parts: Parts) -> Parts:
    return parts


UNFIT = asking(
    analyses=(
        analysis("separated", "logistic", "died", "discharge", "age", contrast="sex"),
        analysis("separated in time", "cox", "died", "discharge", time="visits"),
        analysis("counts below 0", "poisson", "lab_b", "age"),
        analysis("times below 0", "cox", "died", "age", time="lab_b"),
        analysis("four levels", "logistic", "ward", "age"),
        analysis("no two levels", "logistic", "lab_c", "age"),
        analysis("levels as numbers", "linear", "sex", "ward", "stage", contrast="lab_a"),
        analysis("a level as time", "cox", "died", "age", time="ward"),
    ),
    rules=(
        RuleSpec(name="a level below 3", never=[Condition(column="ward", op="<", value=3)]),
        RuleSpec(name="a number that is a word", never=[Condition(column="age", op="==", value="SECRET")]),
        RuleSpec(name="a number above a level", never=[Condition(column="age", op=">", other="ward")]),
        RuleSpec(name="never applies", when=[Condition(column="age", op=">", value=1e9)], never=RULE.never),
    ),
    tasks=(TaskSpec(name="number", label="lab_c"), TaskSpec(name="four levels", label="ward"),
           TaskSpec(name="no such level", label="died", positive="maybe"),
           TaskSpec(name="nothing left", label="died", leak=[n for n in COLUMNS if n != "died"])),
    protected=("died", "lab_a", "visits"), known=tuple(COLUMNS), secrets=(),
)  # fmt: skip
REAL: dict[str, tuple[Callable[[Parts], Parts], EvaluationPlan]] = {
    "no reference": (in_parts(nobody, "reference0", "reference1"), FULL),
    "one reference row": (in_parts(lambda c: first(c, 1), "reference0", "reference1"), FULL),
    "a holdout of one class": (in_parts(each(filled(True), "died"), "holdout"), FULL),
    "a training label of one class": (in_parts(each(filled(False), "died"), "train"), FULL),
    "a label without a value": (in_parts(each(missing, "died")), FULL),
    "a holdout column without a value": (in_parts(each(missing, "age", "ward"), "holdout"), FULL),
    "a training column without a value": (in_parts(each(missing, "age", "ward"), "train"), FULL),
    "constant training rows": (in_parts(each(constant), "train"), FULL),
    "training rows without a value": (in_parts(each(missing), "train"), FULL),
    "a holdout without a value": (in_parts(each(missing), "holdout"), FULL),
    "no value anywhere": (in_parts(each(missing)), FULL),
    "constant everywhere": (in_parts(each(constant)), FULL),
    "enormous and infinite training numbers": (in_parts(lambda c: each(not_finite)(scaled(1e300)(c)), "train"), FULL),
    "one training row": (in_parts(lambda c: first(c, 1), "train"), FULL),
    "fifteen training rows": (in_parts(lambda c: first(c, 15), "train"), FULL),
    "one holdout row": (in_parts(lambda c: first(c, 1), "holdout"), FULL),
    "three rows a part": (in_parts(lambda c: first(c, 3)), FULL),
    "one holdout row repeated": (in_parts(lambda c: c.take(np.zeros(150, dtype=int)), "holdout"), FULL),
    "two events": (in_parts(each(lambda x: pa.array(np.arange(len(x)) < 2), "died")), FULL),
    "collinear covariates": (in_parts(copied("lab_a", "age")), FULL),
    "nothing that can be fitted": (as_it_is, UNFIT),
    "all columns protected": (as_it_is, asking(protected=tuple(COLUMNS))),
    "nothing asked": (as_it_is, EvaluationPlan(profile="quick")),
}


def of_block(change: Callable[[csr_matrix], csr_matrix]) -> Change:
    return lambda c: replace(c, blocks={"diagnoses": csr_matrix(change(c.blocks["diagnoses"]))})


def no_counts(matrix: csr_matrix) -> csr_matrix:
    """Enormous, infinite, negative and no numbers, in turn."""
    changed = matrix.copy()
    changed.data = np.resize(np.array([1e30, np.inf, -1.0, np.nan], dtype=np.float32), len(changed.data))
    return changed


BLOCKS: dict[str, Change] = {
    "sound": lambda c: c,
    "empty": of_block(lambda m: csr_matrix(m.shape, dtype=np.float32)),
    "every code": of_block(lambda m: csr_matrix(np.ones(m.shape, dtype=np.float32))),
    "no counts": of_block(no_counts),
    "two rows": lambda c: first(c, 2),
}


def alone(cohort: Cohort) -> Cohort:
    """The code block without a column."""
    return replace(cohort, table=cohort.table.select([]), schema=cohort.schema.model_copy(update={"columns": []}))


def counted(cohort: Cohort) -> Cohort:
    """The block with counts."""
    blocks = [b.model_copy(update={"kind": "count"}) for b in cohort.schema.blocks]
    matrix = cohort.blocks["diagnoses"].copy()
    matrix.data = 1 + np.random.default_rng(5).poisson(2, len(matrix.data)).astype(np.float32)
    return replace(cohort, blocks={"diagnoses": matrix}, schema=cohort.schema.model_copy(update={"blocks": blocks}))


SHAPES: dict[str, Change] = {"columns and codes": lambda c: c, "codes alone": alone, "counts": counted}


def with_a_rare_ward(cohort: Cohort) -> Cohort:
    """Ward d has three members."""
    ward = np.array(cohort.table.column("ward").to_pylist(), dtype=object)
    ward[np.flatnonzero(ward == "d")[3:]] = "a"
    return edited(cohort, lambda n, x: pa.array(ward.tolist(), pa.string()) if n == "ward" else x)
