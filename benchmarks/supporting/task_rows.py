"""Cohorts with several outcomes (`benchmarks/studies/four_tasks.yaml`): one table for all tasks, split by patient.

The table has what a task may look at, and every outcome; what all tasks of the cohort's file keep out is left out of it.
People of other groups than the two are left out, as in `fair_rows.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from supporting.fair_rows import Fair, FairSplit
from supporting.rows import TRAIN_SHARE
from supporting.tables import Table, read_table

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from pipeline.features.cohort import Cohort
    from pipeline.features.evaluation_spec import TaskSpec

STUDIES = Path(__file__).resolve().parents[1] / "studies" / "four_tasks.yaml"


class TaskOf(BaseModel):
    """An outcome beside those of the cohort's file."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    label: str = Field(description="Its column, of the cohort or derived; true is the outcome.")


class TaskStudy(BaseModel):
    """What the file says of one cohort."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    protected: str = Field(description="Column of the two groups.")
    groups: tuple[str, str] = Field(description="The favoured group, then the other.")
    subgroups: tuple[str, ...] = Field(description="Columns whose crossings LDSS is told for.")
    derived: dict[str, str] = Field(default_factory=dict, description="New column to SQL over the cohort's columns.")
    tasks: dict[str, TaskOf] = Field(default_factory=dict, description="Tasks beside those of the cohort's file.")
    paper: dict[str, str] = Field(default_factory=dict, description="Task to the paper's task.")


@dataclass(frozen=True)
class TaskTable:
    """The rows of a cohort for all of its tasks.

    Attributes:
        data: Name, protected column and groups.
        table: The rows, with what is declared of their columns.
        tasks: The tasks; each keeps the outcomes of the others out.
    """

    data: Fair
    table: Table
    tasks: tuple[TaskSpec, ...]


def read_studies(file: Path = STUDIES) -> dict[str, TaskStudy]:
    """Cohort to what the file says of it."""
    import yaml

    return {name: TaskStudy(**said) for name, said in yaml.safe_load(file.read_text(encoding="utf-8")).items()}


@cache
def read_task_table(name: str) -> TaskTable:
    """The rows of a cohort's two groups, from the real data."""
    from pipeline.features.spec import load_book

    return task_table(name, read_studies()[name], read_table(name), load_book().cohort(name).tasks)


def task_table(name: str, study: TaskStudy, table: Table, declared: list[TaskSpec]) -> TaskTable:
    """What is left of a cohort's rows for a study.

    Args:
        name: The cohort.
        study: What the file says of it.
        table: Its rows.
        declared: The tasks of its own file; what all of them keep out is left out of the table.

    Raises:
        ValueError: a derived outcome is made of a column that the tasks see.
    """
    from pipeline.features.cohort import Cohort
    from pipeline.features.evaluation_spec import TaskSpec
    from pipeline.features.infer import conform, infer_schema

    labels = {t.name: t.label for t in declared} | {key: t.label for key, t in study.tasks.items()}
    never = set.intersection(*(set(t.leak) for t in declared)) - set(labels.values()) if declared else set()
    rows, subject = _derived(table.cohort, study)
    rows = rows.drop_columns(sorted(never & set(rows.column_names)))
    for outcome, sql in study.derived.items():
        told = sorted(set(re.findall(r"\w+", sql)) & set(rows.column_names))
        if told:
            raise ValueError(
                f"{name}: '{outcome}' is made of '{told[0]}', which the tasks see: keep it out of all of them"
            )
    columns = {key: value for key, value in table.columns.items() if key in rows.column_names}
    schema = infer_schema(rows, np.ones(rows.num_rows, dtype=bool), columns, table.unit)
    cohort = Cohort(table=conform(rows, schema), schema=schema, subject=subject)
    tasks = tuple(
        TaskSpec(name=key, label=label, positive=True, leak=sorted(set(labels.values()) - {label}))
        for key, label in labels.items()
    )
    data = Fair(name, study.protected, study.groups, study.subgroups)
    return TaskTable(data, Table(cohort, columns, table.unit), tasks)


def task_splits(whole: TaskTable, seed: int, most: int | None = None) -> list[FairSplit]:
    """A split for each task, all of the same people: 70 % of the patients to learn from, `most` rows at most.

    Whoever nobody learns from is tested, so that a cap on training rows makes the test larger. All stays of a patient are
    on one side.
    """
    from pipeline.features.cohort import Cohort
    from pipeline.features.infer import conform, infer_schema

    cohort = whole.table.cohort
    people, whose = np.unique(cohort.subject, return_inverse=True)
    share = TRAIN_SHARE if most is None else min(TRAIN_SHARE, most / cohort.n_rows)
    inside: NDArray[np.bool_] = (np.random.default_rng(seed).permutation(len(people)) < share * len(people))[whose]
    schema = infer_schema(cohort.table, inside, whole.table.columns, whole.table.unit)
    rows = conform(cohort.table, schema)
    train, holdout = (
        Cohort(table=rows.filter(side), schema=schema, subject=cohort.subject[side]) for side in (inside, ~inside)
    )
    return [FairSplit(whole.data, train, holdout, task) for task in whole.tasks]


def _derived(cohort: Cohort, study: TaskStudy) -> tuple[pa.Table, NDArray[np.str_]]:
    """The rows of the two groups with the derived outcomes, and their subjects."""
    import duckdb

    numbered = cohort.table.append_column("row_number", [np.arange(cohort.n_rows)])
    more = "".join(f", {sql} AS {column}" for column, sql in study.derived.items())
    with duckdb.connect() as connection:
        connection.register("people", numbered)
        low, high = study.groups
        rows = connection.sql(
            f"SELECT *{more} FROM people WHERE \"{study.protected}\" IN ('{low}', '{high}') ORDER BY row_number"
        ).to_arrow_table()
    kept = np.asarray(rows.column("row_number"))
    return rows.drop_columns(["row_number"]), cohort.subject[kept]
