"""What a metric gives: one row a number, in the long format that is stored and shown everywhere."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

Family = Literal["schema", "fidelity", "utility", "privacy", "fairness", "literal"]
Scope = Literal["table", "column", "pair", "task", "subgroup", "record_group"]
Cost = Literal["A", "B", "C", "D"]
NOT_APPLICABLE = "not applicable"
"""How the note of a figure begins that does not concern the table."""
REFERENCE_ROWS: tuple[str, ...] = ("ref_fresh", "ref_train", "ref_marginal", "ref_mode")


class TooFew(str):
    """Why there is no figure, where it is rows that are lacking: given as a note, it makes a result underpowered.

    Args:
        n: How many of them there are.
        needed: About how many would settle it.
        what: What they are, e.g. "people outside training".
    """

    n: int
    needed: int
    what: str

    def __new__(cls, n: int, needed: int, what: str) -> TooFew:
        """The words of the note."""
        made = super().__new__(cls, f"underpowered: {n:,} {what}, about {needed:,} needed")
        made.n, made.needed, made.what = n, needed, what
        return made

    def __getnewargs__(self) -> tuple[int, int, str]:  # type: ignore[override]
        """What it is made again from when it is copied or pickled."""
        return self.n, self.needed, self.what


@dataclass(frozen=True)
class Published:
    """A figure that a paper prints.

    Attributes:
        paper: Short name, e.g. "ScoEHR (Naseer 2023), table 2".
        data: On which data.
        system: Of which generator.
        value: As printed, in the metric's own units.
    """

    paper: str
    data: str
    system: str
    value: float


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
        cost: What it costs at 10,000 rows on two cores: A seconds, B up to two minutes, C up to fifteen, D hours. The
            profile says which are computed: "quick" A and B, "standard" also C, "full" all.
        flaw: What is wrong with it, in one or two sentences (a paper's literal formula); shown beside the value.
        published: Figures that papers print for it.
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
    cost: Cost = "A"
    flaw: str = ""
    published: tuple[Published, ...] = ()

    def not_applicable(
        self, why: str, *, scope: Scope = "table", key1: str = "", key2: str = "", null: float | None = None
    ) -> MetricResult:
        """A result without a value because the figure does not concern this table: no task, no code block, no group.

        Unlike a figure that cannot be estimated it fails no gate.
        """
        return self.result(None, null=null, scope=scope, key1=key1, key2=key2, note=f"{NOT_APPLICABLE}: {why}")

    def underpowered(
        self,
        n: int,
        needed: int,
        what: str,
        *,
        null: float | None = None,
        scope: Scope = "table",
        key1: str = "",
        key2: str = "",
    ) -> MetricResult:
        """A result without a value because there are too few rows to judge.

        Args:
            n: How many of them there are.
            needed: About how many would settle it.
            what: What they are, e.g. "people outside training".
            null: What the figure would be if nothing were wrong.
            scope: What the figure is about.
            key1: Column or task.
            key2: Second column, model or statistic.
        """
        return self.result(None, null=null, scope=scope, key1=key1, key2=key2, note=TooFew(n, needed, what))

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
        draws: Sequence[float] | NDArray[np.floating] | None = None,
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
            note: Why there is no value (`TooFew` where rows are lacking), or what to bear in mind.
            draws: (draws,) bootstrap values, where resampled holdout people are the same for every generator, so
                that two generators can be compared pair by pair; left out where one of them is no number.
        """
        if value is None or not math.isfinite(value):
            few = note if isinstance(note, TooFew) else None
            return MetricResult(
                self.id,
                None,
                n=n if few is None else few.n,
                n_needed=None if few is None else few.needed,
                null_value=None if null is None or not math.isfinite(null) else float(null),
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
            # A statistic beside the headline may lie outside the headline's range.
            low, high = min(self.range[0], value), max(self.range[1], value)
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
            draws=None if draws is None or not all(map(math.isfinite, draws)) else tuple(float(x) for x in draws),
        )


@dataclass(frozen=True)
class MetricResult:
    """One number. `value` is None where it cannot be estimated; `note` then says why.

    `n_needed` is set where it is rows that are lacking: such a figure is underpowered. `passed` is what the gate says
    of it, None where no rule is about it. `draws` are not part of the table of results.
    """

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
    n_needed: int | None = None
    passed: bool | None = None
    note: str = ""
    draws: tuple[float, ...] | None = field(default=None, repr=False, compare=False, metadata={"stored": False})

    @property
    def status(self) -> str:
        """One of "estimated", "underpowered", "not_applicable", "not_estimable"."""
        if self.value is not None:
            return "estimated"
        if self.note.startswith(NOT_APPLICABLE):
            return "not_applicable"
        return "not_estimable" if self.n_needed is None else "underpowered"


def stored_fields() -> list[str]:
    """Names of the columns of a table of results."""
    return [f.name for f in fields(MetricResult) if f.metadata.get("stored", True)]


def results_schema() -> pa.Schema:
    """Arrow schema of a table of results."""
    import pyarrow as pa

    kinds = {
        "value": pa.float64(),
        "n": pa.int64(),
        "passed": pa.bool_(),
        "n_needed": pa.int64(),
        "direction": pa.int8(),
        "replicate": pa.int32(),
    }
    text = {"metric", "scope", "key1", "key2", "family", "note"}
    return pa.schema(
        [pa.field(name, kinds.get(name, pa.string() if name in text else pa.float64())) for name in stored_fields()]
    )


def results_table(results: Iterable[MetricResult]) -> pa.Table:
    """The results as an Arrow table, in the order given."""
    import pyarrow as pa

    return pa.Table.from_pylist(
        [{name: getattr(r, name) for name in stored_fields()} for r in results], schema=results_schema()
    )


def results_from_table(table: pa.Table) -> list[MetricResult]:
    """The results back from the table that `results_table` made."""
    return [MetricResult(**row) for row in table.to_pylist()]


def draws_table(results: Iterable[MetricResult]) -> pa.Table:
    """The bootstrap draws of pooled results, for comparing generators pair by pair: one row a figure.

    The same draw of the same figure is the same resampled holdout people for every generator of the cell.
    """
    import pyarrow as pa

    kept = [r for r in results if r.replicate == -1 and r.draws is not None]
    return pa.table(
        {
            "metric": pa.array([r.metric for r in kept], pa.string()),
            "key1": pa.array([r.key1 for r in kept], pa.string()),
            "key2": pa.array([r.key2 for r in kept], pa.string()),
            "draws": pa.array([list(r.draws or ()) for r in kept], pa.list_(pa.float32())),
        }
    )


def with_draws(results: Iterable[MetricResult], draws: pa.Table) -> list[MetricResult]:
    """Pooled results with the draws that `draws_table` kept of them."""
    kept = {(d["metric"], d["key1"], d["key2"]): tuple(d["draws"]) for d in draws.to_pylist()}
    return [
        replace(r, draws=kept.get((r.metric, r.key1, r.key2))) if r.replicate == -1 and r.scope != "column" else r
        for r in results
    ]
