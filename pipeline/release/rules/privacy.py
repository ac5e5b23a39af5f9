"""Privacy: hard rules, each on the worst trained seed. A figure that cannot be estimated fails.

Copies, membership inference (over everybody, at few false alarms, and among the most unusual people), inference of
attributes, identity disclosure, closeness to training rows; for a training that claims differential privacy also that
the attacks do not refute its epsilon.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from typing import TYPE_CHECKING

from pipeline.evaluation.privacy.copies import MAYBE_CHANCE
from pipeline.evaluation.protocol import headline
from pipeline.release.rules.held import (
    Question,
    Rule,
    at_most,
    each,
    exactly,
    missing,
    passed,
    percent,
    three,
    warned_above,
    without_value,
    worst,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.evaluation.results import MetricResult
    from pipeline.features.evaluation_spec import GateSpec
    from pipeline.privacy.spec import PrivacySpec
    from pipeline.release.rules.held import References

AUC_MARGIN, RATE_MARGIN = 0.03, 0.01
"""How far membership inference may lie above fresh real rows where people are too few for the threshold itself."""
EXACT_P_MIN = 0.01
FEWEST_FALSE_ALARMS = 1_000
"""Non-members that one false alarm in a hundred needs."""
AUC = Question("mia_max_auc", "privacy", "priv.mia.max_auc", "membership inference (AUC)", three)
OUTLIERS = Question(
    "mia_outlier_auc", "privacy", "priv.mia.outlier_auc", "membership inference among the tenth most unusual people (AUC)", three
)  # fmt: skip
RATE = Question(
    "mia_tpr_at_1pct_fpr", "privacy", "priv.mia.tpr_at_1pct_fpr", "membership inference at 1 % false positives", percent
)
COPIES = Question(
    "exact_unique_matches", "privacy", "priv.exact_unique", "recognisable training rows reproduced beyond chance", three
)
CHANCE = Question(
    "exact_match_excess", "privacy", "priv.exact_p", "chance that so many rows equal training rows by accident", three
)
ALARM = Question(
    "detect_copy_alarm", "privacy", "fid.joint.detect_copy_alarm", "copy alarm (classifier against training rows)", three
)  # fmt: skip
ATTRIBUTES = Question(
    "aia_excess", "privacy", "priv.aia.excess", "attributes inferred better for training people than for others", three
)
GROUPS = Question(
    "tcap_excess", "privacy", "priv.tcap", "attributes read off uniform groups, training people over others", three
)
IDENTITY = Question("identity_disclosure", "privacy", "priv.identity_disclosure", "risk of identity disclosure", three)
NEARNESS = Question(
    "nnaa_loss", "privacy", "priv.nnaa_loss", "closeness to training rows over that to others (NNAA loss)", three
)
DISTANCE = Question(
    "dcr_share", "privacy", "priv.dcr_share", "share of synthetic rows closer to training than to others", percent
)
EPSILON = Question(
    "empirical_epsilon", "privacy", "priv.mia.epsilon_lower", "epsilon that the attacks prove to be spent", three
)
DELTA = Question("claimed_delta", "privacy", "", "delta that the training claims", lambda x: f"{x:.2g}")


def rules(results: Sequence[MetricResult], gate: GateSpec, references: References) -> list[Rule]:
    """All rules that do not depend on a claim of differential privacy."""
    return [
        *_copies(results, gate),
        *_attack(AUC, results, gate.mia_auc_max, references, AUC_MARGIN),
        *_rate(results, gate, references),
        *_attack(OUTLIERS, results, gate.mia_outlier_auc_max, references, AUC_MARGIN),
        *at_most(ATTRIBUTES, worst(results, ATTRIBUTES.metric), gate.aia_excess_max),
        *at_most(GROUPS, worst(results, GROUPS.metric), gate.tcap_excess_max),
        *_identity(results, gate),
        *at_most(NEARNESS, worst(results, NEARNESS.metric), gate.nnaa_loss_max),
        *warned_above(DISTANCE, worst(results, DISTANCE.metric), gate.dcr_share_warn),
        _copy_alarm(results),
    ]


def claim_rules(results: Sequence[MetricResult], claimed: PrivacySpec, people: int) -> list[Rule]:
    """That a claim of differential privacy is worth something, and that no attack refutes it.

    Args:
        results: Rows of every replicate and pooled rows.
        claimed: What the training claims.
        people: Training subjects: delta must be at most 1 / (10 people), else single people may be given away.
    """
    limit = 1 / (10 * max(people, 1))
    words = f"{DELTA.what}: {claimed.delta:.2g}, at most one in ten times the training people ({limit:.2g}) allowed"
    delta = Rule(
        DELTA.name, "privacy", claimed.delta, limit, None, passed(claimed.delta <= limit), None, words, DELTA.metric
    )
    row = worst(results, EPSILON.metric)
    lacking = without_value(EPSILON, row, claimed.epsilon)
    if lacking or row is None or row.value is None:
        return [delta, *lacking]
    said = f"{EPSILON.what}: {row.value:.2f}, claimed {claimed.epsilon:g}"
    good = passed(row.value <= claimed.epsilon)
    return [
        delta,
        Rule(EPSILON.name, "privacy", row.value, claimed.epsilon, row.value, good, None, said, EPSILON.metric),
    ]


def _copies(results: Sequence[MetricResult], gate: GateSpec) -> list[Rule]:
    limit = float(gate.exact_unique_matches_max)
    row = worst(results, COPIES.metric)
    value = 0.0 if row is None or row.value is None else row.value
    words = f"{COPIES.what}: {max(value, 0.0):g}, at most {limit:g} allowed"
    first = exactly(COPIES, row, limit, words + (f" ({row.note})" if row is not None and row.note else ""))
    if row is not None and MAYBE_CHANCE in row.note:
        # Neither innocent nor guilty: a person decides.
        first = [replace(rule, status="underpowered") if rule.status == "fail" else rule for rule in first]
    values = [float(r.value) for r in each(results, CHANCE.metric) if r.value is not None]
    if not values:
        return [*first, missing(CHANCE, EXACT_P_MIN)]
    least = min(values)
    said = f"{CHANCE.what}: {least:.2g}, at least {EXACT_P_MIN:g} needed"
    good = passed(least >= EXACT_P_MIN)
    return [*first, Rule(CHANCE.name, "privacy", least, EXACT_P_MIN, None, good, None, said, CHANCE.metric)]


def _attack(
    question: Question, results: Sequence[MetricResult], limit: float, references: References, margin: float
) -> list[Rule]:
    """The threshold itself; where even fresh real rows would fail it, at most a margin above them instead.

    Beyond the threshold it never passes: what lies within the margin of fresh real rows there is underpowered.
    """
    row = worst(results, question.metric)
    found = at_most(question, row, limit)
    fresh = headline(references.get("ref_fresh", ()), question.metric)
    if not found or found[0].status == "pass" or row is None or row.value is None:
        return found
    if fresh is None or fresh.value is None:
        return found
    rule = found[0]
    upper = fresh.value if fresh.ci_hi is None else fresh.ci_hi
    highest = max((r.value for r in each(results, question.metric) if r.value is not None), default=row.value)
    bound = fresh.value + margin
    if upper <= limit or highest > bound:
        return found
    if highest > limit:
        half, room = upper - fresh.value, limit - (row.null_value if row.null_value is not None else 0.5)
        needed = ceil((row.n or 0) * (half / room) ** 2) if room > 0 else None
        words = (
            f"{question.what}: {question.show(highest)}, at most {question.show(limit)} allowed; but fresh real rows score "
            f"{question.show(fresh.value)} with {row.n} people, so nobody can tell yet"
            + (f", about {needed:,} would" if needed else "")
        )
        return [replace(rule, status="underpowered", n_needed=needed or None, words=words)]
    words = (
        f"{question.what}: {question.show(highest)}, at most {question.show(bound)} allowed: with {row.n} people to tell "
        f"apart even fresh real rows would miss {question.show(limit)}, so the limit is {question.show(margin)} above them"
    )
    return [replace(rule, value=highest, threshold=bound, status="pass", n_needed=None, words=words)]


def _identity(results: Sequence[MetricResult], gate: GateSpec) -> list[Rule]:
    """The customary threshold; where strangers to the training miss it too, what training people lose beyond them.

    With many known attributes or few people anybody's rows match somebody's by chance, and the absolute risk says more
    of the table than of the generator. Strangers are people of the holdout, matched against the same synthetic rows.
    """
    limit = gate.identity_disclosure_max
    row, beyond = worst(results, IDENTITY.metric), worst(results, IDENTITY.metric, key1="beyond strangers")
    absolute = at_most(IDENTITY, row, limit)
    if not absolute or absolute[0].status == "pass" or row is None or row.value is None:
        return absolute
    if beyond is None or beyond.value is None:
        return absolute
    upper = row.value if row.ci_hi is None else row.ci_hi
    if upper - beyond.value <= limit:
        return absolute
    what = f"{IDENTITY.what} beyond that of strangers (theirs may exceed {limit:g} too)"
    return at_most(replace(IDENTITY, what=what), beyond, gate.identity_excess_max)


def _rate(results: Sequence[MetricResult], gate: GateSpec, references: References) -> list[Rule]:
    limit = gate.mia_tpr_at_1pct_fpr_max
    rows = each(results, RATE.metric)
    lacking = next((r for r in rows if r.value is None), None)
    if lacking is None:
        return _attack(RATE, results, limit, references, RATE_MARGIN)
    words = (
        f"{RATE.what}: not estimable with {lacking.n} people outside training, about {FEWEST_FALSE_ALARMS:,} holdout "
        f"people are needed"
    )
    return [Rule(RATE.name, "privacy", None, limit, None, "underpowered", FEWEST_FALSE_ALARMS, words, RATE.metric)]


def _copy_alarm(results: Sequence[MetricResult]) -> Rule:
    rows = each(results, ALARM.metric)
    known = [r for r in rows if r.value is not None]
    if not known or len(known) < len(rows):
        lacking = next((r for r in rows if r.value is None), None)
        return (without_value(ALARM, lacking, 0.5) or [missing(ALARM, 0.5)])[0]
    margin = {id(r): float(r.value or 0.0) + 3 * (r.se or 0.0) for r in known}
    lowest = min(known, key=lambda r: margin[id(r)])
    on = margin[id(lowest)] < 0.5
    words = f"{ALARM.what}: {'on' if on else 'off'} (AUC {lowest.value:.3f}; it goes on where that is more than three standard errors below 0.5)"
    end = margin[id(lowest)]
    return Rule(ALARM.name, "privacy", lowest.value, 0.5, end, passed(not on), None, words, ALARM.metric)
