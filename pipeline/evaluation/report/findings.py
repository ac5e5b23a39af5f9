"""What the figures mean, in sentences that a privacy officer and a clinician can repeat.

Privacy is told of the worst trained seed, everything else of the mean over seeds. A figure that was not computed or
cannot be estimated gives no sentence, but for membership, where silence could be mistaken for safety.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.evaluation.privacy.copies import MAYBE_CHANCE
from pipeline.evaluation.privacy.membership import NEEDED
from pipeline.evaluation.protocol import headline, replicates
from pipeline.evaluation.report.words import number, tasks_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.evaluation.results import MetricResult

    References = Mapping[str, Sequence[MetricResult]]

Finding = tuple[str, str]
MOST_KNOWN = 6
CUSTOMARY_RISK = 0.09
"""Customary limit of identity disclosure in health-data release (El Emam 2020)."""


def findings(
    results: Sequence[MetricResult], references: References, details: Mapping[str, Any] | None = None
) -> list[Finding]:
    """(question, answer) pairs, privacy first; `details` names what an attacker is taken to know."""
    known = (details or {}).get("known", [])
    return [
        ("Could someone find out who was in the training data?", _membership(results, references)),
        *_outliers(results, references),
        *_copies(results),
        *_attributes(results, references, known),
        *_identity(results, references, known),
        *_absent(results),
        *_utility(results),
        *_effects(results),
        *_detection(results),
    ]


def _each(results: Sequence[MetricResult], metric: str) -> list[MetricResult]:
    """The headline rows with a value, one a seed; the pooled one where there is none of a seed."""
    rows = replicates(results, metric)
    pooled = headline(results, metric)
    return [r for r in rows or ([pooled] if pooled is not None else []) if r.value is not None]


def _upper(row: MetricResult) -> float:
    return row.ci_hi if row.ci_hi is not None else (row.value or 0.0)


def _span(row: MetricResult) -> str:
    """The 95 % interval of an AUC in words; "" where it has none."""
    if row.ci_lo is None or row.ci_hi is None:
        return ""
    ends = (number(x, 0, percent=True) for x in (row.ci_lo, row.ci_hi))
    return f" (95 % interval {' to '.join(ends)})"


def _knows(known: Sequence[str]) -> str:
    """What the attacker is taken to know of a person."""
    if not known:
        return ""
    more = f" and {len(known) - MOST_KNOWN} more" if len(known) > MOST_KNOWN else ""
    return f" The attacker is taken to know: {', '.join(known[:MOST_KNOWN])}{more}."


def _powerless(metric: str, worst: MetricResult, references: References) -> str:
    """Says so where even copied training rows score no worse than this cohort's interval reaches."""
    copied = headline(references.get("ref_train", ()), metric)
    if copied is None or copied.value is None or copied.value > _upper(worst):
        return ""
    fresh = headline(references.get("ref_fresh", ()), metric)
    if fresh is not None and fresh.value is not None and copied.value > _upper(fresh):
        return ""  # copies and strangers are told apart: it is this cohort that is like copies
    return (
        f" Copied training rows score {number(copied.value)} here, no worse than this interval: the figure cannot tell "
        "safe from unsafe in this cohort, so it is no evidence of safety."
    )


def _membership(results: Sequence[MetricResult], references: References) -> str:
    known = _each(results, "priv.mia.tpr_at_1pct_fpr")
    if not known:
        lacking = headline(results, "priv.mia.tpr_at_1pct_fpr")
        there = f", there are {lacking.n:,}" if lacking is not None and lacking.n else ""
        text = f"There are too few people outside training to say how many would be found: {NEEDED[0.01]:,} are needed{there}."
        areas = _each(results, "priv.mia.max_auc")
        if areas:
            area = max(areas, key=lambda r: r.value or 0.0)
            text += (
                f" Shown one person from training and one who was not, an attacker names the right one "
                f"{number(max(area.value or 0.5, 0.5), 0, percent=True)} of the time{_span(area)}"
                f"{_by_chance('priv.mia.max_auc', references)}"
            )
        return text
    worst = max(known, key=lambda r: r.value or 0.0)
    flagged, most = round(1000 * (worst.value or 0.0)), round(1000 * max(_upper(r) for r in known))
    which = f" (the worst of {len(known)} synthetic cohorts)" if len(known) > 1 else ""
    text = (
        f"Of 1,000 people in training, an attacker would correctly flag {flagged:,}{which}, at most {most:,} within the "
        f"interval, while wrongly flagging 10 of 1,000 people who were not. Guessing blindly finds 10."
    )
    fresh = headline(references.get("ref_fresh", ()), "priv.mia.tpr_at_1pct_fpr")
    if fresh is not None and fresh.value is not None:
        text += f" The same attack on fresh real rows, which hold nobody from training, flags {round(1000 * fresh.value):,}."
    return text


def _by_chance(metric: str, references: References) -> str:
    """Ends a sentence on an attack with what it comes to where nobody can be found: on fresh real rows, else a coin's."""
    fresh = headline(references.get("ref_fresh", ()), metric)
    if fresh is None or fresh.value is None:
        return "; a coin does so 50 % of the time."
    share = number(max(fresh.value, 0.5), 0, percent=True)
    return f". Against fresh real rows, which hold nobody from training, the same attack comes to {share}: that much is chance."


