"""What the journal says of erasures: who was erased from a source, what was begun and not ended, and who came back.

A keyed hash stands for the person; what is entered is counts, hashes and names of versions. How a person is erased is
in `erasure.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError
from pipeline.features.split import split_key
from pipeline.ingest.erasure.person import Person, mark_of
from pipeline.workflow.raw_rows import column_of, patients

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.features.source import SourceSpec
    from pipeline.store.lake import Lake

BEGUN, ERASED = "begun", "erased"


@dataclass
class Plan:
    """What is to be done, as it is entered in the journal before the first step; no id.

    Attributes:
        deliveries: Key to the counts of what is taken out of the landing folder (empty where it is not there).
        raw: Key to the version of the raw tables that must not stay current; "" where there was none.
        versions: [store, label, version, sha256], what was made first.
        withdraw: Releases that go.
        kept: Releases that stay, though made beside the person's rows or by order.
        cells: [cohort, month] whose current versions go.
        identifiers: Keyed hashes of the person's business identifiers.
    """

    deliveries: dict[str, dict[str, Any]] = field(default_factory=dict)
    raw: dict[str, str] = field(default_factory=dict)
    versions: list[list[str]] = field(default_factory=list)
    withdraw: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    cells: list[list[str]] = field(default_factory=list)
    identifiers: list[str] = field(default_factory=list)

    def merge(self, later: Plan) -> None:
        """Add what a later look found; what was written first stays."""
        self.deliveries = {**later.deliveries, **self.deliveries}
        self.raw = {**later.raw, **self.raw}
        for mine, theirs in (
            (self.versions, later.versions),
            (self.cells, later.cells),
        ):
            mine += [entry for entry in theirs if entry not in mine]
        self.kept += [name for name in later.kept if name not in [*self.kept, *self.withdraw]]
        self.withdraw += [name for name in later.withdraw if name not in [*self.kept, *self.withdraw]]
        self.identifiers = sorted({*self.identifiers, *later.identifiers})


def in_words(value: Any, change: Callable[[str], str]) -> Any:
    """JSON with every text and every name of a field changed: `Person.mask` before it is entered, `unmask` after."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(key): in_words(entry, change) for key, entry in value.items()}
    return [in_words(entry, change) for entry in value] if isinstance(value, list) else value


def stream(source: str) -> str:
    """The journal stream of a source's erasures."""
    return f"erasures/{source}"


def whom(lake: Lake, source: SourceSpec, id: str, column: str | None) -> Person:
    """The person that a command names.

    Raises:
        ConfigError: no id, a plain-table source that does not say which column a person's rows go by, or a column for
            a source of another format.
    """
    if not id.strip():
        raise ConfigError("No id was given.")
    if source.format != "table" and column is not None:
        raise ConfigError(
            "--column is for plain tables.", where=source.name, todo=f"Format {source.format} names its people itself."
        )
    if source.format == "table" and not (column or source.person):
        raise ConfigError(
            f"Source '{source.name}' does not say which column tells whose a row is.",
            where="sources.yaml",
            todo=f"Set `person: COLUMN` for '{source.name}', or give --column COLUMN.",
        )
    key = split_key(source, lake.home)
    person = Person(id.strip(), source.name, key, column_of(source, column))
    known = {text for plan in open_plans(lake, person) for text in plan.identifiers}
    return Person(person.id, source.name, key, person.column, frozenset(known))


def erased(lake: Lake, source: SourceSpec) -> set[str]:
    """The keyed hashes of everybody who was erased from a source."""
    return {entry["person"] for entry in lake.journal.entries(stream(source.name)) if entry["kind"] == ERASED}


def come_back(lake: Lake, source: SourceSpec) -> list[str]:
    """Keys of the deliveries whose current raw tables hold somebody who was erased. Cheap where nobody ever was."""
    gone = [e for e in lake.journal.entries(stream(source.name)) if e["kind"] == ERASED]
    if not gone:
        return []
    marks: dict[str | None, set[str]] = {}
    for entry in gone:
        marks.setdefault(entry["column"], set()).add(entry["person"])
    key = split_key(source, lake.home)
    found = []
    for partition in lake.tables.partitions(f"raw/{source.format}"):
        raw = lake.tables.current(f"raw/{source.format}", partition)
        if raw is None or partition["delivery"].partition("--")[0] != source.name:
            continue
        for column, known in marks.items():
            if any(mark_of(key, source.name, id) in known for id in patients(lake, raw, column)):
                found.append(partition["delivery"])
                break
    return found


def already_erased(lake: Lake, person: Person) -> dict[str, Any] | None:
    """The newest proof of this person's erasure; None if there is none, or if one was begun since and not ended."""
    mine = [e for e in lake.journal.entries(stream(person.source)) if e["person"] == person.mark]
    return mine[-1] if mine and mine[-1]["kind"] == ERASED else None


def open_plans(lake: Lake, person: Person) -> list[Plan]:
    """What was begun for this person since the last erasure that ended."""
    plans: list[Plan] = []
    for entry in lake.journal.entries(stream(person.source)):
        if entry["person"] == person.mark:
            plans = (
                []
                if entry["kind"] == ERASED
                else [*plans, Plan(**{k: in_words(v, person.unmask) for k, v in entry["plan"].items()})]
            )
    return plans


def begun(lake: Lake, person: Person) -> bool:
    """Was an erasure of this person begun and not ended?"""
    return bool(open_plans(lake, person))
