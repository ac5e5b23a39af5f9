"""The TableSchema: the one description of a feature table that everything else is made from.

From it come the Arrow schema enforced on write, Dagster's column schema and lineage, and the encoders.
Inference from data lives in `infer.py`; reading and writing cohorts in `cohort.py`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    model_serializer,
    model_validator,
)

if TYPE_CHECKING:
    import pyarrow as pa

Kind = Literal["continuous", "count", "ordinal", "categorical", "binary", "datetime", "identifier"]
Role = Literal["id", "feature", "label", "protected", "quasi_identifier"]
DType = Literal["float64", "float32", "int64", "int32", "bool", "string", "timestamp[us]", "date32[day]"]
Level = StrictBool | StrictInt | StrictFloat | StrictStr
"""A level keeps its type: 1 is not True, and "yes" or "1" stay strings (a lax union would turn them into bools)."""

DISCRETE: frozenset[str] = frozenset({"ordinal", "categorical", "binary"})
NUMERIC: frozenset[str] = frozenset({"continuous", "count", "datetime"})
RARE_LEVEL = "__rare__"
Told = Literal["kind", "levels", "bounds", "resolution", "nullable"]
"""What of a column may be told from data instead of declared."""
TOLD: tuple[Told, ...] = get_args(Told)


class Resolution(BaseModel):
    """The grid on which a numeric column's real values lie, verified by round trip on the training rows.

    `decimals`: the value is `round(x, digits)`. `step`: the value is `offset + k * step`, k an integer.
    `atoms`: the value is one of the finitely many values seen in training (used where no grid moves no real value, or
    where the values fill a small part of it; the rule is in `resolution.py`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["decimals", "step", "atoms"] = Field(description="Which grid.")
    digits: int = Field(default=0, ge=0, le=15, description="Decimal places (kind 'decimals').")
    step: float = Field(default=1.0, gt=0, description="Distance of the grid's points (kind 'step').")
    offset: float = Field(default=0.0, description="A point of the grid (kind 'step').")


class Column(BaseModel):
    """One column of a feature table."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1, description="Column name, unique in the table.")
    kind: Kind = Field(description="What the values mean; decides encoder, head and metrics.")
    dtype: DType = Field(description="Arrow type of the stored values.")
    role: Role = Field(default="feature", description="What the column is for.")
    nullable: bool = Field(default=False, description="May cells be missing? Missing is a state of its own.")
    levels: list[Level] | None = Field(
        default=None, description="All admissible values of a discrete column, in order."
    )
    bounds: tuple[float, float] | None = Field(
        default=None, description="Smallest and largest admissible number (days since 1970-01-01 for datetime)."
    )
    unit: str | None = Field(default=None, description="Unit of measurement (UCUM where there is one).")
    resolution: Resolution | None = Field(
        default=None, description="Grid of a numeric column; None if every float is admissible."
    )
    description: str = Field(default="", description="What the column says, for people.")
    source: list[str] = Field(
        default_factory=list,
        description="Where it comes from, as 'table.column' of the raw tables; column lineage is drawn from this.",
    )
    inferred: tuple[Told, ...] = Field(
        default=(),
        description="What of this was told from data and not declared. It is then private information: a private training "
        "pays for it or refuses. Take an entry out to declare it.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Column:
        if self.kind in DISCRETE and self.levels is not None:
            if len(set(map(str, self.levels))) != len(self.levels):
                raise ValueError(f"column '{self.name}': levels repeat")
            if self.kind == "binary" and len(self.levels) > 2:
                raise ValueError(f"column '{self.name}': a binary column has at most 2 levels, not {len(self.levels)}")
        if self.bounds is not None and self.bounds[0] > self.bounds[1]:
            raise ValueError(f"column '{self.name}': bounds are reversed")
        return self

    @property
    def discrete(self) -> bool:
        """True for ordinal, categorical and binary columns."""
        return self.kind in DISCRETE

    @property
    def numeric(self) -> bool:
        """True for continuous, count and datetime columns."""
        return self.kind in NUMERIC


class CodeBlock(BaseModel):
    """A wide block of clinical codes, stored sparse: one matrix with a vocabulary instead of 1,000 columns."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1, description="Block name, unique among columns and blocks.")
    kind: Literal["binary", "count"] = Field(description="Presence (0/1) or number of occurrences.")
    vocabulary: list[str] = Field(description="The codes, in column order of the sparse matrix.")
    inferred: tuple[Literal["vocabulary"], ...] = Field(
        default=(),
        description="Was the vocabulary chosen on patients' data? A private training then refuses the block.",
    )
    description: str = Field(default="", description="What the block says, for people.")
    source: list[str] = Field(
        default_factory=list, description="Where it comes from, as 'table.column' of the raw tables."
    )


class EventCodes(BaseModel):
    """The codes of dated visits that stand beside the rows, each row a subject with its own visits (`visits.py`)."""

    model_config = ConfigDict(extra="forbid")
    vocabulary: list[str] = Field(description="The codes that a visit can have, sorted.")
    inferred: tuple[Literal["vocabulary"], ...] = Field(
        default=(), description="Was the vocabulary chosen on patients' data?"
    )
    description: str = Field(default="", description="What the events say, for people.")
    source: list[str] = Field(
        default_factory=list, description="Where they come from, as 'table.column' of the raw tables."
    )


class TableSchema(BaseModel):
    """Columns and code blocks of a feature table, the codes of its visits if it has any, and what a row is."""

    model_config = ConfigDict(extra="forbid")
    columns: list[Column] = Field(description="The columns, in table order.")
    blocks: list[CodeBlock] = Field(default_factory=list, description="Code blocks, stored sparse beside the table.")
    unit: str = Field(default="row", description="What one row is: patient, stay, or row.")
    events: EventCodes | None = Field(
        default=None, description="The codes of the visits that stand beside the rows; None without visits."
    )

    @model_serializer(mode="wrap")
    def _without_absent_events(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A table without visits is written as it always was: its hash stays the same."""
        written: dict[str, Any] = handler(self)
        if written.get("events") is None:
            written.pop("events", None)
        return written

    @model_validator(mode="after")
    def _unique(self) -> TableSchema:
        names = [c.name for c in self.columns] + [b.name for b in self.blocks]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"column names repeat: {', '.join(twice)}")
        bad = [n for n in names if not re.fullmatch(r"[^\x00-\x1f\"]+", n)]
        if bad:
            raise ValueError(f"{len(bad)} column names hold control characters or quotes")
        return self

    @property
    def names(self) -> list[str]:
        """Column names, in order (blocks not included)."""
        return [c.name for c in self.columns]

    def column(self, name: str) -> Column:
        """The column called `name`; raises `NotFoundError` with the nearest name."""
        from pipeline.errors import NotFoundError, nearest

        for c in self.columns:
            if c.name == name:
                return c
        raise NotFoundError(f"There is no column '{name}'.", todo=nearest(name, self.names))

    def modelled(self) -> list[Column]:
        """The columns that generators model: all but identifiers."""
        return [c for c in self.columns if c.kind != "identifier"]

    def arrow(self) -> pa.Schema:
        """The Arrow schema that is enforced on write (column order, types, nullability)."""
        import pyarrow as pa

        return pa.schema([pa.field(c.name, arrow_type(c.dtype), nullable=c.nullable) for c in self.columns])


def arrow_type(dtype: DType) -> pa.DataType:
    """The Arrow type of a column's `dtype`."""
    import pyarrow as pa

    return {
        "float64": pa.float64(),
        "float32": pa.float32(),
        "int64": pa.int64(),
        "int32": pa.int32(),
        "bool": pa.bool_(),
        "string": pa.string(),
        "timestamp[us]": pa.timestamp("us"),
        "date32[day]": pa.date32(),
    }[dtype]
