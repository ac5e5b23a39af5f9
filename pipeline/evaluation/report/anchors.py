"""Dot plots as inline SVG: a figure with its interval among the four reference rows, readable without scripts.

Shapes tell the reference rows apart as well as colours (Okabe and Ito's, safe for colour-blind readers). What lies far
outside the interesting range is drawn at the edge with its value.
"""

from __future__ import annotations

import base64
from html import escape
from typing import TYPE_CHECKING

from pipeline.evaluation.protocol import headline, replicates
from pipeline.evaluation.references import TITLES
from pipeline.evaluation.report.headlines import headline_rows
from pipeline.evaluation.report.words import number
from pipeline.evaluation.results import REFERENCE_ROWS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.evaluation.report.headlines import Headline
    from pipeline.evaluation.results import MetricResult

    References = Mapping[str, Sequence[MetricResult]]

COLOURS: dict[str, str] = {
    "synthetic": "#0072B2",
    "ref_fresh": "#009E73",
    "ref_train": "#D55E00",
    "ref_marginal": "#CC79A7",
    "ref_mode": "#E69F00",
}
WIDTH, HEIGHT, LEFT, RIGHT, AXIS = 640.0, 78.0, 20.0, 620.0, 40.0


def mark(name: str, x: float, y: float, size: float = 6.0) -> str:
    """The shape of a reference row, or the disc of the synthetic cohort."""
    colour = COLOURS[name]
    if name == "synthetic":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size + 1:.1f}" fill="{colour}" stroke="var(--paper,#fff)" stroke-width="1.5"/>'
    outline = f'fill="var(--paper,#fff)" stroke="{colour}" stroke-width="2.4"'
    if name == "ref_fresh":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}" {outline}/>'
    if name == "ref_train":
        return f'<rect x="{x - size:.1f}" y="{y - size:.1f}" width="{2 * size:.1f}" height="{2 * size:.1f}" {outline}/>'
    corners = (
        [(x, y - size - 1), (x + size + 1, y), (x, y + size + 1), (x - size - 1, y)]
        if name == "ref_marginal"
        else [(x, y - size - 1), (x + size + 1, y + size), (x - size - 1, y + size)]
    )
    return f'<polygon points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in corners)}" {outline}/>'


