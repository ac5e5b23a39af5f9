"""How the tables of a MIMIC release are declared: columns with types, the key, links to other tables.

The declarations themselves are in `mimic3_tables.py` and `mimic4_tables.py`, the reader that holds deliveries against
them in `mimic.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal

ColumnType = Literal["int", "float", "text", "time", "date"]

SQL_TYPES: Final[Mapping[str, str]] = {
    "int": "BIGINT",
    "float": "DOUBLE",
    "text": "VARCHAR",
    "time": "TIMESTAMP",
    "date": "DATE",
}
"""DuckDB type of a declared type. Times are as written: local, shifted, without an offset."""

_NO_LINKS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class MimicTable:
    """One table as the release declares it.

    Attributes:
        name: Lower-case stem of its file.
        columns: Column to type.
        needed: Columns without which the file is no such table, and which are never empty.
        key: Columns that together are given once, and are never empty; empty if the release declares none.
        links: Column to the 'table.column' that it points to.
        required: Is a delivery without it refused?
    """

    name: str
    columns: Mapping[str, ColumnType]
    needed: frozenset[str]
    key: tuple[str, ...] = ()
    links: Mapping[str, str] = field(default_factory=lambda: _NO_LINKS)
    required: bool = False

    @property
    def never_empty(self) -> frozenset[str]:
        """Columns in which an empty cell is a fault."""
        return self.needed | frozenset(self.key)


def declare(
    name: str, columns: str, *, key: str = "", links: Mapping[str, str] = _NO_LINKS, required: bool = False
) -> MimicTable:
    """A table from a list such as "subject_id int!, dod time": name and type, `!` for what is never empty.

    Args:
        name: Table name.
        columns: The list; order and line breaks do not matter.
        key: Names of the key's columns with blanks between.
        links: Column to 'table.column'.
        required: Is a delivery without it refused?
    """
    types: dict[str, ColumnType] = {}
    needed = set()
    for entry in columns.split(","):
        column, kind = entry.split()
        if kind.endswith("!"):
            needed.add(column)
        types[column] = _column_type(kind.removesuffix("!"))
    unknown = (set(key.split()) | set(links)) - types.keys()
    if unknown:
        raise ValueError(f"{name}: key or links name {sorted(unknown)}, which are no columns")
    return MimicTable(name, types, frozenset(needed), tuple(key.split()), links, required)


def _column_type(word: str) -> ColumnType:
    for kind in ("int", "float", "text", "time", "date"):
        if word == kind:
            return kind
    raise ValueError(f"'{word}' is no column type")


@dataclass(frozen=True)
class MimicRelease:
    """All tables of one generation of MIMIC.

    Attributes:
        generation: "MIMIC-III" or "MIMIC-IV".
        tables: Name to table.
        mark: Table and column by which the generation is told from the other.
    """

    generation: str
    tables: Mapping[str, MimicTable]
    mark: tuple[str, str]
