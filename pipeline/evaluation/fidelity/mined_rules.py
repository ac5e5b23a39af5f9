"""Rules that the training rows keep to almost without exception, and not merely because of what is common.

Codes and levels that belong to one sex, numbers that are never above another, binary columns that imply another, wide
windows around numbers. Each must be kept by the training rows, must be one that independent columns would break, and
all together must leave the training rows nearly untouched: what is mined here must not accuse fresh real rows.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.fidelity.rules import OnlyWith, Ordered, Rows, Within, as_ordered

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.encoding import Side
    from pipeline.evaluation.fidelity.rules import Rule
    from pipeline.features.schema import Column

CARRIERS = 50
ONE_SEX = 0.995
BY_CHANCE = 1e-6
"""Chance with which carriers drawn at random would be so much of one sex: above it nothing is learnt."""
FEWEST_ROWS = 500
KEPT = 0.9995
INFORMATIVE = 0.01
"""Share of rows that would break an order if its two columns were independent."""
WIDTH = 2.0
"""A window reaches this many times as far from the median as T's 1st and 99th percentile do."""
BROKEN_TOGETHER = 0.002
"""Rules are taken, those least often broken first, while no more than this share of T's rows breaks any of them."""
MOST = 40
"""Rules of one kind (windows: one a column)."""
SCREEN, SCREENED = 2_000, 0.002
"""Rows on which pairs are tried first, and the share of them that may break an order worth a closer look."""
GRID = 201


def mine(train: Side) -> list[Rule]:
    """The mined rules, by kind and name; they depend on T only."""
    rows = Rows(train)
    found: list[Rule] = [*of_one_sex(train), *orders(train), *windows(train)]
    judged = [(rule, rule.judge(rows).broken) for rule in found]
    broken = np.zeros(len(train), dtype=bool)
    kept: set[str] = set()
    for rule, mask in sorted(judged, key=lambda x: (int(x[1].sum()), x[0].name)):
        if (broken | mask).mean() <= BROKEN_TOGETHER:
            broken |= mask
            kept.add(rule.name)
    return [rule for rule in found if rule.name in kept]


def sex_columns(columns: list[Column]) -> list[Column]:
    """Discrete columns that are called like sex or gender."""
    return [c for c in columns if c.discrete and {"sex", "gender"} & set(re.split(r"[^a-z]+", c.name.lower()))]


def of_one_sex(train: Side) -> list[OnlyWith]:
    """Codes and levels with CARRIERS or more carriers of known sex, ONE_SEX of them of one sex, beyond chance.

    The commonest first; at most MOST.
    """
    from scipy.stats import binom

    found: list[tuple[int, OnlyWith]] = []
    for column in sex_columns(train.encoder.columns):
        code, levels = train.codes[column.name], column.levels or []
        known = code >= 0
        if not known.any():
            continue
        hot = np.zeros((len(train), len(levels)), dtype=np.float32)
        hot[np.flatnonzero(known), code[known]] = 1.0
        base = hot.sum(axis=0) / known.sum()

        def only(counts: NDArray[np.float64], base: NDArray[np.float64] = base) -> int | None:
            total, top = float(counts.sum()), int(np.argmax(counts))
            if total < CARRIERS or counts[top] < ONE_SEX * total:
                return None
            return top if binom.sf(counts[top] - 1, total, base[top]) < BY_CHANCE else None

        for block in train.encoder.blocks:
            carriers = np.asarray(train.presence[block.name].T @ hot, dtype=np.float64)
            enough = np.flatnonzero(
                (carriers.sum(axis=1) >= CARRIERS) & (carriers.max(axis=1) >= ONE_SEX * carriers.sum(axis=1))
            )
            for j in enough:
                if (sex := only(carriers[j])) is not None:
                    name = f"{block.name} {block.vocabulary[j]}: only {column.name} {levels[sex]}"
                    rule = OnlyWith(name, column.name, sex, codes=((block.name, int(j)),))
                    found.append((int(carriers[j].sum()), rule))
        for other in train.encoder.columns:
            if not other.discrete or other.name == column.name:
                continue
            for place, level in enumerate(other.levels or []):
                counts = hot[train.codes[other.name] == place].sum(axis=0, dtype=np.float64)
                if (sex := only(counts)) is not None:
                    name = f"{other.name} {_said(level)}: only {column.name} {levels[sex]}"
                    found.append((int(counts.sum()), OnlyWith(name, column.name, sex, other=(other.name, place))))
    return [rule for _, rule in sorted(found, key=lambda x: (-x[0], x[1].name))[:MOST]]


