"""What may leave the house: the public report's results and aggregates, made from the internal ones by leaving out.

The report is a disclosure channel of its own. Metrics leave only safe aggregates in `details` to begin with; here
what may be seen inside alone is dropped (`details["internal"]`), figures about levels and codes of fewer than 11
training rows and figures that rest on fewer than 11 people go, and numbers are rounded so that no point of a curve
gives away a single person.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pipeline.evaluation.aggregates import SMALL
from pipeline.evaluation.results import REFERENCE_ROWS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.evaluation.results import MetricResult
    from pipeline.release.gate import Verdict

    References = Mapping[str, Sequence[MetricResult]]

DIGITS = 3
"""Significant digits of shares, rates and scores in the public report's figures."""
PEOPLE = ("column", "subgroup", "record_group", "pair")
"""Scopes whose `n` counts real people (a table's or task's may count columns, models or pairs)."""
FEW = re.compile(r"(?<![\d,.])(?:[1-9]|10) (?=(?:\w+ )?(?:rows?|people|persons?|members|others|patients)\b)")
SIZE, UNDER = re.compile(r"\b(?:rows|people|patients|subjects)\b"), {str(n) for n in range(1, SMALL)}
FRESH = re.compile(r"\bfresh real\b")
INTERNAL, RARE = "internal", "rare"


def public_details(details: Mapping[str, Any]) -> dict[str, Any]:
    """The aggregates without what only the internal report may draw, rounded, and with rare levels masked."""
    rare = RareNames(rare_of(details))
    return {key: _safe(value, rare) for key, value in details.items() if key != INTERNAL}


def public_results(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[MetricResult]:
    """The results without rare levels and without figures that rest on 1 to 10 people."""
    rare = RareNames(rare_of(details))
    holdout = details.get("sizes", {}).get("holdout", 0)
    thin = _thin(results, details, holdout)
    return [
        _blank(r) if r.metric == "fid.marg.moments" and r.key1 in thin else _published(r, holdout, rare)
        for r in results
        if not rare.pairs & _named(r)
    ]


def _thin(results: Sequence[MetricResult], details: Mapping[str, Any], holdout: int) -> set[str]:
    """Binary columns of which fewer than SMALL holdout rows are of one kind: any moment of theirs gives the count away."""
    binary = {c["name"] for c in details.get("columns", []) if c["kind"] == "binary"}
    found = set()
    for row in results:
        if (
            row.metric == "fid.marg.moments"
            and row.key2 == "mean_real"
            and row.key1 in binary
            and row.value is not None
        ):
            rarer = min(row.value, 1 - row.value) * holdout
            if 0 < rarer < SMALL:
                found.add(row.key1)
    return found


def public_references(references: References, details: Mapping[str, Any]) -> dict[str, list[MetricResult]]:
    """The reference rows, treated like the results."""
    return {name: public_results(rows, details) for name, rows in references.items()}


def public_verdict(verdict: Verdict | None, details: Mapping[str, Any]) -> Verdict | None:
    """The verdict with rare levels masked in the words of its rules."""
    if verdict is None:
        return None
    rare = RareNames(rare_of(details))
    return replace(verdict, rules=[replace(rule, words=few_masked(rare.mask(rule.words))) for rule in verdict.rules])


def few_masked(text: str) -> str:
    """A sentence that gives no number of rows or people between 1 and 10."""
    return FEW.sub(f"fewer than {SMALL} ", text)


def public_facts(facts: Mapping[str, str], details: Mapping[str, Any]) -> dict[str, str]:
    """The facts of the run without sizes between 1 and 10, and without a sum that would give one of them away."""
    sizes = details.get("sizes", {})
    both = sizes.get("reference", 0)
    if any(0 < sizes.get(part, 0) < SMALL for part in ("reference0", "reference1")):
        about = rf"(?<![\d,.]){both:,}(?![\d,]| rows judged)"
        facts = {
            k: re.sub(about, f"about {round(both, -1)}", v) if FRESH.search(k + v) else v for k, v in facts.items()
        }
    return {
        name: f"fewer than {SMALL}" if SIZE.search(name) and value in UNDER else few_masked(value)
        for name, value in facts.items()
    }


@dataclass(frozen=True)
class RareNames:
    """Levels and codes that the public report never names.

    Attributes:
        names: Column or block to its rare levels or codes.
    """

    names: Mapping[str, Sequence[str]]

    @cached_property
    def pairs(self) -> set[tuple[str, str]]:
        """(column or block, level or code)."""
        return {(place, name) for place, names in self.names.items() for name in names}

    @cached_property
    def _labels(self) -> re.Pattern[str]:
        """ "column = level" in the ways in which labels are written."""
        forms = [
            f"{re.escape(place)}(?: = |=|: | )(?:{'|'.join(map(re.escape, names))})"
            for place, names in self.names.items()
        ]
        return re.compile(rf"(?<!\w)(?:{'|'.join(forms)})(?!\w)" if forms else r"(?!)")

    @cached_property
    def _alone(self) -> set[str]:
        """Names that mean something without their column: two letters, or a number, could stand for anything."""
        return {name for _, name in self.pairs if len(name) > 2 and not name.replace(".", "").isdigit()}

    def mask(self, text: str) -> str:
        """A label without a rare level."""
        return "rare level" if text in self._alone else self._labels.sub("rare level", text)

    def told(self, text: str) -> bool:
        """Does a sentence name one?"""
        words = set(re.split(r"[\s,;:'\"()]+", text))
        return bool(self._labels.search(text)) or bool(words & self._alone)


def rare_of(details: Mapping[str, Any]) -> Mapping[str, Sequence[str]]:
    """Column or block to the levels and codes that fewer than 11 training rows have."""
    found: Mapping[str, Sequence[str]] = details.get(INTERNAL, {}).get(RARE, {})
    return found


def _named(row: MetricResult) -> set[tuple[str, str]]:
    """Pairs of place and level that a row's keys name: "column" and "level", or "column=level" in either key."""
    found = {(row.key1, row.key2)}
    for key in (row.key1, row.key2):
        for part in key.replace(" & ", "\x1f").replace(", ", "\x1f").replace(" × ", "\x1f").split("\x1f"):
            place, _, level = part.partition("=")
            found.add((place.strip(), level.strip()))
    return found


def _published(row: MetricResult, holdout: int, rare: RareNames) -> MetricResult:
    few = row.n is not None and 0 < row.n < SMALL
    if few and row.scope in PEOPLE:
        return _blank(row)
    # A share of the real rows is a count as soon as their number is known.
    if row.key2.endswith("_real") and row.value is not None and 0 < abs(row.value) * holdout < SMALL:
        is_share = row.key2.startswith(("missing", "share", "prevalence", "rate", "n_", "count"))
        return _blank(row) if is_share else row
    if few and row.family == "privacy":
        row = replace(row, n=None)
    return replace(row, note="" if rare.told(row.note) else few_masked(row.note))


def _blank(row: MetricResult) -> MetricResult:
    note = f"rests on fewer than {SMALL} real people"
    beside: dict[str, Any] = dict.fromkeys(REFERENCE_ROWS)
    return replace(row, value=None, ci_lo=None, ci_hi=None, se=None, n=None, score=None, note=note, **beside)


def _safe(value: Any, rare: RareNames) -> Any:
    """Shares and scores rounded, rare levels masked, at any depth."""
    if isinstance(value, float) and abs(value) <= 1:
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, str):
        return rare.mask(value)
    if isinstance(value, dict):
        return {rare.mask(k): _safe(v, rare) for k, v in value.items()}
    return [_safe(v, rare) for v in value] if isinstance(value, list) else value
