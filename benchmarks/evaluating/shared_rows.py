"""The rows that peers and we judge: 20 mixed columns without missing cells, equally many on each side, 2 % copied."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from evaluating.own_process import PARTS
from evaluating.population import population

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.evaluation.plan import EvaluationPlan
    from pipeline.features.cohort import Cohort

COPIED = 0.02
LABEL, GROUP = "c12", "c13"
KNOWN, SECRET = ["c13", "c15", "c16"], "c12"


def shared_rows(n: int) -> dict[str, Cohort]:
    """train, holdout and synthetic, each of n rows; peers take neither missing cells nor code blocks."""
    train, holdout, made = (_complete(n, seed) for seed in (1, 3, 2))
    copies = int(COPIED * n)
    order = np.random.default_rng(0).permutation(n)
    return dict(zip(PARTS, (train, holdout, _joined(train.take(np.arange(copies)), made.take(np.arange(copies, n))).take(order)), strict=True))  # fmt: skip


def _complete(n: int, seed: int) -> Cohort:
    drawn = population(int(1.4 * n) + 50, 0, seed)
    known = np.all([~np.array(column.is_null()) for column in drawn.table.columns], axis=0)
    return drawn.take(np.flatnonzero(known)[:n])


def _joined(a: Cohort, b: Cohort) -> Cohort:
    import pyarrow as pa

    subject = np.array([f"made-{i}" for i in range(a.n_rows + b.n_rows)])
    return replace(a, table=pa.concat_tables([a.table, b.table]), subject=subject)


def plan() -> EvaluationPlan:
    """The same questions for us: 1,000 bootstrap draws, and at most 10,000 rows a side."""
    from pipeline.evaluation.plan import EvaluationPlan
    from pipeline.features.evaluation_spec import TaskSpec

    return EvaluationPlan(
        tasks=(TaskSpec(name="task", label=LABEL),),
        protected=(GROUP,),
        known=tuple(KNOWN),
        secrets=(SECRET,),
        profile="standard",
    )


def write(rows: dict[str, Cohort], folder: Path) -> None:
    """The rows as CSV, and what peers must be told; truth values as 0 and 1."""
    import pyarrow as pa
    import pyarrow.csv as csv

    for name, cohort in rows.items():
        columns = {
            column: values.cast(pa.int8()) if values.type == pa.bool_() else values
            for column, values in zip(cohort.table.column_names, cohort.table.columns, strict=True)
        }
        csv.write_csv(pa.table(columns), folder / f"{name}.csv")
    levels = [c.name for c in rows["train"].schema.columns if c.discrete]
    asked = {"levels": levels, "label": LABEL, "group": GROUP, "known": KNOWN, "secret": SECRET}
    (folder / "asked.json").write_text(json.dumps(asked))


def only(cohort: Cohort, what: str) -> Cohort:
    """All columns, or those that are "numbers" or "levels"."""
    if what == "all":
        return cohort
    kept = [c for c in cohort.schema.columns if c.discrete == (what == "levels")]
    schema = cohort.schema.model_copy(update={"columns": kept})
    return replace(cohort, schema=schema, table=cohort.table.select([c.name for c in kept]))
