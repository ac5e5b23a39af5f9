"""What the elements of FHIR R4 are: their types, which of them repeat, and which are a choice of types.

The table is `r4_elements.txt` beside this file, a line a type (`Patient active:boolean name:HumanName* deceased:boolean|
dateTime`), made once from the models of fhir.resources by `collect`; a test holds it against them. It is text and not
the models themselves because every ingest needs it and the models take seconds to import.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

TABLE: Final = Path(__file__).with_name("r4_elements.txt")

TEXTS: Final = frozenset(
    {"string", "code", "id", "uri", "url", "canonical", "oid", "uuid", "markdown", "base64Binary", "xhtml"}
    | {"date", "dateTime", "instant", "time"}
)
MOMENTS: Final = frozenset({"date", "dateTime", "instant"})
WHOLE_NUMBERS: Final = frozenset({"integer", "positiveInt", "unsignedInt", "integer64"})
NUMBERS: Final = WHOLE_NUMBERS | {"decimal"}
PRIMITIVES: Final = TEXTS | NUMBERS | {"boolean"}

UNKNOWN: Final = ""
"""The type of what R4 does not say: an element of another version, or any resource."""


@dataclass(frozen=True)
class Element:
    """One element of a type.

    Attributes:
        name: As in FHIRPath: without the type's name for a choice.
        types: Its type; several for a choice.
        many: May it repeat?
        choice: Is the type's name part of the JSON name (`valueQuantity`)?
    """

    name: str
    types: tuple[str, ...]
    many: bool
    choice: bool

    def field(self, kind: str) -> str:
        """The JSON name of this element where its type is `kind`."""
        return self.name + kind[0].upper() + kind[1:] if self.choice else self.name


@cache
def _lines() -> dict[str, str]:
    lines = (line.partition(" ") for line in TABLE.read_text(encoding="utf-8").splitlines())
    return {name: rest for name, _, rest in lines}


@cache
def elements(kind: str) -> dict[str, Element] | None:
    """The elements of a type by name; None for a type that R4 does not have."""
    line = _lines().get(kind)
    if line is None:
        return None
    found = {}
    for word in line.split():
        name, _, kinds = word.partition(":")
        plain = kinds.removesuffix("*").removesuffix("?")
        found[name] = Element(name, tuple(plain.split("|")), kinds.endswith("*"), kinds.endswith("?"))
    return found


def known(kind: str) -> bool:
    """Is this a type of R4 (a resource, a data type or a primitive)?"""
    return kind in PRIMITIVES or kind in _lines()


def collect() -> str:
    """The text of the table, from the R4B models of fhir.resources (seconds, and a lot of memory)."""
    import importlib
    import pkgutil

    from fhir.resources import R4B
    from fhir.resources.R4B.element import Element as Parent
    from fhir.resources.R4B.resource import Resource

    rows: dict[str, str] = {}
    for module in pkgutil.iter_modules(R4B.__path__):
        found = importlib.import_module(f"{R4B.__name__}.{module.name}")
        for name, model in vars(found).items():
            if isinstance(model, type) and issubclass(model, Parent | Resource):
                rows[name] = " ".join(_words(model))
    return "".join(f"{name} {rows[name]}\n" for name in sorted(rows) if rows[name])


def _words(model: Any) -> list[str]:
    choices: dict[str, list[str]] = {}
    words: dict[str, str] = {}
    fields = {field.alias: field for field in model.model_fields.values()}
    for name in model.elements_sequence():
        field = fields[name]
        kind, many = _type_of(field)
        choice = (field.json_schema_extra or {}).get("one_of_many")
        if choice:
            tail = name.removeprefix(choice)
            lower = tail[0].lower() + tail[1:]
            choices.setdefault(choice, []).append(lower if lower in PRIMITIVES else tail)
            words[choice] = f"{choice}:{'|'.join(choices[choice])}?"
        else:
            words[name] = f"{name}:{kind}{'*' if many else ''}"
    return list(words.values())


def _type_of(field: Any) -> tuple[str, bool]:
    """FHIR type and whether it repeats, from a pydantic field of fhir.resources."""
    import re

    text = repr(field.annotation) + repr(field.metadata)
    many = "List[" in text
    complex_type = re.search(r"\babc\.(\w+)Type\b", text)
    if complex_type and complex_type[1] != "FHIRPrimitiveExtension":
        return complex_type[1], many
    if primitive := re.search(r", (\w+)\(", text) or re.search(r"\[(\w+)\(", text):
        kind = primitive[1][0].lower() + primitive[1][1:]
        return ("base64Binary" if kind == "encodedBytes" else kind), many
    return ("boolean" if "bool" in text else "string"), many


if __name__ == "__main__":
    TABLE.write_text(collect(), encoding="utf-8")
