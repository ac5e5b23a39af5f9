"""What fhir.resources says of one resource, without what the resource says: faults by path and error type.

pydantic's messages carry the values they complain of, so nothing of them leaves this module but the error type, the
path in the names of the standard, and the kind of JSON that stood there. Which faults are structural is decided here.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pydantic import BaseModel

WANTED: Final[Mapping[str, frozenset[str]]] = {
    "list_type": frozenset({"list"}),
    "json_invalid": frozenset({"object"}),  # fhir.resources tries to read a text as JSON where an object belongs
    "model_type": frozenset({"object"}),
    "model_attributes_type": frozenset({"object"}),
    "model_validation_format": frozenset({"object"}),
    "dict_type": frozenset({"object"}),
    "string_type": frozenset({"text"}),
    "bytes_type": frozenset({"text"}),
    "uuid_type": frozenset({"text"}),
    "url_type": frozenset({"text"}),
    "date_type": frozenset({"text"}),
    "datetime_type": frozenset({"text"}),
    "time_type": frozenset({"text"}),
    "date_from_datetime_inexact": frozenset({"text"}),
    "date_from_datetime_parsing": frozenset({"text"}),
    "datetime_parsing": frozenset({"text"}),
    "time_parsing": frozenset({"text"}),
    "bool_type": frozenset({"flag"}),
    "bool_parsing": frozenset({"flag"}),
    "int_type": frozenset({"number"}),
    "int_parsing": frozenset({"number"}),
    "decimal_type": frozenset({"number"}),
    "decimal_parsing": frozenset({"number"}),
    "value_error.decimal": frozenset({"number"}),
}
"""Error type to the kind of JSON that the standard has there. A fault is structural if another kind stood there; null
never is. Error types that are not named here (`missing`, `extra_forbidden`, patterns, lengths, bounds) never are."""
UNKNOWN_NAME: Final = "(unknown)"
"""Stands in a path for a name that no version of the standard has: it may say anything."""
WORDS: Final[Mapping[str, str]] = {
    "extra_forbidden": "a field that FHIR R4 does not have here",
    "missing": "a required element is missing",
    "model_field_validation.missing": "a required element is missing",
    "value_error.one_of_many": "more than one value[x], or none where one is required",
    "value_error.date": "no FHIR date",
    "value_error.datetime": "no FHIR date or time (a time needs its zone)",
    "value_error.instant": "no FHIR instant (it needs seconds and a zone)",
    "value_error.time": "no FHIR time of day",
    "value_error.decimal": "no number",
    "string_pattern_mismatch": "a text that is not written as its type says",
    "string_too_short": "an empty text",
    "string_too_long": "a text that is too long",
    "list_type": "no list (or a null in one)",
    "json_invalid": "a text where an object belongs",
    "model_type": "no object",
    "model_validation_format": "no object of this type",
    "string_type": "no text",
    "bool_type": "neither true nor false",
    "bool_parsing": "neither true nor false",
    "int_type": "no whole number",
    "int_parsing": "no whole number",
    "int_from_float": "no whole number",
    "greater_than_equal": "a number below the least one allowed",
    "less_than_equal": "a number above the greatest one allowed",
    "fhir-validation-wrong-resource-type": "another resource type",
    "too_deep": "nested too deeply for the models to follow",
    "not_judged": "the models failed on it",
}
"""Error types in words, for people; others are shown by their name."""

_HEADS: Final = (
    ("Value error, Decimal", "decimal"),
    ("Value error, DateTime", "datetime"),
    ("Value error, Date", "date"),
    ("Value error, Instant", "instant"),
    ("Value error, Time", "time"),
    ("Value error, Any of one field", "one_of_many"),
    ("Value error, Expect any of field", "one_of_many"),
)
"""How fhir-core's own messages begin (fixed text) and what they are about."""
_DEPTH: Final = 6
"""Longest path that is told; what is nested deeper is told by its beginning."""


@dataclass(frozen=True, order=True)
class Fault:
    """One kind of fault of one resource.

    Attributes:
        path: Names from the resource down, with dots, without indices; empty for the resource itself.
        error: pydantic's or fhir-core's error type.
        structural: Another kind of JSON than the standard has there.
    """

    path: str
    error: str
    structural: bool


def kind_of_json(value: Any) -> str:
    """`object`, `list`, `text`, `number`, `flag`, `null`, or `other` for what is no JSON."""
    if isinstance(value, bool):
        return "flag"
    kinds = {dict: "object", list: "list", str: "text", int: "number", float: "number", type(None): "null"}
    return kinds.get(type(value), "other")


def faults_of(kind: str, record: Mapping[str, Any]) -> set[Fault]:
    """The faults of a parsed resource of this type, as fhir.resources' R4B model finds them; empty where it is fine."""
    from pydantic import ValidationError

    try:
        model_of(kind).model_validate(record)
    except ValidationError as error:
        told = error.errors(include_url=False, include_context=False)
        return {_fault(kind, one["type"], one["loc"], one["msg"], one["input"]) for one in told}
    except RecursionError:
        return {Fault("", "too_deep", False)}
    except Exception:
        # The models themselves fail on some input (an object for a url, a contained resource of a type that R4B does
        # not have). What they say may quote a value, and is no verdict.
        return {Fault("", "not_judged", False)}
    return set()


def _fault(kind: str, error: str, place: tuple[int | str, ...], message: str, value: Any) -> Fault:
    if error == "value_error":
        about = next((name for head, name in _HEADS if message.startswith(head)), None)
        error = f"value_error.{about}" if about else error
    names = [part for part in place if isinstance(part, str) and part != "root"]
    path = ".".join(part if part in known_names(kind) else UNKNOWN_NAME for part in names[:_DEPTH])
    stood = kind_of_json(value)
    structural = error in WANTED and stood not in WANTED[error] and stood not in ("null", "other")
    return Fault(f"{path}.…" if len(names) > _DEPTH else path, error, structural)


@lru_cache(maxsize=256)
def model_of(kind: str) -> type[BaseModel]:
    """The R4B model of a resource type; raises where there is none."""
    from fhir.resources.R4B import get_fhir_model_class

    model: type[BaseModel] = get_fhir_model_class(kind)
    return model


@lru_cache(maxsize=256)
def known_names(kind: str) -> frozenset[str]:
    """Element names of a resource type and of the data types it is made of, in R4B, R5 and STU3."""
    found = {"resource_type", "resourceType", "fhir_comments"}
    for version in ("R4B.", "", "STU3."):
        for module in (kind.lower(), *_DATA_TYPES):
            try:
                classes = vars(importlib.import_module(f"fhir.resources.{version}{module}")).values()
            except ImportError:
                continue  # a type that this version does not have
            found.update(_names(c for c in classes if inspect.isclass(c)))
    return frozenset(found)


_DATA_TYPES: Final = [
    "address",
    "age",
    "annotation",
    "attachment",
    "codeableconcept",
    "coding",
    "contactpoint",
    "dosage",
    "duration",
    "extension",
    "humanname",
    "identifier",
    "meta",
    "money",
    "narrative",
    "patient",
    "period",
    "quantity",
    "range",
    "ratio",
    "reference",
    "sampleddata",
    "timing",
]


def _names(classes: Iterable[Any]) -> Iterable[str]:
    for one in classes:
        if hasattr(one, "elements_sequence"):
            for name in one.elements_sequence():
                yield name
                yield f"_{name}"
