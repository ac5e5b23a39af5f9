"""A ViewDefinition of SQL on FHIR v2 as it stands in JSON, checked for shape, names and places.

Whether the paths in it make sense is for `compile`; here they are text. Errors name the file and the place in the JSON.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Final

import orjson
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from pipeline.errors import ConfigError

NAME: Final = r"^[A-Za-z][A-Za-z0-9_]*$"
"""What names of views, columns and constants look like: they become names in SQL."""

ColumnName = Annotated[str, StringConstraints(pattern=NAME, max_length=100)]


class ViewError(ConfigError):
    """A ViewDefinition cannot be used."""


class _Part(BaseModel):
    """A part of a ViewDefinition; `id` and `extension` may stand anywhere in FHIR and mean nothing here."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, strict=True)

    id: str | None = None
    extension: list[Any] = Field(default_factory=list)


class Tag(_Part):
    """What the standard has no word for: `ansi/type`, `cohortloom/moment`, `cohortloom/token`."""

    name: str
    value: str


class Column(_Part):
    """One column of the view."""

    name: ColumnName
    path: str = Field(description="FHIRPath from the element that the select stands on.")
    type: str | None = Field(default=None, description="FHIR type of the column; that of the path if absent.")
    collection: bool = Field(default=False, description="May the path give several items? Then the column is a list.")
    description: str | None = None
    tag: list[Tag] = Field(default_factory=list)

    def tagged(self, name: str) -> str | None:
        """The value of a tag, None where it is not set."""
        return next((tag.value for tag in self.tag if tag.name == name), None)


class Select(_Part):
    """Columns, from one element or from each of several."""

    column: list[Column] = Field(default_factory=list)
    select: list[Select] = Field(default_factory=list)
    for_each: str | None = Field(default=None, alias="forEach")
    for_each_or_null: str | None = Field(default=None, alias="forEachOrNull")
    repeat: list[str] = Field(default_factory=list)
    union_all: list[Select] = Field(default_factory=list, alias="unionAll")

    @model_validator(mode="after")
    def _one_way(self) -> Select:
        ways = [self.for_each is not None, self.for_each_or_null is not None, bool(self.repeat)]
        if sum(ways) > 1:
            raise ValueError("only one of forEach, forEachOrNull and repeat may be set")
        if not (self.column or self.select or self.union_all):
            raise ValueError("nothing is selected: give column, select or unionAll")
        return self


class Where(_Part):
    """Resources are left out unless the path is true."""

    path: str
    description: str | None = None


class Constant(_Part):
    """A named value, `%name` in paths."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    name: ColumnName

    @model_validator(mode="after")
    def _one_value(self) -> Constant:
        values = self.model_extra or {}
        if len(values) != 1 or not next(iter(values)).startswith("value"):
            raise ValueError("exactly one value[x] is needed, such as valueString")
        if not isinstance(next(iter(values.values())), str | int | float | bool):
            raise ValueError("the value must be a string, a number or a boolean")
        return self

    @property
    def type(self) -> str:
        """The FHIR type of the value."""
        tail = next(iter(self.model_extra or {})).removeprefix("value")
        return tail[:1].lower() + tail[1:]

    @property
    def value(self) -> str | int | float | bool:
        """The value."""
        found: str | int | float | bool = next(iter((self.model_extra or {}).values()))
        return found


class ViewDefinition(_Part):
    """A view over one type of resource."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    resource: Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Za-z]{1,63}$")]
    select: list[Select] = Field(min_length=1)
    where: list[Where] = Field(default_factory=list)
    constant: list[Constant] = Field(default_factory=list)
    name: ColumnName | None = None
    title: str | None = None
    description: str | None = None
    status: str | None = None

    @model_validator(mode="after")
    def _names(self) -> ViewDefinition:
        names = [constant.name for constant in self.constant]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"the constant '{twice[0]}' is defined twice")
        return self


def parse_view(data: Any, *, where: str = "") -> ViewDefinition:
    """A ViewDefinition from parsed JSON.

    Args:
        data: The JSON, as dicts and lists.
        where: File or name for messages.

    Raises:
        ViewError: Something is missing, misspelt or of the wrong type; says where in the JSON.
    """
    if isinstance(data, dict) and data.get("resourceType", "ViewDefinition") != "ViewDefinition":
        raise ViewError("This is no ViewDefinition: its resourceType is another one.", where=where)
    try:
        return ViewDefinition.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
    place = re.sub(r"\.(\d+)", r"[\1]", ".".join(str(part) for part in first["loc"]))
    what = first["msg"].removeprefix("Value error, ")
    raise ViewError(
        f"{what[:1].upper()}{what[1:]}.", where=": ".join(part for part in (where, place) if part), todo=_HINT
    )


_HINT: Final = "See docs/views.md for what a view may hold."


def load_view(path: Path) -> ViewDefinition:
    """A ViewDefinition from a file; where it has no `name`, the file's.

    Raises:
        ViewError: Not readable, not JSON, or no ViewDefinition.
    """
    try:
        data = orjson.loads(path.read_bytes())
    except OSError:
        raise ViewError("The view cannot be read.", where=path.name) from None
    except orjson.JSONDecodeError as error:
        raise ViewError(f"This is not JSON: {error.msg} (line {error.lineno}).", where=path.name) from None
    view = parse_view(data, where=path.name)
    if view.name is not None:
        return view
    if not re.match(NAME, path.stem):
        raise ViewError("The view needs a name of letters, digits and underscores.", where=path.name)
    return view.model_copy(update={"name": path.stem})
