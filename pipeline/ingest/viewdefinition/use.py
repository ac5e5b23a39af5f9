"""How a FHIRPath function is called by the compiler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.ingest.viewdefinition.fhirpath import Node
from pipeline.ingest.viewdefinition.values import Scope, Value

Evaluate = Callable[[Node, Scope], Value]


@dataclass(frozen=True)
class Use:
    """One use of a function."""

    name: str
    focus: Value
    arguments: Sequence[Node]
    scope: Scope
    evaluate: Evaluate

    def argument(self, number: int) -> Value:
        """An argument, evaluated where the expression stands."""
        return self.evaluate(self.arguments[number], self.scope)

    def within(self, item: Value, number: int = 0, *, index: str | None = None) -> Value:
        """An argument with an item in focus."""
        return self.evaluate(self.arguments[number], self.scope.on(item, index=index))


Function = Callable[[Use], Value]
