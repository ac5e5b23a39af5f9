"""A made-up proxy of the protected group (Bt-GAN paper, appendix F), and what rows say of group, proxies and outcome.

The proxy agrees with the group in 95 % of the rows: 1 for the other group and 0 for the favoured one, else the other way
round. It is put into the real rows before a generator learns, and into those of the test. Real columns that tell the group
are found beside it: proxies that nobody made up.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from supporting.fair_figures import People

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.features.cohort import Cohort
    from supporting.fair_rows import FairSplit

PROXY = "s_proxy"
AGREES = 0.95
PIECES = 8
"""Pieces of equal size that a number is cut into before its information is counted."""


def with_proxy(split: FairSplit, seed: int, *, agrees: float = AGREES) -> FairSplit:
    """The split with the made-up column on both sides; who belongs to neither group has 0 and 1 alike often."""
    rng = np.random.default_rng([seed, 95])
    return replace(
        split, train=_added(split, split.train, rng, agrees), holdout=_added(split, split.holdout, rng, agrees)
    )


def _added(split: FairSplit, cohort: Cohort, rng: np.random.Generator, agrees: float) -> Cohort:
    import pyarrow as pa

    from pipeline.features.schema import Column

    number = group_of(split, cohort)
    same = rng.random(cohort.n_rows) < agrees
    proxy = np.where(number < 0, rng.random(cohort.n_rows) < 0.5, (number == 1) == same)
    column = Column(name=PROXY, kind="binary", dtype="bool", levels=[False, True])
    schema = cohort.schema.model_copy(update={"columns": [*cohort.schema.columns, column]})
    return replace(cohort, table=cohort.table.append_column(PROXY, pa.array(proxy)), schema=schema)


def group_of(split: FairSplit, cohort: Cohort) -> NDArray[np.int64]:
    """(n,) 0 the favoured group, 1 the other, -1 neither."""
    levels = list(cohort.schema.column(split.data.protected).levels or [])
    codes = cohort.codes(split.data.protected)
    number = np.full(cohort.n_rows, -1)
    for place, level in enumerate(split.data.groups):
        number[codes == levels.index(level)] = place
    return number


def correlation(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Pearson's (of two binary columns: phi); NaN where either is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def information(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    """Mutual information of two columns of levels in bits, less (k - 1)(m - 1) / 2n nats that chance gives (Miller 1955)."""
    table = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(table, (a, b), 1)
    table = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0]
    share = table / table.sum()
    apart = share.sum(axis=1, keepdims=True) * share.sum(axis=0, keepdims=True)
    found = share > 0
    nats = float((share[found] * np.log(share[found] / apart[found])).sum())
    chance = (table.shape[0] - 1) * (table.shape[1] - 1) / (2 * table.sum())
    return (nats - chance) / float(np.log(2))


def pieces(cohort: Cohort, name: str, edges: NDArray[np.float64] | None = None) -> NDArray[np.int64]:
    """(n,) levels of a column, or the pieces of a number between `edges`; what is missing is a level of its own."""
    column = cohort.schema.column(name)
    if column.discrete:
        return np.asarray(cohort.codes(name) + 1, dtype=np.int64)
    values = cohort.values(name)
    assert edges is not None
    return np.where(np.isnan(values), 0, 1 + np.searchsorted(edges, np.nan_to_num(values), side="right"))


def edges_of(cohort: Cohort, name: str) -> NDArray[np.float64] | None:
    """Cuts of a number into pieces of equal size; None of a column of levels."""
    if cohort.schema.column(name).discrete:
        return None
    values = cohort.values(name)
    values = values[~np.isnan(values)]
    return np.unique(np.quantile(values, np.linspace(0, 1, PIECES + 1)[1:-1])) if len(values) else np.zeros(0)


def natural_proxies(split: FairSplit, most: int) -> list[str]:
    """The columns of the real rows that tell most of the group, without outcomes and the made-up one."""
    people = People.of(split, split.train)
    skip = {split.data.protected, split.task.label, *split.task.leak, PROXY}
    told = {
        column.name: information(people.group, pieces(split.train, column.name, edges_of(split.train, column.name))[people.rows])
        for column in split.train.schema.modelled()
        if column.name not in skip
    }  # fmt: skip
    return sorted(told, key=lambda name: -told[name])[:most]


def proxy_figures(split: FairSplit, rows: Cohort, natural: list[str]) -> dict[str, float]:
    """What rows say of group, proxies and outcome; a figure that cannot be told is left out.

    Args:
        split: The real rows, which numbers are cut by.
        rows: Rows of a system.
        natural: Real columns that tell the group.
    """
    people = People.of(split, rows)
    if not len(people.rows):
        return {}
    outcome, proxy = people.truth.astype(np.int64), rows.codes(PROXY)[people.rows]
    found = {
        "corr_group_proxy": correlation(people.group, proxy),
        "corr_group_outcome": correlation(people.group, outcome),
        "corr_proxy_outcome": correlation(proxy, outcome),
        "bits_group_proxy": information(people.group, proxy),
        "bits_group_outcome": information(people.group, outcome),
        "bits_proxy_outcome": information(proxy, outcome),
    }
    columns = [pieces(rows, name, edges_of(split.train, name))[people.rows] for name in natural]
    if columns:
        found["bits_group_natural"] = float(np.mean([information(people.group, x) for x in columns]))
        found["bits_natural_outcome"] = float(np.mean([information(x, outcome) for x in columns]))
    return {name: value for name, value in found.items() if np.isfinite(value)}
