"""The made-up cohorts that are judged: 20 mixed columns driven by three hidden factors, and a sparse block if asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from pipeline.evaluation.context import Parts
    from pipeline.evaluation.plan import EvaluationPlan
    from pipeline.features.cohort import Cohort

DENSITY = 0.013
"""Share of cells of the count block that are not zero, as in the 1,071 diagnosis codes of MIMIC-III."""
CHUNK = 1_000
"""Rows of a block that are drawn at once: a dense block of 50,000 rows would be the peak of the measurement."""
GIB = 2.0


@dataclass(frozen=True)
class Case:
    """One size.

    Attributes:
        name: How it is called on the command line.
        rows: Rows of the whole cohort; half of them are for training, and as many are synthetic.
        codes: Codes of the block.
        counts: Is it a block of counts?
        seconds: Budget by profile; none where there is none.
    """

    name: str
    rows: int
    codes: int = 0
    counts: bool = False
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """In words."""
        block = f" + {self.codes:,} {'counts' if self.counts else 'codes'}" if self.codes else ""
        return f"{self.rows:,} x 20 mixed{block}"


CASES = {
    case.name: case
    for case in (
        Case("mixed", 10_000, seconds={"quick": 60}),
        Case("codes", 10_000, 1_000, seconds={"quick": 180}),
        Case("counts", 50_000, 1_071, counts=True, seconds={"standard": 1_800}),
    )
}


def population(n: int, codes: int, seed: int, counts: bool = False) -> Cohort:
    """n rows of 20 mixed columns, 5 % of the cells of four columns missing, and a block of `codes`."""
    from pipeline.features.cohort import assemble
    from pipeline.features.schema import CodeBlock, Column, TableSchema

    shape = np.random.default_rng(0)
    loads = shape.normal(size=(20, 3))
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(n, 3))
    latent = hidden @ loads.T + rng.normal(size=(n, 20))
    columns, values = [], {}
    for i in range(20):
        name, x = f"c{i:02d}", latent[:, i]
        if i < 8:
            x = np.round(np.exp(x / 4) * 40 if i % 2 else x * 10 + 60, 3)
            values[name] = np.where(rng.random(n) < 0.05, np.nan, x) if i < 4 else x
            columns.append(Column(name=name, kind="continuous", dtype="float64", nullable=i < 4))
        elif i < 10:
            values[name] = rng.poisson(np.exp(np.clip(x / 3, -2, 3))).astype(float)
            columns.append(Column(name=name, kind="count", dtype="int64"))
        elif i < 15:
            values[name] = (x > i - 12).astype(int)
            columns.append(Column(name=name, kind="binary", dtype="bool", levels=[False, True]))
        else:
            k = 3 + i - 14
            values[name] = np.clip(np.round(x + k / 2), 0, k - 1).astype(int)
            levels = [f"level {j}" for j in range(k)]
            kind = "ordinal" if i == 15 else "categorical"
            columns.append(Column(name=name, kind=kind, dtype="string", levels=levels))
    if not codes:
        return assemble(TableSchema(columns=columns), values)
    matrix = _block(hidden > 0, codes, counts, shape, rng)
    vocabulary = [f"K{i:04d}" for i in range(codes)]
    described = CodeBlock(name="codes", kind="count" if counts else "binary", vocabulary=vocabulary)
    return assemble(TableSchema(columns=columns, blocks=[described]), values, blocks={"codes": matrix})


def _block(
    ill: np.ndarray, codes: int, counts: bool, shape: np.random.Generator, rng: np.random.Generator
) -> csr_matrix:
    """(n, codes): each of three hidden states brings codes of its own, a few of them often, most of them rarely."""
    from scipy.sparse import csr_matrix, vstack

    rate = shape.gamma(0.15, 0.06, size=(3, codes))
    if counts:
        rate *= (DENSITY - 0.001) / (1.5 * rate.mean())
    pieces = []
    for start in range(0, len(ill), CHUNK):
        some = ill[start : start + CHUNK]
        chance = np.clip(some @ rate + 0.001, 0, 0.8)
        pieces.append(csr_matrix((rng.random(chance.shape) < chance).astype(np.float32)))
    matrix = vstack(pieces, format="csr", dtype=np.float32)
    if counts:
        matrix.data += rng.poisson(0.6, matrix.nnz).astype(np.float32)
    return matrix


def parts_and_synthetic(case: Case) -> tuple[Parts, Cohort]:
    """The real parts (50/25/12.5/12.5) and another draw of the same population, as many rows as there are for training."""
    from pipeline.evaluation.protocol import Parts

    cohort = population(case.rows, case.codes, 1, case.counts)
    rows = case.rows
    ends = np.cumsum([rows // 2, rows // 4, rows // 8, rows - rows // 2 - rows // 4 - rows // 8])
    parts = Parts(*(cohort.take(np.arange(b - a, b)) for a, b in zip(np.diff(ends, prepend=0), ends, strict=True)))
    return parts, population(parts.train.n_rows, case.codes, 2, case.counts)


def plan_of(profile: str) -> EvaluationPlan:
    """What a cohort's file asks: a task, two protected columns, a regression with a contrast, six columns known."""
    from pipeline.evaluation.plan import EvaluationPlan
    from pipeline.features.evaluation_spec import AnalysisSpec, TaskSpec

    covariates = ["c00", "c01", "c04", "c05", "c10", "c13", "c16"]
    return EvaluationPlan(
        tasks=(TaskSpec(name="task", label="c12"),),
        protected=("c13", "c16"),
        analyses=(AnalysisSpec(name="effect", kind="logistic", outcome="c12", covariates=covariates, contrast="c13"),),
        known=("c00", "c05", "c08", "c13", "c15", "c16"),
        profile=profile,
    )