def dot_plot(
    item: Headline, row: MetricResult, seeds: Sequence[float], anchors: Mapping[str, float], limit: float | None
) -> str:
    """One axis: the reference rows above it, the synthetic cohort with interval and seeds on it, the limit across it."""
    if row.value is None:
        return ""
    low, high = _range(row, anchors, limit, item)

    def place(value: float) -> float:
        return LEFT + (min(max(value, low), high) - low) / (high - low) * (RIGHT - LEFT)

    parts = [f'<line x1="{LEFT}" y1="{AXIS}" x2="{RIGHT}" y2="{AXIS}" stroke="currentColor" stroke-opacity=".35"/>']
    for tick in ticks(low, high):
        x = place(tick)
        parts.append(
            f'<line x1="{x:.1f}" y1="{AXIS}" x2="{x:.1f}" y2="{AXIS + 5}" stroke="currentColor" stroke-opacity=".35"/>'
        )
        text = f"{100 * tick:g} %" if item.percent else f"{tick:g}"
        parts.append(f'<text x="{x:.1f}" y="{AXIS + 32}" text-anchor="middle" class="tick">{text}</text>')
    if limit is not None:
        x = place(limit)
        parts.append(
            f'<line x1="{x:.1f}" y1="{AXIS - 26}" x2="{x:.1f}" y2="{AXIS + 14}" stroke="currentColor" stroke-width="2" '
            f'stroke-dasharray="4 3"/>'
        )
    for value in seeds:
        x = place(value)
        parts.append(
            f'<line x1="{x:.1f}" y1="{AXIS + 7}" x2="{x:.1f}" y2="{AXIS + 15}" stroke="{COLOURS["synthetic"]}" stroke-width="1.6"/>'
        )
    for name in REFERENCE_ROWS:
        if name in anchors:
            value = anchors[name]
            x = place(value)
            parts.append(
                f"<g><title>{escape(TITLES[name])}: {number(value, item.digits, percent=item.percent)}</title>"
            )
            parts.append(mark(name, x, AXIS - 16))
            parts.append("</g>")
    if row.ci_lo is not None and row.ci_hi is not None:
        parts.append(
            f'<line x1="{place(row.ci_lo):.1f}" y1="{AXIS}" x2="{place(row.ci_hi):.1f}" y2="{AXIS}" '
            f'stroke="{COLOURS["synthetic"]}" stroke-width="4" stroke-linecap="round"/>'
        )
    parts.append(f"<g><title>synthetic: {number(row.value, item.digits, percent=item.percent)}</title>")
    parts.append(mark("synthetic", place(row.value), AXIS))
    parts.append("</g>")
    off = [
        f"{TITLES[n]} {number(v, item.digits, percent=item.percent)}"
        for n, v in anchors.items()
        if not low <= v <= high
    ]
    label = f"{item.title}: {number(row.value, item.digits, percent=item.percent)}"
    return (
        f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{escape(label)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
        + (f'<p class="off">Off the scale, drawn at the edge: {escape("; ".join(off))}.</p>' if off else "")
    )


def anchor_values(item: Headline, key: str, references: References) -> dict[str, float]:
    """Reference row to its value for this figure."""
    found = {n: headline(references[n], item.metric, key1=key) for n in REFERENCE_ROWS if n in references}
    return {n: r.value for n, r in found.items() if r is not None and r.value is not None}


def headline_svg(results: Sequence[MetricResult], references: References) -> str:
    """All dot plots under one another as a data URI of an SVG image (a few kilobytes), for metadata."""
    rows = [(i, k, r) for i, k, r in headline_rows(results) if r.value is not None]
    body = [
        f'<text x="{20 + 155 * i}" y="18" class="t">{TITLES[name]}</text>{mark(name, 10 + 155 * i, 14, 5)}'
        for i, name in enumerate(n for n in REFERENCE_ROWS if n in references)
    ]
    top = 34.0
    for item, key, row in rows:
        values = anchor_values(item, key, references)
        seeds = [r.value for r in replicates(results, item.metric, key1=key) if r.value is not None]
        plot = dot_plot(item, row, seeds, values, None).split("</svg>")[0].split(">", 1)[1]
        title = escape(item.title + (f" ({key})" if key else ""))
        shown = number(row.value, item.digits, percent=item.percent)
        better = "higher is better" if item.better == "right" else "lower is better"
        body.append(
            f'<text x="20" y="{top + 12:.0f}" class="h">{title}: {shown} <tspan class="t">({better})</tspan></text>'
        )
        body.append(f'<g transform="translate(0 {top + 12:.0f})">{plot}</g>')
        top += HEIGHT + 24
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH:g}" height="{top:g}" viewBox="0 0 {WIDTH:g} {top:g}" '
        f'color="#222"><style>text{{font-family:system-ui,sans-serif;fill:#222}}.tick,.t{{font-size:12px;fill:#555;'
        f'font-weight:400}}.h{{font-size:14px;font-weight:600}}</style><rect width="100%" height="100%" fill="#fff"/>'
        f"{''.join(body)}</svg>"
    )
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _range(row: MetricResult, anchors: Mapping[str, float], limit: float | None, item: Headline) -> tuple[float, float]:
    """From the values that matter; reference rows far off all others are left at the edge."""
    core = [v for v in (row.value, row.ci_lo, row.ci_hi, limit, anchors.get("ref_fresh")) if v is not None]
    if row.null_value is not None:
        core.append(row.null_value)
    if "auc" in item.metric:
        core += [0.45, 0.6]
    low, high = min(core), max(core)
    reach = 4 if limit is None else 2
    for value in sorted(anchors.values(), key=lambda v: max(v - high, low - v)):
        span = max(high - low, 1e-3)
        if low - reach * span <= value <= high + reach * span:
            low, high = min(low, value), max(high, value)
    pad = max(high - low, 1e-3) * 0.06
    return low - pad, high + pad


def ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers inside a range."""
    from math import ceil, floor, log10

    raw = (high - low) / 5
    power = 10.0 ** floor(log10(raw))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= raw)
    return [round(i * step, 10) + 0.0 for i in range(ceil(low / step), floor(high / step) + 1)]
