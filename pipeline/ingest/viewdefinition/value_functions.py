"""FHIRPath's functions on single values as SQL: text, numbers, dates and their boundaries."""

from __future__ import annotations

import re
from typing import Final

from pipeline.ingest.viewdefinition.definition import ViewError
from pipeline.ingest.viewdefinition.elements import PRIMITIVES, UNKNOWN, WHOLE_NUMBERS
from pipeline.ingest.viewdefinition.fhirpath import Literal, Node
from pipeline.ingest.viewdefinition.use import Function, Use
from pipeline.ingest.viewdefinition.values import (
    EMPTY,
    Value,
    boolean,
    each,
    items,
    number,
    plain,
    settled,
    text,
    text_literal,
)
from pipeline.store.connection import literal

# Boundaries


def _boundary(use: Use) -> Value:
    edge = "low" if use.name == "lowBoundary" else "high"

    def bound(item: Value) -> Value:
        if item.group == "number":
            raw = item.sql if item.form == "json" else f"to_json({item.sql})"
            return Value(f"_{edge}_number({raw})", "decimal")
        macro = {"date": "date", "dateTime": "moment", "instant": "moment", "time": "time"}.get(item.type)
        if macro is None:
            raise ViewError(f"{use.name}() needs a number, a date or a time.")
        return Value(f"_{edge}_{macro}({plain(item, use.scope).sql})", item.type)

    focus = settled(use.focus, use.scope)
    return EMPTY if focus.type == "empty" else each(focus, use.scope, bound)


# Text and numbers


def _text(form: str, result: str = "string") -> Function:
    """A function on one text; `{0}` is the text, `{1}` and `{2}` its arguments."""

    def function(use: Use) -> Value:
        arguments = [
            text(value, use.scope) if settled(value, use.scope).group in ("text", UNKNOWN) else number(value, use.scope)
            for value in (use.argument(place) for place in range(len(use.arguments)))
        ]
        return Value(form.format(text(use.focus, use.scope), *arguments), result)

    return function


def _substring(use: Use) -> Value:
    of, start = text(use.focus, use.scope), number(use.argument(0), use.scope)
    length = f", greatest(CAST({number(use.argument(1), use.scope)} AS BIGINT), 0)" if len(use.arguments) > 1 else ""
    part = f"substr({of}, CAST({start} AS BIGINT) + 1{length})"
    return Value(f"CASE WHEN {start} >= 0 AND {start} < length({of}) THEN {part} END", "string")


def _replace_matches(use: Use) -> Value:
    """FHIRPath says `$1` or `${1}` for what a group matched, DuckDB `\\1`."""
    substitution = use.arguments[1]
    if not isinstance(substitution, Literal) or substitution.type != "string":
        raise ViewError("The substitution of replaceMatches() must be written out, in quotes.")
    if re.search(r"\$(\{(?!\d\})|\d\d)", substitution.text):
        raise ViewError("The groups of replaceMatches() go by number, $1 to $9.")
    groups = _groups(use.arguments[0])
    if any(int(number) > groups for number in re.findall(r"\$\{?(\d)", substitution.text)):
        raise ViewError(f"The substitution names a group that the pattern has not: it has {groups}.")
    rewritten = re.sub(r"\$(?:\{(\d)\}|(\d))", r"\\\1\2", substitution.text.replace("\\", "\\\\"))
    pattern = text(use.argument(0), use.scope)
    sql = f"regexp_replace({text(use.focus, use.scope)}, {pattern}, {text_literal(rewritten)}, 'g')"
    return Value(sql, "string")


def _groups(pattern: Node) -> int:
    """The groups of a pattern that is written out; the most that there may be for any other."""
    try:
        return re.compile(pattern.text).groups if isinstance(pattern, Literal) else 9
    except re.error:  # DuckDB's patterns are not quite Python's: it judges them itself
        return 9


def _split(use: Use) -> Value:
    return Value(f"string_split({text(use.focus, use.scope)}, {text(use.argument(0), use.scope)})", "string", many=True)


