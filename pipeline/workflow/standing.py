"""How cohorts stand: which months were made and from what, what would count now, which deliveries wait.

Reads the lake and the landing folder, writes nothing. What follows from it is decided in `calendar.py` (the schedule)
and `inventory.py` (the state of every cell). Reading goes through `snapshot`, so that a tick or a listing over many
months opens every pointer once and sees one moment of the lake.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from functools import cache
from typing import TYPE_CHECKING

from pipeline.errors import CohortLoomError, ConfigError, NotFoundError, StoreError
from pipeline.features.build import CohortInputs, gather_inputs
from pipeline.features.split import ENVIRONMENT
from pipeline.ingest.delivery import landed
from pipeline.store.lake import VersionStore
from pipeline.workflow.calendar import Landed, MonthMade, RunFact, Standing, month_after, moved
from pipeline.workflow.record import Record

if TYPE_CHECKING:
    from pipeline.features.source import SourceSpec
    from pipeline.features.spec import CohortBook, CohortSpec
    from pipeline.store.lake import Lake, PartitionKey, Version

LAST_STEP = "leaderboard"
"""The asset whose version says that a month was made."""
THEN_ERASED = "made, then erased"
"""In place of a change: the month was purged since it held an erased person, and not made again."""


@dataclass(frozen=True)
class StaleMonth:
    """A month that was made from inputs that have changed since, or that an erasure purged.

    Attributes:
        cohort: Name of the cohort.
        month: `YYYY-MM-01`.
        words: What changed.
        published: It has a published release, which stays as it is: withdraw it before making the month again.
    """

    cohort: str
    month: str
    words: str
    published: bool


def stale_months(lake: Lake, book: CohortBook, cohort: str) -> list[StaleMonth]:
    """The months of a cohort that were made from other inputs than those that would count now, oldest first.

    Also months whose making anew was begun and not finished, which hold results of two different inputs, and months
    that an erasure purged and that were not made since; not where no delivery is left to make them of.

    Raises:
        NotFoundError: unknown cohort.
        ConfigError: its file is broken.
    """
    return stale_of(snapshot(lake), book, cohort, published_months(lake).get(cohort, frozenset()))


def stale_of(lake: Lake, book: CohortBook, cohort: str, published: frozenset[str]) -> list[StaleMonth]:
    """`stale_months` for whoever has a snapshot and the published months already."""
    spec = book.cohort(cohort)
    source = book.source(spec.source)
    inputs, there = inputs_now(lake, spec, source), taken_in(lake, source)
    made = months_made(lake, cohort)
    words = {m.month: change_of(m, inputs, there) or half_made(lake, cohort, m.month) for m in made}
    words |= {month: THEN_ERASED for month in erased_months(lake, cohort, source) if has_inputs(month, inputs)}
    return [StaleMonth(cohort, month, words[month], month in published) for month in sorted(words) if words[month]]


def standing(
    lake: Lake,
    book: CohortBook,
    spec: CohortSpec,
    first: str,
    published: frozenset[str],
    runs: Iterable[RunFact] = (),
) -> Standing:
    """How a cohort stands, for `calendar.decide`.

    Args:
        lake: The lake, best a `snapshot`.
        book: All cohorts and sources.
        spec: The cohort.
        first: First month of the calendar.
        published: Its months that have a published release.
        runs: What the orchestrator knows; failed runs of deliveries say which were refused.
    """
    source = book.source(spec.source)
    return Standing(
        spec=spec,
        first=first,
        made=months_made(lake, spec.name),
        inputs=inputs_now(lake, spec, source),
        landed=landed_deliveries(lake, source, runs),
        published=published,
        there=taken_in(lake, source),
        accumulate=source.accumulate,
    )


def snapshot(lake: Lake) -> Lake:
    """The lake with every pointer and listing read at most once: one moment of it, for reading only."""
    if isinstance(lake.tables, _ReadOnce):
        return lake
    seen = copy.copy(lake)
    seen.tables, seen.models = _ReadOnce(lake.tables), _ReadOnce(lake.models)
    return seen


def months_made(lake: Lake, cohort: str) -> list[MonthMade]:
    """The months of a cohort that have a leaderboard, oldest first."""
    found = []
    for partition in lake.tables.partitions(LAST_STEP):
        if partition.get("cohort") != cohort:
            continue
        made = sound(lake.tables, LAST_STEP, partition)
        if made is not None:
            month = partition["month"]
            day = datetime.fromisoformat(made.written_at).date().isoformat() if made.written_at else month_after(month)
            gathered = sound(lake.tables, "cohort_inputs", partition)
            inputs = recorded_inputs(gathered) if gathered is not None else None
            found.append(MonthMade(month, inputs, early=day < month_after(month)))
    return sorted(found, key=lambda m: m.month)


def recorded_inputs(version: Version) -> CohortInputs:
    """What a version of `cohort_inputs` says."""
    return CohortInputs.from_dict({**version.info["inputs"], "provisional": False})


def inputs_now(lake: Lake, spec: CohortSpec, source: SourceSpec) -> Callable[[str], CohortInputs]:
    """What would count for a month of the cohort if it were made now; the same month is looked up once.

    Raises, when called: `CohortLoomError` where there are no inputs, in words that say why.
    """

    @cache
    def gather(month: str) -> CohortInputs:
        # Looking makes no key: a new one would hide that the old one was lost.
        if source.split_key == "own" and not os.environ.get(ENVIRONMENT) and not lake.home.split_key.exists():
            if any(p.get("cohort") == spec.name for p in lake.tables.partitions("features")):
                raise ConfigError("The split key is gone.", where="split.key", todo="Restore it from a backup.")
            return gather_inputs(spec, source.model_copy(update={"split_key": "published"}), month, lake, lake.home)
        return gather_inputs(spec, source, month, lake, lake.home)

    return gather


def has_inputs(month: str, inputs: Callable[[str], CohortInputs]) -> bool:
    """Is there a delivery to make a month of? Other reasons why it cannot be made are told by whoever tries."""
    try:
        inputs(month)
    except NotFoundError:
        return False
    except CohortLoomError:
        return True
    return True


def erased_months(lake: Lake, cohort: str, source: SourceSpec) -> set[str]:
    """The months that had a leaderboard, which an erasure purged (as the journal says), and that have none now."""
    from pipeline.workflow.erasures import stream

    start = f"{LAST_STEP}/cohort={cohort}/month="
    labels: set[str] = set()
    for entry in lake.journal.entries(stream(source.name)):
        labels |= {label for label, *_ in entry.get("purged", [])}
        # One that was killed after it had purged has no proof yet.
        labels |= {label for _, label, *_ in entry.get("plan", {}).get("versions", [])}
    months = {label.removeprefix(start) for label in labels if label.startswith(start)}
    return {m for m in months if sound(lake.tables, LAST_STEP, {"cohort": cohort, "month": m}) is None}


def taken_in(lake: Lake, source: SourceSpec) -> dict[str, date]:
    """The deliveries of a source that are in the lake, with the day each knows up to."""
    found = {}
    for partition in lake.tables.partitions(f"raw/{source.format}"):
        if partition.get("delivery", "").startswith(f"{source.name}--"):
            raw = sound(lake.tables, f"raw/{source.format}", partition)
            if raw is not None:
                found[partition["delivery"]] = date.fromisoformat(str(raw.info["as_of"])[:10])
    return found


def change_of(made: MonthMade, inputs: Callable[[str], CohortInputs], there: Mapping[str, date]) -> str:
    """In words, what of a month's inputs changed since it was made; empty if nothing did."""
    if made.inputs is None:
        return "the record of its inputs is gone"
    try:
        return "; ".join(moved(made.inputs, inputs(made.month), there))
    except CohortLoomError as error:
        return f"{error.what} {error.todo}".strip()


