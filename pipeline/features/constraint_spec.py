"""The rules that a cohort's file may ask of every synthetic row: comparisons, predicates, combinations, sums, codes.

One class a form; which form is meant is told from the key that stands first (`left`, `order`, `where`, ...). What is
done so that rows keep them is in `pipeline/generators/constraints/`; rules that only judge are `RuleSpec`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from pipeline.errors import ConfigError
from pipeline.features.schema import Level

_TARGET = re.compile(r'^\s*(?:"(?P<quoted>[^"]+)"|(?P<plain>[^=<>!"]+?))\s*=(?!=)\s*(?P<formula>.*\S)\s*$', re.DOTALL)
_SUMMANDS = re.compile(r'\s*(?:"[^"]+"|[^\s+\-*/()"]+)\s*(?:\+\s*(?:"[^"]+"|[^\s+\-*/()"]+)\s*)+')
By = Literal["difference", "redraw"]
_BY = Field(
    default=None,
    description="How numbers keep it: 'difference' learns the distance between them in place of the second, 'redraw' "
    "throws rows away; default the first where redrawing would throw away many.",
)


class Rule(BaseModel):
    """Base of all forms of a rule. A row in which a cell of the rule is missing keeps it."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Comparison(Rule):
    """Two columns, or a column and a number: `{left: diastolic, op: "<=", right: systolic}`."""

    left: str = Field(description="Column name.")
    op: Literal["<", "<=", ">", ">=", "==", "!="] = Field(description="Comparison.")
    right: str | float = Field(description="Column name or a number.")
    by: By | None = _BY

    def __str__(self) -> str:
        """E.g. "admitted <= discharged"."""
        return f"{self.left} {self.op} {self.right}"


class Order(Rule):
    """A chain: `order: admitted <= operated <= discharged`, or a list of columns, each at most the next."""

    order: str | list[str] = Field(description="The chain, smallest first.")
    by: By | None = _BY

    @model_validator(mode="after")
    def _chain(self) -> Order:
        if len(self.columns) < 2 or not all(self.columns):
            raise ValueError("an order names at least two columns: order: a <= b <= c, or a list")
        if len(set(self.columns)) < len(self.columns):
            raise ValueError("an order names each column once")
        return self

    @property
    def columns(self) -> list[str]:
        """The columns, smallest first."""
        parts = self.order if isinstance(self.order, list) else re.split(r"<=|<", self.order)
        return [part.strip().strip('"') for part in parts]

    @property
    def strict(self) -> list[bool]:
        """For each column but the first: must it be above the one before it, and not equal?"""
        if isinstance(self.order, list):
            return [False] * (len(self.order) - 1)
        return [sign == "<" for sign in re.findall(r"<=|<", self.order)]

    def __str__(self) -> str:
        """E.g. "a <= b < c"."""
        signs = ["", *("<" if strict else "<=" for strict in self.strict)]
        return " ".join(f"{sign} {name}".strip() for sign, name in zip(signs, self.columns, strict=True))


class Predicate(Rule):
    """One boolean SQL expression over the row's columns: `where: "age >= 18 OR pregnant = false"`; NULL counts as kept."""

    where: str = Field(min_length=1, description="The expression, in DuckDB's SQL.")

    def __str__(self) -> str:
        """The expression on one line."""
        return " ".join(self.where.split())


class Combinations(Rule):
    """Only these combinations: `combinations: [city, region]`, those seen in training or those listed."""

    combinations: list[str] = Field(min_length=2, description="Discrete columns.")
    allowed: list[list[Level | None]] | None = Field(
        default=None, description="The combinations, each in the order of the columns; default those seen in training."
    )

    @model_validator(mode="after")
    def _whole(self) -> Combinations:
        if any(len(row) != len(self.combinations) for row in self.allowed or []):
            raise ValueError(f"each allowed combination has {len(self.combinations)} levels, one a column")
        if self.allowed == []:
            raise ValueError("`allowed` lists no combination")
        if len(set(self.combinations)) < len(self.combinations):
            raise ValueError("a combination names each column once")
        return self

    def __str__(self) -> str:
        """Names the columns; no level."""
        return f"combinations of {', '.join(self.combinations)}"


class Formula(Rule):
    """Base of the rules in which one column is computed from others."""

    @property
    def text(self) -> str:
        """The rule as it was written."""
        raise NotImplementedError

    @property
    def target(self) -> str:
        """The column that is computed."""
        found = _TARGET.match(self.text)
        assert found is not None
        return (found["quoted"] or found["plain"]).strip()

    @property
    def formula(self) -> str:
        """The expression that it is computed by."""
        found = _TARGET.match(self.text)
        assert found is not None
        return found["formula"]

    def __str__(self) -> str:
        """The rule on one line."""
        return " ".join(self.text.split())


class Derivation(Formula):
    """A derived column: `derive: bmi = weight / (height * height)`; rounded on the column's own grid."""

    derive: str = Field(description="Column = SQL expression over other columns; dates count as days since 1970-01-01.")

    @model_validator(mode="after")
    def _readable(self) -> Derivation:
        if not _TARGET.match(self.derive):
            raise ValueError("a derivation is written as: derive: column = expression")
        return self

    @property
    def text(self) -> str:
        """The rule as it was written."""
        return self.derive


class Sum(Formula):
    """A total: `sum: total = a + b + c`."""

    sum: str = Field(description="Column = the columns that it is the sum of.")

    @model_validator(mode="after")
    def _readable(self) -> Sum:
        if not _TARGET.match(self.sum) or not _SUMMANDS.fullmatch(self.formula):
            raise ValueError("a sum is written as: sum: total = a + b + c (other formulas under `derive`)")
        return self

    @property
    def text(self) -> str:
        """The rule as it was written."""
        return self.sum


