"""The release gate: results against thresholds, rule by rule in words, and one verdict.

Every threshold is tested at the pessimistic end of the 95 % interval; privacy is tested on the worst trained seed,
fidelity and utility on the mean over seeds. A value on the right side whose interval reaches beyond the threshold is
`underpowered`: it does not pass, and the rule says about how many people would settle it. A figure that is missing
fails. Signatures, waivers and publication are elsewhere in this package.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from math import ceil
from typing import TYPE_CHECKING, Any, Literal

from pipeline.evaluation.fidelity.moments import COLLAPSED_SHARE
from pipeline.evaluation.privacy.membership import NEEDED
from pipeline.evaluation.protocol import headline, key_of, replicates, score_ends

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pipeline.evaluation.results import MetricResult
    from pipeline.features.evaluation_spec import GateSpec, TaskSpec

    References = Mapping[str, Sequence[MetricResult]]

RuleStatus = Literal["pass", "fail", "underpowered", "warn"]
VerdictStatus = Literal["pass", "fail", "underpowered"]
SMALL_SAMPLE_MARGIN = 0.03
"""How far membership inference may lie above fresh real rows where people are too few for the threshold itself."""
EXACT_P_MIN = 0.01


@dataclass(frozen=True)
class Rule:
    """One threshold and how it went.

    Attributes:
        name: Short name, e.g. "mia_tpr_at_1pct_fpr".
        group: "schema", "privacy", "fidelity" or "utility".
        value: The figure that was judged; None if missing or not estimable.
        threshold: What it was held against.
        end: The pessimistic end of its interval; None where it has none.
        status: "pass", "fail", "underpowered", or "warn" (which never changes the verdict).
        n_needed: About how many holdout people would settle an underpowered rule; None if unknown.
        words: One sentence for people.
    """

    name: str
    group: str
    value: float | None
    threshold: float | None
    end: float | None
    status: RuleStatus
    n_needed: int | None
    words: str


@dataclass(frozen=True)
class Verdict:
    """All rules and what follows from them: fail if one fails, else underpowered if one is, else pass."""

    status: VerdictStatus
    rules: list[Rule] = field(default_factory=list)
    seeds: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, JSON-able."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Verdict:
        """The verdict back from `to_dict`."""
        return cls(content["status"], [Rule(**rule) for rule in content["rules"]], content["seeds"])

    def reasons(self) -> list[str]:
        """The words of the rules that keep it from passing, fails first."""
        return [r.words for status in ("fail", "underpowered") for r in self.rules if r.status == status]


def judge(
    results: Sequence[MetricResult],
    gate: GateSpec,
    *,
    references: References | None = None,
    tasks: Sequence[TaskSpec] = (),
) -> Verdict:
    """Hold a generator's results against the gate.

    Args:
        results: Rows of every replicate and pooled rows, as `run_evaluation` gives them.
        gate: Thresholds.
        references: The reference rows; without them the dependence score cannot be judged and fails.
        tasks: Tasks that the cohort declares: each must have a utility ratio.
    """
    known = references or {}
    rules = [
        _adherence(results),
        *_copies(results, gate),
        _membership_auc(results, gate, known),
        _membership_rate(results, gate),
        _copy_alarm(results),
        _divergence(results, gate),
        *_collapse(results, gate),
        _dependence(results, gate, known),
        *(_utility(results, gate, task.name) for task in tasks),
        *_detection(results, gate),
    ]
    given = {rule.status for rule in rules}
    status: VerdictStatus = "fail" if "fail" in given else "underpowered" if "underpowered" in given else "pass"
    return Verdict(status, rules, len({r.replicate for r in results if r.replicate >= 0}))


def _adherence(results: Sequence[MetricResult]) -> Rule:
    what = "rows that keep to the schema"
    rows = _each(results, "schema.adherence")
    if not rows:
        return _missing("schema_adherence", "schema", what, 1.0)
    worst = min(rows, key=lambda r: -1.0 if r.value is None else r.value)
    if worst.value is None:
        return _missing("schema_adherence", "schema", what, 1.0, worst.note)
    good = worst.value >= 1.0
    shown = _percent(worst.value) if good else f"{worst.value:.3%}".replace("%", " %")
    return Rule("schema_adherence", "schema", worst.value, 1.0, None, _passed(good), None, f"{what}: {shown}, all must")


def _copies(results: Sequence[MetricResult], gate: GateSpec) -> list[Rule]:
    limit = float(gate.exact_unique_matches_max)
    what = "recognisable training rows reproduced beyond chance"
    worst = _worst(results, "priv.exact_unique")
    if worst is None or worst.value is None:
        first = _missing("exact_unique_matches", "privacy", what, limit, worst.note if worst else "")
    else:
        first = Rule(
            "exact_unique_matches",
            "privacy",
            worst.value,
            limit,
            None,
            _passed(worst.value <= limit),
            None,
            f"{what}: {max(worst.value, 0.0):g}, at most {limit:g} allowed"
            + (f" ({worst.note})" if worst.note else ""),
        )
    rows = [r for r in _each(results, "priv.exact_p") if r.value is not None]
    what = "chance that so many rows equal training rows by accident"
    if not rows:
        return [first, _missing("exact_match_excess", "privacy", what, EXACT_P_MIN)]
    least = min(float(r.value) for r in rows if r.value is not None)
    return [
        first,
        Rule(
            "exact_match_excess",
            "privacy",
            least,
            EXACT_P_MIN,
            None,
            _passed(least >= EXACT_P_MIN),
            None,
            f"{what}: {least:.2g}, at least {EXACT_P_MIN:g} needed",
        ),
    ]


def _membership_auc(results: Sequence[MetricResult], gate: GateSpec, references: References) -> Rule:
    """The threshold itself; where even fresh real rows would fail it, at most 0.03 above them instead.

    Beyond the threshold it never passes: what lies within 0.03 of fresh real rows there is underpowered.
    """
    what = "membership inference (AUC)"
    worst = _worst(results, "priv.mia.max_auc")
    rule = _at_most(worst, gate.mia_auc_max, "mia_max_auc", "privacy", what, _three)
    fresh = headline(references.get("ref_fresh", ()), "priv.mia.max_auc")
    if rule.status == "pass" or worst is None or worst.value is None or fresh is None or fresh.value is None:
        return rule
    too_few = (fresh.ci_hi if fresh.ci_hi is not None else fresh.value) > gate.mia_auc_max
    values = [r.value for r in _each(results, "priv.mia.max_auc")]
    highest = max((v for v in values if v is not None), default=worst.value)
    limit = fresh.value + SMALL_SAMPLE_MARGIN
    if not too_few or highest > limit:
        return rule
    if highest > gate.mia_auc_max:
        half = (fresh.ci_hi if fresh.ci_hi is not None else fresh.value) - fresh.value
        needed = ceil((worst.n or 0) * (half / (gate.mia_auc_max - 0.5)) ** 2) if gate.mia_auc_max > 0.5 else None
        words = f"{rule.words}: fresh real rows score {fresh.value:.3f} with {worst.n} people, so nobody can tell yet"
        return replace(rule, status="underpowered", n_needed=needed or None, words=words)
    words = (
        f"{what}: {highest:.3f}, at most {limit:.3f} allowed: with {worst.n} people to tell apart even fresh real rows "
        f"would miss {gate.mia_auc_max:g}, so the limit is {SMALL_SAMPLE_MARGIN:g} above fresh real rows"
    )
    return replace(rule, value=highest, threshold=limit, status="pass", n_needed=None, words=words)


def _membership_rate(results: Sequence[MetricResult], gate: GateSpec) -> Rule:
    what = "membership inference at 1 % false positives"
    rows = _each(results, "priv.mia.tpr_at_1pct_fpr")
    lacking = next((r for r in rows if r.value is None), None)
    if lacking is not None:
        return Rule(
            "mia_tpr_at_1pct_fpr",
            "privacy",
            None,
            gate.mia_tpr_at_1pct_fpr_max,
            None,
            "underpowered",
            NEEDED[0.01],
            f"{what}: not estimable with {lacking.n} people outside training, about {NEEDED[0.01]:,} holdout people "
            f"are needed",
        )
    worst = _worst(results, "priv.mia.tpr_at_1pct_fpr")
    return _at_most(worst, gate.mia_tpr_at_1pct_fpr_max, "mia_tpr_at_1pct_fpr", "privacy", what, _percent)


def _copy_alarm(results: Sequence[MetricResult]) -> Rule:
    what = "copy alarm (classifier against training rows)"
    rows = _each(results, "fid.joint.detect_copy_alarm")
    known = [r for r in rows if r.value is not None]
    if not known or len(known) < len(rows):
        return _missing("detect_copy_alarm", "privacy", what, 0.5, rows[0].note if rows else "")
    margin = {id(r): float(r.value or 0.0) + 3 * (r.se or 0.0) for r in known}
    worst = min(known, key=lambda r: margin[id(r)])
    on = margin[id(worst)] < 0.5
    said = "on" if on else "off"
    return Rule(
        "detect_copy_alarm",
        "privacy",
        worst.value,
        0.5,
        margin[id(worst)],
        _passed(not on),
        None,
        f"{what}: {said} (AUC {worst.value:.3f}; it is on more than three standard errors below 0.5)",
    )


def _divergence(results: Sequence[MetricResult], gate: GateSpec) -> Rule:
    """The mean divergence; what two real samples of this size differ by alone is no failure of the generator."""
    row = headline(results, "fid.marg.jsd")
    rule = _at_most(row, gate.jsd_mean_max, "jsd_mean", "fidelity", "mean divergence of the columns", _three)
    if rule.status != "fail" or row is None or row.value is None or row.null_value is None:
        return rule
    if row.value - row.null_value > gate.jsd_mean_max:
        return rule
    needed = ceil(row.n * row.value / gate.jsd_mean_max) if row.n else None
    words = (
        f"{rule.words}: two real samples of this size differ by {_three(row.null_value)} by chance alone"
        + (f", about {needed:,} a side are needed" if needed else "")
    )  # fmt: skip
    return replace(rule, status="underpowered", n_needed=needed, words=words)


def _collapse(results: Sequence[MetricResult], gate: GateSpec) -> list[Rule]:
    if gate.variance_collapse:
        return []
    what = "columns that lost over half of their spread"
    worst = _worst(results, "fid.marg.variance_collapse")
    if worst is None or worst.value is None:
        return [_missing("variance_collapse", "fidelity", what, COLLAPSED_SHARE, worst.note if worst else "")]
    words = f"{what}: {_percent(worst.value)}, at most {_percent(COLLAPSED_SHARE)} allowed"
    good = worst.value <= COLLAPSED_SHARE
    return [Rule("variance_collapse", "fidelity", worst.value, COLLAPSED_SHARE, None, _passed(good), None, words)]


def _dependence(results: Sequence[MetricResult], gate: GateSpec, references: References) -> Rule:
    """Normalised score of the correlation error: 0 where columns are shuffled, 1 at fresh real rows."""
    name, what, limit = (
        "dependence_score",
        "share of the dependence between columns that is kept",
        gate.dependence_score_min,
    )
    row = headline(results, "fid.dep.corr_rmse")
    if row is None or row.value is None:
        return _missing(name, "fidelity", what, limit, row.note if row else "")
    found = {k: next((r for r in rows if key_of(r) == key_of(row)), None) for k, rows in references.items()}
    floor, fresh = found.get("ref_marginal"), found.get("ref_fresh")
    if floor is None or fresh is None or floor.value is None or fresh.value is None:
        return _missing(name, "fidelity", what, limit, "reference rows are missing")
    ends = score_ends(row, found)
    if ends is None:
        apart = floor.value - fresh.value
        error = 3 * ((floor.se or 0.0) ** 2 + (fresh.se or 0.0) ** 2) ** 0.5
        needed = ceil((row.n or 0) * (error / apart) ** 2) if apart > 0 else None
        return Rule(
            name,
            "fidelity",
            None,
            limit,
            None,
            "underpowered",
            needed,
            f"{what}: not estimable, shuffled columns and fresh real rows cannot be told apart"
            + (f"; about {needed:,} people a side are needed" if needed else ""),
        )

    def score(x: float) -> float:
        return (x - ends[0]) / (ends[1] - ends[0])

    value, end = score(row.value), score(row.ci_hi if row.ci_hi is not None else row.value)
    return _held(name, "fidelity", what, value, end, limit, row.n, at_least=True, show=_percent)


def _utility(results: Sequence[MetricResult], gate: GateSpec, task: str) -> Rule:
    name, what, limit = f"utility_ratio[{task}]", f"skill kept on '{task}'", gate.utility_ratio_min
    row = headline(results, "util.ratio", key1=task)
    if row is None:
        return _missing(name, "utility", what, limit)
    if row.value is None:
        real = headline(results, "util.trtr_auroc", key1=task)
        if real is None or real.value is None or real.se is None or real.value <= 0.5 or not real.n:
            return _missing(name, "utility", what, limit, row.note)
        needed = ceil(real.n * (3 * real.se / (real.value - 0.5)) ** 2)
        words = f"{what}: not estimable, {row.note}; about {needed:,} holdout people would tell"
        return Rule(name, "utility", None, limit, None, "underpowered", needed, words)
    end = row.ci_lo if row.ci_lo is not None else row.value
    return _held(name, "utility", what, row.value, end, limit, row.n, at_least=True, show=_percent)


def _detection(results: Sequence[MetricResult], gate: GateSpec) -> list[Rule]:
    row = headline(results, "fid.joint.detect_auc")
    what = "detection by a classifier (AUC)"
    limit = gate.detect_auc_warn
    if row is None or row.value is None:
        return [_missing("detect_auc", "fidelity", what, limit, row.note if row else "")]
    end = row.ci_hi if row.ci_hi is not None else row.value
    status: RuleStatus = "warn" if end > limit else "pass"
    words = f"{what}: {row.value:.3f}, a warning above {limit:g}, upper end {end:.3f}"
    return [Rule("detect_auc", "fidelity", row.value, limit, end, status, None, words)]


def _at_most(
    row: MetricResult | None, limit: float, name: str, group: str, what: str, show: Callable[[float], str]
) -> Rule:
    if row is None or row.value is None:
        return _missing(name, group, what, limit, row.note if row else "")
    end = row.ci_hi if row.ci_hi is not None else row.value
    return _held(name, group, what, row.value, end, limit, row.n, at_least=False, show=show)


def _held(
    name: str,
    group: str,
    what: str,
    value: float,
    end: float,
    limit: float,
    n: int | None,
    *,
    at_least: bool,
    show: Callable[[float], str],
) -> Rule:
    """A value and its pessimistic end against a limit."""
    sign = 1 if at_least else -1
    bound, side = ("at least", "lower") if at_least else ("at most", "upper")
    verb = "needed" if at_least else "allowed"
    words = f"{what}: {show(value)}, {bound} {show(limit)} {verb}, {side} end {show(end)}"
    if sign * (end - limit) >= 0:
        return Rule(name, group, value, limit, end, "pass", None, words)
    if sign * (value - limit) < 0:
        return Rule(name, group, value, limit, end, "fail", None, words)
    room = abs(value - limit)
    needed = ceil(n * ((end - value) / room) ** 2) if n and room > 0 else None
    words += f": too few people to be sure, about {needed:,} a side are needed" if needed else ": too close to tell"
    return Rule(name, group, value, limit, end, "underpowered", needed, words)


def _each(results: Sequence[MetricResult], metric: str) -> list[MetricResult]:
    """The headline rows of every replicate, or the pooled one where no replicate is given."""
    rows = replicates(results, metric)
    pooled = headline(results, metric)
    return rows or ([pooled] if pooled is not None else [])


def _worst(results: Sequence[MetricResult], metric: str) -> MetricResult | None:
    """The replicate whose pessimistic (upper) end is highest; one without a value is the worst of all."""
    rows = _each(results, metric)
    if not rows:
        return None

    def badness(row: MetricResult) -> float:
        if row.value is None:
            return float("inf")
        return row.ci_hi if row.ci_hi is not None else row.value

    return max(rows, key=badness)


def _missing(name: str, group: str, what: str, limit: float | None, why: str = "") -> Rule:
    return Rule(name, group, None, limit, None, "fail", None, f"{what}: no figure ({why or 'it was not computed'})")


def _passed(good: bool) -> RuleStatus:
    return "pass" if good else "fail"


def _three(value: float) -> str:
    return f"{value:.3f}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %".replace(".0 %", " %")
