"""A ViewDefinition to one SELECT over explicit columns.

Selects become rows in two parts: columns that the element has once, and lists of structs (`forEach`, `repeat`,
`unionAll`) that are unnested at the end, so that a file is read once whatever the view unites. What the paths read is
gathered in a `Place` while they are compiled; where something is needed whole as JSON, compiling starts over with that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Final

from pipeline.ingest.viewdefinition.columns import OutColumn, finished
from pipeline.ingest.viewdefinition.definition import Column, Select, ViewDefinition, ViewError
from pipeline.ingest.viewdefinition.elements import UNKNOWN
from pipeline.ingest.viewdefinition.expressions import constant, evaluate
from pipeline.ingest.viewdefinition.fhirpath import parse_path
from pipeline.ingest.viewdefinition.rows import Listed, Piece, Rows, final_select, listed, pieces_of, struct
from pipeline.ingest.viewdefinition.shape import Place
from pipeline.ingest.viewdefinition.values import Scope, Value, exists, items, settled, truth, whole

_MOST_PASSES: Final = 20


@dataclass(frozen=True)
class CompiledView:
    """A view as SQL.

    Attributes:
        name: Of the view.
        resource: Type of the resources that it is over.
        shape: The fields that are read.
        select: SELECT over `{source}` (the explicit columns) giving the rows; raises where a record does not fit.
        columns: Names and SQL types, in order.
        references: The resource's references that are turned into keys.
        unknown: Elements that R4 does not have, as `Type.element`.
    """

    name: str
    resource: str
    shape: dict[str, Any]
    select: str
    columns: tuple[OutColumn, ...]
    references: tuple[str, ...]
    unknown: tuple[str, ...]


def compile_view(view: ViewDefinition, *, where: str = "") -> CompiledView:
    """Compile a view.

    Args:
        view: The view.
        where: File or name for messages.

    Raises:
        ViewError: A path is no FHIRPath, or asks for what cannot be; says where in the view.
    """
    root = Place()
    for _ in range(_MOST_PASSES):
        before = _whole(root)
        compiled = _Compiler(view, root, where or view.name or "").view()
        if _whole(root) == before:
            return compiled
    raise ViewError("The view asks for too many elements as a whole.", where=where)


def _whole(place: Place) -> int:
    return place.whole + sum(_whole(part) for part in place.fields.values())


class _Compiler:
    """One pass over a view."""

    def __init__(self, definition: ViewDefinition, root: Place, where: str) -> None:
        self.definition, self.where = definition, where
        start = Value("r", definition.resource, form="struct", place=root)
        self.scope = Scope(root=start, this=start, prefix=_free_prefix(definition))

    def view(self) -> CompiledView:
        """The whole view."""
        for number, given in enumerate(self.definition.constant):
            with self._at(f"constant[{number}]"):
                self.scope.constants[given.name] = constant(given)
        conditions = [
            self._condition(item.path, f"where[{number}].path") for number, item in enumerate(self.definition.where)
        ]
        rows = self._product(
            [self._select(part, self.scope, f"select[{number}]") for number, part in enumerate(self.definition.select)]
        )
        names = [column.name.lower() for column in rows.order]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ViewError(f"The column '{twice[0]}' is there twice.", where=self.where)
        root = self.scope.root.place
        assert root is not None
        if root.whole:
            raise ViewError("The resource as a whole cannot be read; name the fields.", where=self.where)
        if not root.fields:
            root.child("id", leaf="text", many=False)
        return CompiledView(
            self.definition.name or "",
            self.definition.resource,
            {name: place.shape for name, place in root.fields.items()},
            final_select(rows, conditions, self.scope),
            tuple(rows.order),
            tuple(self.scope.references),
            tuple(self.scope.unknown),
        )

    def _at(self, place: str) -> _Locating:
        return _Locating(": ".join(part for part in (self.where, place) if part))

    def _path(self, path: str, scope: Scope, place: str) -> Value:
        with self._at(place):
            return evaluate(parse_path(path), scope)

    def _condition(self, path: str, place: str) -> str:
        value = self._path(path, self.scope, place)
        with self._at(place):
            if value.type not in ("boolean", "empty", UNKNOWN):
                raise ViewError(f"A filter must be true or false, and '{path}' is of type {value.type}.")
            return truth(value, self.scope)

    def _select(self, select: Select, scope: Scope, place: str) -> Rows:
        """The rows of one select."""
        path = select.for_each if select.for_each is not None else select.for_each_or_null
        if select.repeat:
            over = self._repeat(select.repeat, scope, f"{place}.repeat")
        elif path is not None:
            way = "forEach" if select.for_each is not None else "forEachOrNull"
            over = settled(self._path(path, scope, f"{place}.{way}"), scope)
        else:
            return self._body(select, scope, place)
        if over.type == "empty":
            over = replace(over, form="json", type=UNKNOWN, sql="CAST(NULL AS JSON)")
        elements = items(over)
        if select.for_each_or_null is not None:
            elements = f"CASE WHEN {exists(over)} THEN {elements} ELSE [NULL] END"
        element, number = scope.variable(), scope.variable()
        inner = scope.on(replace(over, sql=element, many=False, alternatives=()), row=f"({number} - 1)")
        body = self._body(select, inner, place)
        counted = f"lambda {element}, {number}"
        # What does not depend on the element stands in every row alike: it need not be in the list.
        moving = re.compile(rf"\b({element}|{number})\b")
        same = {name: sql for name, sql in body.once.items() if not moving.search(sql)}

        def build(order: list[OutColumn], others: dict[str, str]) -> str:
            if not body.lists:
                return f"list_transform({elements}, {counted}: {struct(order, body.once | others)})"
            return f"flatten(list_transform({elements}, {counted}: {listed(body, scope, order, others)}))"

        pieces = None if body.lists else (Piece(elements, element, number, body.once),)
        return Rows(body.order, same, [Listed(build, [c for c in body.order if c.name not in same], pieces)])

    def _body(self, select: Select, scope: Scope, place: str) -> Rows:
        """Columns, selects and the union of one select, on the element in focus."""
        own = Rows()
        for number, column in enumerate(select.column):
            sql, out = self._column(column, scope, f"{place}.column[{number}]")
            own.order.append(out)
            own.once[out.name] = sql
        parts = [own]
        parts += [self._select(part, scope, f"{place}.select[{n}]") for n, part in enumerate(select.select)]
        if select.union_all:
            parts.append(self._union(select.union_all, scope, f"{place}.unionAll"))
        return self._product(parts)

    def _column(self, column: Column, scope: Scope, place: str) -> tuple[str, OutColumn]:
        value = self._path(column.path, scope, f"{place}.path")
        with self._at(place):
            return finished(column, value, scope)

    def _union(self, selects: list[Select], scope: Scope, place: str) -> Rows:
        """The branches one after the other; all must have the same columns."""
        branches = [self._select(part, scope, f"{place}[{number}]") for number, part in enumerate(selects)]
        names = [column.name for column in branches[0].order]
        for number, branch in enumerate(branches):
            if [column.name for column in branch.order] != names:
                with self._at(f"{place}[{number}]"):
                    raise ViewError(
                        f"All branches of unionAll need the same columns in the same order: {', '.join(names)}."
                    )
        order = [self._common([branch.order[index] for branch in branches], place) for index in range(len(names))]
        # What all branches say alike need not be in the lists.
        same = {
            column.name: branches[0].once[column.name]
            for column in order
            if len({branch.once.get(column.name, f"<{number}>") for number, branch in enumerate(branches)}) == 1
        }
        inside = [column for column in order if column.name not in same]

        def build(order: list[OutColumn], others: dict[str, str]) -> str:
            lists = [listed(branch, scope, order, others) for branch in branches]
            return f"list_concat({', '.join(lists)})" if len(lists) > 1 else lists[0]

        simple = [pieces_of(branch) for branch in branches]
        pieces = None if None in simple else tuple(piece for pieces in simple for piece in pieces or ())
        return Rows(order, same, [Listed(build, inside, pieces)])

    def _common(self, columns: list[OutColumn], place: str) -> OutColumn:
        types = {column.sql_type for column in columns if not column.empty}
        if len(types) > 1 and types <= {"INTEGER", "BIGINT", "DOUBLE"}:
            types = {"DOUBLE"}
        if len(types) > 1:
            with self._at(place):
                raise ViewError(f"The branches of unionAll have '{columns[0].name}' in different types.")
        return replace(columns[0], sql_type=types.pop() if types else columns[0].sql_type)

    def _repeat(self, paths: list[str], scope: Scope, place: str) -> Value:
        """All elements that the paths lead to, over and over, each before those below it."""
        start = whole(settled(scope.this, scope), scope) if scope.this is not scope.root else scope.this
        first = self._children(paths, start, scope, place)
        if first is None:
            return Value("CAST(NULL AS JSON)", UNKNOWN, form="json")
        kinds = {value.type for value in first}
        kind = kinds.pop() if len(kinds) == 1 else UNKNOWN
        node, level, known = scope.variable(), scope.variable(), scope.variable()
        item = Value(f"{node}.item", kind, form="json")
        below = self._children(paths, item, scope, place) or []
        seeds = _numbered(first, "CAST([] AS BIGINT[])", "0", scope)
        grown = _numbered(below, f"{node}.path", f"{level}", scope)
        fresh = scope.variable()
        step = (
            f"list_concat({known}, flatten(list_transform(list_filter({known}, "
            f"lambda {fresh}: {fresh}.level = {level} - 1), lambda {node}: {grown})))"
        )
        # No tree is deeper than its members are many: a bound that needs no recursion.
        marks = [path.rpartition(".")[2].partition("(")[0] for path in paths]
        texts = ", ".join(f"coalesce(CAST(to_json({value.sql}) AS VARCHAR), '')" for value in first)
        depth = " + ".join(f"len(string_split(concat({texts}), '\"{mark}\"'))" for mark in dict.fromkeys(marks))
        tree = f"list_reduce(range(1, {depth}), lambda {known}, {level}: {step}, {seeds})"
        last = scope.variable()
        sql = f"list_transform(list_sort({tree}), lambda {last}: {last}.item)"
        return Value(sql, kind, many=True, form="json")

    def _children(self, paths: list[str], item: Value, scope: Scope, place: str) -> list[Value] | None:
        """What each path leads to from one element, as JSON; None where no path can lead anywhere."""
        found = []
        for number, path in enumerate(paths):
            value = settled(self._path(path, scope.on(item), f"{place}[{number}]"), scope)
            if value.type != "empty":
                found.append(whole(value, scope))
        return found or None

    def _product(self, parts: list[Rows]) -> Rows:
        """Rows of several selects side by side: each with each."""
        made = Rows()
        for part in parts:
            made.order += part.order
            made.once |= part.once
            made.lists += part.lists
        return made


def _free_prefix(definition: ViewDefinition) -> str:
    """What the names of variables start with: nothing that the view says, so that they can be told apart in SQL."""
    said, prefix = definition.model_dump_json(), "e"
    while re.search(rf"{prefix}\d", said):
        prefix += "e"
    return prefix


class _Locating:
    """Adds the place in the view to errors that have none."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, ViewError) and not error.where:
            raise ViewError(error.what, where=self.where, todo=error.todo) from None


def _numbered(values: list[Value], path: str, level: str, scope: Scope) -> str:
    """Elements with the path that puts them in order: the numbers of all elements above, and their own."""
    lists = []
    for number, value in enumerate(values):
        item, place = scope.variable(), scope.variable()
        struct = (
            f"{{'path': list_append({path}, CAST({number} AS BIGINT) * 1000000000 + {place}), "
            f"'level': CAST({level} AS BIGINT), 'item': CAST({item} AS JSON)}}"
        )
        lists.append(f"list_transform({items(value)}, lambda {item}, {place}: {struct})")
    return f"list_concat({', '.join(lists)}, [])" if lists else "[]"
