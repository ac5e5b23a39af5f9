"""What the report says of a FHIR delivery that can be read and may yet not be whole or right."""

from __future__ import annotations

from pipeline.ingest.report.facts import DeliveryFacts
from pipeline.ingest.report.section import Cell, Section, count


def fhir_doubts(facts: DeliveryFacts) -> list[str]:
    """Files that the export's manifest names and that did not come, and records dated after the delivery."""
    info, found = facts.account.info, []
    if missing := info.get("manifest_missing"):
        found.append(
            f"{count(missing['files'], 'file')} that the manifest of the export names did not come. Fetch what is missing, "
            "and hand the whole export over again with --replace."
        )
    if late := info.get("after_the_delivery"):
        number = sum(late.values())
        kinds = ", ".join(f"{n:,} {kind}" for kind, n in sorted(late.items()))
        found.append(
            f"{count(number, 'record')} of a day after {facts.as_of}, the day up to which the delivery knows: {kinds}. They "
            "are taken as they are. Were they planned, or is their date wrong, or the delivery's?"
        )
    return found


def missing_files(facts: DeliveryFacts) -> Section | None:
    """The files that the manifest names and that did not come, by name."""
    missing = facts.account.info.get("manifest_missing")
    if not missing:
        return None
    rows: list[tuple[Cell, ...]] = [(name,) for name in missing["names"]]
    words = ["The manifest of the export names them."]
    if missing["files"] > len(rows):
        words.append(f"{len(rows)} of {missing['files']:,}.")
    return Section("missing", "Missing files", words, ("file",), rows, names_files=True)