def orders(train: Side) -> list[Ordered]:
    """Pairs of numbers of one unit, or of yes-or-no columns, of which one is never above the other.

    They hold in KEPT of FEWEST_ROWS or more rows, and would be broken by INFORMATIVE of them were the columns
    independent: that sodium is above potassium says nothing. The most informative first; at most MOST.
    """
    numeric = [c for c in train.encoder.columns if c.numeric]
    flags = [c for c in train.encoder.columns if c.kind == "binary" and c.levels == [False, True]]
    found: list[tuple[float, Ordered]] = []
    screen = np.linspace(0, len(train) - 1, min(SCREEN, len(train))).astype(np.int64)
    for columns in (numeric, flags):
        values = {c.name: as_ordered(train, c.name) for c in columns}
        grids = {name: _grid(v) for name, v in values.items()}
        for low in columns:
            for high in columns:
                if (
                    low.name == high.name
                    or low.unit != high.unit
                    or (low.kind == "datetime") != (high.kind == "datetime")
                ):
                    continue
                with np.errstate(invalid="ignore"):
                    if (values[low.name][screen] > values[high.name][screen]).mean() > SCREENED:
                        continue
                a, b = values[low.name], values[high.name]
                known = ~np.isnan(a) & ~np.isnan(b)
                if known.sum() < FEWEST_ROWS or (a[known] > b[known]).mean() > 1 - KEPT:
                    continue
                expected = _above(grids[low.name], grids[high.name])
                if columns is flags and a[known].sum() < CARRIERS:
                    continue
                if expected >= INFORMATIVE:
                    found.append((expected, Ordered(low.name, high.name)))
    return [rule for _, rule in sorted(found, key=lambda x: (-x[0], x[1].name))[:MOST]]


def windows(train: Side) -> list[Within]:
    """Around each number: WIDTH times as far from the median as T's 1st and 99th percentile, ends rounded outward.

    Nothing in it tells an extreme of the training rows. Columns of which more than 1 - KEPT lie outside have none.
    """
    found = []
    for column in train.encoder.columns:
        if not column.numeric or column.kind == "datetime":
            continue
        known = train.values[column.name]
        known = known[~np.isnan(known)]
        if len(known) < FEWEST_ROWS:
            continue
        low, middle, high = np.quantile(known, [0.01, 0.5, 0.99])
        if high <= low:
            continue
        # A side without spread (half of the rows at one end) is given the other's.
        below, above = (middle - low) or (high - middle), (high - middle) or (middle - low)
        lowest, highest = _outward(middle - WIDTH * below, down=True), _outward(middle + WIDTH * above, down=False)
        if known.min() >= 0:
            lowest = max(lowest, 0.0)
        if ((known >= lowest) & (known <= highest)).mean() >= KEPT:
            found.append(Within(column.name, lowest, highest))
    return found


def _grid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    known = values[~np.isnan(values)]
    return np.quantile(known, (np.arange(GRID) + 0.5) / GRID) if len(known) else known


def _above(low: NDArray[np.float64], high: NDArray[np.float64]) -> float:
    """Chance that a value of the first is above an independent value of the second, both given by their quantiles."""
    if not len(low) or not len(high):
        return 0.0
    return float((np.searchsorted(high, low, side="left") / len(high)).mean())


def _outward(value: float, *, down: bool) -> float:
    """Two significant digits, away from the middle."""
    if value == 0:
        return 0.0
    unit = 10.0 ** (np.floor(np.log10(abs(value))) - 1)
    return float((np.floor if down else np.ceil)(value / unit) * unit)


def _said(level: object) -> str:
    return {True: "yes", False: "no"}[level] if isinstance(level, bool) else str(level)
