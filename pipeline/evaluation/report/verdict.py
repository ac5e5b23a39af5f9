"""The first section: the gate's verdict group by group, what could not be judged, and which rules were waived."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.evaluation.protocol import headline
from pipeline.evaluation.references import TITLES
from pipeline.evaluation.registry import find_metric
from pipeline.evaluation.report.headlines import headline_rows
from pipeline.evaluation.report.words import number, with_interval
from pipeline.evaluation.results import REFERENCE_ROWS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.evaluation.results import MetricResult
    from pipeline.release.gate import Rule, Verdict
    from pipeline.release.signoff import Waiver

    References = Mapping[str, Sequence[MetricResult]]

VERDICTS: dict[str, tuple[str, str]] = {
    "pass": ("Passes", "Every rule of the release gate holds, at the pessimistic end of its interval."),
    "fail": ("Does not pass", "At least one rule of the release gate is broken."),
    "underpowered": (
        "Cannot be judged",
        "No rule is broken, but there are too few people to be sure of all of them, or a figure lies too close to its limit.",
    ),
    "": ("Not judged", "No release gate was applied; the figures stand on their own."),
}
GROUPS: dict[str, str] = {
    "process": "Process",
    "schema": "Form of the rows",
    "privacy": "Privacy",
    "fidelity": "Fidelity",
    "utility": "Utility",
    "fairness": "Fairness",
}
MOST_NAMED = 3
"""Rules that the first sentence names."""
WORST_FIRST: tuple[str, ...] = ("fail", "underpowered", "waived", "warn", "pass")
STATES: dict[str, str] = {
    "pass": "✓ pass",
    "fail": "✗ fail",
    "underpowered": "? too few",
    "warn": "! warning",
    "waived": "⚑ waived",
}


def verdict_words(verdict: Verdict | None, waivers: Sequence[Waiver] = ()) -> tuple[str, str, str]:
    """State ("pass", "fail", "underpowered", "waived" or ""), its name, and what it means, with the rules that decided.

    "waived" is a verdict whose every missed rule was waived: what it misses is said all the same, and by whom.
    """
    if verdict is None:
        return "", *VERDICTS[""]
    waived = {w.rule for w in waivers}
    missed = [r for r in verdict.rules if r.status in ("fail", "underpowered")]
    if missed and all(r.name in waived for r in missed):
        people = ", ".join(sorted({w.name for w in waivers if w.rule in {r.name for r in missed}}))
        many = f"{len(missed)} rule{'' if len(missed) == 1 else 's'}"
        sentence = f"The release gate is not passed: {many} of it did not hold, and {people} waived that."
        return "waived", f"Released with {many} waived", f"{sentence} Waived: {_listed(missed)}."
    name, sentence = VERDICTS[verdict.status]
    decided = [r for r in verdict.rules if r.status == verdict.status] if verdict.status != "pass" else []
    if not decided:
        return verdict.status, name, sentence
    lead = {"fail": "Broken", "underpowered": "Open"}[verdict.status]
    return verdict.status, name, f"{sentence} {lead}: {_listed(decided)}."


def _listed(rules: Sequence[Rule]) -> str:
    """The rules in words, no more than `MOST_NAMED` of them."""
    more = f"; and {len(rules) - MOST_NAMED} more" if len(rules) > MOST_NAMED else ""
    return "; ".join(r.words.rstrip(".") for r in rules[:MOST_NAMED]) + more


def gate_groups(verdict: Verdict | None, waivers: Sequence[Waiver]) -> list[dict[str, Any]]:
    """The parts of the gate, each with its worst state, how many of its rules hold, and the rules, worst first."""
    if verdict is None:
        return []
    waived = {w.rule for w in waivers}
    known = [*GROUPS, *dict.fromkeys(r.group for r in verdict.rules if r.group not in GROUPS)]
    found = []
    for group in known:
        rules = sorted(
            (r for r in verdict.rules if r.group == group), key=lambda r: WORST_FIRST.index(_state(r, waived))
        )
        if not rules:
            continue
        state = _state(rules[0], waived)
        counted = {s: sum(_state(r, waived) == s for r in rules) for s in WORST_FIRST}
        told = {"fail": "broken", "underpowered": "left open", "waived": "waived"}
        lost = [f"{counted[s]} {words}" for s, words in told.items() if counted[s]]
        holding = f"{counted['pass'] + counted['warn']} of {len(rules)} rules hold"
        found.append(
            {
                "name": GROUPS.get(group, group),
                "state": state,
                "said": STATES[state],
                "count": ", ".join([holding, *lost]) if len(rules) > 1 else "1 rule",
                "rules": [_rule(r, waived) for r in rules],
            }
        )
    return found


def _state(rule: Rule, waived: set[str]) -> str:
    return "waived" if rule.name in waived and rule.status in ("fail", "underpowered") else rule.status


def _rule(rule: Rule, waived: set[str]) -> dict[str, str]:
    state = _state(rule, waived)
    return {"state": state, "said": STATES[state], "name": rule.name, "words": rule.words}


def waiver_rows(waivers: Sequence[Waiver], verdict: Verdict | None) -> list[dict[str, str]]:
    """Which rule may be missed, what the gate found, until when, and who decided it."""
    found = {r.name: r.words for r in verdict.rules} if verdict else {}
    return [
        {
            "rule": w.rule,
            "found": found.get(w.rule, "—"),
            "until": w.until,
            "name": w.name,
            "role": w.role.replace("_", " "),
            "words": w.words,
        }
        for w in sorted(waivers, key=lambda w: (w.rule, w.until, w.name))
    ]


def unsettled(results: Sequence[MetricResult]) -> list[dict[str, str]]:
    """Headline figures of metrics that have no value: which, why, and how many people would settle it.

    Figures that lack a value for the same reason are one row.
    """
    found: dict[tuple[str, str, str], list[str]] = {}
    for row in results:
        about = row.replicate == -1 and not row.key2 and (not row.key1 or row.scope == "task")
        if not about or row.value is not None or row.family == "literal" or row.status == "not_applicable":
            continue
        title = find_metric(row.metric).spec.title + (f" — {row.key1}" if row.key1 else "")
        needed = f"{row.n_needed:,}" if row.n_needed is not None else "—"
        why = row.note.removeprefix("underpowered: ")
        found.setdefault((row.status.replace("_", " "), why, needed), []).append(title)
    return [
        {"title": "; ".join(titles), "state": state, "why": why, "needed": needed}
        for (state, why, needed), titles in found.items()
    ]


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
