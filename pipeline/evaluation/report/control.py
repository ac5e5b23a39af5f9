"""Control charts of headline figures over months, as inline SVG, and what they say in words.

An individuals chart (Shewhart; Montgomery, Introduction to Statistical Quality Control, section 6.4): the mean of the
earlier months, and limits at 2.66 times their mean moving range. It tells a change of the data or the generator from
the scatter that every retraining shows; it says nothing about whether a figure is good.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING

from pipeline.evaluation.report.anchors import COLOURS, ticks
from pipeline.evaluation.report.words import number

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipeline.evaluation.report.headlines import Headline

ENOUGH = 4
"""Earlier months that are needed for limits."""
INDIVIDUALS = 2.66
"""3 / d2 for moving ranges of two."""
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640.0, 230.0, 64.0, 624.0, 14.0, 190.0
MOST_LABELS = 5


@dataclass(frozen=True)
class Point:
    """One month of one generator.

    Attributes:
        month: YYYY-MM.
        value: The figure; None where it was not estimable.
        lo: Lower end of its interval.
        hi: Upper end.
        released: Was this month's cohort released?
    """

    month: str
    value: float | None
    lo: float | None = None
    hi: float | None = None
    released: bool = False


@dataclass(frozen=True)
class Limits:
    """Mean and limits of the earlier months."""

    mean: float
    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Does a value lie within them?"""
        return self.low <= value <= self.high


def limits(points: Sequence[Point]) -> Limits | None:
    """Of all months but the newest; None where fewer than four of them have a value."""
    earlier = [p.value for p in points[:-1] if p.value is not None]
    if len(earlier) < ENOUGH:
        return None
    mean = sum(earlier) / len(earlier)
    ranges = [abs(b - a) for a, b in pairwise(earlier)]
    reach = INDIVIDUALS * sum(ranges) / len(ranges)
    return Limits(mean, mean - reach, mean + reach)


def said(item: Headline, points: Sequence[Point]) -> str:
    """Where the newest month lies, in one sentence."""
    newest = points[-1] if points else None
    if newest is None or newest.value is None:
        return "The newest month has no value."
    value = number(newest.value, item.digits, percent=item.percent)
    found = limits(points)
    if found is None:
        have = sum(p.value is not None for p in points[:-1])
        return f"{value} in {newest.month}; {ENOUGH} earlier months are needed for limits, there are {have}."
    span = " to ".join(number(v, item.digits, percent=item.percent) for v in (found.low, found.high))
    if found.holds(newest.value):
        return f"{value} in {newest.month}, within the limits of the earlier months ({span})."
    better = (newest.value > found.high) == (item.better == "right")
    return (
        f"{value} in {newest.month}: {'better' if better else 'worse'} than the limits of the earlier months ({span})."
    )


def alarm(item: Headline, points: Sequence[Point]) -> bool:
    """Is the newest month worse than the limits allow?"""
    found = limits(points)
    value = points[-1].value if points else None
    if found is None or value is None:
        return False
    return value < found.low if item.better == "right" else value > found.high


def chart(item: Headline, points: Sequence[Point], others: Sequence[Sequence[Point]] = ()) -> str:
    """The chart of one generator's months, oldest first, with the other generators' lines faintly behind it."""
    known = [p for p in points if p.value is not None]
    if not known:
        return ""
    months = sorted({p.month for line in (points, *others) for p in line})
    found = limits(points)
    ends = [v for p in known for v in (p.value, p.lo, p.hi) if v is not None]
    ends += [found.low, found.high] if found else []
    ends += [p.value for line in others for p in line if p.value is not None]
    low, high = min(ends), max(ends)
    pad = max(high - low, 1e-3) * 0.08
    low, high = low - pad, high + pad

    def x(month: str) -> float:
        if len(months) == 1:
            return (LEFT + RIGHT) / 2
        return LEFT + 14 + months.index(month) / (len(months) - 1) * (RIGHT - LEFT - 28)

    def y(value: float) -> float:
        return BOTTOM - (value - low) / (high - low) * (BOTTOM - TOP)

    parts = [f'<line x1="{LEFT}" y1="{BOTTOM}" x2="{RIGHT}" y2="{BOTTOM}" stroke="currentColor" stroke-opacity=".35"/>']
    for tick in ticks(low, high):
        text = f"{100 * tick:g} %" if item.percent else f"{tick:g}"
        parts.append(
            f'<line x1="{LEFT}" y1="{y(tick):.1f}" x2="{RIGHT}" y2="{y(tick):.1f}" stroke="currentColor" stroke-opacity=".1"/>'
            f'<text x="{LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end" class="tick">{text}</text>'
        )
    every = -(-len(months) // MOST_LABELS)
    for i, month in enumerate(months):
        if (len(months) - 1 - i) % every == 0:
            side = "end" if i == len(months) - 1 and i else "start" if i == 0 and len(months) > 1 else "middle"
            parts.append(f'<text x="{x(month):.1f}" y="{BOTTOM + 24}" text-anchor="{side}" class="tick">{month}</text>')
    if found is not None:
        parts.append(
            f'<rect x="{LEFT}" y="{y(found.high):.1f}" width="{RIGHT - LEFT}" height="{y(found.low) - y(found.high):.1f}" '
            f'fill="currentColor" fill-opacity=".07"/><line x1="{LEFT}" y1="{y(found.mean):.1f}" x2="{RIGHT}" '
            f'y2="{y(found.mean):.1f}" stroke="currentColor" stroke-opacity=".5" stroke-dasharray="5 4"/>'
        )
    for line in others:
        path = " ".join(f"{x(p.month):.1f},{y(p.value):.1f}" for p in line if p.value is not None)
        if path:
            parts.append(
                f'<polyline points="{path}" fill="none" stroke="currentColor" stroke-opacity=".22" stroke-width="1.4"/>'
            )
    colour = COLOURS["synthetic"]
    path = " ".join(f"{x(p.month):.1f},{y(p.value):.1f}" for p in known if p.value is not None)
    parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
    parts.extend(_dot(item, p, x(p.month), y) for p in known)
    return (
        f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{escape(item.title)} by month. '
        f'{escape(said(item, points))}" xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def _dot(item: Headline, point: Point, x: float, place: Callable[[float], float]) -> str:
    """A month: its interval, its value (a ringed square where it was released), its words on hover."""
    colour, y = COLOURS["synthetic"], place(point.value or 0.0)
    bar = ""
    if point.lo is not None and point.hi is not None:
        bar = (
            f'<line x1="{x:.1f}" y1="{place(point.lo):.1f}" x2="{x:.1f}" y2="{place(point.hi):.1f}" stroke="{colour}" '
            f'stroke-width="2" stroke-opacity=".6"/>'
        )
    value = number(point.value, item.digits, percent=item.percent)
    words = f"{point.month}: {value}{', released' if point.released else ''}"
    shape = (
        f'<rect x="{x - 6:.1f}" y="{y - 6:.1f}" width="12" height="12" fill="{COLOURS["ref_mode"]}" stroke="{colour}" '
        f'stroke-width="2.4"/>'
        if point.released
        else f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}"/>'
    )
    return f"<g><title>{escape(words)}</title>{bar}{shape}</g>"
