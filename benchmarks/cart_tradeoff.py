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
from supporting.tables import FILES, detection, membership, read_table

LIMIT = 0.53
LEAVES = (5, 10, 15, 30, 60)
RULES: dict[str, dict[str, Any]] = {
    "plain: one tree, donors as they are": {"preset": "paper", "order": "association", "numeric_target": "scores"},
    "five trees, donors redrawn in a window": {"gain": 0.0},
    "the same, splits that are noise left out": {},
    "the same, donors moved within the leaf": {"smoothing": "leaf"},
}
COLOURS = ("#b3261e", "#8a6d00", "#1d6b3a", "#2456a5")
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
        given.plot.write_text(drawn(points), encoding="utf-8")


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


def drawn(points: list[Point]) -> str:
    """The points as an SVG: membership to the right, detection upwards, one line a rule, leaf sizes beside it."""
    left, top, width, height = 70, 20, 560, 340
    x = [p.figures["membership"] for p in points]
    y = [p.figures["detection"] for p in points]
    low_x, high_x = min(0.495, *x), max(0.54, *x) + 0.005
    low_y, high_y = min(0.5, *y), max(y) + 0.01

    def place(point: Point) -> tuple[float, float]:
        across = (point.figures["membership"] - low_x) / (high_x - low_x)
        up = (point.figures["detection"] - low_y) / (high_y - low_y)
        return left + across * width, top + height - up * height

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 20} {top + height + 140}" '
        'font-family="sans-serif" font-size="12" fill="#222">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="none" stroke="#999"/>',
    ]
    for value in np.arange(np.ceil(low_x * 100) / 100, high_x, 0.01):
        at = left + (value - low_x) / (high_x - low_x) * width
        out.append(f'<text x="{at:.1f}" y="{top + height + 18}" text-anchor="middle">{value:.2f}</text>')
    for value in np.arange(np.ceil(low_y * 50) / 50, high_y, 0.02):
        at = top + height - (value - low_y) / (high_y - low_y) * height
        out.append(f'<text x="{left - 8}" y="{at + 4:.1f}" text-anchor="end">{value:.2f}</text>')
    at = left + (LIMIT - low_x) / (high_x - low_x) * width
    out += [
        f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{top}" y2="{top + height}" stroke="#999" stroke-dasharray="4 4"/>',
        f'<text x="{left + width / 2}" y="{top + height + 38}" text-anchor="middle">'
        "membership AUC (0.5: nothing is told; dashed: the limit)</text>",
        f'<text transform="translate(18 {top + height / 2}) rotate(-90)" text-anchor="middle">detection AUC</text>',
    ]
    for i, (rule, colour) in enumerate(zip(RULES, COLOURS, strict=True)):
        mine = [p for p in points if p.rule == rule]
        at_points = [place(p) for p in mine]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in at_points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}"/>')
        for point, (a, b) in zip(mine, at_points, strict=True):
            out.append(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5" fill="{colour}"/>')
            out.append(f'<text x="{a + 6:.1f}" y="{b - 5:.1f}" fill="{colour}">{point.leaf}</text>')
        row = top + height + 62 + 18 * i
        out.append(f'<circle cx="{left + 6}" cy="{row - 4}" r="4" fill="{colour}"/>')
        out.append(f'<text x="{left + 16}" y="{row}">{rule}; the number is the leaf size</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


if __name__ == "__main__":
    main()
