"""Generators of code counts: `python benchmarks/codes.py [--generators vae,scoehr] [--rows 4000] [--seeds 1]`.

DE-SynPUF's inpatient diagnoses as patients x 3-character ICD-9 codes (COHORTLOOM_DATA names the folder that holds
`cms-desynpuf`), 70/30 by patient. Each generator trains and draws in a process of its own; a table is judged against
the holdout by the system's own evaluation. Two lines of real rows come first: the training rows themselves, and every
code shuffled by itself. A preset that is too slow for two cores at full size runs on the part that its line names
(`--whole` runs it all). What papers print stands below, with what is wrong with it. Building code blocks is timed by
`code_blocks.py`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from coded.figures import Figures, figures
from coded.published import NOTES, PRINTED
from coded.rows import BLOCK, Split, cohort, dense, split_codes
from coded.systems import SYSTEMS, System

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.features.cohort import Cohort

COLUMN = 12
TOOK = {"fit_s": "fit s", "draw_s": "draw s", "peak_mib": "MiB"}


def main() -> None:
    """Print a line a generator."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generators", default="", help="names of the table, e.g. 'vae,scoehr paper'; all by default")
    parser.add_argument("--rows", type=int, help="training rows; all by default")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--whole", action="store_true", help="train slow presets on all rows too")
    parser.add_argument("--keep", type=Path, help="folder that keeps what was drawn, so that it is not trained again")
    given = parser.parse_args()
    wanted = [name.strip() for name in given.generators.split(",") if name.strip()] or [s.name for s in SYSTEMS]
    chosen = [_chosen(name) for name in wanted]
    chosen = [replace(s, rows=None, drawn=None) if given.whole else s for s in chosen]
    split = split_codes(given.rows)
    people, codes = split.train.blocks[BLOCK].shape
    print(f"{people:,} people, {codes:,} codes, {split.holdout.n_rows:,} held out, {given.seeds} seeds")
    print(f"{'':20}" + "".join(f"{name:>{COLUMN}}" for name in [*Figures.names(), *TOOK.values()]))
    found, nulls = figures(split, split.train)
    print(_line("training rows", [asdict(found)], []), flush=True)
    print(_line("each code shuffled", [asdict(figures(split, _shuffled(split))[0])], []), flush=True)
    print(f"{'two real samples':20}" + "".join(f"{_text(nulls.get(name)):>{COLUMN}}" for name in Figures.names()))
    with tempfile.TemporaryDirectory(prefix="cohortloom-bench-") as temporary:
        folder = given.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for system in chosen:
            print(judged(system, given.seeds, given.rows, split, folder), flush=True)
    print("\nPrinted elsewhere (not comparable in size: other people, other numbers of rows and codes):")
    for name in wanted:
        if name in PRINTED:
            print(f"  {name}: {PRINTED[name]}")
    print("\n".join(f"  - {note}" for note in NOTES))


def judged(system: System, seeds: int, rows: int | None, split: Split, folder: Path) -> str:
    """The line of one generator, or why there is none."""
    from scipy.sparse import load_npz

    part = system.on(rows)
    # A part has its own vocabulary and holdout: the same figures on fewer people.
    own = split if part == rows else split_codes(part)
    vocabulary = own.train.schema.blocks[0].vocabulary
    found, took = [], []
    for seed in range(seeds):
        try:
            out, facts = system.run(seed, rows, folder)
        except subprocess.CalledProcessError as error:
            last = (error.stderr or "").strip().splitlines()
            return f"{system.name:20}  failed: {last[-1] if last else error.returncode}"
        found.append(asdict(figures(own, cohort(load_npz(out), vocabulary))[0]))
        took.append(facts)
    note = f"   {system.note}" if system.note else ""
    if system.on(rows) != rows or system.drawn:
        note += f"   learned from {own.train.n_rows:,}, drew {system.drawn or own.train.n_rows:,}"
    return _line(system.name, found, took) + note


def _chosen(name: str) -> System:
    for system in SYSTEMS:
        if system.name == name:
            return system
    # Any other generator or preset: "scoehr paper_ae64".
    generator, _, preset = name.partition(" ")
    return System(name, generator, {"preset": preset} if preset else {})


def _shuffled(split: Split) -> Cohort:
    """Every code by itself: right prevalences, no dependence."""
    from scipy.sparse import csr_matrix

    counts, rng = dense(split.train), np.random.default_rng(0)
    return cohort(csr_matrix(rng.permuted(counts, axis=0)), split.train.schema.blocks[0].vocabulary)


def _line(name: str, found: list[Mapping[str, float | None]], took: list[dict[str, float]]) -> str:
    cells = [_mean([row[key] for row in found]) for key in Figures.names()]
    cells += [f"{np.mean([row[key] for row in took]):,.1f}" if took else "" for key in TOOK]
    return f"{name:20}" + "".join(f"{cell:>{COLUMN}}" for cell in cells)


def _mean(values: list[float | None]) -> str:
    """Mean over seeds, and the standard deviation where there are several."""
    known = [v for v in values if v is not None]
    if not known:
        return "-"
    text = _text(float(np.mean(known)))
    return text if len(known) == 1 else f"{text}±{np.std(known, ddof=1):.2g}"


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


if __name__ == "__main__":
    main()
