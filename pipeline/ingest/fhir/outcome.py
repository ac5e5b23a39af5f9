"""What became of each file of a FHIR delivery, and the account of all of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Final

from pipeline.ingest.delivered_files import DeliveredFile, outcome_of
from pipeline.ingest.fhir.pieces import Seen
from pipeline.ingest.fhir.state import Work
from pipeline.ingest.fhir.version import REFUSED, is_mostly_refused, prevailing, refusal
from pipeline.ingest.quarantine import public_kind, public_name

NOT_CLINICAL: Final = frozenset({"(export log)", "(export manifest)", "(request)", "(response)"}) | frozenset(
    [
        "ActivityDefinition",
        "ActorDefinition",
        "AuditEvent",
        "Binary",
        "Bundle",
        "CapabilityStatement",
        "ChargeItemDefinition",
        "CodeSystem",
        "CompartmentDefinition",
        "ConceptMap",
        "ConditionDefinition",
        "Conformance",
        "DataElement",
        "DeviceDefinition",
        "EventDefinition",
        "EvidenceVariable",
        "ExampleScenario",
        "GraphDefinition",
        "ImplementationGuide",
        "Library",
        "Linkage",
        "Measure",
        "MedicinalProductDefinition",
        "MessageDefinition",
        "MessageHeader",
        "NamingSystem",
        "ObservationDefinition",
        "OperationDefinition",
        "OperationOutcome",
        "Parameters",
        "PlanDefinition",
        "Questionnaire",
        "Requirements",
        "ResearchDefinition",
        "ResearchElementDefinition",
        "SearchParameter",
        "SpecimenDefinition",
        "StructureDefinition",
        "StructureMap",
        "Subscription",
        "SubscriptionStatus",
        "SubscriptionTopic",
        "SubstanceDefinition",
        "TerminologyCapabilities",
        "TestPlan",
        "TestReport",
        "TestScript",
        "ValueSet",
    ]
)
"""Types of resources that say nothing of a patient: definitions, terminology, messages, reports of what was done."""
_STATEMENTS: Final = frozenset({"CapabilityStatement", "Conformance"})
_WHOLE: Final = 0.2
"""Share of the files from which on a delivery counts as one of the version that its files speak for."""


def outcomes(work: Work) -> list[DeliveredFile]:
    """One `DeliveredFile` for every file of the delivery."""
    reasons: dict[str, Counter[str]] = defaultdict(Counter)
    for reject in work.rejects:
        reasons[reject.file][reject.reason] += 1
    seen = dict(work.seen)
    for source in (source for sources in work.sources.values() for source in sources):
        if source.raw is not None:
            seen[source.raw] = Seen(records=source.records, taken=Counter({"": source.records}))
    return [
        DeliveredFile(file, "other", 0, 0, 0, 0, "no data")
        if number in work.others
        else _outcome(file, seen.get(number, Seen()), reasons[file])
        for number, file in work.names.items()
    ]


def _outcome(file: str, seen: Seen, reasons: Counter[str]) -> DeliveredFile:
    taken, left = seen.taken.total(), seen.not_modelled.total()
    nothing = sum(count for kind, count in seen.not_modelled.items() if kind in NOT_CLINICAL)
    word = outcome_of(taken=taken, not_modelled=left - nothing, not_clinical=nothing, quarantined=reasons.total())
    return DeliveredFile(file, seen.form, seen.records, taken, left, reasons.total(), word, ", ".join(sorted(reasons)))


def count_in(work: Work) -> None:
    """Enter into the account what came in, what is not modelled, and what the files are."""
    account = work.account
    account.files = len(work.lines) + len(work.documents)
    account.in_ = sum(seen.records for seen in work.seen.values()) + _read_as_they_came(work)
    unread: Counter[str] = Counter()
    missing: Counter[str] = Counter()
    for seen in work.seen.values():
        unread.update(seen.unread)
        missing.update(seen.not_modelled)
    account.not_modelled = dict(sorted(missing.items()))
    account.quarantined = dict(sorted(Counter(reject.reason for reject in work.rejects).items()))
    unread.update(account.info.get("unread", {}))
    account.info["unread"] = dict(sorted((+unread).items()))
    account.info["versions"] = _versions(work)
    account.info["other_files"] = dict(sorted(Counter(public_kind(work.names[n]) for n in work.others).items()))
    account.info["documents"] = len(work.documents)
    account.info["line_files"] = len(work.lines)


def _read_as_they_came(work: Work) -> int:
    """Records in files that DuckDB reads without their being split."""
    return sum(s.records for sources in work.sources.values() for s in sources if s.raw is not None)


def _versions(work: Work) -> dict[str, int]:
    """Number of files by FHIR version; those that tell none go by the server's own statement, where there is one."""
    stated = prevailing(_sum(_statements(work))) or "unspecified"
    files = [file.number for file in work.lines if file.survey.records] + [part.number for part in work.documents]
    return dict(sorted(Counter(prevailing(work.versions.get(n, Counter())) or stated for n in files).items()))


def _statements(work: Work) -> Iterable[Counter[str]]:
    """What the files with a CapabilityStatement say."""
    return [work.versions[number] for number, seen in work.seen.items() if _STATEMENTS & seen.not_modelled.keys()]


def _sum(counts: Iterable[Counter[str]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return total


def refuse_other_version(work: Work, limit: float) -> None:
    """Refuse a delivery of a version that is not read as such, instead of for the records that it set aside.

    Args:
        work: The delivery after splitting.
        limit: Share of quarantined records that the source allows.

    Raises:
        InputError: What tells a version mostly tells one that is not read, and it is too much to set aside.
    """
    wrong = [number for number, found in work.versions.items() if prevailing(found) == REFUSED]
    if not wrong or not is_mostly_refused(work.versions.values()):
        return
    records = sum(seen.records for seen in work.seen.values()) + _read_as_they_came(work)
    lost = sum(work.seen[number].records for number in wrong if number in work.seen)
    files = len(work.lines) + len(work.documents)
    if lost > limit * records or lost == records or len(wrong) >= _WHOLE * files:
        raise refusal([public_name(work.names[number]) for number in wrong])
