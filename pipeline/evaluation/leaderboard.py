"""The leaderboard: all generators and the four reference rows in one table.

Passing generators come first, then those that cannot be judged for want of people, then those that fail; inside each,
by Pareto layer (utility up, privacy risk down). Generators of one layer that cannot be told apart (paired comparison,
Holm's correction) share a badge instead of getting ranks. One that is not enabled, refused the schema or failed in training is a row with its reason.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import stdev
from typing import TYPE_CHECKING, Any, Literal

from pipeline.evaluation.comparison import Measured, certainly_more
from pipeline.evaluation.protocol import headline, replicates
from pipeline.evaluation.references import TITLES
from pipeline.evaluation.results import REFERENCE_ROWS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.evaluation.results import MetricResult
    from pipeline.release.gate import Verdict

Status = Literal["ok", "not_enabled", "not_run", "refused", "failed"]


@dataclass(frozen=True)
class Shown:
    """A figure of the leaderboard.

    Attributes:
        key: Its field in a row.
        metric: Id of the metric.
        heading: Of its column; the arrow says which way is better.
        digits: After the point.
        percent: Is it written as a percentage?
        of_task: Is it the figure of the task that keeps least skill?
        wide: Is it left out of narrow tables?
    """

    key: str
    metric: str
    heading: str
    digits: int
    percent: bool = False
    of_task: bool = False
    wide: bool = False


FIGURES: tuple[Shown, ...] = (
    Shown("jsd", "fid.marg.jsd", "JSD ↓", 4),
    Shown("corr_rmse", "fid.dep.corr_rmse", "corr. RMSE ↓", 4),
    Shown("detect_auc", "fid.joint.detect_auc", "detect AUC →½", 3),
    Shown("apd", "ehr.prev.apd", "APD ×1000 ↓", 2, wide=True),
    Shown("abundance", "ehr.abundance", "codes a row ↓", 3, wide=True),
    Shown("utility_ratio", "util.ratio", "utility ratio ↑", 2, of_task=True),
    Shown("tstr", "util.tstr_auroc", "TSTR ↑", 3, of_task=True),
    Shown("calibration", "util.calibration_slope", "calibration →1", 2, of_task=True, wide=True),
    Shown("signs", "util.inference.sign_agreement", "signs kept ↑", 2, wide=True),
    Shown("mia_auc", "priv.mia.max_auc", "MIA AUC →½", 3),
    Shown("tpr_at_1pct_fpr", "priv.mia.tpr_at_1pct_fpr", "TPR at 1 % FPR ↓", 1, percent=True),
    Shown("aia_excess", "priv.aia.excess", "AIA excess ↓", 3),
    Shown("identity", "priv.identity_disclosure", "identity ↓", 3),
    Shown("auroc_gap", "fair.delta_auroc_gap", "gap added ↓", 3),
    Shown("ldss", "fair.ldss", "group shift ↓", 2, wide=True),
)
_NAMES = ("generator", "status", "verdict", "tier")
COLUMNS: list[str] = [*_NAMES, *(f.heading for f in FIGURES if not f.wide), "exact copies ↓", "fit s"]
"""Headings of the narrow table."""
WIDE_COLUMNS: list[str] = [*_NAMES, *(f.heading for f in FIGURES), "exact copies ↓", "ε", "sd over seeds", "fit s"]
"""Headings of the table with everything."""


@dataclass(frozen=True)
class Entry:
    """One generator of the cohort.

    Attributes:
        status: "ok", or why there is no figure: "not_enabled", "not_run", "refused", "failed".
        reason: In words, where it is not ok; no patient data.
        results: What `run_evaluation` gave.
        verdict: What `judge` gave.
        fit_seconds: Wall time of the training (all seeds).
        epsilon: What the training spends, if it is differentially private.
    """

    status: Status = "ok"
    reason: str = ""
    results: Sequence[MetricResult] = field(default_factory=tuple)
    verdict: Verdict | None = None
    fit_seconds: float | None = None
    epsilon: float | None = None


def leaderboard(entries: Mapping[str, Entry], references: Mapping[str, Sequence[MetricResult]]) -> list[dict[str, Any]]:
    """Plain, JSON-able rows in the order to show them: generators, those without figures, reference rows."""
    judged = [_row(name, e) for name, e in sorted(entries.items()) if e.status == "ok"]
    order = {"pass": 0, "underpowered": 1, "fail": 2, "": 3}
    shown: list[dict[str, Any]] = []
    for verdict in order:
        shown += _layers([r for r in judged if r["verdict"] == verdict], entries)
    for name, entry in sorted(entries.items()):
        if entry.status != "ok":
            shown.append(_row(name, entry))
    for name in REFERENCE_ROWS:
        if name in references:
            row = _row(TITLES[name], Entry(results=references[name]))
            shown.append({**row, "reference": True, "status": "reference", "key": name})
    return shown


def cells(row: Mapping[str, Any], *, wide: bool = False) -> list[str]:
    """The texts of a row's cells, in the order of `COLUMNS`, or of `WIDE_COLUMNS`."""
    status = row["status"] + (f": {row['reason']}" if row["reason"] else "")
    shown = [f for f in FIGURES if wide or not f.wide]
    if row["status"] not in ("ok", "reference"):
        empty = len(shown) + (5 if wide else 3) - 1
        return [row["generator"], status, *[""] * (empty + 1), _seconds(row["fit_seconds"])]
    copies = "—" if row["exact_copies"] is None else f"{max(row['exact_copies'], 0.0):.0f}"
    more = [_plain(row["epsilon"], 2), _plain(row["stability"], 4)] if wide else []
    return [
        row["generator"],
        status,
        row["verdict"] or "—",
        row["tier"] or "—",
        *(_shown(row[f.key], f.digits, percent=f.percent) for f in shown),
        copies,
        *more,
        _seconds(row["fit_seconds"]),
    ]


