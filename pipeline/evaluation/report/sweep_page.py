"""What privacy costs, as one HTML page without scripts: every figure of an epsilon sweep against epsilon.

One small chart a figure (mean over the seeds with its interval, the figure of fresh real rows as a dashed line), and all
numbers as a table below. The same rows give the same bytes. How a sweep is run is in `pipeline/workflow/sweep.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING

from pipeline.evaluation.report.anchors import COLOURS
from pipeline.evaluation.report.words import number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.evaluation.results import MetricResult

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 320.0, 200.0, 52.0, 308.0, 16.0, 160.0
ARROWS = {1: "higher is better", -1: "lower is better", 0: "closeness to the dashed line counts"}
INFINITE = "∞"


@dataclass(frozen=True)
class Curve:
    """One figure over all epsilons.

    Attributes:
        title: What it is, for people.
        family: Part of the evaluation.
        direction: +1, -1 or 0, as `MetricSpec.direction`.
        points: Epsilon to (value, lower, upper); an end is None where there is no interval.
        fresh: The same figure of fresh real rows; None where there is none.
    """

    title: str
    family: str
    direction: int
    points: Mapping[float, tuple[float, float | None, float | None]]
    fresh: float | None


def curves_of(results: Mapping[float, Sequence[MetricResult]]) -> list[Curve]:
    """The headline figures of a sweep, by family and title; those without a value at any epsilon are left out.

    Args:
        results: Epsilon (infinite: no privacy) to the rows of its evaluation; pooled rows over the seeds are taken.
    """
    from pipeline.evaluation.registry import find_metric

    found: dict[tuple[str, str], dict[float, MetricResult]] = {}
    for epsilon, rows in results.items():
        for row in rows:
            if row.replicate == -1 and not row.key2 and row.value is not None and row.scope in ("table", "task"):
                found.setdefault((row.metric, row.key1), {})[epsilon] = row
    curves = []
    for (name, key), by_epsilon in sorted(found.items()):
        first = next(iter(by_epsilon.values()))
        title = find_metric(name).spec.title + (f" ({key})" if key else "")
        points = {e: (float(r.value), r.ci_lo, r.ci_hi) for e, r in sorted(by_epsilon.items()) if r.value is not None}
        curves.append(Curve(title, first.family, first.direction, points, first.ref_fresh))
    return sorted(curves, key=lambda c: (c.family, c.title))


def sweep_html(curves: Sequence[Curve], epsilons: Sequence[float], *, title: str, notes: Sequence[str] = ()) -> str:
    """The page.

    Args:
        curves: What `curves_of` gave.
        epsilons: All epsilons of the sweep, in any order; infinite for trainings without privacy.
        title: Heading, e.g. "vae on support, 2026-10".
        notes: Sentences for people below the heading: delta, seeds, what was spent, what failed.
    """
    style = (files("pipeline.evaluation.report") / "style.css").read_text(encoding="utf-8")
    order = sorted(epsilons)
    families: dict[str, list[Curve]] = {}
    for curve in curves:
        families.setdefault(curve.family, []).append(curve)
    sections = [
        f"<section><h2>{escape(family.capitalize())}</h2><div class='charts'>"
        + "".join(_figure(curve, order) for curve in members)
        + "</div></section>"
        for family, members in families.items()
    ]
    told = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)} — what privacy costs</title><style>{style}{_OWN}</style></head><body><header>"
        f'<p class="kind">Epsilon sweep</p><h1>{escape(title)}</h1></header><main>'
        f"<section><h2>How to read it</h2><p>Each chart is one figure against epsilon, the bound on what one person's record "
        "may change: smaller is more private, and the last place on the right is training without privacy. Dots are means "
        "over the seeds, bars 95 % intervals; the dashed line is the same figure of fresh real rows. Figures are computed "
        f"on real rows and are themselves outside the guarantee.</p>{told}</section>"
        f"{''.join(sections)}<section><h2>All numbers</h2>{_table(curves, order)}</section></main></body></html>\n"
    )


_OWN = """
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(18rem, 1fr)); gap: 1rem; }
.charts figure { margin: 0; }
.charts figcaption { font-size: .8rem; }
.charts .tick { font-size: 11px; }
"""


def epsilon_words(epsilon: float) -> str:
    """Epsilon as it is shown."""
    return INFINITE if math.isinf(epsilon) else f"{epsilon:g}"


def _figure(curve: Curve, order: Sequence[float]) -> str:
    values = [v for point in curve.points.values() for v in point if v is not None]
    values += [curve.fresh] if curve.fresh is not None else []
    low, high = min(values), max(values)
    pad = max(high - low, 1e-3) * 0.08
    low, high = low - pad, high + pad

    def across(epsilon: float) -> float:
        # Places, not a scale: there is no room for infinity on one.
        place = order.index(epsilon)
        return LEFT + 14 + place / max(1, len(order) - 1) * (RIGHT - LEFT - 28)

    def down(value: float) -> float:
        return BOTTOM - (value - low) / (high - low) * (BOTTOM - TOP)

    colour, fresh = COLOURS["synthetic"], COLOURS["ref_fresh"]
    parts = [
        f'<path d="M{LEFT},{TOP} V{BOTTOM} H{RIGHT}" fill="none" stroke="currentColor" stroke-opacity=".4"/>',
        f'<text x="{LEFT - 5}" y="{TOP + 8}" text-anchor="end" class="tick">{number(high)}</text>',
        f'<text x="{LEFT - 5}" y="{BOTTOM}" text-anchor="end" class="tick">{number(low)}</text>',
    ]
    if curve.fresh is not None:
        at = f"{down(curve.fresh):.1f}"
        parts.append(f'<path d="M{LEFT},{at} H{RIGHT}" stroke="{fresh}" stroke-dasharray="5 3" stroke-width="1.5"/>')
    line = " ".join(f"{across(e):.1f},{down(point[0]):.1f}" for e, point in curve.points.items())
    parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{line}"/>')
    for epsilon, (value, lower, upper) in curve.points.items():
        x = f"{across(epsilon):.1f}"
        if lower is not None and upper is not None:
            parts.append(f'<path d="M{x},{down(lower):.1f} V{down(upper):.1f}" stroke="{colour}" stroke-width="1.5"/>')
        told = f"epsilon {epsilon_words(epsilon)}: {number(value)}"
        parts.append(
            f'<circle cx="{x}" cy="{down(value):.1f}" r="4" fill="{colour}"><title>{escape(told)}</title></circle>'
        )
    parts += [
        f'<text x="{across(e):.1f}" y="{BOTTOM + 16}" text-anchor="middle" class="tick">{epsilon_words(e)}</text>'
        for e in order
    ]
    caption = f"<strong>{escape(curve.title)}</strong>: {ARROWS[curve.direction]}."
    return (
        f'<figure><svg viewBox="0 0 {WIDTH:g} {HEIGHT - 16:g}" role="img" aria-label="{escape(curve.title)} against epsilon" '
        f'style="width:100%">{"".join(parts)}</svg><figcaption>{caption}</figcaption></figure>'
    )


def _table(curves: Sequence[Curve], order: Sequence[float]) -> str:
    heads = "".join(f'<th scope="col">epsilon {epsilon_words(e)}</th>' for e in order)
    lines = []
    for curve in curves:
        cells = []
        for epsilon in order:
            value, lower, upper = curve.points.get(epsilon, (None, None, None))
            half = "" if lower is None or upper is None else f" ±{number((upper - lower) / 2)}"
            cells.append(f'<td class="num">{"" if value is None else number(value)}{half}</td>')
        fresh = "" if curve.fresh is None else number(curve.fresh)
        lines.append(f'<tr><th scope="row">{escape(curve.title)}</th>{"".join(cells)}<td class="num">{fresh}</td></tr>')
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="All numbers"><table class="wide"><thead><tr>'
        f'<th scope="col">figure</th>{heads}<th scope="col">fresh real rows</th></tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )
