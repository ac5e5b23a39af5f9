"""What a rule is, and how a figure with its interval is held against a limit: at the pessimistic end.

A value on the right side whose interval reaches beyond the limit is `underpowered`, with about how many people would
settle it; a figure that is missing or cannot be estimated fails; one that does not concern the table gives no rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Literal

from pipeline.evaluation.protocol import headline, replicates

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pipeline.evaluation.results import MetricResult

    References = Mapping[str, Sequence[MetricResult]]
    Show = Callable[[float], str]

RuleStatus = Literal["pass", "fail", "underpowered", "warn"]
Group = Literal["process", "schema", "privacy", "fidelity", "utility", "fairness"]


MOST_MORE = 30
"""How many times as many people may be asked for: beyond it the value simply lies at the limit."""


@dataclass(frozen=True)
class Rule:
    """One threshold and how it went.

    Attributes:
        name: Short name, e.g. "mia_tpr_at_1pct_fpr"; of a rule on a task "utility_ratio[task]".
        group: Which part of the gate it belongs to.
        value: The figure that was judged; None if missing or not estimable.
        threshold: What it was held against.
        end: The pessimistic end of its interval; None where it has none.
        status: "pass", "fail", "underpowered", or "warn" (which never changes the verdict).
        n_needed: About how many holdout people would settle an underpowered rule; None if unknown.
        words: One sentence for people.
        metric: Id of the metric that was judged; empty for a rule on the process.
    """

    name: str
    group: Group
    value: float | None
    threshold: float | None
    end: float | None
    status: RuleStatus
    n_needed: int | None
    words: str
    metric: str = ""


@dataclass(frozen=True)
class Question:
    """What a rule asks.

    Attributes:
        name: Of the rule.
        group: Of the rule.
        metric: Id of the metric.
        what: What is asked, in words that begin a sentence.
        show: How its numbers are written.
    """

    name: str
    group: Group
    metric: str
    what: str
    show: Show


def at_most(question: Question, row: MetricResult | None, limit: float) -> list[Rule]:
    """The upper end must not exceed the limit."""
    if row is None or row.value is None:
        return without_value(question, row, limit)
    return [_held(question, row, row.value, limit, lower=False)]


def at_least(question: Question, row: MetricResult | None, limit: float) -> list[Rule]:
    """The lower end must not fall below the limit."""
    if row is None or row.value is None:
        return without_value(question, row, limit)
    return [_held(question, row, row.value, limit, lower=True)]


def within(question: Question, row: MetricResult | None, limits: tuple[float, float]) -> list[Rule]:
    """Both ends must lie between the limits: the worse of the two sides is the rule."""
    if row is None or row.value is None:
        return without_value(question, row, limits[1])
    both = [
        _held(question, row, row.value, limits[0], lower=True),
        _held(question, row, row.value, limits[1], lower=False),
    ]
    order = ("fail", "underpowered", "pass")
    return [min(both, key=lambda rule: order.index(rule.status))]


def warned_above(question: Question, row: MetricResult | None, limit: float) -> list[Rule]:
    """A warning where the upper end exceeds the limit; never a failure, but a figure that is missing is one."""
    if row is None or row.value is None:
        return without_value(question, row, limit)
    end = row.value if row.ci_hi is None else row.ci_hi
    words = f"{question.what}: {question.show(row.value)}, a warning above {question.show(limit)}, upper end {question.show(end)}"
    status: RuleStatus = "warn" if end > limit else "pass"
    return [Rule(question.name, question.group, row.value, limit, end, status, None, words, question.metric)]


def exactly(question: Question, row: MetricResult | None, limit: float, words: str) -> list[Rule]:
    """The value itself, which has no interval (a count, an alarm), must not exceed the limit."""
    if row is None or row.value is None:
        return without_value(question, row, limit)
    status: RuleStatus = "pass" if row.value <= limit else "fail"
    return [Rule(question.name, question.group, row.value, limit, None, status, None, words, question.metric)]


def without_value(question: Question, row: MetricResult | None, limit: float | None) -> list[Rule]:
    """The rule on a figure without a value: none if it does not apply, underpowered if people are too few, else a fail."""
    if row is not None and (row.value is not None or row.status == "not_applicable"):
        return []
    if row is not None and row.status == "underpowered":
        words = f"{question.what}: not estimable, {row.note.removeprefix('underpowered: ')}"
        return [
            Rule(question.name, question.group, None, limit, None, "underpowered", row.n_needed, words, question.metric)
        ]
    return [missing(question, limit, row.note if row is not None else "")]


def missing(question: Question, limit: float | None, why: str = "") -> Rule:
    """A figure that is not there."""
    words = f"{question.what}: no figure ({why or 'it was not computed'})"
    return Rule(question.name, question.group, None, limit, None, "fail", None, words, question.metric)


def _held(question: Question, row: MetricResult, value: float, limit: float, *, lower: bool) -> Rule:
    """A figure and its pessimistic end against a limit."""
    given = row.ci_lo if lower else row.ci_hi
    return compared(question, value, value if given is None else given, limit, row.n, lower=lower)


def compared(question: Question, value: float, end: float, limit: float, n: int | None, *, lower: bool) -> Rule:
    """`value` with its pessimistic end against a limit; `lower`: which must not fall below it."""
    show = question.show
    sign = 1 if lower else -1
    bound, side, verb = ("at least", "lower", "needed") if lower else ("at most", "upper", "allowed")
    words = f"{question.what}: {_beside(value, limit, show)}, {bound} {show(limit)} {verb}, {side} end {_beside(end, limit, show)}"

    def rule(status: RuleStatus, needed: int | None = None) -> Rule:
        return Rule(question.name, question.group, value, limit, end, status, needed, words, question.metric)

    if sign * (end - limit) >= 0:
        return rule("pass")
    if sign * (value - limit) < 0:
        return rule("fail")
    room = abs(value - limit)
    needed = ceil(n * ((end - value) / room) ** 2) if n and room > 0 else None
    if needed is None or n is None or needed > MOST_MORE * n:
        words += ": too close to the limit to be settled by more people"
        return rule("underpowered")
    words += f": too few people to be sure, about {needed:,} a side are needed"
    return rule("underpowered", needed)


def _beside(value: float, limit: float, show: Show) -> str:
    """A number as it is written, and on which side of a limit it lies where both are written alike."""
    text = show(value)
    if text != show(limit) or value == limit:
        return text
    return f"{text} (just {'above' if value > limit else 'below'})"


def each(results: Sequence[MetricResult], metric: str, *, key1: str = "") -> list[MetricResult]:
    """The headline rows of every replicate, or the pooled one where no replicate is given."""
    rows = replicates(results, metric, key1=key1)
    pooled = headline(results, metric, key1=key1)
    return rows or ([pooled] if pooled is not None else [])


def worst(results: Sequence[MetricResult], metric: str, *, key1: str = "") -> MetricResult | None:
    """The replicate whose pessimistic (upper) end is highest; one without a value is the worst of all."""
    rows = each(results, metric, key1=key1)
    if not rows:
        return None

    def badness(row: MetricResult) -> tuple[int, float]:
        """What cannot be estimated is worst, then a value beyond doubt; what does not apply counts only if all do not."""
        if row.value is None:
            return {"not_applicable": 0, "underpowered": 2, "not_estimable": 3}[row.status], 0.0
        return 1, row.ci_hi if row.ci_hi is not None else row.value

    return max(rows, key=badness)


def mean(results: Sequence[MetricResult], metric: str, *, key1: str = "") -> MetricResult | None:
    """The mean over seeds; the row of a seed that has no value in its place, since the others do not speak for it."""
    lacking = [r for r in each(results, metric, key1=key1) if r.value is None and r.status != "not_applicable"]
    return lacking[0] if lacking else headline(results, metric, key1=key1)


def passed(good: bool) -> RuleStatus:
    """The status of a rule that is either kept or broken."""
    return "pass" if good else "fail"


def three(value: float) -> str:
    """Three digits."""
    return f"{value:.3f}"


def percent(value: float) -> str:
    """As a percentage with at most one digit."""
    return f"{100 * value:.1f} %".replace(".0 %", " %")
