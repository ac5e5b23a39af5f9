"""What `cart` pays for protecting people: detection against membership inference, over leaf sizes and donor rules.

    .venv/bin/python benchmarks/cart_tradeoff.py [--seeds 3] [--plot docs/generators/cart-tradeoff.svg]
    .venv/bin/python benchmarks/cart_tradeoff.py --tables adult compas diabetes130 support2 heart

The first: SUPPORT, 70/30 at random with seed 0, each point the mean of the seeds, judged against the holdout
(`supporting/quality.py` says what each figure is). The second: membership and detection of the default and of plain
synthpop (preset `paper`) on other tables, at most 20,000 rows, each split by subject several times.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path
from time import process_time
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import numpy as np
from supporting.quality import quality
from supporting.rows import plain, split_support
from supporting.scatter import Mark, Panel, Series, drawn
from supporting.tables import FILES, detection, membership, read_table

LIMIT = 0.53
LEAVES = (5, 10, 15, 30, 60)
RULES: dict[str, dict[str, Any]] = {
    "plain: one tree, donors as they are": {"preset": "paper", "order": "association", "numeric_target": "scores"},
    "five trees, donors redrawn in a window": {"gain": 0.0},
    "the same, splits that are noise left out": {},
    "the same, donors moved within the leaf": {"smoothing": "leaf"},
}
MOST_ROWS = 20_000


@dataclass
class Point:
    """One setting and its figures, the mean of the seeds."""

    rule: str
    leaf: int
    figures: dict[str, float] = field(default_factory=dict)


def main() -> None:
    """Measure, print, and draw if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--leaves", type=int, nargs="*", default=list(LEAVES))
    parser.add_argument("--plot", type=Path, help="write the plot of the first to this SVG file")
    parser.add_argument("--tables", nargs="*", choices=sorted(FILES), help="other tables instead of SUPPORT")
    parser.add_argument("--splits", type=int, default=3)
    given = parser.parse_args()
    if given.tables:
        other_tables(given.tables, given.splits)
        return
    points = on_support(given.leaves, given.seeds)
    if given.plot:
        given.plot.parent.mkdir(parents=True, exist_ok=True)
        told = "membership AUC (0.5: nothing is told; dashed: the limit)"
        given.plot.write_text(drawn([panel(points)], x_title=told, y_title="detection AUC"), encoding="utf-8")


def on_support(leaves: list[int], seeds: int) -> list[Point]:
    """Every rule with every leaf size on SUPPORT."""
    from pipeline.generators.registry import generator_class

    split = split_support()
    train, holdout = split.frames
    print(f"| rule | leaf | detection | membership | TPR at 1 % | TSTR | SVC | corr RMSE | CPU s |\n|{' --- |' * 9}")
    points = []
    for rule, settings in RULES.items():
        for leaf in leaves:
            found: list[dict[str, float]] = []
            for seed in range(seeds):
                began = process_time()
                model = generator_class("cart")({**settings, "leaf": leaf})
                model.fit(split.train, seed=seed)
                took = process_time() - began
                rows = model.sample(split.train.n_rows, seed=seed)
                found.append({**vars(quality(train, holdout, plain(rows))), "cpu": took})
            point = Point(rule, leaf, {k: float(np.mean([f[k] for f in found])) for k in found[0]})
            points.append(point)
            f = point.figures
            print(
                f"| {rule} | {leaf} | {f['detection']:.3f} | {f['membership']:.3f} | {f['tpr']:.3f} | {f['tstr']:.4f} | "
                f"{f['svc']:.3f} | {f['correlation']:.3f} | {f['cpu']:.1f} |",
                flush=True,
            )
    return points


def other_tables(names: list[str], splits: int) -> None:
    """The default and plain synthpop on other tables; small ones are split more often."""
    from pipeline.generators.registry import generator_class

    print(f"| table | training rows | preset | detection | membership (standard error) |\n|{' --- |' * 5}")
    for name in names:
        table = read_table(name)
        times = splits * max(1, min(5, 2_000 // table.cohort.n_rows))
        for preset in ("default", "paper"):
            attacks, told, rows = [], [], 0
            for seed in range(times):
                train, holdout = table.split(seed, MOST_ROWS)
                model = generator_class("cart")({"preset": preset})
                model.fit(train, seed=seed)
                synthetic = model.sample(train.n_rows, seed=seed)
                attacks.append(membership(train, holdout, synthetic))
                told.append(detection(holdout, synthetic))
                rows = train.n_rows
            error = np.std(attacks, ddof=1) / np.sqrt(times) if times > 1 else np.nan
            line = f"| {name} | {rows:,} | {preset} | {np.mean(told):.3f} | {np.mean(attacks):.3f} ({error:.3f}) |"
            print(line, flush=True)


def panel(points: list[Point]) -> Panel:
    """Membership to the right, detection upwards, one line a rule, leaf sizes beside it."""
    series = []
    for rule in RULES:
        mine = [p for p in points if p.rule == rule]
        marks = [Mark(p.figures["membership"], p.figures["detection"], text=str(p.leaf)) for p in mine]
        series.append(Series(f"{rule}; the number is the leaf size", marks, joined=True))
    return Panel("SUPPORT", series, limit=LIMIT)


if __name__ == "__main__":
    main()
