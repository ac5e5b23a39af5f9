"""FHIRPath text to a small syntax tree. The grammar and its parser are fhirpathpy's; only the tree is ours.

fhirpathpy's own `parse` passes over syntax errors and over what follows the expression; here both raise.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from pipeline.ingest.viewdefinition.definition import ViewError


@dataclass(frozen=True)
class Literal:
    """A literal; `text` is its value as text, without quotes or the mark of dates. `{}` has the type 'empty'."""

    type: str
    text: str
    unit: str = ""


@dataclass(frozen=True)
class Name:
    """A member."""

    text: str


@dataclass(frozen=True)
class Call:
    """A function."""

    name: str
    arguments: tuple[Node, ...]


@dataclass(frozen=True)
class Variable:
    """`$this`, `$index`, `$total`, or `%name` of a constant."""

    name: str


@dataclass(frozen=True)
class Dot:
    """A step to a member or through a function."""

    left: Node
    right: Node


@dataclass(frozen=True)
class At:
    """An item by its index."""

    left: Node
    index: Node


@dataclass(frozen=True)
class Sign:
    """Plus or minus before a number."""

    operator: str
    right: Node


@dataclass(frozen=True)
class Binary:
    """Any operator between two expressions."""

    operator: str
    left: Node
    right: Node


@dataclass(frozen=True)
class TypeTest:
    """`is` or `as`."""

    operator: str
    left: Node
    type: str


Node = Literal | Name | Call | Variable | Dot | At | Sign | Binary | TypeTest

_ESCAPES: Final = {"f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_DEEPEST: Final = 2_000
"""Characters of a path: the parser recurses, and no honest path is longer."""


@cache
def parse_path(text: str) -> Node:
    """The tree of a FHIRPath expression.

    Raises:
        ViewError: It is not FHIRPath.
    """
    if len(text) > _DEEPEST:
        raise ViewError(f"The path is longer than {_DEEPEST} characters.")
    from antlr4 import CommonTokenStream, InputStream, ParseTreeWalker
    from antlr4.error.ErrorListener import ErrorListener
    from fhirpathpy.parser.ASTPathListener import ASTPathListener
    from fhirpathpy.parser.generated.FHIRPathLexer import FHIRPathLexer
    from fhirpathpy.parser.generated.FHIRPathParser import FHIRPathParser

    class Strict(ErrorListener):
        def syntaxError(self, recognizer: Any, symbol: Any, line: int, column: int, msg: str, e: Any) -> None:  # noqa: N802
            raise _SyntaxError(column)

    try:
        lexer = FHIRPathLexer(InputStream(text))
        parser = FHIRPathParser(CommonTokenStream(lexer))
        for part in (lexer, parser):
            part.removeErrorListeners()
            part.addErrorListener(Strict())
        listener = ASTPathListener()
        ParseTreeWalker().walk(listener, parser.entireExpression())
        return _node(listener.parentStack[0]["children"][0]["children"][0])
    except _SyntaxError as error:
        column = error.column
    except RecursionError:
        raise ViewError("The path is nested too deeply.") from None
    raise ViewError(f"This is not FHIRPath: '{text}' cannot be read at character {column + 1}.")


class _SyntaxError(Exception):
    def __init__(self, column: int) -> None:
        super().__init__()
        self.column = column


def type_name(node: Node) -> str:
    """The type that a node names (`Quantity`, `FHIR.Quantity`, `System.String`), in FHIR's words.

    Raises:
        ViewError: It is no name of a type.
    """
    if isinstance(node, Name):
        return node.text
    if isinstance(node, Dot) and isinstance(node.left, Name) and isinstance(node.right, Name):
        return _without_space(f"{node.left.text}.{node.right.text}")
    raise ViewError("A type was expected, such as Quantity.")


def _without_space(name: str) -> str:
    space, _, plain = name.rpartition(".")
    return plain[0].lower() + plain[1:] if space == "System" and plain != "Quantity" else plain


def _node(tree: dict[str, Any]) -> Node:
    kind, children = tree["type"], tree.get("children", [])
    words = tree["terminalNodeText"]
    if kind in ("TermExpression", "InvocationTerm", "LiteralTerm", "ParenthesizedTerm", "ExternalConstantTerm"):
        return _node(children[0])
    if kind == "InvocationExpression":
        return Dot(_node(children[0]), _node(children[1]))
    if kind == "IndexerExpression":
        return At(_node(children[0]), _node(children[1]))
    if kind == "PolarityExpression":
        return Sign(words[0], _node(children[0]))
    if kind == "TypeExpression":
        return TypeTest(words[0], _node(children[0]), _without_space(children[1]["text"].replace("`", "")))
    if kind.endswith("Expression"):
        return Binary(words[0], _node(children[0]), _node(children[1]))
    if kind == "MemberInvocation":
        return Name(_identifier(children[0]))
    if kind == "FunctionInvocation":
        return _call(children[0])
    if kind in ("ThisInvocation", "IndexInvocation", "TotalInvocation"):
        return Variable(words[0])
    if kind == "ExternalConstant":
        return Variable("%" + (_identifier(children[0]) if children else _unquote(words[-1])))
    return _literal(kind, tree)


def _call(tree: dict[str, Any]) -> Call:
    children = tree["children"]
    arguments = children[1]["children"] if len(children) > 1 else []
    return Call(_identifier(children[0]), tuple(_node(argument) for argument in arguments))


def _identifier(tree: dict[str, Any]) -> str:
    text: str = tree["text"]
    return _unquote(text) if text.startswith("`") else text


def _literal(kind: str, tree: dict[str, Any]) -> Literal:
    text: str = tree["text"]
    if kind == "NullLiteral":
        return Literal("empty", "")
    if kind == "BooleanLiteral":
        return Literal("boolean", text)
    if kind == "StringLiteral":
        return Literal("string", _unquote(text))
    if kind == "NumberLiteral":
        return Literal("decimal" if "." in text else "integer", text)
    if kind == "DateTimeLiteral":
        return Literal("dateTime" if "T" in text else "date", text.removeprefix("@").removesuffix("T"))
    if kind == "TimeLiteral":
        return Literal("time", text.removeprefix("@T"))
    number = tree["children"][0]["terminalNodeText"][0]
    unit = text.removeprefix(number).strip()
    return Literal("Quantity", number, _unquote(unit) if unit.startswith("'") else unit)


def _unquote(text: str) -> str:
    def plain(found: re.Match[str]) -> str:
        mark = found[1]
        return chr(int(mark[1:], 16)) if mark[0] == "u" else _ESCAPES.get(mark, mark)

    return re.sub(r"\\(u[0-9a-fA-F]{4}|.)", plain, text[1:-1])
