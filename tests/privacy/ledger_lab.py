"""A cell with features and a generator that spends, for the tests of the privacy ledger; needs no Dagster."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline.features.cohort import Cohort
from pipeline.features.schema import Column, TableSchema
from pipeline.features.source import SourceSpec
from pipeline.features.spec import CohortSpec
from pipeline.features.stored import write_cohort
from pipeline.generators.base import FitReport
from pipeline.generators.independent import Independent
from pipeline.generators.registry import BUILT_IN
from pipeline.workflow.cell import Cell
from pipeline.workflow.compute import Compute
from pipeline.workflow.training import Made, fit_step

if TYPE_CHECKING:
    from pipeline.privacy.spec import PrivacySpec
    from pipeline.store.lake import Lake

MONTH = "2026-10-01"
CANARY = "Qvexxanthe"
"""A made-up patient's word that must never reach the journal."""


class Spends(Independent):
    """Says that it trained privately; gives other bytes where SPENDS_NOISE is set, and fails as SPENDS_FAILS says."""

    name = "spends"
    title = "Spends what is asked"

    def fit(self, cohort: Cohort, *, privacy: PrivacySpec | None = None, **how: Any) -> FitReport:
        failure = os.environ.get("SPENDS_FAILS")
        if failure == "memory":
            raise MemoryError
        if failure:
            raise RuntimeError(f"row of {CANARY} broke the training")
        report = super().fit(cohort, **how)
        spent = os.environ.get("SPENDS_REPORT", "asked")
        if privacy is not None and spent == "asked":
            report.privacy = {"epsilon": privacy.epsilon, "delta": privacy.delta}
        elif spent != "asked":
            report.privacy = {"epsilon": float(spent), "delta": 0.0} if spent != "nothing" else None
        return report

    def save(self, folder: Path) -> None:
        super().save(folder)
        (folder / "noise.txt").write_text(os.environ.get("SPENDS_NOISE", ""))


def enlist() -> None:
    """Register the generator under its name."""
    BUILT_IN[Spends.name] = "ledger_lab:Spends"


def cell(
    *,
    month: str = MONTH,
    budget: tuple[float, float] | None = None,
    asked: tuple[float, float] | None = (1.0, 1e-6),
    replicates: int = 1,
    seed: int = 0,
    **generators: dict[str, Any],
) -> Cell:
    """A cell of the cohort `lab`, with `spends` unless other generators are named."""
    trainings = {} if asked is None else {"spends": {"epsilon": asked[0], "delta": asked[1]}}
    policy = {"budget": None if budget is None else {"epsilon": budget[0], "delta": budget[1]}, "trainings": trainings}
    spec = CohortSpec(
        name="lab",
        source="clinic",
        unit="row",
        subject="row",
        sql="lab.sql",
        generators={"spends": {}, **generators},
        privacy=policy,  # type: ignore[arg-type]  # pydantic reads the mapping
        replicates=replicates,
        seed=seed,
    )
    return Cell(spec, SourceSpec(name="clinic", format="table"), month)


def features(lake: Lake, month: str = MONTH, *, rows: int = 60, seed: int = 0) -> None:
    """Commit features for the cell of a month."""
    rng = np.random.default_rng(seed)
    schema = TableSchema(
        columns=[
            Column(name="age", kind="continuous", dtype="float64", bounds=(0, 120)),
            Column(name="name", kind="categorical", dtype="string", levels=[CANARY, "other"]),
        ]
    )
    table = pa.table({"age": rng.normal(60, 9, rows), "name": rng.choice([CANARY, "other"], rows)})
    cohort = Cohort(
        table=table.cast(schema.arrow()),
        schema=schema,
        subject=np.array([f"s{i}" for i in range(rows)]),
        split=np.array(["train", "holdout"] * (rows // 2)),
        tune=np.zeros(rows, dtype=bool),
    )
    with lake.tables.draft("features", {"cohort": "lab", "month": month}) as draft:
        write_cohort(cohort, draft)
        draft.commit(info={"counts": {"subjects/train": rows // 2}})


def fit(lake: Lake, where: Cell, generator: str = "spends") -> Made:
    """Train on the CPU."""
    return fit_step(lake, where, generator, Compute(device="cpu"))
