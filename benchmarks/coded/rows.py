"""DE-SynPUF as patients x 3-character ICD-9 codes, counted, split 70/30 by patient: the shape of ScoEHR's and medGAN's data.

The MIMIC matrices that the papers used are credentialed. A claim's code counts once, however often it is written on it;
E-codes keep four characters, as in the cohort `synpuf_codes`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.features.cohort import Cohort

BLOCK = "diagnoses"
HOLDOUT = 0.3
FEWEST = 1
DIAGNOSES = [f"ICD9_DGNS_CD_{i}" for i in range(1, 11)]


@dataclass(frozen=True)
class Split:
    """People to learn from, and others."""

    train: Cohort
    holdout: Cohort


def split_codes(rows: int | None = None) -> Split:
    """The counts of DE-SynPUF's inpatient diagnoses.

    Args:
        rows: training rows to keep, at random; the holdout has three for seven of them. None for all.

    Raises:
        SystemExit: COHORTLOOM_DATA names no folder with `cms-desynpuf`.
    """
    import pandas as pd
    from scipy.sparse import csr_matrix

    folder = Path(os.environ.get("COHORTLOOM_DATA", "")) / "cms-desynpuf"
    files = sorted(folder.glob("**/DE1_0_2008_to_2010_Inpatient_Claims_Sample_*.csv.gz"))
    if not files:
        raise SystemExit("Set COHORTLOOM_DATA to a folder that holds 'cms-desynpuf'.")
    read = [pd.read_csv(file, dtype=str, usecols=["DESYNPUF_ID", "CLM_ID", *DIAGNOSES]) for file in files]
    wide = pd.concat(read).drop_duplicates()
    long = wide.melt(["DESYNPUF_ID", "CLM_ID"], DIAGNOSES, value_name="code").dropna(subset="code")
    long = long.drop_duplicates(["DESYNPUF_ID", "CLM_ID", "code"])
    code = long["code"].str.strip().str.upper()
    code = code.where(code.str.startswith("E"), code.str[:3]).str[:4]
    people = np.unique(wide["DESYNPUF_ID"].to_numpy())
    number = dict(zip(people, range(len(people)), strict=True))
    names, column = np.unique(code.to_numpy(dtype=str), return_inverse=True)
    row = long["DESYNPUF_ID"].map(number).to_numpy()
    counts = csr_matrix((np.ones(len(row)), (row, column)), shape=(len(people), len(names)))
    order = np.random.default_rng(0).permutation(len(people))
    cut = round((1 - HOLDOUT) * len(people))
    learned, other = order[:cut], order[cut:]
    if rows is not None:
        learned, other = learned[:rows], other[: round(rows * HOLDOUT / (1 - HOLDOUT))]
    carriers = np.asarray((counts[learned] > 0).sum(axis=0)).ravel()
    kept = np.flatnonzero(carriers >= FEWEST)
    vocabulary = [str(names[i]) for i in kept]
    return Split(cohort(counts[learned][:, kept], vocabulary), cohort(counts[other][:, kept], vocabulary))


def cohort(counts: object, vocabulary: list[str]) -> Cohort:
    """A cohort of one block of counts and nothing else."""
    from pipeline.features.cohort import assemble
    from pipeline.features.schema import CodeBlock, TableSchema

    schema = TableSchema(
        columns=[], blocks=[CodeBlock(name=BLOCK, kind="count", vocabulary=vocabulary)], unit="patient"
    )
    return assemble(schema, {}, blocks={BLOCK: counts})


def dense(table: Cohort) -> NDArray[np.float32]:
    """(people, codes) counts."""
    return np.asarray(table.blocks[BLOCK].toarray(), dtype=np.float32)
