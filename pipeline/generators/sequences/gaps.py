"""Days between visits as classes: single days up to a week, then weeks, months, years (spec 6.5, `ehr_seq`).

Inside a class days are uniform; the last class ends at the mean of the longest gaps, never at a patient's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

STARTS: Final = np.array(
    [*range(8), 8, 15, 22, 29, 61, 92, 122, 152, 183, 213, 244, 274, 304, 335, 366, 731, 1462], dtype=np.int64
)
"""First day of each class: 0 to 7 days, three more weeks, the months of a year, up to 2, up to 4 years, more."""
GAPS: Final = len(STARTS)
END, FIRST = GAPS, GAPS + 1
"""What comes next besides another visit after a gap: nothing more, or the first visit."""
CLASSES: Final = GAPS + 2


@dataclass(frozen=True)
class GapScale:
    """Gaps in days to classes and back.

    Attributes:
        last: longest gap that is drawn.
    """

    last: int

    @classmethod
    def fit(cls, gaps: NDArray[np.int64], rows: NDArray[np.int64], extreme_rows: int) -> GapScale:
        """Learn from (visits,) days since the visit before, -1 for a first one, and the row of each visit.

        The longest gap that is drawn is the mean of the longest ones of so many rows.
        """
        longest = np.zeros(int(rows.max()) + 1 if len(rows) else 1, dtype=np.int64)
        np.maximum.at(longest, rows, np.maximum(gaps, 0))
        top = np.sort(longest)[-extreme_rows:]
        return cls(int(top.mean()) if len(longest) >= extreme_rows else 0)

    def classes(self, gaps: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) class of each gap; FIRST for -1."""
        return np.where(gaps < 0, FIRST, np.searchsorted(STARTS, gaps, side="right") - 1)

    def days(self, classes: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """(n,) days drawn inside classes; 0 for FIRST."""
        at = np.minimum(classes, GAPS - 1)
        ends = np.r_[STARTS[1:] - 1, max(self.last, int(STARTS[-1]))]
        ends = np.maximum(STARTS, np.minimum(ends, max(self.last, 0)))
        drawn = STARTS[at] + (rng.random(len(at)) * (ends[at] - STARTS[at] + 1)).astype(np.int64)
        return np.where(classes < GAPS, drawn, 0)
