"""Why a single FHIR record does not fit: the same rules as the strict SELECTs of `columns`, one record at a time.

Used only where DuckDB refused a file or where records come out of bundles. A test holds both against each other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import date
from functools import lru_cache
from math import isfinite
from typing import Any, Final

from pipeline.ingest.fhir.columns import (
    DAY_PATTERN,
    FLAG,
    MOMENT,
    MONTH_PATTERN,
    NUMBER,
    TIME_PATTERN,
    TOKEN,
    TYPES,
    YEAR_PATTERN,
    ResourceType,
    Shape,
)

_WHEN: Final = re.compile("|".join(f"(?:{p})" for p in (TIME_PATTERN, DAY_PATTERN, MONTH_PATTERN, YEAR_PATTERN)), re.A)
# What a Bulk Data export writes beside its resources; known, and not modelled.
_EXPORT: Final = {
    "(export log)": frozenset({"exportId", "eventId"}),
    "(export manifest)": frozenset({"transactionTime", "request", "output"}),
}


@lru_cache(maxsize=65536)
def _calendar_day(day: str) -> bool:
    """Does this day, month or year exist in the calendar?"""
    parts = [int(part) for part in day.split("-")]
    try:
        date(*[*parts, 1, 1][:3])
    except ValueError:
        return False
    return True


def misfit(value: Any, shape: Shape) -> str | None:
    """The reason why `value` does not fit `shape`, or None. Absent and null always fit."""
    if value is None:
        return None
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return "wrong_type"
        for name, part in shape.items():
            inner = value.get(name)
            if inner is not None and part != "text" and (reason := misfit(inner, part)):
                return reason
        return None
    if isinstance(shape, list):
        if not isinstance(value, list):
            return "wrong_type"
        if shape[0] == "text":
            return None
        for item in value:
            if reason := misfit(item, shape[0]):
                return reason
        return None
    if shape == TOKEN:
        return "wrong_type" if isinstance(value, dict | list) else None
    if shape == NUMBER:
        fits = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
        return None if fits else "value_not_a_number"
    if shape == FLAG:
        return None if isinstance(value, bool) else "wrong_type"
    if shape == MOMENT:
        text = value if isinstance(value, str) else str(value)
        return None if _WHEN.fullmatch(text) and _calendar_day(text[:10]) else "invalid_date"
    return None


def judge(record: Any, kinds: Mapping[str, ResourceType] = TYPES) -> tuple[str, str | None]:
    """The resource type of a parsed record, and the reason why it cannot be taken (None if it can).

    Records of types that are not modelled are not looked into.
    """
    if not isinstance(record, dict):
        return "", "not_a_resource"
    name = record.get("resourceType")
    if not isinstance(name, str) or not name:
        export = next((kind for kind, fields in _EXPORT.items() if fields <= record.keys()), None)
        return (export, None) if export else ("", "no_resource_type")
    kind = kinds.get(name)
    if kind is None:
        return name, None
    key = record.get("id")
    if key is None or key == "":
        return name, "no_id"
    if isinstance(key, str) and key[0] in "{[":
        return name, "wrong_type"
    return name, misfit(record, kind.shape)


class _Pairs(tuple[tuple[str, Any], ...]):
    """A JSON object as it is written, repeated keys included."""

    __slots__ = ()


def repeats_a_key(record: bytes, shape: Shape) -> bool:
    """Does a record say a field twice that is read? (What is not read may be there twice.)"""
    try:
        return _repeats(json.loads(record, object_pairs_hook=_Pairs), shape)
    except (ValueError, RecursionError):
        return False


def _repeats(value: Any, shape: Shape) -> bool:
    if isinstance(shape, dict) and isinstance(value, _Pairs):
        read = [(name, part) for name, part in value if name in shape]
        return len({name for name, _ in read}) < len(read) or any(_repeats(part, shape[name]) for name, part in read)
    if isinstance(shape, list) and isinstance(value, list):
        return any(_repeats(item, shape[0]) for item in value)
    return False
