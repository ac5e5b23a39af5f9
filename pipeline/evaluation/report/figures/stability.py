"""Figures of stability: the same generator trained from several seeds, and how its training went."""

from __future__ import annotations

from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from pipeline.evaluation.protocol import replicates
from pipeline.evaluation.registry import find_metric
from pipeline.evaluation.report.anchors import COLOURS
from pipeline.evaluation.report.figures.base import REAL, SYNTHETIC, Figure, Table, figure, table
from pipeline.evaluation.report.headlines import HEADLINES, headline_rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.evaluation.report.figures.base import Draw, Tabulate
    from pipeline.evaluation.results import MetricResult

LOW, HIGH = -50.0, 120.0
"""Scores beyond these ends are drawn at the edge."""
MOST_POINTS = 400


def strips(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Figure]:
    """One strip a headline figure: the score of every seed between floor (0 %) and fresh real rows (100 %)."""
    names: list[str] = []
    points: list[tuple[float, str, str]] = []
    for item, key, pooled in headline_rows(results):
        if pooled.score is None:  # floor and fresh real rows cannot be told apart: no scale to stand on
            continue
        rows = [r for r in replicates(results, item.metric, key1=key) if r.value is not None]
        scores = [(r.replicate, _score(r)) for r in rows]
        known = [(k, s) for k, s in scores if s is not None]
        if len(known) < 2:
            continue
        label = item.title + (f" ({key})" if key else "")
        names.append(label)
        points += [(min(max(s, LOW), HIGH), label, f"seed {k}: {s:.0f} %") for k, s in known]
    if not names:
        return []
    return [
        figure(
            "stability-strips",
            "Seed by seed",
            "Each dot is one trained seed on the common scale: 100 % is fresh real rows, 0 % is the floor (shuffled columns "
            "or the like). Further right is better; the closer the dots of a line, the more stable the generator.",
            [
                {"type": "scatter", "mode": "markers", "x": [p[0] for p in points], "y": [p[1] for p in points],
                 "text": [p[2] for p in points], "hovertemplate": "%{y}<br>%{text}<extra></extra>",
                 "marker": {"color": SYNTHETIC, "size": 11, "opacity": 0.6, "line": {"width": 1, "color": "#fff"}}},
            ],
            {
                "xaxis": {"title": {"text": "score, %"}, "zeroline": False},
                "yaxis": {
                    "automargin": True,
                    "type": "category",
                    "categoryorder": "array",
                    "categoryarray": names[::-1],
                },
                "shapes": [
                    {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper",
                     "line": {"color": colour, "width": 1.6, "dash": "dash"}}
                    for x, colour in ((0, REAL), (100, COLOURS["ref_fresh"]))
                ],
                "margin": {"l": 20, "r": 12, "t": 8, "b": 44},
            },
            140 + 40 * len(names),
        )
    ]  # fmt: skip


def losses(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Figure]:
    """Loss curves of the candidate's training, where the generator kept any."""
    found = [step for step in details.get("losses", []) if "step" in step]
    names = [n for n in dict.fromkeys(k for step in found for k in step) if n != "step"]
    every = max(1, -(-len(found) // MOST_POINTS))
    kept = found[::every]
    if len(kept) < 2 or not names:
        return []
    colours = [*COLOURS.values(), REAL]
    return [
        figure(
            "losses",
            "How the training went",
            "Losses of the first seed by training step. They should fall and level off; a tuning loss that rises again "
            "while the training loss falls means that the model began to memorise. There is no null: losses of two "
            "generators cannot be compared.",
            [
                {"type": "scatter", "mode": "lines", "name": name, "x": [s["step"] for s in kept],
                 "y": [s.get(name) for s in kept],
                 "line": {"color": colours[i % len(colours)], "width": 2, "dash": ("solid", "dash", "dot")[i % 3]}}
                for i, name in enumerate(names)
            ],
            {
                "showlegend": True,
                "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
                "xaxis": {"title": {"text": "step"}},
                "yaxis": {"title": {"text": "loss"}},
                "margin": {"l": 56, "r": 12, "t": 36, "b": 44},
            },
        )
    ]  # fmt: skip


def spreads(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Table]:
    """Mean, standard deviation and extremes over seeds of the headline figures."""
    there = dict.fromkeys(r.metric for r in results if r.replicate == 0)
    first = [h.metric for h in HEADLINES if h.metric in there]
    rows: list[list[Any]] = []
    for name in dict.fromkeys([*first, *there]):
        spec = find_metric(name).spec
        if spec.family == "literal":
            continue
        about = {(r.key1, r.scope) for r in results if r.metric == name and r.replicate == 0 and not r.key2}
        for key, _scope in sorted(a for a in about if not a[0] or a[1] == "task"):
            values = [r.value for r in replicates(results, name, key1=key) if r.value is not None]
            if len(values) > 1:
                label = spec.title + (f" — {key}" if key else "")
                rows.append([label, len(values), fmean(values), stdev(values), min(values), max(values)])
    return [
        table(
            "stability",
            "Spread over seeds",
            "The smaller the standard deviation beside the mean, the more stable the generator; its null is 0. Privacy rules "
            "use the worst seed, all others the mean.",
            ["Figure", "Seeds", "Mean", "SD over seeds", "Smallest", "Largest"],
            rows,
        )
    ]


def _score(row: MetricResult) -> float | None:
    """0 at the floor of the metric, 100 at fresh real rows; None where they are unknown or the same."""
    floors = {"ref_marginal": row.ref_marginal, "ref_mode": row.ref_mode, "ref_train": row.ref_train}
    floor, fresh = floors.get(find_metric(row.metric).floor), row.ref_fresh
    if row.value is None or floor is None or fresh is None or abs(fresh - floor) < 1e-9:
        return None
    return 100 * (row.value - floor) / (fresh - floor)


FIGURES: tuple[Draw, ...] = (strips, losses)
INTERNAL: tuple[Draw, ...] = ()
TABLES: tuple[Tabulate, ...] = (spreads,)
