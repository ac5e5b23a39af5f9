"""The leaderboard: all generators and the four reference rows in one table.

Passing generators come first, then those that cannot be judged for want of people, then those that fail; inside each,
by Pareto layer (utility up, privacy risk down). Generators of one layer whose intervals overlap share a badge instead
of getting ranks. One that is not enabled, refused the schema or failed in training is a row with its reason.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pipeline.evaluation.protocol import headline, replicates
from pipeline.evaluation.references import TITLES
from pipeline.evaluation.results import REFERENCE_ROWS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.evaluation.results import MetricResult
    from pipeline.release.gate import Verdict

Status = Literal["ok", "not_enabled", "not_run", "refused", "failed"]
COLUMNS: list[str] = [
    "generator",
    "status",
    "verdict",
    "tier",
    "JSD ↓",
    "corr. RMSE ↓",
    "detect AUC →½",
    "utility ratio ↑",
    "TSTR ↑",
    "MIA AUC →½",
    "TPR at 1 % FPR ↓",
    "exact copies ↓",
    "fit s",
]
FIGURES: dict[str, str] = {
    "jsd": "fid.marg.jsd",
    "corr_rmse": "fid.dep.corr_rmse",
    "detect_auc": "fid.joint.detect_auc",
    "mia_auc": "priv.mia.max_auc",
    "tpr_at_1pct_fpr": "priv.mia.tpr_at_1pct_fpr",
}


@dataclass(frozen=True)
class Entry:
    """One generator of the cohort.

    Attributes:
        status: "ok", or why there is no figure: "not_enabled", "not_run", "refused", "failed".
        reason: In words, where it is not ok; no patient data.
        results: What `run_evaluation` gave.
        verdict: What `judge` gave.
        fit_seconds: Wall time of the training (all seeds).
    """

    status: Status = "ok"
    reason: str = ""
    results: Sequence[MetricResult] = field(default_factory=tuple)
    verdict: Verdict | None = None
    fit_seconds: float | None = None


def leaderboard(entries: Mapping[str, Entry], references: Mapping[str, Sequence[MetricResult]]) -> list[dict[str, Any]]:
    """Plain, JSON-able rows in the order to show them: generators, those without figures, reference rows."""
    judged = [_row(name, e) for name, e in sorted(entries.items()) if e.status == "ok"]
    order = {"pass": 0, "underpowered": 1, "fail": 2, "": 3}
    shown: list[dict[str, Any]] = []
    for verdict in order:
        shown += _layers([r for r in judged if r["verdict"] == verdict])
    for name, entry in sorted(entries.items()):
        if entry.status != "ok":
            shown.append(_row(name, entry))
    for name in REFERENCE_ROWS:
        if name in references:
            row = _row(TITLES[name], Entry(results=references[name]))
            shown.append({**row, "reference": True, "status": "reference", "key": name})
    return shown


def cells(row: Mapping[str, Any]) -> list[str]:
    """The texts of a row's cells, in the order of `COLUMNS`."""
    status = row["status"] + (f": {row['reason']}" if row["reason"] else "")
    if row["status"] not in ("ok", "reference"):
        return [row["generator"], status, *[""] * (len(COLUMNS) - 3), _seconds(row["fit_seconds"])]
    return [
        row["generator"],
        status,
        row["verdict"] or "—",
        row["tier"] or "—",
        _shown(row["jsd"], 4),
        _shown(row["corr_rmse"], 4),
        _shown(row["detect_auc"], 3),
        _shown(row["utility_ratio"], 2),
        _shown(row["tstr"], 3),
        _shown(row["mia_auc"], 3),
        _shown(row["tpr_at_1pct_fpr"], 1, percent=True),
        "—" if row["exact_copies"] is None else f"{max(row['exact_copies'], 0.0):.0f}",
        _seconds(row["fit_seconds"]),
    ]


