"""Figures of a benchmark's cells as JSON lines, one a line, so that a run that was stopped goes on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


def kept_cells(file: Path | None) -> dict[str, dict[str, Any]]:
    """Cell to figures, as an earlier run kept them; none without a file."""
    if file is None or not file.exists():
        return {}
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {line["cell"]: line["figures"] for line in lines}


def keep_cell(file: Path | None, cell: str, figures: dict[str, Any]) -> None:
    """Append one cell's figures; nothing without a file."""
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"cell": cell, "figures": figures}) + "\n")
