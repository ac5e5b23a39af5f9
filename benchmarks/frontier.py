"""Fidelity against privacy over tables: `python benchmarks/frontier.py [--tables support heart ...] [--plot FILE.svg]`.

Every generator on every table, split by subject several times: detection AUC of boosted trees (0.5: nobody can tell
synthetic from holdout rows) against the membership AUC of the distance attack (0.5: nobody can tell who was learned
from). Fidelity of trees at the privacy of deep models is what is looked for: the lower left corner. Mean of the splits
and its standard error; "training rows" is where copies of the training rows stand. At most `--rows` rows a table.

Cells are kept as JSON lines in `--keep`, one a line, so that a run that was stopped goes on, and a generator that is
added costs only its own cells. `tables.py` and `quality.py` in `supporting/` say what the figures are.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path
from time import process_time

sys.path.insert(0, str(Path(__file__).resolve().parent))
import numpy as np
from supporting.cells import keep_cell, kept_cells
from supporting.scatter import Mark, Panel, Series, drawn
from supporting.tables import FILES, STUDIES, Table, detection, membership, read_table

TABLES = ("support", "diabetes130", "heart", "gbsg")
LIMIT = 0.515
CEILING = "training rows"
FEW_ROWS = 2_000
"""Small tables are split more often, as their figures scatter more."""


def main() -> None:
    """Measure the missing cells, print all, and draw if asked to."""
    from pipeline.generators.registry import generator_names

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=sorted([*FILES, *STUDIES]), default=list(TABLES))
    parser.add_argument("--generators", nargs="+", choices=generator_names(), default=generator_names())
    parser.add_argument("--splits", type=int, default=2, help="of a table; five times as many of a small one")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--keep", type=Path, help="JSON lines of the cells")
    parser.add_argument("--plot", type=Path, help="write the plot to this SVG file")
    given = parser.parse_args()
    cells = kept_cells(given.keep)
    panels = []
    print(f"| table | generator | detection (SE) | membership (SE) | fit CPU s |\n|{' --- |' * 5}")
    for name in given.tables:
        table = read_table(name)
        splits = given.splits * max(1, min(5, FEW_ROWS // table.cohort.n_rows))
        panels.append(Panel(name, [], limit=LIMIT))
        for generator in [CEILING, *given.generators]:
            found = []
            for seed in range(splits):
                key = f"{name}/{generator}/{seed}/{given.rows}"
                if key not in cells:
                    cells[key] = _cell(table, generator, seed, given.rows)
                    keep_cell(given.keep, key, cells[key])
                found.append(cells[key])
            mark = _mark(found)
            took = np.mean([c["cpu"] for c in found])
            print(
                f"| {name} | {generator} | {mark.y:.3f} ({mark.y_error:.3f}) | {mark.x:.3f} ({mark.x_error:.3f}) | "
                f"{took:.1f} |",
                flush=True,
            )
            if generator == CEILING:
                panels[-1].ceiling = None if mark.x > 0.9 else mark
            else:
                panels[-1].series.append(Series(generator, [mark]))
    if given.plot:
        given.plot.parent.mkdir(parents=True, exist_ok=True)
        svg = drawn(panels, x_title="membership AUC (dashed: the limit)", y_title="detection AUC")
        given.plot.write_text(svg, encoding="utf-8")


def _cell(table: Table, generator: str, seed: int, rows: int) -> dict[str, float]:
    """One training on one split."""
    from pipeline.generators.registry import generator_class

    train, holdout = table.split(seed, rows)
    began = process_time()
    if generator == CEILING:
        synthetic = train
    else:
        model = generator_class(generator)()
        model.fit(train, seed=seed)
        synthetic = model.sample(train.n_rows, seed=seed)
    took = process_time() - began
    return {
        "detection": detection(holdout, synthetic),
        "membership": membership(train, holdout, synthetic),
        "cpu": took,
    }


def _mark(found: list[dict[str, float]]) -> Mark:
    by_name: dict[str, list[float]] = defaultdict(list)
    for cell in found:
        for name, value in cell.items():
            by_name[name].append(value)
    mean = {k: float(np.mean(v)) for k, v in by_name.items()}
    error = {k: float(np.std(v, ddof=1) / np.sqrt(len(v))) if len(v) > 1 else 0.0 for k, v in by_name.items()}
    return Mark(mean["membership"], mean["detection"], error["membership"], error["detection"])


if __name__ == "__main__":
    main()
