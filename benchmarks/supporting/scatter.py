"""Detection against membership as an SVG: panels side by side, one mark a point, whiskers and lines where asked for.

Plain SVG text, so that a plot in the docs needs no library, keeps its bytes, and can be read by a diff.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

COLOURS = (
    "#b3261e", "#8a6d00", "#1d6b3a", "#2456a5", "#7b3fa0", "#00757f", "#b0531f", "#4b5563", "#a11d6b", "#5a7d12",
    "#0b4f8a", "#8c1c1c", "#3d3d8f", "#6b5b2a", "#127a5a", "#9a3412", "#374151", "#86198f",
)  # fmt: skip
WIDTH, HEIGHT, LEFT, TOP, GAP, BELOW = 400, 320, 64, 40, 76, 60
ROW = 18


@dataclass(frozen=True)
class Mark:
    """A point: x and y, their standard errors (0: no whisker), and what is written beside it."""

    x: float
    y: float
    x_error: float = 0.0
    y_error: float = 0.0
    text: str = ""


@dataclass
class Series:
    """Marks of one colour; `joined` draws a line through them in order."""

    name: str
    marks: list[Mark] = field(default_factory=list)
    joined: bool = False


@dataclass
class Panel:
    """One pair of axes; `limit` is a dashed line at that x, `ceiling` a cross where real rows stand."""

    title: str
    series: list[Series]
    limit: float | None = None
    ceiling: Mark | None = None


def drawn(panels: list[Panel], *, x_title: str, y_title: str, columns: int = 2) -> str:
    """The panels in rows of `columns`, with one legend of all series by name below."""
    names = list(dict.fromkeys(s.name for p in panels for s in p.series))
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    columns = min(columns, len(panels))
    lines = ceil(len(panels) / columns)
    full_width = columns * (LEFT + WIDTH + 20)
    legend = top = lines * (TOP + HEIGHT + BELOW) + 10
    across = max(1, full_width // 200) if len(names) > 4 else 1
    full_height = legend + ROW * ceil(len(names) / across) + 16
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {full_width} {full_height}" font-family="sans-serif" '
        'font-size="12" fill="#222">',
        '<rect width="100%" height="100%" fill="#fff"/>',
    ]
    for i, panel in enumerate(panels):
        left = LEFT + (i % columns) * (LEFT + WIDTH + 20)
        top = TOP + (i // columns) * (TOP + HEIGHT + BELOW)
        out += _panel(panel, left, top, colours, x_title, y_title)
    for i, name in enumerate(names):
        x, y = 20 + (i % across) * (full_width // across), legend + ROW * (i // across)
        out.append(f'<circle cx="{x}" cy="{y}" r="4" fill="{colours[name]}"/>')
        out.append(f'<text x="{x + 10}" y="{y + 4}">{escape(name)}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


def _panel(panel: Panel, left: int, top: int, colours: dict[str, str], x_title: str, y_title: str) -> list[str]:
    marks = [m for s in panel.series for m in s.marks] + ([panel.ceiling] if panel.ceiling else [])
    low_x, high_x = _range([m.x - m.x_error for m in marks], [m.x + m.x_error for m in marks])
    low_y, high_y = _range([m.y - m.y_error for m in marks], [m.y + m.y_error for m in marks])
    if panel.limit is not None:
        high_x = max(high_x, panel.limit + 0.005)

    def at(x: float, y: float) -> tuple[float, float]:
        return left + (x - low_x) / (high_x - low_x) * WIDTH, top + HEIGHT - (y - low_y) / (high_y - low_y) * HEIGHT

    out = [f'<rect x="{left}" y="{top}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#999"/>']
    out.append(
        f'<text x="{left + WIDTH / 2}" y="{top - 10}" text-anchor="middle" font-weight="bold">{panel.title}</text>'
    )
    out += [
        f'<text x="{at(tick, low_y)[0]:.1f}" y="{top + HEIGHT + 16}" text-anchor="middle">{tick:.2f}</text>'
        for tick in _ticks(low_x, high_x)
    ]
    out += [
        f'<text x="{left - 6}" y="{at(low_x, tick)[1] + 4:.1f}" text-anchor="end">{tick:.2f}</text>'
        for tick in _ticks(low_y, high_y)
    ]
    middle = left + WIDTH / 2
    out.append(f'<text x="{middle}" y="{top + HEIGHT + 34}" text-anchor="middle">{escape(x_title)}</text>')
    turned = f"translate({left - 46} {top + HEIGHT / 2}) rotate(-90)"
    out.append(f'<text transform="{turned}" text-anchor="middle">{escape(y_title)}</text>')
    if panel.limit is not None:
        x = at(panel.limit, low_y)[0]
        out.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{top + HEIGHT}" stroke="#999" stroke-dasharray="4 4"/>'
        )
    for series in panel.series:
        out += _series(series, at, colours[series.name])
    if panel.ceiling is not None:
        x, y = at(panel.ceiling.x, panel.ceiling.y)
        out.append(f'<path d="M{x - 5:.1f} {y:.1f}h10M{x:.1f} {y - 5:.1f}v10" stroke="#222" stroke-width="2"/>')
        out.append(f'<text x="{x + 8:.1f}" y="{y + 4:.1f}">{escape(panel.ceiling.text)}</text>')
    return out


def _series(series: Series, at: Callable[[float, float], tuple[float, float]], colour: str) -> list[str]:
    out = []
    if series.joined:
        path = " ".join("{:.1f},{:.1f}".format(*at(m.x, m.y)) for m in series.marks)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}"/>')
    for mark in series.marks:
        x, y = at(mark.x, mark.y)
        for a, b in ((mark.x_error, 0.0), (0.0, mark.y_error)):
            if a or b:
                (x1, y1), (x2, y2) = at(mark.x - a, mark.y - b), at(mark.x + a, mark.y + b)
                ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
                out.append(f'<line {ends} stroke="{colour}" stroke-opacity="0.4"/>')
        title = f"<title>{escape(series.name)} {mark.x:.3f} / {mark.y:.3f}</title>"
        out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}">{title}</circle>')
        if mark.text:
            out.append(f'<text x="{x + 6:.1f}" y="{y - 5:.1f}" fill="{colour}">{escape(mark.text)}</text>')
    return out


def _range(low: list[float], high: list[float]) -> tuple[float, float]:
    """From the smallest to the largest with a margin of a twentieth."""
    a, b = min(low), max(high)
    margin = 0.05 * max(b - a, 0.02)
    return a - margin, b + margin


def _ticks(low: float, high: float) -> list[float]:
    """Four to nine round numbers between the ends."""
    for step in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0):
        if (high - low) / step <= 9:
            break
    first = ceil(low / step)
    return [step * k for k in range(first, int(high / step) + 1)]
