"""How numbers and tasks are written in the report, for someone who is no statistician."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.evaluation.results import MetricResult

NOTHING = 1e-12
"""What is smaller is a rounding error of a sum and written as 0."""


def tasks_of(results: Sequence[MetricResult]) -> list[str]:
    """Names of the tasks that have figures, in order."""
    return list(dict.fromkeys(r.key1 for r in results if r.metric == "util.ratio" and r.key1 and not r.key2))


def number(value: float | None, digits: int = 3, *, percent: bool = False) -> str:
    """A number for people; "—" where there is none."""
    if value is None:
        return "—"
    return f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%" if percent else f"{value + 0.0:.{digits}f}"


def significant(value: float | None) -> str:
    """Four significant digits, without exponents between 0.0001 and a million."""
    if value is None:
        return "—"
    if abs(value) < NOTHING:
        return "0"
    text = f"{value:.4g}"
    return f"{value:,.0f}" if "e+" in text and abs(value) < 1e12 else text


def with_interval(row: MetricResult | None, digits: int = 3, *, percent: bool = False) -> str:
    """Value and both ends of the interval."""
    if row is None:
        return "—"
    if row.value is None:
        return f"not estimable ({row.note})"
    text = number(row.value, digits, percent=percent)
    if row.ci_lo is None or row.ci_hi is None:
        return text
    return f"{text} ({number(row.ci_lo, digits, percent=percent)} to {number(row.ci_hi, digits, percent=percent)})"
