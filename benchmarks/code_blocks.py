"""Building a code block: `python benchmarks/code_blocks.py [--patients 46520] [--codes 6000] [--records 2000000]`.

Made-up diagnoses of the size of a whole hospital database (codes as popular as 1/rank, ten percent written with dots or
in lower case) are written as one delivery. Then a cohort with a count block is built from it as `features` does it: SQL,
normalisation, vocabulary of the training subjects, sparse matrix, and written to Parquet. Beside it, in the same run and
each in a process of its own, what one would write in pandas: `crosstab` after the same cleaning, which holds the whole
table of patients x codes, and `get_dummies` of the sparse kind. Printed: seconds, peak memory (less that of a process
which has only imported what it needs), and both ratios. The number of threads is one, as in the asset.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=46_520)
    parser.add_argument("--codes", type=int, default=6_000)
    parser.add_argument("--records", type=int, default=2_000_000)
    parser.add_argument("--memory", default="1GB", help="DuckDB's limit")
    parser.add_argument("--only", choices=list(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        print(json.dumps(WAYS[given.only](given.folder, given.memory)))
        return
    with tempfile.TemporaryDirectory(prefix="cohortloom-bench-") as temporary:
        folder = Path(temporary)
        write(folder, given.patients, given.codes, given.records)
        print(f"{given.records:,} records, {given.patients:,} patients, {given.codes:,} codes, DuckDB {given.memory}")
        print(f"{'':22}{'seconds':>9}{'peak, MiB':>11}{'cells':>12}{'codes':>8}{'Parquet, MiB':>14}")
        found = {}
        for way in WAYS:
            command = [sys.executable, __file__, "--only", way, "--folder", str(folder), "--memory", given.memory]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                print(f"{way:22}failed: {done.stderr.strip().splitlines()[-1] if done.stderr else done.returncode}")
                continue
            row = found[way] = json.loads(done.stdout.splitlines()[-1])
            print(
                f"{way:22}{row['seconds']:9.2f}{row['peak']:11,.0f}{row['cells']:12,}{row['codes']:8,}{row['stored']:14.1f}"
            )
        ours = found["block"]
        for way in ("crosstab", "sparse get_dummies"):
            if way in found:
                other = found[way]
                print(
                    f"{way}: {other['seconds'] / ours['seconds']:.1f} times the seconds, "
                    f"{other['peak'] / ours['peak']:.1f} times the memory of the block"
                )


def write(folder: Path, patients: int, codes: int, records: int) -> None:
    """The delivery's raw tables, the cohort's files, and the same tables for pandas."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    weight = 1 / np.arange(1, codes + 1)
    drawn = rng.choice(codes, records, p=weight / weight.sum())
    # Every code has the shape of ICD-10-CM: letter, digit, digit, digit, digit.
    number = np.arange(codes)
    names = np.array([f"{chr(65 + n // 1000 % 26)}{n // 10 % 100:02d}{n % 10}{n % 7}" for n in number])
    dotted = np.array([f"{name[:3].lower()}.{name[3:]}" for name in names])
    written = np.where(rng.random(records) < 0.1, dotted[drawn], names[drawn])
    given = pa.table({"subject": rng.integers(0, patients, records), "code": pa.array(written.tolist(), pa.string())})
    pq.write_table(given, folder / "given.parquet")
    pq.write_table(pa.table({"subject": np.arange(patients)}), folder / "people.parquet")
    (folder / "b.sql").write_text("SELECT subject FROM people\n")
    (folder / "b.codes.sql").write_text("SELECT subject, code FROM given\n")


def block(folder: Path, memory: str) -> dict[str, float]:
    """As the asset `features` makes it."""
    from pipeline.features.build import build_features, gather_inputs, write_features
    from pipeline.features.source import SourceSpec
    from pipeline.features.spec import CohortSpec
    from pipeline.features.split import PUBLISHED_KEY
    from pipeline.features.stored import read_parquet
    from pipeline.store.home import Home
    from pipeline.store.lake import Lake

    lake = Lake(Home(folder / "home").ensure())
    source = SourceSpec(name="b", format="table", dates="none", split_key="published")
    with lake.tables.draft("raw/table", {"delivery": "b--a"}) as draft:
        for name in ("people", "given"):
            draft.file(f"{name}.parquet").write_bytes((folder / f"{name}.parquet").read_bytes())
        draft.commit(info={"source": "b", "as_of": date(2026, 10, 1).isoformat()})
    settings = {"sql": "b.codes.sql", "kind": "count", "normalise": "icd10", "min_subjects": 1}
    spec = CohortSpec(
        name="b", source="b", subject="subject", sql="b.sql", blocks={"dx": settings}, generators={}, folder=folder
    )
    inputs = gather_inputs(spec, source, "2026-10-01", lake, lake.home)
    read_parquet(folder / "people.parquet")  # imports
    before, began = peak(), time.perf_counter()
    built = build_features(spec, source, inputs, lake, PUBLISHED_KEY, threads=1, memory_limit=memory)
    with lake.tables.draft("features", {"cohort": "b", "month": "2026-10-01"}) as draft:
        write_features(built, draft)
        version = draft.commit()
    seconds = time.perf_counter() - began
    size = lake.tables.path(version, "block_dx").stat().st_size
    matrix = built.cohort.blocks["dx"]
    return figures(seconds, before, matrix.nnz, matrix.shape[1], size)


def crosstab(folder: Path, _: str) -> dict[str, float]:
    """The whole table of patients x codes in memory, and as a Parquet file of as many columns."""
    import pandas as pd

    pd.DataFrame({"a": [1]}).to_parquet(folder / "imports.parquet")
    before, began = peak(), time.perf_counter()
    given = pd.read_parquet(folder / "given.parquet")
    code = given["code"].str.upper().str.replace(".", "", regex=False)
    table = pd.crosstab(given["subject"], code).astype(np.int32)
    table.to_parquet(folder / "wide.parquet")
    seconds = time.perf_counter() - began
    return figures(
        seconds, before, int((table.to_numpy() > 0).sum()), table.shape[1], (folder / "wide.parquet").stat().st_size
    )


def sparse_dummies(folder: Path, _: str) -> dict[str, float]:
    """Sparse columns a record, summed by patient; nothing is written."""
    import pandas as pd
    from scipy.sparse import csr_matrix

    before, began = peak(), time.perf_counter()
    given = pd.read_parquet(folder / "given.parquet")
    code = given["code"].str.upper().str.replace(".", "", regex=False)
    wide = pd.get_dummies(code, sparse=True, dtype=np.int32)
    rows = csr_matrix((np.ones(len(given), np.int32), (given["subject"], np.arange(len(given)))))
    matrix = rows @ wide.sparse.to_coo().tocsr()
    return figures(time.perf_counter() - began, before, matrix.nnz, matrix.shape[1], 0)


def peak() -> float:
    """Peak resident memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def figures(seconds: float, before: float, cells: int, codes: int, stored: int) -> dict[str, float]:
    """One line of the table."""
    return {"seconds": seconds, "peak": peak() - before, "cells": cells, "codes": codes, "stored": stored / 2**20}


WAYS = {"block": block, "crosstab": crosstab, "sparse get_dummies": sparse_dummies}


if __name__ == "__main__":
    main()
