"""The data card that goes with a released cohort: what it is, how it was made, judged and signed, and what it is not.

Two forms of one content: `card.json` for programs, `card.md` for people. The same release gives the same bytes: times
come from the journal, none from the clock. Figures and names of columns only, never a value of a real row.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.features.card_spec import TO_BE_SAID
from pipeline.release.markdown import bullets, figures, settings, spend, table
from pipeline.store.hashing import canonical_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.features.card_spec import CardSpec
    from pipeline.features.cohort import Cohort
    from pipeline.features.schema import Column
    from pipeline.release.evidence import Evidence
    from pipeline.release.gate import Rule, Verdict
    from pipeline.release.signoff import Decision, Waiver

CARD_FORMAT = 2
NOTES: tuple[str, ...] = (
    "Every row is made up by a generator that was trained on real rows; no row is a person.",
    "The figures below say how far the rows keep what they were judged on; what was not judged may be wrong.",
    "A verdict that passes bounds known attacks at the sizes tested; without a finite epsilon it is no guarantee.",
    "Conclusions about patients are to be confirmed on real data.",
)


@dataclass(frozen=True)
class Provenance:
    """How the rows came about.

    Attributes:
        generator: Standard name.
        settings: What it was trained with.
        overrides: The part of the settings that was changed in the launchpad, not in the cohort's file.
        replicates: Trainings that were judged; replicate 0 is released.
        versions: Name of an artefact to its sha256.
        privacy: What the training spent, as the ledger has it.
        cohort_privacy: What all trainings of the cohort have spent, and its budget.
        software: CohortLoom's version.
        tuned_by: Which tuning some of the settings came from; empty if none did.
        drawn_under: Which notion of fairness the rows were drawn under, and what that did; empty if none.
    """

    generator: str
    settings: Mapping[str, Any]
    overrides: Mapping[str, Any]
    replicates: int
    versions: Mapping[str, str]
    privacy: Mapping[str, Any]
    cohort_privacy: Mapping[str, Any]
    software: str
    tuned_by: str = ""
    drawn_under: str = ""


@dataclass(frozen=True)
class Sanction:
    """Why it may leave: the verdict, who signed, what was waived."""

    mode: str
    verdict: Verdict
    signatures: Sequence[Decision] = field(default_factory=list)
    waivers: Sequence[Waiver] = field(default_factory=list)


def release_card(
    release_id: str,
    title: str,
    month: str,
    seal: str,
    rows: Cohort,
    provenance: Provenance,
    sanction: Sanction,
    said: CardSpec,
    measured: Evidence,
) -> dict[str, Any]:
    """The content of a card, JSON-able.

    Args:
        release_id: Of the release.
        title: The cohort's line for people.
        month: First day of the month.
        seal: What was signed for.
        rows: The rows that leave, with their schema.
        provenance: How they came about.
        sanction: Why they may leave.
        said: What people say of the cohort.
        measured: What the evaluation gives.
    """
    waived = {w.rule: w for w in sanction.waivers}
    return {
        "format": CARD_FORMAT,
        "release_id": release_id,
        "title": title,
        "month": month[:7],
        "seal": seal,
        "rows": rows.n_rows,
        "unit": rows.schema.unit,
        "columns": [_column(column, rows) for column in rows.schema.columns],
        "blocks": [
            {"name": b.name, "kind": b.kind, "codes": len(b.vocabulary), "description": b.description}
            for b in rows.schema.blocks
        ],
        "provenance": asdict(provenance),
        "mode": sanction.mode,
        "verdict": {
            "status": sanction.verdict.status,
            "seeds": sanction.verdict.seeds,
            "rules": [{**asdict(r), "waived": r.name in waived} for r in sanction.verdict.rules],
        },
        "waivers": [_said(w) | {"rule": w.rule, "until": w.until} for w in sanction.waivers],
        "signatures": [_said(s) for s in sanction.signatures],
        "notes": list(NOTES),
        "statement": {**said.model_dump(mode="json"), "lacking": said.lacking()},
        "review_by": _months_after(month, said.review_months),
        "evidence": measured.to_dict(),
    }


def card_json(card: Mapping[str, Any]) -> str:
    """`card.json`."""
    return canonical_json(card) + "\n"


def card_markdown(card: Mapping[str, Any]) -> str:
    """`card.md`."""
    made = card["provenance"]
    lines = [
        f"# {card['title'] or card['release_id']}",
        "",
        *(f"> {note}" for note in card["notes"]),
        "",
        *table(
            ("what", "value"),
            [
                ("release", card["release_id"]),
                ("month", card["month"]),
                ("rows", f"{card['rows']:,}, one {card['unit']} each"),
                ("generator", f"{made['generator']}, replicate 0 of {made['replicates']}"),
                ("settings", settings(made["settings"])),
                ("changed in the launchpad", settings(made["overrides"]) if made["overrides"] else "nothing"),
                ("drawn under", made["drawn_under"] or "no notion of fairness: as the generator draws"),
                ("privacy spent on this model", spend(made["privacy"])),
                ("privacy spent on the cohort", spend(made["cohort_privacy"])),
                ("seal", f"`{card['seal']}`"),
                ("to be reviewed by", card["review_by"]),
                ("made by", f"CohortLoom {made['software']}"),
            ],
        ),
        *_statement(card["statement"]),
        "## Verdict",
        "",
        f"**{card['verdict']['status']}** over {card['verdict']['seeds']} trained "
        f"{'seed' if card['verdict']['seeds'] == 1 else 'seeds'}{_waived(card)}.",
        "",
        *table(
            ("rule", "status", "in words"),
            [(r["name"], "waived" if r["waived"] else r["status"], r["words"]) for r in card["verdict"]["rules"]],
        ),
        "## Who signed",
        "",
        *_signed(card),
    ]
    if card["columns"]:
        lines += ["## Columns", ""]
        lines += table(
            ("column", "kind", "role", "unit", "missing", "description"),
            [
                (c["name"], c["kind"], c["role"], c["unit"] or "", f"{100 * c['missing']:.1f} %", c["description"])
                for c in card["columns"]
            ],
        )
    if card["blocks"]:
        lines += ["## Code blocks", ""]
        lines += table(
            ("block", "kind", "codes", "description"),
            [(b["name"], b["kind"], f"{b['codes']:,}", b["description"]) for b in card["blocks"]],
        )
    lines += _evidence(card["evidence"])
    lines += ["## Made from", "", *table(("artefact", "sha256"), sorted(made["versions"].items()))]
    return "\n".join(lines).rstrip() + "\n"


def rules_table(rules: Sequence[Rule], waivers: Sequence[Waiver]) -> list[dict[str, Any]]:
    """A verdict rule by rule, for tables: name, status (or who waived it until when), value, threshold, words."""
    waived = {w.rule: f"waived until {w.until} by {w.name} ({w.role})" for w in waivers}
    return [
        {
            "rule": r.name,
            "status": r.status + (f", {waived[r.name]}" if r.name in waived else ""),
            "value": r.value,
            "threshold": r.threshold,
            "in words": r.words,
        }
        for r in rules
    ]


def _column(column: Column, rows: Cohort) -> dict[str, Any]:
    return {
        "name": column.name,
        "kind": column.kind,
        "dtype": column.dtype,
        "role": column.role,
        "unit": column.unit,
        "description": column.description,
        "missing": float(rows.missing(column.name).mean()) if rows.n_rows else 0.0,
    }


def _statement(said: Mapping[str, Any]) -> list[str]:
    """The human part; what nobody filled in is said to be lacking."""
    names = ("population", "terms", "licence", "contact", "citation")
    lines = ["## What people say of it", ""]
    lines += table(("question", "answer"), [(_QUESTIONS[name], said[name] or f"**{TO_BE_SAID}**") for name in names])
    lines += ["Made for:", "", *bullets(said["intended_uses"], f"**{TO_BE_SAID}**")]
    return [*lines, "Not to be used for:", "", *bullets(said["forbidden_uses"], f"**{TO_BE_SAID}**")]


_QUESTIONS = {
    "population": "who the real people are",
    "terms": "consent and terms of the source",
    "licence": "licence of these rows",
    "contact": "contact",
    "citation": "citation",
}


def _evidence(measured: Mapping[str, Any]) -> list[str]:
    """Known distortions, then every headline figure beside the reference rows."""
    lines = ["## Known distortions", ""]
    for what, unit in (("columns", "bits of divergence above noise"), ("groups", "log odds")):
        found = measured["distortions"][what]
        words = ", ".join(f"{d['name']} ({d['value']:.3g})" for d in found) or "none measured"
        lines.append(f"- Worst {what} ({unit}): {words}")
    lines += ["", "## Figures", "", *figures(measured["figures"])]
    if measured["unsettled"]:
        lines += ["Not settled:", "", *bullets([f"{u['figure']}: {u['why']}" for u in measured["unsettled"]], "")]
    return lines


def _months_after(month: str, months: int) -> str:
    """YYYY-MM so many months later."""
    year, number = divmod(int(month[:4]) * 12 + int(month[5:7]) - 1 + months, 12)
    return f"{year:04d}-{number + 1:02d}"


def _said(decision: Decision) -> dict[str, str]:
    """Who, in which role, when and why; the operating system's user stays in the house."""
    return {"role": decision.role, "name": decision.name, "at": decision.at, "words": decision.words}


def _waived(card: Mapping[str, Any]) -> str:
    """How many rules were waived, so that a release whose verdict is no pass explains itself."""
    count = sum(bool(rule["waived"]) for rule in card["verdict"]["rules"])
    return "" if not count else f"; {count} {'rule was' if count == 1 else 'rules were'} waived (below)"


def _signed(card: Mapping[str, Any]) -> list[str]:
    lines = []
    if card["signatures"]:
        rows = [(s["role"], s["name"], s["at"][:16].replace("T", " "), s["words"]) for s in card["signatures"]]
        lines += table(("role", "name", "signed (UTC)", "comment"), rows)
    else:
        lines += ["Nobody: the cohort is released by its gate alone (`mode: auto`).", ""]
    if card["waivers"]:
        rows = [(w["rule"], w["until"], f"{w['name']} ({w['role']})", w["words"]) for w in card["waivers"]]
        lines += ["Waived:", "", *table(("rule", "until", "by", "reason"), rows)]
    return lines
