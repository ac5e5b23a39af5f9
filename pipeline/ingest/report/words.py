"""The report on a delivery in words and tables, for the page, for Dagster and for the terminal alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from pipeline.ingest.fhir.validation_faults import WORDS as FAULTS
from pipeline.ingest.quarantine import REASONS
from pipeline.ingest.report.facts import DeliveryFacts
from pipeline.ingest.report.of_fhir import fhir_doubts, missing_files
from pipeline.ingest.report.of_tables import absent, beside, column_types, columns_changed, doubts
from pipeline.ingest.report.section import ORDER, Cell, Section, count, place_of

PLACE: Final = "first at"
"""The column with the first place of each reason: file and line."""
FILES_SHOWN: Final = 500
"""Files that the page lists, those with something set aside first."""
OUTCOMES: Final[Mapping[str, str]] = {
    "taken": "every record is in a raw table (or superseded by a newer version)",
    "partly taken": "some records are set aside, the others are taken",
    "not modelled": "resources of types that have no raw table",
    "quarantined": "nothing in it could be used",
    "not clinical": "no clinical resources: definitions, value sets, outcomes, manifests, logs",
    "empty": "readable, and nothing in it",
    "no data": "a kind of file that no reader takes",
}
"""What the outcome of a file means."""
_COMPANIONS: Final = (".txt", ".md", ".html", ".pdf", ".sha256", "(other)")
"""Kinds of files that come with every delivery and hold no data."""
_REMARKS: Final = ("written_otherwise", "without_person", "one_column", "manifest_missing", "after_the_delivery")
"""Entries of an account for whose sake a delivery in which nothing was set aside is to be looked at."""
_MISSED: Final[Mapping[str, str]] = {
    "fhir": "a record, mostly a patient, that this delivery does not hold. That is right where the source merges its "
    "deliveries and an earlier one holds it, and a loss where none does.",
    **dict.fromkeys(
        ("mimic3", "mimic4"),
        "a row that is in none of the delivered tables, such as a code that its dictionary lacks: see which column points "
        "there. The records themselves are taken.",
    ),
}
"""What a link that leads nowhere means, by format."""


def headline(facts: DeliveryFacts) -> tuple[str, str, str]:
    """How it went: "pass" or "look", in a few words, and in a sentence."""
    account = facts.account
    broken = facts.files_by_outcome.get("quarantined", 0)
    failed = account.info.get("validation", {}).get("failed", 0)
    if not facts.quarantined and not broken:
        remarks = failed or any(account.info.get(what) for what in _REMARKS)
        state, name = ("look", "Taken in, with remarks") if remarks else ("pass", "Taken in whole")
    else:
        state, name = "look", f"Taken in; {count(facts.quarantined, 'record')} set aside"
    return state, name, f"{account.sentence()}."


def next_steps(facts: DeliveryFacts) -> list[str]:
    """What somebody should do, in sentences; never empty."""
    found = []
    account = facts.account
    if facts.quarantined:
        found.append(
            f"See what was set aside: cohortloom quarantine {facts.key}. Have it mended at the source and hand the "
            "delivery over again with --replace, or the mended records with the next delivery. The share is "
            f"{account.quarantine_rate:.2%} of the records; above max_quarantine_rate the whole delivery is refused."
        )
    if broken := facts.files_by_outcome.get("quarantined", 0):
        found.append(
            f"{count(broken, 'file')} could not be used at all; the others were taken without waiting for them."
        )
    validation = account.info.get("validation", {})
    if validation.get("structural") and validation.get("mode") == "sample":
        found.append(
            "Only a sample was validated, and it found resources that are not built as FHIR says. Set "
            "validation.mode to all for the source and hand the delivery over again with --replace to find all of them."
        )
    if validation.get("failed", 0) > validation.get("structural", 0):
        found.append("Tell the sender of the other faults found by validation: those resources are used as they are.")
    if lost := sum(account.info.get("dangling", {}).values()):
        found.append(f"{count(lost, 'record')} point to {_MISSED.get(facts.format, _MISSED['fhir'])}")
    others = {k: n for k, n in account.info.get("other_files", {}).items() if k not in _COMPANIONS}
    if number := sum(others.values()):
        kinds = ", ".join(f"{n:,} {kind}" for kind, n in sorted(others.items(), key=lambda item: (-item[1], item[0])))
        found.append(
            f"{count(number, 'file')} ({kinds}) of a kind that the reader of format {facts.format} does not take: if "
            "there is data in them, they belong to a source of another format."
        )
    return found + doubts(facts) + fhir_doubts(facts) or ["Nothing: go on with the cohorts of this source."]


def sections(facts: DeliveryFacts) -> list[Section]:
    """The parts of the report that have something to say, in order."""
    made = [
        _records(facts),
        _outcomes(facts),
        missing_files(facts),
        beside(facts),
        column_types(facts),
        _quarantine(facts),
        _unusable(facts),
        columns_changed(facts),
        _validation(facts),
        _links(facts),
        _versions(facts),
        absent(facts),
        _unread(facts),
        _views(facts),
        _events(facts),
        _files(facts),
    ]
    return [section for section in made if section is not None]


def _records(facts: DeliveryFacts) -> Section:
    account = facts.account
    aside: Counter[str] = Counter()
    for (kind, _), number in facts.quarantined_types.items():
        aside[kind or "(unknown)"] += number
    parts = (account.taken, account.not_modelled, account.superseded, aside)
    kinds = sorted({kind for part in parts for kind in part}, key=lambda kind: (kind not in account.taken, kind))
    rows: list[tuple[Cell, ...]] = [(kind, *(part.get(kind, 0) for part in parts)) for kind in kinds]
    return Section(
        "records",
        "Records by type",
        [
            "Superseded: older versions and duplicates of a record with the same key. Not modelled: types without a raw table."
        ],
        ("type", "taken", "not modelled", "superseded", "quarantined"),
        rows,
    )


def _outcomes(facts: DeliveryFacts) -> Section | None:
    counts = facts.files_by_outcome
    if not counts:
        return None
    rows: list[tuple[Cell, ...]] = [
        (name, counts[name], OUTCOMES.get(name, ""))
        for name in sorted(counts, key=lambda n: (n not in ORDER, place_of(n)))
    ]
    return Section("files", "Files by outcome", [], ("outcome", "files", "meaning"), rows)


def _quarantine(facts: DeliveryFacts) -> Section | None:
    counts = facts.account.quarantined
    if not counts:
        return None
    rows: list[tuple[Cell, ...]] = []
    for reason, number in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        file, line = facts.first.get(reason, ("", 0))
        rows.append((reason, number, REASONS.get(reason, ""), f"{file}:{line}" if file else ""))
    return Section(
        "quarantine",
        "Quarantine by reason",
        ["The records themselves stay in the landing folder; nothing of them is shown here."],
        ("reason", "records", "meaning", PLACE),
        rows,
    )


def _validation(facts: DeliveryFacts) -> Section | None:
    told = facts.account.info.get("validation")
    if not told or told["mode"] == "off":
        return None
    which = "All resources" if told["mode"] == "all" else "A seeded sample of every type and file"
    but = " that came in the version of the models" if told.get("rewritten") else ""
    words = [
        f"{which} of the modelled types{but}: held against the models of the standard (fhir.resources, R4B), "
        f"{told['checked']:,} checked, {told['failed']:,} failed, {told['structural']:,} of them structurally.",
    ]
    if told["failed"]:
        words.append("Structural faults are set aside (reason fails_validation); resources with other faults are used.")
    by_type = ", ".join(
        f"{kind} {counts['failed']:,} of {counts['checked']:,}"
        for kind, counts in told["types"].items()
        if counts["failed"]
    )
    if by_type:
        words.append(f"Failed, by type: {by_type}.")
    if told.get("rewritten"):
        words.append(
            f"{count(told['rewritten'], 'drawn resource')} came from another FHIR version and were not validated."
        )
    if told["more_faults"]:
        words.append(f"{count(told['more_faults'], 'rarer kind')} of fault are left out below.")
    rows: list[tuple[Cell, ...]] = [
        (
            fault["type"],
            fault["path"] or "(the resource)",
            FAULTS.get(fault["error"], fault["error"]),
            fault["records"],
            "set aside" if fault["structural"] else "reported",
        )
        for fault in told["faults"]
    ]
    return Section("validation", "Validation", words, ("type", "path", "what is wrong", "records", "then"), rows)


def _links(facts: DeliveryFacts) -> Section | None:
    info = facts.account.info
    dangling, unresolved = info.get("dangling", {}), {k: n for k, n in info.get("unresolved", {}).items() if n}
    if not dangling and not unresolved:
        return None
    words = []
    if unresolved:
        kinds = ", ".join(f"{number:,} {name}" for name, number in unresolved.items())
        words.append(f"References to a patient that lead to no resource by key: {kinds}.")
    rows: list[tuple[Cell, ...]] = sorted(dangling.items())
    return Section("links", "References that lead nowhere", words, ("from", "records") if rows else (), rows)


def _versions(facts: DeliveryFacts) -> Section | None:
    found = facts.account.info.get("versions")
    if not found:
        return None
    rows: list[tuple[Cell, ...]] = [(name, number) for name, number in sorted(found.items())]
    return Section("versions", "FHIR versions", [], ("version", "files"), rows)


def _unread(facts: DeliveryFacts) -> Section | None:
    found = facts.account.info.get("unread")
    if not found:
        return None
    rows: list[tuple[Cell, ...]] = sorted(found.items())
    words = ["Their records are taken; these values are written in a form that no column has."]
    return Section("unread", "Values without a column", words, ("element", "values"), rows)


def _views(facts: DeliveryFacts) -> Section | None:
    found = facts.account.info.get("views")
    if not found:
        return None
    words = ["Resources that a view cannot take are left out of it alone; where there are too many it has no table."]
    rows: list[tuple[Cell, ...]] = [
        (name, one["resource"], "no table" if one["rows"] is None else one["rows"], _left_out(one))
        for name, one in sorted(found.items())
    ]
    return Section("views", "Views", words, ("view", "of", "rows", "left out"), rows)


def _left_out(view: Mapping[str, Any]) -> Cell:
    """How many resources a view leaves out; where it gave up before all were looked at, that is not known."""
    return "too many" if view["rows"] is None and not view["left_out"] else view["left_out"] or 0


def _unusable(facts: DeliveryFacts) -> Section | None:
    found = facts.account.info.get("unusable_files")
    if not found:
        return None
    rows: list[tuple[Cell, ...]] = sorted(found.items())
    return Section("unusable", "Files that could not be used", [], (PLACE, "why"), rows)


def _events(facts: DeliveryFacts) -> Section | None:
    if facts.events is None:
        return None
    rows: list[tuple[Cell, ...]] = [
        (name.replace("_", " "), value) for name, value in sorted(facts.events.items()) if isinstance(value, int)
    ]
    return Section("events", "Events (MEDS)", [], ("what", "number"), rows)


def _files(facts: DeliveryFacts) -> Section | None:
    if not facts.files:
        return None
    ordered = sorted(facts.files, key=lambda f: (f.outcome not in ("quarantined", "partly taken"), f.file))
    hashed = "Files of one patient each are often called by the patient's name, so their names are hashed here."
    words = [hashed] if facts.format == "fhir" else []
    if len(ordered) > FILES_SHOWN:
        words.append(f"{FILES_SHOWN:,} of {len(ordered):,} files; the table delivered_files has all of them.")
    rows: list[tuple[Cell, ...]] = [
        (f.file, f.form, f.outcome, f.records, f.taken, f.not_modelled, f.quarantined, f.reason)
        for f in ordered[:FILES_SHOWN]
    ]
    columns = ("file", "form", "outcome", "records", "taken", "not modelled", "quarantined", "reasons")
    return Section("each", "Every file", words, columns, rows, folded=True, names_files=True)


def markdown(facts: DeliveryFacts) -> str:
    """The report as Markdown, without names of files: Dagster keeps it for ever, and a name may be a person's id."""
    _, name, sentence = headline(facts)
    parts = [f"**{name}.** {sentence}", "\n".join(f"- {step}" for step in next_steps(facts))]
    for section in sections(facts):
        if section.folded or section.names_files:
            continue
        parts += [f"**{section.title}**", *section.words]
        if section.rows:
            lines = [section.columns, ("---",) * len(section.columns), *section.rows]
            told = [place for place, name in enumerate(section.columns) if name != PLACE]
            parts.append("\n".join(f"| {' | '.join(_plain(line[place]) for place in told)} |" for line in lines))
    return "\n\n".join(parts) + "\n"


def _plain(cell: Cell) -> str:
    return f"{cell:,}" if isinstance(cell, int) else cell.replace("|", "\\|").replace("\n", " ")
