"""What is asked of the codes of a cohort, in a block or as events: which, how they are written, grouped and counted.

They stand under `blocks` and `events` in a cohort's YAML (`spec.py`). What is done with this lives in `blocks.py` and
`event_rows.py`, the rules for codes in `codes.py`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Normalise = Literal["icd9", "icd9_procedures", "icd10", "icd10_procedures", "icd", "icd_procedures", "none"]
Malformed = Literal["keep", "leave_out"]


class MappingSpec(BaseModel):
    """A roll-up by files that the user brings (phecodes, CCSR, one's own): CSV with a code and its group a row."""

    model_config = ConfigDict(extra="forbid")
    files: list[str] = Field(
        min_length=1, description="CSV or tab-separated files beside the YAML; what they say is put together."
    )
    code: str | None = Field(
        default=None, description="Column of the code; default found (`code`, `ICD`, `icd9`, `ICD-10-CM CODE` ...)."
    )
    groups: list[str] | None = Field(
        default=None,
        min_length=1,
        description="Column or columns of the group; default found (`group`, `phecode`, `CCS CATEGORY`, `CCSR CATEGORY "
        "1` to 6). A code with several groups counts once in each.",
    )
    system: str | None = Field(
        default=None,
        description="Column that tells ICD-9 from ICD-10; default found (`system`, `flag`, `vocabulary_id` ...), else "
        "told from the name of the code column, else the mapping holds for both.",
    )
    ungrouped: Literal["3_characters", "leave_out"] = Field(
        default="leave_out",
        description="What becomes of a code without a group: kept at three characters, or left out. Counted either way.",
    )


class CodesSpec(BaseModel):
    """How codes that an SQL file gives are written and grouped, and which of them are kept."""

    model_config = ConfigDict(extra="forbid")
    sql: str = Field(description="SQL file beside the YAML.")
    normalise: Normalise = Field(
        default="none",
        description="How codes are written: ICD-9-CM or ICD-10-CM diagnoses (`icd9`, `icd10`), procedures "
        "(`icd9_procedures`, `icd10_procedures`: PCS), both versions told apart by `version` (`icd`, "
        "`icd_procedures`), or as they are (`none`).",
    )
    malformed: Malformed = Field(
        default="keep",
        description="A code that is none of its system: kept whole as it is, or left out. Counted either way.",
    )
    roll_up: Literal["none", "3_characters"] | MappingSpec = Field(
        default="none",
        description="Codes as they are, cut to the first 3 characters (ICD-9 E-codes 4), or grouped by mapping files.",
    )
    min_subjects: int = Field(
        default=11, ge=1, description="Training subjects that a code must have to be in the vocabulary."
    )
    max_codes: int | None = Field(
        default=None, ge=1, description="Most codes of the vocabulary, by training subjects; default no limit."
    )
    description: str = Field(default="", description="For people.")
    source: list[str] = Field(
        default_factory=list, description="'table.column' of the raw tables; drawn as column lineage."
    )

    @property
    def mapping(self) -> MappingSpec | None:
        """The roll-up by mapping files, if it is one."""
        return self.roll_up if isinstance(self.roll_up, MappingSpec) else None

    @property
    def files(self) -> list[str]:
        """The files that the block needs beside the YAML: its SQL, its mapping."""
        return [self.sql, *(self.mapping.files if self.mapping else [])]

    @property
    def by_version(self) -> bool:
        """Are there two code systems in the block, told apart by a column of its SQL?"""
        return self.normalise in ("icd", "icd_procedures")


class BlockSpec(CodesSpec):
    """A wide block of clinical codes beside the table: one sparse column a code, chosen on the training subjects."""

    sql: str = Field(
        description="SQL file beside the YAML; one SELECT with the key of the row (called as in the cohort's SQL), "
        "`code`, and where needed `version` or `system` (9 or 10, or a name or address of the code system) and `n` "
        "(occurrences that the row stands for; default 1)."
    )
    kind: Literal["binary", "count"] = Field(default="binary", description="Presence (0/1), or number of occurrences.")
    by: str | None = Field(
        default=None,
        description="Column of the cohort's SQL that the block's rows join on. Default the subject; another one (a stay's "
        "number) is kept beside the rows and is no feature.",
    )


class EventsSpec(CodesSpec):
    """The dated codes of a cohort's people, as visits beside the rows: what generators of sequences learn."""

    sql: str = Field(
        description="SQL file beside the YAML; one SELECT with the subject (called as in the cohort's SQL), `time` (a date "
        "or timestamp), `code`, and where needed `visit` (what of a subject belongs to one visit; default: what is of one "
        "day) and `version` or `system` (9 or 10, or a name or address of the code system)."
    )


def check_blocks(blocks: Mapping[str, BlockSpec], subject: str, columns: Sequence[str]) -> None:
    """Raise `ValueError` for what can be wrong with a cohort's blocks without a look at its data."""
    for name, block in blocks.items():
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,39}", name):
            raise ValueError(f"block '{name[:40]}' must be called by letters, digits and _, a letter first")
        if name in columns:
            raise ValueError(f"'{name}' is a block and a column: call one of them otherwise")
        if subject == "row" and block.by is None:
            raise ValueError(f"block '{name}' needs `by`: without subjects there is nothing to join on")