def _math(form: str, result: str | None = None) -> Function:
    """A function on one number."""

    def function(use: Use) -> Value:
        focus = settled(use.focus, use.scope)
        arguments = [number(use.argument(place), use.scope) for place in range(len(use.arguments))]
        kind = result or ("integer" if focus.type in WHOLE_NUMBERS else "decimal")
        return Value(form.format(number(focus, use.scope), *arguments), kind)

    return function


def _to_text(use: Use) -> Value:
    return Value(text(use.focus, use.scope), "string")


def _to_number(use: Use) -> Value:
    spelled = text(use.focus, use.scope)
    pattern, kind = ("[+-]?\\d+", "integer") if use.name == "toInteger" else ("[+-]?\\d+(\\.\\d+)?", "decimal")
    sql = f"CASE WHEN regexp_full_match({spelled}, {literal(pattern)}) THEN TRY_CAST({spelled} AS DOUBLE) END"
    return Value(sql, kind)


def _has_value(use: Use) -> Value:
    focus = settled(use.focus, use.scope)
    single = f"len({focus.sql}) = 1" if focus.many else f"{focus.sql} IS NOT NULL"
    return boolean(f"coalesce({single}, FALSE)" if focus.type in PRIMITIVES else "FALSE")


def _of_numbers(aggregate: str) -> Function:
    def function(use: Use) -> Value:
        focus = plain(settled(use.focus, use.scope), use.scope)
        if focus.group != "number":
            raise ViewError(f"{use.name}() needs numbers.")
        kind = "decimal" if aggregate == "avg" else focus.type
        return Value(f"list_{aggregate}({items(focus)})", kind)

    return function


VALUES: Final[dict[str, tuple[Function, int, int]]] = {
    "lowBoundary": (_boundary, 0, 0),
    "highBoundary": (_boundary, 0, 0),
    "contains": (_text("contains({0}, {1})", "boolean"), 1, 1),
    "startsWith": (_text("starts_with({0}, {1})", "boolean"), 1, 1),
    "endsWith": (_text("ends_with({0}, {1})", "boolean"), 1, 1),
    "matches": (_text("regexp_matches({0}, {1}, 's')", "boolean"), 1, 1),
    "replace": (_text("replace({0}, {1}, {2})"), 2, 2),
    "replaceMatches": (_replace_matches, 2, 2),
    "indexOf": (_text("(strpos({0}, {1}) - 1)", "integer"), 1, 1),
    "length": (_text("length({0})", "integer"), 0, 0),
    "upper": (_text("upper({0})"), 0, 0),
    "lower": (_text("lower({0})"), 0, 0),
    "trim": (_text("trim({0})"), 0, 0),
    "substring": (_substring, 1, 2),
    "split": (_split, 1, 1),
    "abs": (_math("abs({0})"), 0, 0),
    "ceiling": (_math("ceil({0})", "integer"), 0, 0),
    "floor": (_math("floor({0})", "integer"), 0, 0),
    "truncate": (_math("trunc({0})", "integer"), 0, 0),
    "round": (_math("round({0}, CAST({1} AS INTEGER))", "decimal"), 1, 1),
    "sqrt": (_math("CASE WHEN {0} >= 0 THEN sqrt({0}) END", "decimal"), 0, 0),
    "exp": (_math("exp({0})", "decimal"), 0, 0),
    "ln": (_math("ln({0})", "decimal"), 0, 0),
    "power": (_math("pow({0}, {1})", "decimal"), 1, 1),
    "toString": (_to_text, 0, 0),
    "toInteger": (_to_number, 0, 0),
    "toDecimal": (_to_number, 0, 0),
    "hasValue": (_has_value, 0, 0),
    "sum": (_of_numbers("sum"), 0, 0),
    "min": (_of_numbers("min"), 0, 0),
    "max": (_of_numbers("max"), 0, 0),
    "avg": (_of_numbers("avg"), 0, 0),
}
"""Function, fewest and most arguments."""
