"""The fields that a view reads: a tree that grows as its paths are compiled, and the columns of `read_json` from it.

Leaves are TEXT (any scalar), TOKEN (text, but no object or list), MOMENT (date or time, partial ones allowed), NUMBER,
FLAG and ANY (raw JSON); OBJECT is one of which nothing is read. NUMBER and FLAG are read as raw JSON too, because DuckDB turns "nan" into a number and "yes"
into true without a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pipeline.ingest.viewdefinition.definition import ViewError

TEXT: Final = "text"
TOKEN: Final = "token"
MOMENT: Final = "moment"
NUMBER: Final = "number"
FLAG: Final = "flag"
ANY: Final = "any"
OBJECT: Final = "object"

Shape = str | list[Any] | dict[str, Any]
"""A leaf, a list of one shape, or an object with a shape a field."""


@dataclass
class Place:
    """A field of the resource, and what is read of it.

    Attributes:
        leaf: How it is read where no field below it is named.
        many: Is it a list in JSON?
        fields: The fields below that are read.
        whole: Is all of it needed, as JSON?
    """

    leaf: str = ANY
    many: bool = False
    fields: dict[str, Place] = field(default_factory=dict)
    whole: bool = False

    def child(self, name: str, *, leaf: str, many: bool) -> Place:
        """The field of this name, made if it is new. Where two readings of it clash, everything here is read as JSON."""
        found = self.fields.get(name)
        if found is None:
            if name.lower() in (other.lower() for other in self.fields):  # one column to DuckDB
                raise ViewError(f"There are two spellings of '{name}' in the paths.")
            found = self.fields[name] = Place(leaf, many)
        elif found.many != many or (found.leaf != leaf and {found.leaf, leaf} - {TEXT, TOKEN, MOMENT}):
            self.whole = True
        return found

    @property
    def shape(self) -> Shape:
        """What is read, in the words of this module."""
        inner: Shape = self.leaf
        if self.whole:
            inner = ANY
        elif self.fields:
            inner = {name: place.shape for name, place in self.fields.items()}
        elif self.leaf == OBJECT:
            inner = {"id": TEXT}  # that it is there is all that is asked: a field that any element may have
        return [inner] if self.many else inner


def duckdb_type(shape: Shape) -> str:
    """The DuckDB column type of a shape."""
    if isinstance(shape, dict):
        return "STRUCT(" + ", ".join(f'"{name}" {duckdb_type(part)}' for name, part in shape.items()) + ")"
    if isinstance(shape, list):
        return duckdb_type(shape[0]) + "[]"
    return "JSON" if shape in (NUMBER, FLAG, ANY) else "VARCHAR"


def duckdb_columns(shape: Mapping[str, Any]) -> str:
    """The `columns=` argument of `read_json` for an object of this shape."""
    return "{" + ", ".join(f"\"{name}\": '{duckdb_type(part)}'" for name, part in shape.items()) + "}"
