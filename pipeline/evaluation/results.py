"""What a metric gives: one row a number, in the long format that is stored and shown everywhere."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pyarrow as pa

Family = Literal["schema", "fidelity", "utility", "privacy", "fairness"]
Scope = Literal["table", "column", "pair", "task", "subgroup"]
REFERENCE_ROWS: tuple[str, ...] = ("ref_fresh", "ref_train", "ref_marginal", "ref_mode")


@dataclass(frozen=True)
class MetricSpec:
    """What a metric is: stored with every result and shown in reports.

    Attributes:
        id: Dotted name, e.g. "fid.marg.jsd".
        family: Which part of the report it belongs to.
        direction: +1 higher is better, -1 lower is better, 0 neither (closeness to the null counts).
        range: Smallest and largest possible value.
        needs: Which parts it reads: subset of {"T", "H", "R0", "R1", "S", "task"}.
        version: Raise it when the same input gives another number.
        title: Short name for people.
        caption: What is measured, which direction is good, what the null is.
        source: Paper, section or formula.
    """

    id: str
    family: Family
    direction: Literal[-1, 0, 1]
    range: tuple[float, float]
    needs: frozenset[str]
    version: str
    title: str
    caption: str
    source: str = ""

    def result(
        self,
        value: float | None,
        *,
        se: float | None = None,
        interval: tuple[float, float] | None = None,
        n: int | None = None,
        null: float | None = None,
        scope: Scope = "table",
        key1: str = "",
        key2: str = "",
        note: str = "",
    ) -> MetricResult:
        """A result of this metric; a value that is not finite becomes None and is noted, never NaN.

        Args:
            value: The number; None where it cannot be estimated.
            se: Standard error; gives the 95 % interval (cut to the metric's range) where `interval` is None.
            interval: Both ends of the 95 % interval.
            n: Rows (or whatever the note says) behind the number.
            null: What it would be if nothing were wrong.
            scope: What the number is about.
            key1: Column or task; empty for the headline number of the table.
            key2: Second column, model or statistic.
            note: Why there is no value, or what to bear in mind.
        """
        if value is None or not math.isfinite(value):
            return MetricResult(
                self.id,
                None,
                n=n,
                null_value=null,
                scope=scope,
                key1=key1,
                key2=key2,
                direction=self.direction,
                family=self.family,
                note=note or "not estimable",
            )
        if se is not None and not math.isfinite(se):
            se = None
        if interval is None and se is not None:
            low, high = self.range
            interval = (max(low, value - 1.959964 * se), min(high, value + 1.959964 * se))
        lo, hi = (None, None) if interval is None else interval
        return MetricResult(
            self.id,
            float(value),
            ci_lo=None if lo is None else float(lo),
            ci_hi=None if hi is None else float(hi),
            se=None if se is None else float(se),
            n=n,
            null_value=None if null is None or not math.isfinite(null) else float(null),
            scope=scope,
            key1=key1,
            key2=key2,
            direction=self.direction,
            family=self.family,
            note=note,
        )


@dataclass(frozen=True)
class MetricResult:
    """One number. `value` is None where it cannot be estimated; `note` then says why."""

    metric: str
    value: float | None
    ci_lo: float | None = None
    ci_hi: float | None = None
    se: float | None = None
    n: int | None = None
    null_value: float | None = None
    scope: Scope = "table"
    key1: str = ""
    key2: str = ""
    direction: int = 0
    family: str = "fidelity"
    replicate: int = -1
    ref_fresh: float | None = None
    ref_train: float | None = None
    ref_marginal: float | None = None
    ref_mode: float | None = None
    score: float | None = None
    note: str = ""


def results_schema() -> pa.Schema:
    """Arrow schema of a table of results."""
    import pyarrow as pa

    kinds = {"value": pa.float64(), "n": pa.int64(), "direction": pa.int8(), "replicate": pa.int32()}
    text = {"metric", "scope", "key1", "key2", "family", "note"}
    return pa.schema(
        [
            pa.field(f.name, kinds.get(f.name, pa.string() if f.name in text else pa.float64()))
            for f in fields(MetricResult)
        ]
    )


def results_table(results: Iterable[MetricResult]) -> pa.Table:
    """The results as an Arrow table, in the order given."""
    import pyarrow as pa

    return pa.Table.from_pylist([asdict(r) for r in results], schema=results_schema())


def results_from_table(table: pa.Table) -> list[MetricResult]:
    """The results back from the table that `results_table` made."""
    return [MetricResult(**row) for row in table.to_pylist()]
