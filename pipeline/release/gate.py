"""The release gate: results against thresholds, rule by rule in words, and one verdict.

Every threshold is tested at the pessimistic end of the 95 % interval; privacy is tested on the worst trained seed,
fidelity, utility and fairness on the mean over seeds. A value on the right side whose interval reaches beyond the
threshold is `underpowered`: it does not pass, and the rule says about how many people would settle it. A figure that
is missing fails. The rules are in `rules/`; signatures, waivers and publication elsewhere in this package.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from pipeline.evaluation.results import REFERENCE_ROWS
from pipeline.release.rules import fidelity, privacy, use
from pipeline.release.rules.held import Rule

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.evaluation.plan import EvaluationPlan
    from pipeline.evaluation.results import MetricResult
    from pipeline.features.evaluation_spec import GateSpec
    from pipeline.privacy.spec import PrivacySpec
    from pipeline.release.rules.held import References

VerdictStatus = Literal["pass", "fail", "underpowered"]
GATE_VERSION = 2
"""Raised when the rules change: a stored verdict of another version cannot be held against today's."""


@dataclass(frozen=True)
class Verdict:
    """All rules and what follows from them: fail if one fails, else underpowered if one is, else pass."""

    status: VerdictStatus
    rules: list[Rule] = field(default_factory=list)
    seeds: int = 0
    version: int = GATE_VERSION

    def to_dict(self) -> dict[str, Any]:
        """Plain values, JSON-able."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Verdict:
        """The verdict back from `to_dict`."""
        rules = [Rule(**rule) for rule in content["rules"]]
        return cls(content["status"], rules, content["seeds"], content.get("version", 1))

    def reasons(self) -> list[str]:
        """The words of the rules that keep it from passing, fails first."""
        return [r.words for status in ("fail", "underpowered") for r in self.rules if r.status == status]

    def only(self, *groups: str) -> Verdict:
        """The verdict of some groups of rules alone."""
        return replace(_verdict([r for r in self.rules if r.group in groups], self.seeds), version=self.version)

    def instead(self, group: str, rule: Rule) -> Verdict:
        """The verdict with one rule in place of all rules of a group."""
        return _verdict([rule, *(r for r in self.rules if r.group != group)], self.seeds)


@dataclass(frozen=True)
class Claim:
    """A claim of differential privacy.

    Attributes:
        privacy: Epsilon and delta that the training claims.
        people: Training subjects.
    """

    privacy: PrivacySpec
    people: int


def judge(
    results: Sequence[MetricResult],
    gate: GateSpec,
    plan: EvaluationPlan,
    *,
    references: References | None = None,
    claim: Claim | None = None,
) -> Verdict:
    """Hold a generator's results against the gate.

    Args:
        results: Rows of every replicate and pooled rows, as `run_evaluation` gives them.
        gate: Thresholds.
        plan: What was asked: each of its tasks must have a utility ratio and a calibration slope, its analyses and
            protected groups the figures that belong to them.
        references: The reference rows; without them the dependence score cannot be judged and fails.
        claim: What a differentially private training claims; None of one that claims nothing.
    """
    known = references or {}
    seeds = len({r.replicate for r in results if r.replicate >= 0})
    rules = [
        *_process(gate, known, seeds),
        *privacy.rules(results, gate, known),
        *(privacy.claim_rules(results, claim.privacy, claim.people) if claim is not None else []),
        *fidelity.schema_rules(results, gate),
        *fidelity.rules(results, gate, known),
        *use.utility_rules(results, gate, [task.name for task in plan.tasks]),
        *use.fairness_rules(results, gate),
    ]
    return _verdict(rules, seeds)


def with_verdict(results: Sequence[MetricResult], verdict: Verdict) -> list[MetricResult]:
    """The pooled headline rows marked with what the gate says of them; a warning is no failure."""
    said: dict[tuple[str, str], bool] = {}
    for rule in verdict.rules:
        if rule.metric:
            key = rule.metric, rule.name.partition("[")[2].rstrip("]")
            said[key] = said.get(key, True) and rule.status in ("pass", "warn")
    return [replace(r, passed=said.get((r.metric, r.key1))) if r.replicate == -1 and not r.key2 else r for r in results]


def weakened(gate: GateSpec) -> list[str]:
    """Names of the thresholds that are weaker than this project's defaults."""
    usual = type(gate)()
    found = []
    for name in type(gate).model_fields:
        mine, default = getattr(gate, name), getattr(usual, name)
        if isinstance(default, bool):
            weaker = mine and not default
        elif isinstance(default, tuple):
            weaker = mine[0] < default[0] or mine[1] > default[1]
        elif name.endswith("_min"):
            weaker = mine < default
        else:
            weaker = mine > default
        if weaker:
            found.append(name)
    return found


def _process(gate: GateSpec, references: References, seeds: int) -> list[Rule]:
    """How the evaluation came about: the usual thresholds, seeds enough, and reference rows to read it by."""
    found = []
    weaker = weakened(gate)
    if weaker:
        words = f"thresholds weaker than the usual ones: {', '.join(weaker)}"
        found.append(Rule("usual_thresholds", "process", float(len(weaker)), 0.0, None, "warn", None, words))
    if gate.seeds_min > 1:
        words = f"trained seeds: {seeds}, at least {gate.seeds_min} needed"
        status: Literal["pass", "fail"] = "pass" if seeds >= gate.seeds_min else "fail"
        found.append(Rule("seeds", "process", float(seeds), float(gate.seeds_min), None, status, None, words))
    lacking = [name for name in REFERENCE_ROWS if name not in references]
    words = "reference rows: " + (f"{', '.join(lacking)} lacking" if lacking else "all four are there")
    count = float(len(REFERENCE_ROWS) - len(lacking))
    good: Literal["pass", "fail"] = "fail" if lacking else "pass"
    return [*found, Rule("reference_rows", "process", count, float(len(REFERENCE_ROWS)), None, good, None, words)]


def _verdict(rules: list[Rule], seeds: int) -> Verdict:
    given = {rule.status for rule in rules}
    status: VerdictStatus = "fail" if "fail" in given else "underpowered" if "underpowered" in given else "pass"
    return Verdict(status, rules, seeds)


__all__ = ["Claim", "Rule", "Verdict", "judge", "with_verdict"]