def half_made(lake: Lake, cohort: str, month: str) -> str:
    """In words, whether making a month anew was begun and not finished; empty if all of it belongs together.

    The features must be made of the inputs gathered last, and what the leaderboard shows (reference rows, evaluations)
    must be what is current and made from these features. A generator that is not enabled has no result to be old.
    """
    partition = {"cohort": cohort, "month": month}
    gathered, features = (sound(lake.tables, asset, partition) for asset in ("cohort_inputs", "features"))
    if gathered is None or features is None:
        return ""
    if features.inputs.get(gathered.label) != gathered.sha256:
        return "inputs were gathered anew, and the features not made of them"
    last = sound(lake.tables, LAST_STEP, partition)
    for label, sha256 in last.inputs.items() if last is not None else ():
        asset = label.partition("/cohort=")[0]
        shown = sound(lake.tables, asset, partition)
        if shown is None or shown.sha256 != sha256:
            return f"the leaderboard does not show the current {asset}"
        if Record.of(shown).status != "not_enabled" and shown.inputs.get(features.label) != features.sha256:
            return f"features were made anew, and {asset} not from them"
    return ""


def landed_deliveries(lake: Lake, source: SourceSpec, runs: Iterable[RunFact] = ()) -> list[Landed]:
    """The deliveries of a source that have landed and are not in the lake, oldest first."""
    refused = {run.delivery: run.reason or "its run failed" for run in runs if run.delivery and run.state == "failed"}
    found = [
        Landed(delivery.key, delivery.as_of, refused.get(delivery.key, ""))
        for delivery in landed(lake.home)
        if delivery.source == source.name
        and sound(lake.tables, f"raw/{source.format}", {"delivery": delivery.key}) is None
    ]
    return sorted(found, key=lambda d: (d.as_of, d.key))


def published_months(lake: Lake) -> dict[str, frozenset[str]]:
    """The months that have a published release, by cohort."""
    from pipeline.workflow.releasing import published_versions

    found: dict[str, set[str]] = {}
    for version in published_versions(lake):
        found.setdefault(version.partition["cohort"], set()).add(version.partition["month"])
    return {cohort: frozenset(months) for cohort, months in found.items()}


def open_reservations(lake: Lake, cohort: str) -> list[tuple[str, str]]:
    """(month, generator) of the trainings that hold a reservation in the privacy ledger."""
    from pipeline.privacy.ledger import Ledger

    return [
        (s.training.month, s.training.generator) for s in Ledger(lake.journal, cohort).spends() if s.state == "open"
    ]


def sound(store: VersionStore, asset: str, partition: PartitionKey) -> Version | None:
    """The current version, None also where the pointer is broken: `cohortloom doctor` says that."""
    try:
        return store.current(asset, partition)
    except StoreError:
        return None


class _ReadOnce(VersionStore):
    """A store that remembers what it read."""

    def __init__(self, store: VersionStore) -> None:
        vars(self).update(vars(store))
        self._pointers: dict[str, Version | None] = {}
        self._listings: dict[str, list[dict[str, str]]] = {}

    def current_at(self, where: str) -> Version | None:
        if where not in self._pointers:
            self._pointers[where] = super().current_at(where)
        return self._pointers[where]

    def partitions(self, asset: str) -> list[dict[str, str]]:
        if asset not in self._listings:
            self._listings[asset] = super().partitions(asset)
        return self._listings[asset]