class CodesOf(BaseModel):
    """Codes of a block, or a level of a column, and the people who alone may have them."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    block: str | None = Field(default=None, description="Code block.")
    codes: list[str] = Field(default_factory=list, description="Codes of the block.")
    prefix: list[str] = Field(default_factory=list, description="All codes of the block that begin like this.")
    column: str | None = Field(default=None, description="Discrete column, in place of a block.")
    level: Level | None = Field(default=None, description="Its level; default the last one (yes, of a binary column).")
    only: dict[str, Level | list[Level]] = Field(min_length=1, description="Column to the level or levels that may.")

    @model_validator(mode="after")
    def _one_subject(self) -> CodesOf:
        if (self.block is None) == (self.column is None):
            raise ValueError("codes names either a block or a column")
        if self.block is not None and (not (self.codes or self.prefix) or self.level is not None):
            raise ValueError("a block needs codes or prefix (and no level)")
        if self.column is not None and (self.codes or self.prefix):
            raise ValueError("codes and prefix belong to a block")
        return self

    def levels(self, column: str) -> list[Level]:
        """The levels of a column of `only` that may."""
        given = self.only[column]
        return list(given) if isinstance(given, list) else [given]


class OnlyWith(Rule):
    """Sex-specific codes and the like: `codes: {block: diagnoses, prefix: [O, Z34], only: {sex: female}}`."""

    codes: CodesOf = Field(description="Which codes, and who alone may have them.")

    def __str__(self) -> str:
        """E.g. "diagnoses O*, Z34* only with sex female"."""
        it = self.codes
        what = ", ".join([*it.codes, *(f"{p}*" for p in it.prefix)]) if it.block else str(it.level or "")
        who = " and ".join(f"{k} {' or '.join(map(str, it.levels(k)))}" for k in it.only)
        return f"{it.block or it.column} {what}".strip() + f" only with {who}"


class Exclusive(Rule):
    """Binary columns of which at most one is yes: `exclusive: [a, b, c]`."""

    exclusive: list[str] = Field(min_length=2, description="Binary columns; yes is the last level.")

    @property
    def flags(self) -> list[str]:
        """The columns."""
        return self.exclusive

    def __str__(self) -> str:
        """Names the columns."""
        return f"at most one of {', '.join(self.exclusive)}"


class OneHot(Rule):
    """Binary columns of which exactly one is yes: `one_hot: [a, b, c]`."""

    one_hot: list[str] = Field(min_length=2, description="Binary columns; yes is the last level.")

    @property
    def flags(self) -> list[str]:
        """The columns."""
        return self.one_hot

    def __str__(self) -> str:
        """Names the columns."""
        return f"exactly one of {', '.join(self.one_hot)}"


FORMS: dict[str, type[Rule]] = {
    "left": Comparison,
    "order": Order,
    "where": Predicate,
    "combinations": Combinations,
    "derive": Derivation,
    "sum": Sum,
    "codes": OnlyWith,
    "exclusive": Exclusive,
    "one_hot": OneHot,
}
"""The key that stands first to the form of the rule."""


def _form(given: Any) -> str | None:
    """The key by which a rule's form is told."""
    if isinstance(given, Rule):
        return next(key for key, form in FORMS.items() if type(given) is form)
    if not isinstance(given, dict):
        return None
    found = [key for key in FORMS if key in given]
    return found[0] if len(found) == 1 else ("left" if {"op", "right"} & set(given) and not found else None)


ConstraintSpec = Annotated[
    Annotated[Comparison, Tag("left")]
    | Annotated[Order, Tag("order")]
    | Annotated[Predicate, Tag("where")]
    | Annotated[Combinations, Tag("combinations")]
    | Annotated[Derivation, Tag("derive")]
    | Annotated[Sum, Tag("sum")]
    | Annotated[OnlyWith, Tag("codes")]
    | Annotated[Exclusive, Tag("exclusive")]
    | Annotated[OneHot, Tag("one_hot")],
    Discriminator(
        _form,
        custom_error_type="rule_form",
        custom_error_message=f"a rule is written with one of the keys {', '.join(FORMS)}",
    ),
]
"""A rule of any form."""


class RuleList(BaseModel):
    """Rules as they are stored and written in files of their own."""

    model_config = ConfigDict(extra="forbid")
    constraints: list[ConstraintSpec] = Field(default_factory=list, description="The rules.")


def reexpressible(rule: ConstraintSpec) -> bool:
    """May a generator learn other columns so that its rows keep such a rule? Then what is learned depends on it."""
    if isinstance(rule, Comparison):
        return isinstance(rule.right, str) and rule.by != "redraw"
    return not (isinstance(rule, Order) and rule.by == "redraw")


def rules_from(plain: list[Any]) -> list[ConstraintSpec]:
    """Rules back from `plain_rules`, or from a file; raises pydantic's `ValidationError`."""
    return RuleList(constraints=plain).constraints


def read_rules(file: Path) -> list[ConstraintSpec]:
    """The section `constraints:` of a YAML file, as `cohortloom constraints suggest` prints it.

    Raises:
        ConfigError: it cannot be read, or holds something else.
    """
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        return RuleList.model_validate(content or {}).constraints
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"The file cannot be read ({type(error).__name__}).", where=str(file)) from None
    except ValidationError as error:
        first = error.errors()[0]
        words = str(first["msg"]).removeprefix("Value error, ")
        raise ConfigError(f"{'.'.join(map(str, first['loc']))}: {words}.", where=str(file)) from None


def plain_rules(rules: list[ConstraintSpec]) -> list[dict[str, Any]]:
    """Rules as JSON; what was left out stays left out."""
    return [rule.model_dump(mode="json", exclude_none=True, exclude_defaults=True) for rule in rules]
