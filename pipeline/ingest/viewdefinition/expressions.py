"""FHIRPath trees to SQL values: the walk over the tree. Steps, operators and functions are in their own modules."""

from __future__ import annotations

from dataclasses import replace

from pipeline.errors import nearest
from pipeline.ingest.viewdefinition.definition import Constant, ViewError
from pipeline.ingest.viewdefinition.elements import NUMBERS, PRIMITIVES, TEXTS
from pipeline.ingest.viewdefinition.fhirpath import At, Binary, Call, Dot, Literal, Name, Node, Sign, TypeTest, Variable
from pipeline.ingest.viewdefinition.functions import FUNCTIONS, apply
from pipeline.ingest.viewdefinition.operators import combine
from pipeline.ingest.viewdefinition.steps import step
from pipeline.ingest.viewdefinition.values import (
    EMPTY,
    Scope,
    Value,
    number,
    settled,
    text_literal,
)

_SYSTEMS = {"%ucum": "http://unitsofmeasure.org", "%sct": "http://snomed.info/sct", "%loinc": "http://loinc.org"}

_LARGEST = 2**63 - 1


def evaluate(node: Node, scope: Scope) -> Value:
    """The SQL value of a tree.

    Raises:
        ViewError: It uses what is not supported, or what cannot be.
    """
    match node:
        case Literal():
            return _literal(node)
        case Name():
            return _name(node, scope)
        case Variable():
            return _variable(node, scope)
        case Call():
            return _call(scope.this, node, scope)
        case Dot():
            return _dot(node, scope)
        case At():
            return _at(evaluate(node.left, scope), evaluate(node.index, scope), scope)
        case Sign():
            right = settled(evaluate(node.right, scope), scope)
            sql = number(right, scope)
            kind = right.type if right.type in NUMBERS else "decimal"
            return Value(f"(-{sql})" if node.operator == "-" else sql, kind, literal=right.literal)
        case Binary():
            return combine(node.operator, evaluate(node.left, scope), evaluate(node.right, scope), scope)
        case TypeTest():
            left = evaluate(node.left, scope)
            return apply(node.operator, left, (Name(node.type),), scope, evaluate)


def _dot(node: Dot, scope: Scope) -> Value:
    left = evaluate(node.left, scope)
    match node.right:
        case Name(text=name):
            return step(left, name, scope)
        case Call():
            return _call(left, node.right, scope)
        case Variable(name="$this"):
            return left
    raise ViewError("This cannot stand after a dot.")


def _name(node: Name, scope: Scope) -> Value:
    if scope.this is scope.root and node.text == scope.root.type:
        return scope.root
    return step(scope.this, node.text, scope)


def _call(focus: Value, node: Call, scope: Scope) -> Value:
    if node.name not in FUNCTIONS:
        raise ViewError(f"The function {node.name}() is not supported.", todo=nearest(node.name, sorted(FUNCTIONS)))
    return apply(node.name, focus, node.arguments, scope, evaluate)


def _at(left: Value, index: Value, scope: Scope) -> Value:
    left, index = settled(left, scope), settled(index, scope)
    sql = number(index, scope)
    if index.type == "decimal" or (index.literal and not sql.isdecimal()):
        raise ViewError("An index is a whole number from 0 on.", todo="last() gives the last item.")
    if not left.many:
        return left if sql == "0" else replace(left, sql=f"CASE WHEN {sql} = 0 THEN {left.sql} END")
    if index.literal:
        return replace(left, sql=f"({left.sql})[{int(sql) + 1}]", many=False, beside=None)
    # DuckDB counts from the end where the place is negative; FHIRPath has nothing there.
    item = f"CASE WHEN {sql} >= 0 THEN ({left.sql})[CAST(_whole({sql}) + 1 AS BIGINT)] END"
    return replace(left, sql=item, many=False, beside=None)


def _variable(node: Variable, scope: Scope) -> Value:
    name = node.name
    if name in ("$this", "%context"):
        return scope.this
    if name in ("%resource", "%rootResource"):
        return scope.root
    if name == "%rowIndex":
        return Value(scope.row, "integer")
    if name == "$index" and scope.index is not None:
        return Value(scope.index, "integer")
    if name.startswith("%") and name[1:] in scope.constants:
        return scope.constants[name[1:]]
    if name in _SYSTEMS:
        return Value(text_literal(_SYSTEMS[name]), "uri", literal=True)
    raise ViewError(f"{name} is not defined.", todo=nearest(name.lstrip("%"), list(scope.constants)))


def _literal(node: Literal) -> Value:
    if node.type == "empty":
        return EMPTY
    if node.type == "boolean":
        return Value(node.text.upper(), "boolean", literal=True)
    if node.type == "integer" and int(node.text) > _LARGEST:
        raise ViewError(f"The integer {node.text[:20]} is too large.", todo="Write it with a decimal point.")
    if node.type in ("integer", "decimal"):
        return Value(_digits(node.text), node.type, literal=True)
    if node.type == "Quantity":
        return Value(_digits(node.text), "Quantity", literal=True, unit=text_literal(node.unit or "1"))
    return Value(text_literal(node.text), node.type, literal=True)


def _digits(text: str) -> str:
    """A number as SQL. Wide decimals stay doubles: DuckDB would read 1.1 as DECIMAL, and its products overflow."""
    return f"{text}::DOUBLE" if "." in text else text.lstrip("0") or "0"


def constant(given: Constant) -> Value:
    """The value of a constant of the view.

    Raises:
        ViewError: Its value does not fit its type, or its type is none of FHIR's primitives.
    """
    kind, value = given.type, given.value
    fits = {
        "boolean": isinstance(value, bool),
        **{name: isinstance(value, int | float) and not isinstance(value, bool) for name in NUMBERS},
        **{name: isinstance(value, str) for name in TEXTS},
    }
    if kind not in PRIMITIVES:
        raise ViewError(f"A constant cannot be of type {kind}.")
    if not fits[kind] or (kind != "decimal" and kind in NUMBERS and not isinstance(value, int)):
        raise ViewError(f"The value of the constant '{given.name}' is no {kind}.")
    if isinstance(value, bool):
        return Value(str(value).upper(), "boolean", literal=True)
    if isinstance(value, int | float):
        return Value(repr(value) if isinstance(value, int) else f"{value!r}::DOUBLE", kind, literal=True)
    return Value(text_literal(value), kind, literal=True)
