"""Where deliveries come from: the sources of `cohorts/sources.yaml` and how the files of each are read.

What is made of a source's deliveries is asked for in a cohort (`spec.py`); the readers are in `ingest/`.
"""

from __future__ import annotations

import codecs
import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Format = Literal["fhir", "mimic3", "mimic4", "meds", "table"]


class TableReading(BaseModel):
    """How one plain table of a source is read; only what differs from a CSV with a header has to be said."""

    model_config = ConfigDict(extra="forbid")
    files: list[str] = Field(
        min_length=1,
        description="Patterns (`*`, `?`, without regard to case) of the names of the files that make up the table; a "
        "member of a ZIP is called `<archive>/<member>`, and `*` matches `/` too. Several files are put one after the "
        "other.",
    )
    header: list[str] | None = Field(
        default=None, description="Column names of a CSV without a header row; default its first row."
    )
    delimiter: str | None = Field(
        default=None, min_length=1, max_length=1, description="Field delimiter; default found in the header row."
    )
    trim: bool = Field(default=False, description="Take blanks around cells away (', ' as separator).")
    missing: list[str] = Field(
        default_factory=list, description="Cells that mean 'missing' beside the empty one, such as '?' or 'NA'."
    )
    comment: str | None = Field(
        default=None, min_length=1, max_length=1, description="Lines that start with this character are no rows."
    )
    encoding: str | None = Field(
        default=None,
        description="Text encoding as Python calls it (latin-1, windows-1252, utf-16-le, ...); default UTF-8, or what a "
        "byte-order mark says.",
    )
    columns: list[str] | None = Field(default=None, min_length=1, description="Columns to keep; default all.")

    @model_validator(mode="after")
    def _readable(self) -> TableReading:
        if self.encoding is not None:
            try:
                codecs.getincrementaldecoder(self.encoding)().decode(b"")
                text = codecs.lookup(self.encoding)._is_text_encoding
            except LookupError:
                text = False
            if not text:
                raise ValueError(f"there is no text encoding '{self.encoding}'")
        for what, names in (("header", self.header), ("columns", self.columns)):
            folded = [name.lower() for name in names or []]
            if len(set(folded)) < len(folded) or "" in folded:
                raise ValueError(f"`{what}` repeats a name or holds an empty one")
        return self


class ValidationSpec(BaseModel):
    """How thoroughly FHIR resources are held against the models of the standard (fhir.resources)."""

    model_config = ConfigDict(extra="forbid")
    mode: Literal["sample", "all", "off"] = Field(
        default="sample", description="A seeded sample of every type and file, every resource, or none."
    )
    sample: int = Field(
        default=25,
        ge=1,
        description="Resources of each type and line file in mode `sample`; all JSON documents (bundles) of a delivery "
        "count as one file.",
    )
    seed: int = Field(default=0, description="Seed of the sample.")
    max_failure_rate: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Share of validated resources that may fail; above it the check `validation` fails and blocks "
        "what is made of the delivery.",
    )


class SourceSpec(BaseModel):
    """Where deliveries come from."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._]{0,39}$", description="Source name; first part of every delivery key."
    )
    format: Format = Field(description="Which reader takes its deliveries: raw/<format>.")
    dates: Literal["real", "shifted", "none"] = Field(
        default="real", description="May events be cut at the end of a month? Only real dates can."
    )
    accumulate: Literal["merge", "replace"] = Field(
        default="merge",
        description="Do later deliveries add to earlier ones (newest resource wins) or replace them whole? MIMIC always does "
        "the latter, since its rows have no versions.",
    )
    max_quarantine_rate: float = Field(
        default=0.05, ge=0, le=1, description="Share of quarantined records above which a delivery is refused."
    )
    person: str | None = Field(
        default=None,
        description="Column that says in every table of a plain-table source who a row belongs to; needed to erase a "
        "person. The other formats need none: they name their patients.",
    )
    split_key: Literal["own", "published"] = Field(
        default="own",
        description="Key of the split: the installation's own, or the published one (only for made-up or public data).",
    )
    tables: dict[str, TableReading] = Field(
        default_factory=dict,
        description="For plain tables: name of each raw table and how its files are read. Where this is given, other "
        "files of a delivery are not tables; where it is not, every CSV and Parquet file is one, called by its stem.",
    )
    validation: ValidationSpec = Field(
        default_factory=ValidationSpec, description="For FHIR: validation against the models of the standard."
    )
    views: list[str] | None = Field(
        default=None,
        description="For FHIR: which of the user's ViewDefinitions (folder `views/` beside the cohorts) become raw "
        "tables; default all.",
    )
    description: str = Field(default="", description="For people.")

    @model_validator(mode="before")
    @classmethod
    def _replaced_by_default(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("format") in ("mimic3", "mimic4"):
            return {"accumulate": "replace", **data}
        return data

    @model_validator(mode="after")
    def _of_its_format(self) -> SourceSpec:
        if self.format in ("mimic3", "mimic4") and self.accumulate != "replace":
            raise ValueError("a delivery of MIMIC is the whole database: `accumulate: replace`")
        if self.tables and self.format != "table":
            raise ValueError("`tables` is for sources of format table")
        for name in self.tables:
            if not re.fullmatch(r"[a-z_][a-z0-9_]*", name):
                raise ValueError(f"table '{name}' must be lower-case letters, digits and _, a letter first")
        if self.views is not None and self.format != "fhir":
            raise ValueError("`views` is for sources of format fhir")
        return self
