"""A model's portraits as files beside it: an SVG and the numbers behind it each.

What is shown is the generator's business (`pipeline/generators/portrait.py`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pipeline.generators.base import load_generator
from pipeline.store.hashing import canonical_json
from pipeline.workflow.sketch import bar_chart, line_chart

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.generators.portrait import Portrait

PORTRAITS = "portraits"
"""Their folder in a version of `model/<g>`."""


def write_portraits(model: Path, folder: Path) -> None:
    """Draw what the model saved in `model` shows of itself into `folder`."""
    for name, portrait in load_generator(model).portraits().items():
        stem = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        (folder / f"{stem}.svg").write_text(drawn(portrait), encoding="utf-8")
        (folder / f"{stem}.json").write_text(canonical_json(portrait.to_json()) + "\n", encoding="utf-8")


def drawn(portrait: Portrait) -> str:
    """A portrait as SVG text."""
    if portrait.bars:
        return bar_chart(portrait.bars, title=portrait.title)
    return line_chart(portrait.lines, title=portrait.title, x=portrait.axis)


def stored_portraits(version: Path) -> dict[str, str]:
    """Name to SVG text of the portraits in a version of a model; none if it has none."""
    return {p.stem: p.read_text(encoding="utf-8") for p in sorted((version / PORTRAITS).glob("*.svg"))}
