"""Figures of fairness: whom models serve worse. Who is represented is in `representation.py`, what models go by in
`what_matters.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.evaluation.report.figures.base import REAL, SYNTHETIC, Figure, Table, figure, table
from pipeline.evaluation.report.figures.representation import FRESH, rows_layout
from pipeline.evaluation.report.words import significant
from pipeline.evaluation.utility.learners import TITLES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.evaluation.report.figures.base import Draw, Tabulate
    from pipeline.evaluation.results import MetricResult

MOST_ROWS = 24
DRAWN: tuple[tuple[str, str, str], ...] = (
    ("auroc", "AUROC gap between groups", "How much better the model ranks people of one group than of another."),
    (
        "parity",
        "Parity gap between groups",
        "Difference in how often people are predicted positive, at the threshold where as many are predicted positive as "
        "there are.",
    ),
    (
        "equal_opportunity",
        "Equal-opportunity gap between groups",
        "Difference in how many of those with the outcome are found, at the same threshold.",
    ),
)
MEASURES: tuple[tuple[str, str], ...] = (
    ("auroc", "AUROC"),
    ("parity", "predicted positive"),
    ("equal_opportunity", "true positives"),
    ("equalised_odds", "error rates"),
    ("calibration", "calibration"),
)


def pooled_rows(results: Sequence[MetricResult], metric: str) -> dict[tuple[str, str], MetricResult]:
    """The pooled rows of a metric by their keys."""
    return {(r.key1, r.key2): r for r in results if r.metric == metric and r.replicate == -1}


def gaps(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Figure]:
    """Gaps of models trained on real and on synthetic rows, a line for each task and attribute."""
    found = []
    for name, title, what in DRAWN:
        rows = pooled_rows(results, f"fair.gap.{name}")
        pairs = [
            (f"{task}: {_named(key.removesuffix('/tstr'))}", rows.get((task, f"{key.removesuffix('/tstr')}/trtr")), row)
            for (task, key), row in rows.items()
            if key.endswith("/tstr") and row.value is not None
        ]
        pairs = sorted(pairs, key=lambda p: -abs(p[2].value or 0.0))[:MOST_ROWS]
        if not pairs:
            continue
        labels = [label for label, _, _ in pairs]
        data: list[Any] = [
            {"type": "scatter", "mode": "lines", "x": [real.value, made.value], "y": [label, label], "hoverinfo": "skip",
             "line": {"color": REAL, "width": 3}, "showlegend": False}
            for label, real, made in pairs
            if real is not None
        ]  # fmt: skip
        for group, colour, symbol, chosen in (
            ("trained on real", FRESH, "circle-open", [real for _, real, _ in pairs]),
            ("trained on synthetic", SYNTHETIC, "circle", [made for _, _, made in pairs]),
        ):
            known = [
                (label, r) for label, r in zip(labels, chosen, strict=True) if r is not None and r.value is not None
            ]
            data.append(dots(known, group, colour, symbol))
        found.append(
            figure(
                f"fairness-gap-{name}",
                title,
                f"{what} Real holdout people, 95 % intervals. 0 is the ideal; what matters is how far the filled dot "
                "(trained on synthetic rows) lies beyond the open one (trained on real rows). With two groups the sign "
                "says who gains: above 0 the larger group.",
                data,
                rows_layout(labels, "gap", zero=True),
                150 + 36 * len(labels),
            )
        )
    return found


def gap_table(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Table]:
    """Every gap with both trainings and its change, and the attributes that cannot be judged."""
    rows: list[list[Any]] = []
    for name, title in MEASURES:
        made, change = pooled_rows(results, f"fair.gap.{name}"), pooled_rows(results, f"fair.delta_{name}_gap")
        for (task, key), row in change.items():
            if not key or key.endswith("/signed"):
                continue
            real, synthetic = (made.get((task, f"{key}/{regime}")) for regime in ("trtr", "tstr"))
            rows.append(
                [
                    task,
                    _named(key),
                    title,
                    None if real is None else real.value,
                    None if synthetic is None else synthetic.value,
                    row.value if row.value is not None else row.status.replace("_", " "),
                    interval_words(row),
                    row.note,
                ]
            )
    columns = [
        "task",
        "attribute",
        "gap in",
        "trained on real",
        "trained on synthetic",
        "wider by",
        "95 % interval",
        "note",
    ]
    return [
        table(
            "fairness-gaps",
            "Gaps between groups",
            "Gaps of models trained on real and on synthetic rows, on the same real people, and how much wider the second "
            "is: size of the one minus size of the other. Lower is better; the null is 0.",
            columns,
            rows,
        )
    ]


def group_table(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Table]:
    """Utility in each group, the group that loses most first."""
    kept, made = pooled_rows(results, "fair.worst_group"), pooled_rows(results, "fair.group.tstr")
    rows = []
    for (task, group), row in sorted(kept.items(), key=lambda item: (item[1].value is None, item[1].value or 0.0)):
        if not group:
            continue
        within = made.get((task, group))
        rows.append(
            [
                task,
                group,
                row.n,
                None if within is None else within.null_value,
                None if within is None else within.value,
                row.value if row.value is not None else row.status.replace("_", " "),
                interval_words(row),
                row.note,
            ]
        )
    return [
        table(
            "fairness-worst-group",
            "Utility in each group, the worst first",
            "AUROC among real (holdout) people of a group, and the share of the real model's skill above chance that a model "
            "trained on synthetic rows keeps. Higher is better; 1 keeps all of it. Groups need 50 people with and 50 without "
            "the outcome.",
            ["task", "group", "people", "AUROC, trained on real", "AUROC, trained on synthetic", "skill kept", "95 % interval", "note"],
            rows,
        )
    ]  # fmt: skip


def inside_table(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Table]:
    """Divergence, coverage and membership inference inside each group."""
    found = {name: pooled_rows(results, f"fair.group.{name}") for name in ("jsd", "coverage", "mia")}
    groups = dict.fromkeys(key for rows in found.values() for key in rows if key[0])
    rows = []
    for key in groups:
        cells = [cell_words(found[name].get(key)) for name in ("jsd", "coverage", "mia")]
        if any(cells):
            rows.append([key[0], *(c or "too few" for c in cells)])
    return [
        table(
            "fairness-inside",
            "Fidelity and privacy inside each group",
            "Divergence of the columns above sampling noise (bits; lower is better, null 0), share of the group's real people "
            "with a synthetic row nearby (higher is better, null about 0.97), and how well an attacker tells the group's "
            "training people from others (AUC; lower is better, null 0.5), each with its 95 % interval.",
            ["group", "divergence", "coverage", "membership inference"],
            rows,
        )
    ]


def leak_table(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Table]:
    """How well the group is told from outcome and prediction."""
    found = {name: pooled_rows(results, f"fair.leak.{name}") for name in ("data", "model", "delta", "adjusted")}
    rows = []
    for key, row in found["delta"].items():
        if not key[1]:
            continue
        data, model = found["data"].get(key), found["model"].get(key)
        rows.append(
            [
                *key,
                None if data is None else data.null_value,
                None if data is None else data.value,
                None if model is None else model.null_value,
                None if model is None else model.value,
                cell_words(row),
                cell_words(found["adjusted"].get(key)),
                row.note,
            ]
        )
    return [
        table(
            "fairness-leakage",
            "How well a person's group is guessed",
            "Balanced accuracy of an attacker who sees the outcome, or a model's prediction for a real person; groups count "
            "alike, so that naming the largest gains nothing. The last figures are how much more the prediction betrays than "
            "the outcome: as it stands, and with the outcome blurred by as many errors as the model makes. Lower is better; "
            "the note gives chance and the share of the largest group.",
            [
                "task", "attribute", "real outcome", "synthetic outcome", "prediction, trained on real",
                "prediction, trained on synthetic", "amplification", "amplification, errors allowed for", "note",
            ],
            rows,
        )
    ]  # fmt: skip


def dots(
    rows: Sequence[tuple[str, MetricResult]], name: str, colour: str, symbol: str, what: str = "gap %{x:.3f}"
) -> dict[str, Any]:
    """A dot with its interval on the line of each label; `what` is said of it when it is pointed at."""
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [r.value for _, r in rows],
        "y": [label for label, _ in rows],
        "marker": {"color": colour, "size": 11, "symbol": symbol, "line": {"width": 2.4, "color": colour}},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [(r.ci_hi if r.ci_hi is not None else r.value or 0.0) - (r.value or 0.0) for _, r in rows],
            "arrayminus": [(r.value or 0.0) - (r.ci_lo if r.ci_lo is not None else r.value or 0.0) for _, r in rows],
            "color": colour,
            "thickness": 1.4,
        },
        "hovertemplate": "%{y}<br>" + what + "<extra>" + name + "</extra>",
    }


def _named(key: str) -> str:
    """An attribute, with the model where it is not the task's headline model."""
    attribute, _, model = key.rpartition("/")
    return f"{attribute} ({TITLES[model]})" if attribute and model in TITLES else key


def interval_words(row: MetricResult) -> str:
    """Both ends of the interval; empty where there is none."""
    return "" if row.ci_lo is None else f"{significant(row.ci_lo)} to {significant(row.ci_hi)}"


def cell_words(row: MetricResult | None) -> str:
    """Value and interval in words; empty where there is none."""
    if row is None or row.value is None:
        return ""
    return significant(row.value) + (f" ({interval_words(row)})" if row.ci_lo is not None else "")


FIGURES: tuple[Draw, ...] = (gaps,)
INTERNAL: tuple[Draw, ...] = ()
TABLES: tuple[Tabulate, ...] = (group_table, gap_table, inside_table, leak_table)
