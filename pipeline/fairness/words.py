"""What reports and cards say of rows that were drawn under a notion of fairness: one sentence, of shares alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_NOTIONS = {
    "none": "shares",
    "parity": "parity",
    "equal_opportunity": "equal opportunity",
    "equalised_odds": "equalised odds",
}


def drawn_under(accounts: Sequence[Mapping[str, Any]]) -> str:
    """In words what was asked of the candidate's rows and what became of it; empty where nothing was.

    Args:
        accounts: `FairAccount.plain` of each replicate, the candidate first: `info["fairness"]` of synthetic rows.
    """
    if not accounts:
        return ""
    told = accounts[0]
    groups = ", ".join(f"'{name}'" for name in told["protected"])
    asked = f"{_NOTIONS.get(told['notion'], told['notion'])} of '{told['label']}' over {groups}, aim {told['aim']}"
    gap = f"gap of its share {told['label_gap_before']:.3f} as the model draws, {told['label_gap_after']:.3f} here"
    lacking = f", {told['lacking']:,} rows could not be found" if told["lacking"] else ""
    return f"{asked}: {gap}; {told['rows']:,} rows chosen out of {told['candidates']:,}{lacking}"
