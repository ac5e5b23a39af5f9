"""Sentences and number formats of the report: what the figures mean, for someone who is no statistician."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pipeline.evaluation.privacy.membership import NEEDED
from pipeline.evaluation.protocol import headline, replicates
from pipeline.evaluation.references import TITLES
from pipeline.evaluation.results import REFERENCE_ROWS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.evaluation.results import MetricResult
    from pipeline.release.gate import Verdict

    References = Mapping[str, Sequence[MetricResult]]

Better = Literal["left", "right", "middle"]
VERDICTS: dict[str, tuple[str, str]] = {
    "pass": ("Passes", "Every rule of the release gate holds, at the pessimistic end of its interval."),
    "fail": ("Does not pass", "At least one rule of the release gate is broken."),
    "underpowered": ("Cannot be judged", "No rule is broken, but there are too few people to be sure of all of them."),
    "": ("Not judged", "No release gate was applied; the figures stand on their own."),
}


@dataclass(frozen=True)
class Headline:
    """One of the figures that everybody sees: which metric, how to write it, and which way is good."""

    metric: str
    title: str
    question: str
    better: Better
    digits: int
    percent: bool = False
    rule: str = ""


HEADLINES: tuple[Headline, ...] = (
    Headline("fid.marg.jsd", "Columns", "Do single columns look real? Mean Jensen-Shannon divergence in bits.", "left", 4, rule="jsd_mean"),
    Headline("fid.dep.corr_rmse", "Dependence", "Do columns move together as in reality? Error of the correlations (RMSE).", "left", 4),
    Headline("fid.joint.detect_auc", "Detection", "Can a classifier tell the rows from real ones? AUC, 0.5 is chance.", "left", 3),
    Headline("util.ratio", "Utility", "How much of the skill of a model trained on real rows is kept?", "right", 2, rule="utility_ratio"),
    Headline("priv.mia.max_auc", "Membership", "Can an attacker tell who was in training? AUC of the best attack, 0.5 is chance.", "left", 3, rule="mia_max_auc"),
    Headline(
        "priv.mia.tpr_at_1pct_fpr", "Members found", "Share of training people flagged while 1 % of others are flagged wrongly.", "left", 1, percent=True,
        rule="mia_tpr_at_1pct_fpr",
    ),
)  # fmt: skip


def tasks_of(results: Sequence[MetricResult]) -> list[str]:
    """Names of the tasks that have figures, in order."""
    return list(dict.fromkeys(r.key1 for r in results if r.metric == "util.ratio" and not r.key2))


def number(value: float | None, digits: int = 3, *, percent: bool = False) -> str:
    """A number for people; "—" where there is none."""
    if value is None:
        return "—"
    return f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%" if percent else f"{value + 0.0:.{digits}f}"


def significant(value: float | None) -> str:
    """Four significant digits, without exponents between 0.0001 and a million."""
    if value is None:
        return "—"
    if value == 0:
        return "0"
    text = f"{value:.4g}"
    return f"{value:,.0f}" if "e+" in text and abs(value) < 1e12 else text


def with_interval(row: MetricResult | None, digits: int = 3, *, percent: bool = False) -> str:
    """Value and both ends of the interval."""
    if row is None:
        return "—"
    if row.value is None:
        return f"not estimable ({row.note})"
    text = number(row.value, digits, percent=percent)
    if row.ci_lo is None or row.ci_hi is None:
        return text
    return f"{text} ({number(row.ci_lo, digits, percent=percent)} to {number(row.ci_hi, digits, percent=percent)})"


def verdict_words(verdict: Verdict | None) -> tuple[str, str, str]:
    """State ("pass", "fail", "underpowered" or ""), its name, and one sentence."""
    state = verdict.status if verdict else ""
    return state, *VERDICTS[state]


def findings(results: Sequence[MetricResult], references: References) -> list[tuple[str, str]]:
    """What a privacy officer and a clinician need to know, as (heading, sentence) pairs."""
    found = [("Could someone find out who was in the training data?", _membership(results, references))]
    copies = [r for r in replicates(results, "priv.exact_unique") if r.value is not None]
    if copies:
        worst = max(float(r.value or 0.0) for r in copies)
        among = "The synthetic rows" if len(copies) == 1 else f"The worst of {len(copies)} synthetic cohorts"
        repeat = "repeats" if len(copies) > 1 else "repeat"
        found.append(
            (
                "Are real people's records repeated?",
                f"{among} {repeat} {worst:g} recognisable training records beyond what chance gives."
                if worst > 0
                else f"No. {among} {repeat} no recognisable training record beyond what chance gives. "
                "Being free of exact copies is necessary, but does not rule out rows that are nearly the same.",
            )
        )
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
    detect = headline(results, "fid.joint.detect_auc")
    if detect is not None and detect.value is not None:
        share = max(detect.value, 0.5)
        found.append(
            (
                "Can synthetic rows be told from real ones?",
                f"Shown one real and one synthetic row, a classifier names the synthetic one {number(share, 0, percent=True)} "
                f"of the time; a coin does so 50 % of the time.",
            )
        )
    return found


def _membership(results: Sequence[MetricResult], references: References) -> str:
    rows = replicates(results, "priv.mia.tpr_at_1pct_fpr") or [
        r for r in [headline(results, "priv.mia.tpr_at_1pct_fpr")] if r is not None
    ]
    known = [r for r in rows if r.value is not None]
    if not known:
        area = headline(results, "priv.mia.max_auc")
        text = f"There are too few people outside training to say how many would be found: {NEEDED[0.01]:,} are needed."
        if area is not None and area.value is not None:
            text += (
                f" Shown one person from training and one who was not, an attacker names the right one "
                f"{number(max(area.value, 0.5), 0, percent=True)} of the time; a coin does so 50 % of the time."
            )
        return text
    worst = max(known, key=lambda r: r.value or 0.0)
    upper = max(r.ci_hi if r.ci_hi is not None else (r.value or 0.0) for r in known)
    flagged, most = round(1000 * (worst.value or 0.0)), round(1000 * upper)
    which = f" (the worst of {len(known)} synthetic cohorts)" if len(known) > 1 else ""
    text = (
        f"Of 1,000 people in training, an attacker would correctly flag {flagged:,}{which}, at most {most:,} within the "
        f"interval, while wrongly flagging 10 of 1,000 people who were not. Guessing blindly finds 10."
    )
    fresh = headline(references.get("ref_fresh", ()), "priv.mia.tpr_at_1pct_fpr")
    if fresh is not None and fresh.value is not None:
        text += f" The same attack on fresh real rows, which hold nobody from training, flags {round(1000 * fresh.value):,}."
    return text


def markdown_summary(results: Sequence[MetricResult], references: References, verdict: Verdict | None) -> str:
    """The verdict, the headline figures beside the reference rows, and the rules, as Markdown."""
    _, name, sentence = verdict_words(verdict)
    seeds = len({r.replicate for r in results if r.replicate >= 0})
    lines = [f"**{name}.** {sentence} Seeds: {seeds}.", ""]
    shown = [n for n in REFERENCE_ROWS if n in references]
    lines.append("| figure | better | value (95 % interval) | " + " | ".join(TITLES[n] for n in shown) + " |")
    lines.append("| --- | --- | --- |" + " --- |" * len(shown))
    for item, key, row in headline_rows(results):
        anchors = [headline(references[n], item.metric, key1=key) for n in shown]
        cells = [number(a.value if a else None, item.digits, percent=item.percent) for a in anchors]
        label = item.title + (f" ({key})" if key else "")
        value = with_interval(row, item.digits, percent=item.percent)
        better = "higher" if item.better == "right" else "lower"
        lines.append(f"| {label} | {better} | {value} | " + " | ".join(cells) + " |")
    if verdict:
        lines += ["", *(f"- {r.status}: {r.words}" for r in verdict.rules)]
    return "\n".join(lines) + "\n"


def headline_rows(results: Sequence[MetricResult]) -> list[tuple[Headline, str, MetricResult]]:
    """The headline figures that exist: (what, task or "", pooled row); utility once a task."""
    found = []
    for item in HEADLINES:
        for key in tasks_of(results) if item.metric.startswith("util.") else [""]:
            row = headline(results, item.metric, key1=key)
            if row is not None:
                found.append((item, key, row))
    return found


def methods(details: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How the figures were made, as (heading, text) pairs."""
    profile = details.get("profile", "standard")
    return [
        (
            "Who is compared",
            "Real people are split once, by a keyed hash: training (the generator sees nobody else), holdout (what every "
            "figure is compared with, and the people an attacker must not mistake for members), and two reference "
            "samples that no generator has seen. Scales, bins and vocabularies are fitted on training rows only.",
        ),
        (
            "Reference rows",
            "Every figure is also computed, by the same code, for four cohorts whose quality is known: fresh real rows "
            "(the best that can be hoped for), training rows copied (the worst privacy), columns shuffled "
            "independently (no dependence), and one row repeated (no variety). A figure is read by where it lies "
            "between them.",
        ),
        (
            "Intervals",
            "95 %. Inside one cohort by bootstrap over people (DeLong for areas under the curve, Clopper-Pearson for "
            "rates); between trained seeds by Student's t. The variance of a mean is the variance between seeds divided "
            "by their number, plus the mean variance inside a cohort. Rules are tested at the pessimistic end; privacy on "
            "the worst seed. With one seed nothing is said about how stable the generator is.",
        ),
        (
            "Nulls",
            "The null of a figure is what it would be if the synthetic rows were another real sample of that size. "
            "Divergences and correlation errors are never 0 between two real samples; their null is printed beside them.",
        ),
        (
            "Membership inference",
            "The attacker has the synthetic rows and a reference sample of the same population, and is shown as many "
            "members as non-members. Three attacks: nearest distance, density ratio (DOMIAS, 5 neighbours), calibrated "
            "nearest distance. The most successful one counts. Distances mix scaled numbers, level mismatches and, for "
            "code blocks, Jaccard distances. Attacks that retrain the generator were not tried.",
        ),
        (
            "What this report shows of real people",
            "Aggregates only. Histograms are cut at the 1st and 99th percentile of the training rows; bins and levels with "
            "fewer than 11 real rows are left blank. No real record is drawn or listed.",
        ),
        (
            "Limits",
            f"Profile '{profile}' caps the rows that enter the costly comparisons. A pass is evidence against the attacks "
            "that were run, not proof of anonymity. Thresholds are conventions of this project.",
        ),
    ]
