"""Numbers that are exactly the sum, difference, product or quotient of others in every training row.

Looked for on a few rows first, then held against all of them, on the column's own grid.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from pipeline.features.constraint_spec import rules_from
from pipeline.features.infer import RARE_ROWS
from pipeline.generators.constraints.rules import violations
from pipeline.generators.constraints.steps import snapped
from pipeline.generators.constraints.suggest import FEWEST, Suggestion

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from pipeline.features.cohort import Cohort
    from pipeline.features.schema import Column

SCREEN = 200
MOST_COLUMNS = 60
WHOLE = 1e-6
FEWEST_VALUES = 3


def formulas(train: Cohort) -> list[Suggestion]:
    """Columns that are computed from others; each at most once, and from none that is computed itself."""
    columns = [c for c in train.schema.modelled() if c.kind in ("continuous", "count") and _varies(train, c)]
    columns = columns[:MOST_COLUMNS]
    values = {c.name: train.values(c.name) for c in columns}
    found: list[Suggestion] = []
    computed: set[str] = set()
    used: set[str] = set()
    for kind, text, target, operands in (*_of_two(columns, values), *_of_several(columns, values)):
        if target in computed | used or computed & set(operands):
            continue
        people = _holding(train, kind, text, target, operands)
        if people:
            computed.add(target)
            used |= set(operands)
            found.append(Suggestion(rules_from([{kind: text}])[0], people, "exact in every row, on the column's grid"))
    return found


def _varies(train: Cohort, column: Column) -> bool:
    """Does it have values to compute anything from? Not where few people have anything but the commonest."""
    values = train.values(column.name)
    there = values[~np.isnan(values)]
    _, counts = np.unique(there, return_counts=True)
    return len(there) >= FEWEST and len(counts) >= FEWEST_VALUES and len(there) - counts.max() >= RARE_ROWS


def _of_two(
    columns: list[Column], values: dict[str, NDArray[np.float64]]
) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    """Formulas over two columns that hold on the screened rows; sums first, the simplest reading of three columns."""
    for a, b in combinations([c.name for c in columns], 2):
        known = np.flatnonzero(~np.isnan(values[a]) & ~np.isnan(values[b]))
        for kind, sign, first, second in (
            ("sum", "+", a, b),
            ("derive", "*", a, b),
            ("derive", "/", a, b),
            ("derive", "/", b, a),
        ):
            for target in columns:
                if target.name in (a, b):
                    continue
                rows = known[~np.isnan(values[target.name][known])]
                rows = rows[np.linspace(0, len(rows) - 1, min(SCREEN, len(rows))).astype(int)]
                if len(rows) < FEWEST:
                    continue
                x, y = values[first][rows], values[second][rows]
                with np.errstate(divide="ignore", invalid="ignore"):
                    made = {"+": x + y, "*": x * y, "/": x / y}[sign]
                there = np.isfinite(made)
                close = np.isclose(
                    snapped(np.where(there, made, 0), target), values[target.name][rows], rtol=1e-9, atol=1e-9
                )
                if there.sum() >= FEWEST and close[there].all():
                    text = f"{_quoted(target.name)} = {_quoted(first)} {sign} {_quoted(second)}"
                    yield kind, text, target.name, (first, second)


def _of_several(
    columns: list[Column], values: dict[str, NDArray[np.float64]]
) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    """Sums of three and more: the others explain a column without rest, with weights 0 and 1."""
    names = [c.name for c in columns]
    table = np.stack([values[n] for n in names], axis=1) if names else np.empty((0, 0))
    whole = table[~np.isnan(table).any(axis=1)][:2000]
    if len(whole) < max(FEWEST, 3 * len(names)):
        return
    scale = np.maximum(np.abs(whole).max(axis=0), 1e-9)
    for j, name in enumerate(names):
        others = [k for k in range(len(names)) if k != j]
        weights = np.linalg.lstsq(whole[:, others], whole[:, j], rcond=None)[0]
        rest = np.abs(whole[:, others] @ weights - whole[:, j]).max()
        share = weights * scale[others] / scale[j]
        units = np.rint(weights)
        whole_weights = np.abs(weights - units) < WHOLE + WHOLE / np.maximum(scale[others] / scale[j], 1e-12)
        chosen = [names[k] for k, w in zip(others, units, strict=True) if w == 1]
        if (
            rest > WHOLE * scale[j]
            or not whole_weights[np.abs(share) > WHOLE].all()
            or (units < 0).any()
            or units.max() > 1
        ):
            continue
        if len(chosen) > 2:
            yield "sum", f"{_quoted(name)} = {' + '.join(map(_quoted, chosen))}", name, tuple(chosen)


def _holding(train: Cohort, kind: str, text: str, target: str, operands: tuple[str, ...]) -> int:
    """People whose rows could have broken a formula; 0 where one does, or where an operand hardly counts."""
    (rule,) = rules_from([{kind: text}])
    if violations(train, rule).any():
        return 0
    cells = [train.values(name) for name in (target, *operands)]
    known = ~np.isnan(np.stack(cells)).any(axis=0)
    people = train.subject[known]
    for operand in cells[1:]:
        if len(np.unique(people[(operand != 0)[known] & (operand != cells[0])[known]])) < RARE_ROWS:
            return 0
    count = len(np.unique(people))
    return count if count >= FEWEST else 0


def _quoted(name: str) -> str:
    """A column's name as SQL: quoted where it is no plain word."""
    return name if name.isidentifier() else f'"{name}"'
