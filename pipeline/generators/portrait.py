"""What a trained model shows of itself to people: curves and bars made of aggregates, never a row.

Which portraits there are is each generator's business (`Generator.portraits`); they are drawn and stored with the model
by `pipeline/workflow/portraits.py`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Portrait:
    """One picture: lines over an axis, or bars.

    Attributes:
        title: What is shown.
        axis: What the horizontal axis of the lines is.
        lines: Name to points.
        bars: Name to a share between 0 and 1.
        numbers: Whatever else was computed for it, by name.
    """

    title: str
    axis: str = ""
    lines: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    bars: dict[str, float] = field(default_factory=dict)
    numbers: dict[str, list[float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)
