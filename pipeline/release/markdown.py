"""Pieces of Markdown that both cards are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """The lines of a table and an empty one after it."""
    lines = [columns, ["---"] * len(columns), *rows]
    return [*(f"| {' | '.join(_cell(value) for value in line)} |" for line in lines), ""]


def bullets(items: Sequence[str], otherwise: str) -> list[str]:
    """The lines of a list and an empty one after it; one sentence where there is nothing to list."""
    return [*(f"- {item}" for item in items), ""] if items else [otherwise, ""]


def settings(given: Mapping[str, Any]) -> str:
    """Settings in one line."""
    return ", ".join(f"{name}={given[name]}" for name in sorted(given)) or "the defaults"


def spend(spent: Mapping[str, Any]) -> str:
    """Epsilon and delta in words; a training that is not private has spent without limit."""
    if not spent:
        return "not in the ledger"
    if spent["epsilon"] == "inf":
        text = "epsilon = inf (not differentially private)"
    else:
        text = f"epsilon = {spent['epsilon']:.4g}, delta = {spent['delta']:.2g}"
    return f"{text}, of {spend(spent['budget'])} allowed" if spent.get("budget") else text


def figures(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The table of figures with interval, null and reference rows."""
    return table(
        ("figure", "value (95 % interval)", "null", "fresh real rows", "training rows copied", "gate"),
        [
            (
                f"{r['title']} `{r['metric']}`",
                _number(r["value"]) + ("" if r["low"] is None else f" ({_number(r['low'])} to {_number(r['high'])})"),
                _number(r["null"]),
                _number(r["fresh"]),
                _number(r["train"]),
                {True: "pass", False: "**no pass**", None: ""}[r["passed"]],
            )
            for r in rows
        ],
    )


def _number(value: float | None) -> str:
    return "—" if value is None else f"{value:.4g}"


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