def to_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a Markdown table with the narrow columns."""
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
        **{f.key: _figure(_row_of(entry.results, f, worst)) for f in FIGURES},
        "dependence_score": getattr(headline(entry.results, "fid.dep.corr_rmse"), "score", None),
        "task": worst,
        "exact_copies": max(copies) if copies else None,
        "epsilon": entry.epsilon,
        "stability": _stability(entry.results, worst),
        "fit_seconds": entry.fit_seconds,
    }


def _row_of(results: Sequence[MetricResult], shown: Shown, task: str) -> MetricResult | None:
    return headline(results, shown.metric, key1=task if shown.of_task else "") if task or not shown.of_task else None


def _stability(results: Sequence[MetricResult], task: str) -> float | None:
    """Standard deviation over seeds of the skill on the worst task, or without one of the correlation error."""
    rows = replicates(results, "util.tstr_auroc", key1=task) if task else replicates(results, "fid.dep.corr_rmse")
    values = [r.value for r in rows if r.value is not None]
    return stdev(values) if len(values) > 1 else None


def _worst_task(results: Sequence[MetricResult]) -> str:
    """The task on which least of the real model's skill is kept; empty without tasks."""
    rows = [r for r in results if r.metric == "util.ratio" and r.replicate == -1 and not r.key2]
    if not rows:
        return ""
    return min(rows, key=lambda r: (r.value is None, r.value if r.value is not None else 0.0, r.key1)).key1


def _figure(row: MetricResult | None) -> dict[str, float | str | None] | None:
    if row is None or row.status == "not_applicable":
        return None
    return {"value": row.value, "lo": row.ci_lo, "hi": row.ci_hi, "score": row.score, "note": row.note}


@dataclass(frozen=True)
class _Standing:
    """Who is certainly better than whom, on each axis: utility (dependence kept without a task) and privacy risk."""

    utility: set[tuple[str, str]]
    risk: set[tuple[str, str]]
    value: Mapping[str, float]

    def dominates(self, a: str, b: str) -> bool:
        """Is `a` certainly better on one axis, and not certainly worse on the other?"""
        better = (a, b) in self.utility or (b, a) in self.risk
        return better and (b, a) not in self.utility and (a, b) not in self.risk

    def apart(self, a: str, b: str) -> bool:
        """Do they certainly differ on an axis?"""
        return bool({(a, b), (b, a)} & (self.utility | self.risk))


def _standing(entries: Mapping[str, Entry]) -> _Standing:
    """Pairwise comparisons of the generators; one that lacks a figure stands at the end of its axis."""
    utility, risk = {}, {}
    tasks = [task for task in (_worst_task(e.results) for e in entries.values()) if task]
    task = min(tasks, key=lambda t: (-tasks.count(t), t)) if tasks else ""
    for name, entry in entries.items():
        row = headline(entry.results, "util.ratio", key1=task) if task else headline(entry.results, "fid.dep.corr_rmse")
        utility[name] = _measured(row, sign=1 if task else -1, missing=-2.0)
        risk[name] = _measured(headline(entry.results, "priv.mia.max_auc"), sign=1, missing=1.0)
    value = {name: m.value for name, m in utility.items()}
    return _Standing(certainly_more(utility), certainly_more(risk), value)


def _measured(row: MetricResult | None, *, sign: int, missing: float) -> Measured:
    if row is None or row.value is None:
        return Measured(missing)
    draws = None if row.draws is None else [sign * x for x in row.draws]
    return Measured(sign * row.value, row.se or 0.0, draws)


def _layers(rows: list[dict[str, Any]], entries: Mapping[str, Entry]) -> list[dict[str, Any]]:
    """Rows of one verdict with their Pareto layer and badge (layer and letter), best layer first."""
    stands = _standing({r["key"]: entries[r["key"]] for r in rows})
    left, layer, found = list(rows), 0, []
    while left:
        layer += 1
        front = [r for r in left if not any(stands.dominates(o["key"], r["key"]) for o in left)] or left
        left = [r for r in left if r not in front]
        for letter, group in enumerate(_tied(front, stands)):
            for row in group:
                badge = f"{layer}{chr(ord('a') + letter % 26)}" if len(front) > 1 else str(layer)
                found.append({**row, "layer": layer, "tier": badge})
    return found


def _tied(rows: list[dict[str, Any]], stands: _Standing) -> list[list[dict[str, Any]]]:
    """Groups of generators that cannot be told from one of the group on either axis; best utility first."""
    groups: list[list[dict[str, Any]]] = []
    for row in sorted(rows, key=lambda r: (-stands.value[r["key"]], r["key"])):
        touching = [g for g in groups if any(not stands.apart(row["key"], other["key"]) for other in g)]
        merged = [r for g in touching for r in g] + [row]
        groups = [g for g in groups if g not in touching] + [merged]
    return sorted(groups, key=lambda g: -max(stands.value[r["key"]] for r in g))


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


def _plain(value: float | None, digits: int) -> str:
    return "—" if value is None else f"{value:.{digits}f}"


def _seconds(value: float | None) -> str:
    return "—" if value is None else f"{value:.1f}"
