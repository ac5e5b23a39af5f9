"""The leaderboard as one HTML page without scripts: the table with everything, and utility against privacy risk.

The same rows give the same bytes. Cells are shaded by the normalised score (0 = the floor among the reference rows, 1 =
fresh real rows); generators that fail the gate stand below a line whatever their figures are.
"""

from __future__ import annotations

import math
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from pipeline.evaluation.leaderboard import FIGURES, WIDE_COLUMNS, cells
from pipeline.evaluation.report.anchors import COLOURS, mark

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640.0, 380.0, 64.0, 620.0, 16.0, 330.0
LETTER = 7.0
"""Width that a letter of a label takes at most on average, at 12 px."""


def leaderboard_html(rows: Sequence[Mapping[str, Any]], *, title: str) -> str:
    """The page.

    Args:
        rows: What `leaderboard` gave, in its order.
        title: Heading, e.g. "support, 2026-10".
    """
    style = (files("pipeline.evaluation.report") / "style.css").read_text(encoding="utf-8")
    failing = next(
        (i for i, r in enumerate(rows) if r["verdict"] == "fail" or r["status"] not in ("ok", "reference")), None
    )
    body = [_line(row, first=i == failing) for i, row in enumerate(rows)]
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in WIDE_COLUMNS)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)} — leaderboard</title><style>{style}{_OWN}</style></head><body><header>"
        f'<p class="kind">Leaderboard</p><h1>{escape(title)}</h1></header><main>'
        "<section><h2>All generators and the reference rows</h2>"
        "<p>Best first: generators that pass the gate, those that cannot be judged for want of people, and below the line "
        "those that fail. A badge is a Pareto layer (more utility, less privacy risk); generators with the same badge cannot "
        "be told apart. The table scrolls sideways. Each cell is the mean over seeds with half of its 95 % interval; the darker, the nearer to fresh "
        "real rows.</p>"
        '<div class="scroll" tabindex="0" role="region" aria-label="Leaderboard"><table class="wide board"><thead><tr>'
        f"{heads}</tr></thead><tbody>{''.join(body)}</tbody></table></div></section>"
        f"<section><h2>Utility against privacy risk</h2>{_scatter(rows)}</section></main></body></html>\n"
    )


_OWN = """
.board td, .board th { white-space: nowrap; }
.board td:nth-child(2) { white-space: normal; min-width: 9rem; max-width: 14rem; font-size: .85rem; }
.board th:first-child { position: sticky; left: 0; background: var(--paper); }
.board tbody td.num { background: color-mix(in srgb, var(--good) calc(var(--score, 0) * 34%), transparent); }
.board tr.line td, .board tr.line th { border-top: 3px solid var(--bad); }
.board tr.reference { color: var(--soft); }
svg .tick { font-size: 12px; fill: currentColor; }
"""


def _line(row: Mapping[str, Any], *, first: bool) -> str:
    """One row; the first of those that fail carries the line."""
    names = [name for name, yes in (("line", first), ("reference", row["reference"])) if yes]
    shown = cells(row, wide=True)
    scores = dict.fromkeys(range(len(shown)))
    for place, figure in enumerate(FIGURES):
        given = row[figure.key]
        scores[place + 4] = None if not given else given.get("score")
    parts = [f'<th scope="row">{escape(shown[0])}</th>']
    for i, text in enumerate(shown[1:], start=1):
        score = scores[i]
        shade = "" if score is None else f' style="--score:{min(max(score, 0.0), 1.0):.2f}"'
        parts.append(f'<td class="{"num" if i >= 4 else ""}"{shade}>{escape(text)}</td>')
    return f'<tr class="{" ".join(names)}">{"".join(parts)}</tr>'