def to_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "| " + " | ".join("---" for _ in COLUMNS) + " |"]
    lines += ["| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in cells(row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _row(name: str, entry: Entry) -> dict[str, Any]:
    worst = _worst_task(entry.results)
    copies = [r.value for r in replicates(entry.results, "priv.exact_unique") if r.value is not None]
    if not copies:
        pooled = headline(entry.results, "priv.exact_unique")
        copies = [pooled.value] if pooled is not None and pooled.value is not None else []
    return {
        "generator": name,
        "reference": False,
        "key": name,
        "status": entry.status,
        "reason": entry.reason,
        "verdict": entry.verdict.status if entry.verdict else "",
        "why": entry.verdict.reasons() if entry.verdict else [],
        "seeds": len({r.replicate for r in entry.results if r.replicate >= 0}),
        "layer": None,
        "tier": "",
        **{name: _figure(headline(entry.results, metric)) for name, metric in FIGURES.items()},
        "dependence_score": getattr(headline(entry.results, "fid.dep.corr_rmse"), "score", None),
        "task": worst,
        "utility_ratio": _figure(headline(entry.results, "util.ratio", key1=worst)) if worst else None,
        "tstr": _figure(headline(entry.results, "util.tstr_auroc", key1=worst)) if worst else None,
        "exact_copies": max(copies) if copies else None,
        "fit_seconds": entry.fit_seconds,
    }


def _worst_task(results: Sequence[MetricResult]) -> str:
    """The task on which least of the real model's skill is kept; empty without tasks."""
    rows = [r for r in results if r.metric == "util.ratio" and r.replicate == -1 and not r.key2]
    if not rows:
        return ""
    return min(rows, key=lambda r: (r.value is None, r.value if r.value is not None else 0.0, r.key1)).key1


def _figure(row: MetricResult | None) -> dict[str, float | str | None] | None:
    return None if row is None else {"value": row.value, "lo": row.ci_lo, "hi": row.ci_hi, "note": row.note}


def _layers(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of one verdict with their Pareto layer and badge (layer and letter), best layer first."""
    left, layer, found = list(rows), 0, []
    while left:
        layer += 1
        front = [r for r in left if not any(_dominates(o, r) for o in left)] or left
        left = [r for r in left if r not in front]
        for letter, group in enumerate(_tied(front)):
            for row in group:
                badge = f"{layer}{chr(ord('a') + letter % 26)}" if len(front) > 1 else str(layer)
                found.append({**row, "layer": layer, "tier": badge})
    return found


def _axes(row: Mapping[str, Any]) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """(value, low, high) of utility (dependence kept where there is no task) and of privacy risk; both higher = more."""

    def span(figure: Mapping[str, Any] | None, missing: float) -> tuple[float, float, float]:
        if figure is None or figure["value"] is None:
            return missing, missing, missing
        value = figure["value"]
        return value, value if figure["lo"] is None else figure["lo"], value if figure["hi"] is None else figure["hi"]

    if row["utility_ratio"] is not None:
        utility = span(row["utility_ratio"], -1.0)
    else:
        error = span(row["corr_rmse"], 2.0)
        utility = -error[0], -error[2], -error[1]
    return utility, span(row["mia_auc"], 1.0)


def _dominates(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Is `a` better on one axis beyond the intervals, and not worse beyond them on the other?"""
    (use_a, risk_a), (use_b, risk_b) = _axes(a), _axes(b)
    better_use, worse_use = use_a[1] > use_b[2], use_a[2] < use_b[1]
    better_risk, worse_risk = risk_a[2] < risk_b[1], risk_a[1] > risk_b[2]
    return (better_use and not worse_risk) or (better_risk and not worse_use)


def _tied(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Groups of generators that overlap on both axes with one of the group; best utility first."""
    groups: list[list[dict[str, Any]]] = []
    for row in sorted(rows, key=lambda r: (-_axes(r)[0][0], r["generator"])):
        touching = [g for g in groups if any(_overlap(row, other) for other in g)]
        merged = [r for g in touching for r in g] + [row]
        groups = [g for g in groups if g not in touching] + [merged]
    return sorted(groups, key=lambda g: -max(_axes(r)[0][0] for r in g))


def _overlap(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return all(x[1] <= y[2] and y[1] <= x[2] for x, y in zip(_axes(a), _axes(b), strict=True))


def _shown(figure: Mapping[str, Any] | None, digits: int, *, percent: bool = False) -> str:
    """Value ± half the interval; what cannot be estimated is said so."""
    if figure is None:
        return "—"
    if figure["value"] is None:
        return "n. e."
    factor, unit = (100, " %") if percent else (1, "")
    text = f"{factor * figure['value']:.{digits}f}"
    if figure["lo"] is not None and figure["hi"] is not None:
        text += f" ± {factor * (figure['hi'] - figure['lo']) / 2:.{digits}f}"
    return text + unit


def _seconds(value: float | None) -> str:
    return "—" if value is None else f"{value:.1f}"
