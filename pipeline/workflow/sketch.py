"""Small charts as SVG text, for places where no plotting library may be loaded: metadata in the event log.

The pictures of reports are made by `evaluation/report/`.
"""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WIDTH, HEIGHT = 560, 220
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 26, 30
COLOURS = ("#3b6fb6", "#c2571a", "#3a8f5c", "#8455a8", "#8a6d3b", "#5f6b7a")
MAX_POINTS = 200
BAR_LEFT, MOST_BARS = 150, 12
LETTER = 6.2
"""Width of a letter, about, where no font can be asked."""


def line_chart(series: Mapping[str, Sequence[tuple[float, float]]], *, title: str, x: str = "step") -> str:
    """Lines over a common axis; points that are not finite are left out, long series are thinned to 200 points."""
    lines = {name: _thin([p for p in points if all(map(math.isfinite, p))]) for name, points in series.items()}
    lines = {name: points for name, points in lines.items() if points}
    every = [p for points in lines.values() for p in points]
    if not every:
        return _frame(title, [_text(WIDTH / 2, HEIGHT / 2, "no points", anchor="middle")])
    (x0, x1), (y0, y1) = _span([p[0] for p in every]), _span([p[1] for p in every])

    def at(point: tuple[float, float]) -> str:
        px = LEFT + (point[0] - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)
        py = HEIGHT - BOTTOM - (point[1] - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)
        return f"{px:.1f},{py:.1f}"

    parts = _axes(x0, x1, y0, y1, x)
    for i, (_, points) in enumerate(sorted(lines.items())):
        colour = COLOURS[i % len(COLOURS)]
        parts.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{" ".join(map(at, points))}"/>'
        )
    parts += _legend(sorted(lines))
    return _frame(title, parts)


def bar_chart(shares: Mapping[str, float], *, title: str) -> str:
    """One horizontal bar a name, in the order given, at most twelve; each as long as its share of the largest."""
    shown = dict(list(shares.items())[:MOST_BARS])
    if not shown:
        return _frame(title, [_text(WIDTH / 2, HEIGHT / 2, "nothing", anchor="middle")])
    longest, step = max(shown.values()) or 1.0, (HEIGHT - TOP - RIGHT) / max(len(shown), 6)
    parts = []
    for i, (name, share) in enumerate(shown.items()):
        top, width = TOP + i * step, max(share, 0.0) / longest * (WIDTH - BAR_LEFT - LEFT)
        parts.append(
            f'<rect x="{BAR_LEFT}" y="{top + 2:.1f}" width="{width:.1f}" height="{step - 4:.1f}" fill="{COLOURS[0]}"/>'
        )
        parts.append(_text(BAR_LEFT - 6, top + step / 2 + 4, _cut(name, BAR_LEFT - 6), anchor="end"))
        parts.append(_text(BAR_LEFT + width + 6, top + step / 2 + 4, f"{share:.2f}"))
    return _frame(title, parts)


def _legend(names: Sequence[str]) -> list[str]:
    """The names in their colours, one after the other, in as many rows as they need."""
    parts, x, y = [], LEFT + 8.0, TOP + 12
    for i, name in enumerate(names):
        words = _cut(name, WIDTH - LEFT - RIGHT - 8)
        if x > LEFT + 8 and x + LETTER * len(words) > WIDTH - RIGHT:
            x, y = LEFT + 8.0, y + 14
        parts.append(_text(x, y, words, colour=COLOURS[i % len(COLOURS)]))
        x += LETTER * len(words) + 16
    return parts


def _cut(words: str, width: float) -> str:
    """Words that fit into so many pixels."""
    most = int(width / LETTER)
    return words if len(words) <= most else words[: most - 1] + "…"


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    if len(points) <= MAX_POINTS:
        return points
    step = (len(points) - 1) / (MAX_POINTS - 1)
    return [points[round(i * step)] for i in range(MAX_POINTS)]


def _span(values: list[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _axes(x0: float, x1: float, y0: float, y1: float, x: str) -> list[str]:
    base, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    return [
        f'<path d="M{LEFT},{TOP} V{base} H{right}" fill="none" stroke="#999"/>',
        _text(LEFT - 6, TOP + 8, f"{y1:.4g}", anchor="end"),
        _text(LEFT - 6, base, f"{y0:.4g}", anchor="end"),
        _text(LEFT, HEIGHT - 10, f"{x0:.4g}"),
        _text(right, HEIGHT - 10, f"{x1:.4g}", anchor="end"),
        _text((LEFT + right) / 2, HEIGHT - 10, x, anchor="middle"),
    ]


def _text(x: float, y: float, words: str, *, anchor: str = "start", colour: str = "#333") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" fill="{colour}">{escape(words)}</text>'


def _frame(title: str, parts: list[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="11">'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>'
    )
    return f"{head}{_text(WIDTH / 2, 15, title, anchor='middle')}{''.join(parts)}</svg>"