def _scatter(rows: Sequence[Mapping[str, Any]]) -> str:
    """Utility (or, without a task, correlation error turned round) against the best membership attack, with intervals."""
    use = next((k for k in ("utility_ratio", "corr_rmse") if any(_value(r, k) is not None for r in rows)), None)
    both = [(r, _value(r, use), _value(r, "mia_auc")) for r in rows] if use else []
    points = [(r, x, y) for r, x, y in both if x is not None and y is not None]
    if not points or use is None:
        return "<p>No generator has both figures.</p>"
    xs = [v for r, *_ in points for v in _ends(r, use)]
    ys = [v for r, *_ in points for v in _ends(r, "mia_auc")] + [0.5]
    (x0, x1), (y0, y1) = _padded(xs), _padded(ys)

    def across(x: float) -> float:
        return LEFT + (min(max(x, x0), x1) - x0) / (x1 - x0) * (RIGHT - LEFT)

    def down(y: float) -> float:
        return BOTTOM - (min(max(y, y0), y1) - y0) / (y1 - y0) * (BOTTOM - TOP)

    parts = [
        f'<line x1="{LEFT}" y1="{BOTTOM}" x2="{RIGHT}" y2="{BOTTOM}" stroke="currentColor" stroke-opacity=".4"/>',
        f'<line x1="{LEFT}" y1="{TOP}" x2="{LEFT}" y2="{BOTTOM}" stroke="currentColor" stroke-opacity=".4"/>',
        f'<line x1="{LEFT}" y1="{down(0.5):.1f}" x2="{RIGHT}" y2="{down(0.5):.1f}" stroke="currentColor" '
        'stroke-opacity=".4" stroke-dasharray="4 3"/>',
    ]
    parts += [
        f'<text x="{across(at):.1f}" y="{BOTTOM + 18}" text-anchor="middle" class="tick">{at:g}</text>'
        for at in round_ticks(x0, x1)
    ]
    parts += [
        f'<text x="{LEFT - 8}" y="{down(up) + 4:.1f}" text-anchor="end" class="tick">{up:g}</text>'
        for up in round_ticks(y0, y1)
    ]
    words = "share of skill kept (right is better)" if use == "utility_ratio" else "correlation error (left is better)"
    parts.append(f'<text x="{(LEFT + RIGHT) / 2}" y="{BOTTOM + 42}" text-anchor="middle" class="tick">{words}</text>')
    places = label_places([(across(x), down(y)) for _, x, y in points], [r["generator"] for r, *_ in points])
    for (row, x, y), (label_x, label_y, anchor) in zip(points, places, strict=True):
        name = row["key"] if row["reference"] and row["key"] in COLOURS else "synthetic"
        (left, right), (low, high) = _ends(row, use), _ends(row, "mia_auc")
        colour = COLOURS[name]
        parts.append(
            f"<g><title>{escape(row['generator'])}: {x:.3f}, {y:.3f}</title>"
            f'<line x1="{across(left):.1f}" y1="{down(y):.1f}" x2="{across(right):.1f}" y2="{down(y):.1f}" stroke="{colour}"/>'
            f'<line x1="{across(x):.1f}" y1="{down(low):.1f}" x2="{across(x):.1f}" y2="{down(high):.1f}" stroke="{colour}"/>'
            f"{mark(name, across(x), down(y), 5)}</g>"
            f'<text x="{label_x:.1f}" y="{label_y:.1f}" text-anchor="{anchor}" class="tick">{escape(row["generator"])}</text>'
        )
    label = "Utility against membership inference of each generator and reference row"
    return (
        f'<figure><svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{label}" style="width:100%;max-width:60rem">'
        f"{''.join(parts)}</svg><figcaption>Upwards is the AUC of the best membership attack: lower is better, the dashed line "
        "(0.5) is chance. Bars are 95 % intervals. Reference rows are anchors: fresh real rows are the best that can be hoped "
        "for, copied training rows the worst privacy.</figcaption></figure>"
    )


def label_places(points: Sequence[tuple[float, float]], texts: Sequence[str]) -> list[tuple[float, float, str]]:
    """Where the texts beside points stand (x, baseline, anchor): inside the picture, on no other text and no point.

    Of the places around a point, near ones first, the first free one is taken; where none is, the least crowded.
    """
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in points]
    found = []
    for (x, y), text in zip(points, texts, strict=True):
        wide = LETTER * len(text)
        choices: list[tuple[float, int, tuple[float, float, float, float], float, str]] = []
        for away in (8.0, 22.0, 36.0, 50.0):
            for base in (y - away, y + away + 9):
                for anchor, left in (("start", x + 9), ("end", x - 9 - wide)):
                    box = (left, base - 11, left + wide, base + 3)
                    outside = left < LEFT or left + wide > WIDTH or base < 12 or base > BOTTOM
                    crossed = sum(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken)
                    choices.append((crossed + 100 * outside, len(choices), box, base, anchor))
        _, _, box, base, anchor = min(choices)
        taken.append(box)
        found.append((x + 9 if anchor == "start" else x - 9, base, anchor))
    return found


def round_ticks(low: float, high: float) -> list[float]:
    """Three to eight numbers of few digits between the ends, a round step apart."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough)
    return [round(i * step, 12) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _value(row: Mapping[str, Any], key: str) -> float | None:
    return row[key]["value"] if row[key] else None


def _ends(row: Mapping[str, Any], key: str) -> tuple[float, float]:
    """Both ends of the interval; the value twice where it has none."""
    given = row[key]
    lo, hi = given["lo"], given["hi"]
    return (given["value"] if lo is None else lo), (given["value"] if hi is None else hi)


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    pad = max(high - low, 1e-3) * 0.06
    return low - pad, high + pad