def _outliers(results: Sequence[MetricResult], references: References) -> list[Finding]:
    known = _each(results, "priv.mia.outlier_auc")
    if not known:
        return []
    worst = max(known, key=lambda r: r.value or 0.0)
    return [
        (
            "Are unusual people safe?",
            f"Among the tenth of people who are least like anybody else, an attacker shown one person from training and one "
            f"who was not names the right one {number(max(worst.value or 0.5, 0.5), 0, percent=True)} of the time (upper end "
            f"{number(max(_upper(worst), 0.5), 0, percent=True)}){_by_chance('priv.mia.outlier_auc', references)}",
        )
    ]


def _copies(results: Sequence[MetricResult]) -> list[Finding]:
    copies = _each(results, "priv.exact_unique")
    if not copies:
        return []
    worst = max(copies, key=lambda r: (r.value or 0.0, MAYBE_CHANCE not in r.note))
    count = round(worst.value or 0.0)
    among = "The synthetic rows" if len(copies) == 1 else f"The worst of {len(copies)} synthetic cohorts"
    repeat = "repeats" if len(copies) > 1 else "repeat"
    if count <= 0:
        said = (
            f"No. {among} {repeat} no recognisable training record beyond what chance gives. "
            "Being free of exact copies is necessary, but does not rule out rows that are nearly the same."
        )
    elif MAYBE_CHANCE in worst.note:
        said = (
            f"This cannot be said. {among} {repeat} {count:,} recognisable training "
            f"{'record' if count == 1 else 'records'}, too few to be told from chance."
        )
    else:
        said = (
            f"Yes. {among} {repeat} {count:,} recognisable training {'record' if count == 1 else 'records'} beyond what "
            "chance gives."
        )
    return [("Are real people's records repeated?", said)]


def _attributes(results: Sequence[MetricResult], references: References, known_columns: Sequence[str]) -> list[Finding]:
    known = _each(results, "priv.aia.excess")
    if not known:
        return []
    worst = max(known, key=_upper)
    value, upper = worst.value or 0.0, _upper(worst)
    lead = (
        "No more than about anybody else, within the interval"
        if (worst.ci_lo if worst.ci_lo is not None else value) <= 0
        else "More than about people who were not in it"
    )
    return [
        (
            "Could someone who knows a person learn a secret of theirs?",
            f"{lead}. With the synthetic rows, secrets of people in training are guessed {number(value)} better than those of "
            f"people who were not (at most {number(upper)} within the interval, on a scale from 0, guessing, to 1, always "
            "right). Only this excess comes from having taken part; what can be guessed of everybody alike is what the "
            f"data teach.{_knows(known_columns)}{_powerless('priv.aia.excess', worst, references)}",
        )
    ]


def _identity(results: Sequence[MetricResult], references: References, known_columns: Sequence[str]) -> list[Finding]:
    known = _each(results, "priv.identity_disclosure")
    if not known:
        return []
    worst = max(known, key=lambda r: r.value or 0.0)
    above = (worst.value or 0.0) > CUSTOMARY_RISK
    side = "below" if _upper(worst) <= CUSTOMARY_RISK else "above" if above else "not surely below"
    return [
        (
            "Could a row be traced to a person and tell something new?",
            f"The chance is put at {number(worst.value, 2, percent=True)} (upper end {number(_upper(worst), 2, percent=True)}), "
            f"{side} the {number(CUSTOMARY_RISK, 0, percent=True)} that is customary for releases of health data."
            f"{_knows(known_columns)}{_powerless('priv.identity_disclosure', worst, references)}",
        )
    ]


def _absent(results: Sequence[MetricResult]) -> list[Finding]:
    row = headline(results, "fair.absent")
    if row is None or row.value is None:
        return []
    count = round(row.value)
    named = f" ({row.note})" if count and row.note else ""
    groups = "group that makes" if count == 1 else "groups that each make"
    return [
        (
            "Is anybody left out?",
            f"{count:,} {groups} up at least 1 % of real people {'has' if count == 1 else 'have'} no synthetic row{named}."
            if count
            else "No. Every group that makes up at least 1 % of real people has synthetic rows.",
        )
    ]


def _utility(results: Sequence[MetricResult]) -> list[Finding]:
    found = []
    for task in tasks_of(results):
        row = headline(results, "util.ratio", key1=task)
        made, real = (headline(results, m, key1=task) for m in ("util.tstr_auroc", "util.trtr_auroc"))
        if row is None or made is None or real is None:
            continue
        sentence = (
            f"This cannot be said: {row.note}."
            if row.value is None
            else f"A model trained on synthetic rows keeps {number(row.value, 0, percent=True)} of the skill of one "
            f"trained on real rows (AUROC {number(made.value)} against {number(real.value)}, both tested on real people)."
        )
        found.append((f"Can models for '{task}' be built on it?", sentence))
    return found


def _effects(results: Sequence[MetricResult]) -> list[Finding]:
    row = headline(results, "util.inference.sign_agreement")
    if row is None or row.value is None:
        return []
    return [
        (
            "Do effect estimates survive?",
            f"Of the effects that the real rows show beyond doubt, {number(row.value, 0, percent=True)} point the same way when "
            "estimated from synthetic rows. Intervals computed from synthetic rows alone are too narrow: see Utility.",
        )
    ]


def _detection(results: Sequence[MetricResult]) -> list[Finding]:
    detect = headline(results, "fid.joint.detect_auc")
    if detect is None or detect.value is None:
        return []
    share = max(detect.value, 0.5)
    return [
        (
            "Can synthetic rows be told from real ones?",
            f"Shown one real and one synthetic row, a classifier names the synthetic one {number(share, 0, percent=True)} "
            f"of the time; a coin does so 50 % of the time.",
        )
    ]
