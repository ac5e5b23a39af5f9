"""Erasing one person: deliveries rewritten and taken in again, versions purged, releases withdrawn, and the proof.

Every step may be killed and done again. The journal says what was begun, so that the same command ends with the same
proof; what holds the person is found by `holdings.py`. The id is in memory only: a keyed hash stands for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError, NotFoundError, StoreError
from pipeline.features.split import fingerprint
from pipeline.ingest.delivery import SUCCESS
from pipeline.ingest.erasure.taking_out import ASIDE, look, sweep, take_out
from pipeline.ingest.erasure.taking_out_files import SUBJECT
from pipeline.ingest.erasure.unsearchable import OPEN_THEM, closed_in_words
from pipeline.store.backup import SNAPSHOT, snapshots
from pipeline.store.disk import hold, release, remove, storage_errors
from pipeline.workflow.deliveries import FORMATS_WITH_EVENTS, make_events
from pipeline.workflow.erasures import (
    BEGUN,
    ERASED,
    Plan,
    already_erased,
    begun,
    come_back,
    erased,
    in_words,
    open_plans,
    stream,
    whom,
)
from pipeline.workflow.exporting import exports_of
from pipeline.workflow.holdings import Holdings, every_version, search, stores
from pipeline.workflow.housekeeping import operator
from pipeline.workflow.ledger import settle_open
from pipeline.workflow.raw_rows import anybody_left, filter_raw
from pipeline.workflow.released import ASSET as RELEASE
from pipeline.workflow.released import find_issue, withdraw
from pipeline.workflow.resuming import states_left

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pipeline.features.source import SourceSpec
    from pipeline.features.spec import CohortBook
    from pipeline.ingest.erasure.person import Person
    from pipeline.store.lake import Lake, Version
    from pipeline.workflow.compute import Compute

_REBUILT = ("features", "model", "synthetic", "leaderboard")
NO_COHORT = "its cohort is gone or cannot be read"
EVERYTHING = 2**31
"""Versions to keep while drafts are swept: all."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Way:
    """How the steps are done that belong to the orchestrator.

    Attributes:
        take_in: Takes in a delivery that has landed; gives why it failed, else "".
        run_cell: Makes a cohort of a month; gives why it failed, else "". None: nothing is made again.
        say: Takes a line about each step.
    """

    take_in: Callable[[str], str]
    run_cell: Callable[[str, str], str] | None = None
    say: Say = lambda _: None


def erase(
    lake: Lake,
    source: SourceSpec,
    book: CohortBook,
    found: Holdings,
    way: Way,
    compute: Compute,
    *,
    keep_releases: bool = False,
) -> dict[str, Any]:
    """Purge everything that holds a person and give the proof, which is in the journal then.

    Args:
        lake: The lake.
        source: The person's source.
        book: The cohorts.
        found: What `search` found.
        way: How deliveries are taken in and cells are made.
        compute: What a run may use.
        keep_releases: Leave releases that were trained on the person published.

    Raises:
        NotFoundError: nothing holds the person, and no erasure of them was begun.
        StoreError: a delivery is being handed over, or the person is still found in the end; do it again then.
    """
    person = found.person
    aloud = way.say
    way = replace(way, say=lambda line: aloud(person.mask(line)))
    plan = _begin(lake, source, found, keep_releases)
    way.say(f"Begun; {person.mark} stands for this person in the journal.")
    folder = lake.home.landing / source.name
    sweep(folder)
    for key in found.deliveries:
        tally = take_out(lake.home.landing / source.name / key.partition("--")[2], source, person)
        way.say(f"{key}: {tally.removed} of {tally.before} records taken out of {tally.in_files}.")
    renewed = {}
    for key in plan.raw:
        renewed[key] = _renew(lake, source, key, plan, person, way, compute)
        way.say(f"{key}: {renewed[key]}.")
    for release_id in plan.withdraw:
        withdraw(lake, release_id, "A person whose data it was trained on has been erased.", operator())
        way.say(f"Withdrawn: {release_id}.")
    _purge(lake, plan, way)
    _sweep_rest(lake, way)
    _renew_catalog(lake, compute, way)
    rebuilt, lacking = _rebuild(lake, plan, book, way)
    left = search(lake, source, book, person)
    left.versions = [h for h in left.versions if not _announced(lake, h.version)]
    left.releases = {name: trained for name, trained in left.releases.items() if name not in plan.kept}
    elsewhere, left.elsewhere = left.elsewhere, {}
    if left.found or left.versions or left.releases or left.half_made:
        what = ", ".join(f"{n} {name}" for name, n in left.counts().items()) or f"{left.half_made} half-made things"
        raise StoreError(
            f"The person is still found after everything was done: {what}.",
            where=source.name,
            todo="Did something run meanwhile? Give the same command again.",
        )
    proof = {
        "kind": ERASED,
        "person": person.mark,
        "key": fingerprint(person.key),
        "source": source.name,
        "column": person.column,
        "by": operator(),
        "deliveries": in_words(plan.deliveries, person.mask),
        "renewed": in_words(renewed, person.mask),
        "purged": in_words([[label, version, sha256] for _, label, version, sha256 in plan.versions], person.mask),
        "withdrawn": plan.withdraw,
        "kept_releases": plan.kept,
        "cells": plan.cells,
        "rebuilt": rebuilt,
        "not_rebuilt": lacking,
        "search_found": left.counts(),
        "id_elsewhere": elsewhere,
        **_unsearched(left),
        "not_covered": not_covered(lake),
        "exports": in_words(exports_of(lake, source.name), person.mask),
        "records_nobody_can_read": left.unread,
        "rows_of_others_with_the_id": left.mentions,
    }
    key = lake.journal.append(stream(source.name), proof)
    return next(e for e in lake.journal.entries(stream(source.name)) if e["id"] == key)


def confirm(lake: Lake, found: Holdings, proof: dict[str, Any]) -> dict[str, Any]:
    """The proof of a person who was erased and is nowhere now; entered anew where other files could be searched than then."""
    now = _unsearched(found)
    if all(proof.get(name, []) == files for name, files in now.items()):
        return proof
    name = stream(found.person.source)
    told = {key: value for key, value in proof.items() if key not in ("id", "at")}
    key = lake.journal.append(name, {**told, **now, "by": operator()})
    return next(e for e in lake.journal.entries(name) if e["id"] == key)


def _unsearched(found: Holdings) -> dict[str, list[str]]:
    """Where the person was not looked for as elsewhere, and what nobody could look into."""
    mask = found.person.mask
    return {
        "not_searched": [mask(str(one)) for one in found.unsearched if not one.closed],
        "could_not_be_searched": [mask(str(one)) for one in found.unsearched if one.closed],
    }


def _begin(lake: Lake, source: SourceSpec, found: Holdings, keep_releases: bool) -> Plan:
    """Enter in the journal what is to be done, together with what an earlier, killed erasure had entered."""
    if snapshots(lake.home)[0]:
        raise StoreError(
            "A backup is being taken; its snapshot may hold the person.",
            where=str(lake.home.root),
            todo="Wait until it has ended; then give the command again.",
        )
    if found.unfinished:
        raise StoreError(
            f"{len(found.unfinished)} deliveries that hold the person are still being written.",
            where=found.person.mask(", ".join(found.unfinished)),
            todo="Wait until they have their _SUCCESS, or delete them; then give the command again.",
        )
    earlier = open_plans(lake, found.person)
    if not found.found and not earlier:
        raise unknown(source, found)
    plan = Plan()
    for one in earlier:
        plan.merge(one)
    seen = _seen(lake, source, found, keep_releases)
    plan.merge(seen)
    if seen.versions or seen.deliveries or not earlier:
        entry = {"kind": BEGUN, "person": found.person.mark, "key": fingerprint(found.person.key), "by": operator()}
        lake.journal.append(stream(source.name), {**entry, "plan": in_words(seen.__dict__, found.person.mask)})
    return plan


def unknown(source: SourceSpec, found: Holdings) -> NotFoundError:
    """Nothing holds the person, as far as could be looked. No similar id is named: that would show somebody else's."""
    named = {"fhir": "Patient.id", "table": "the value of the person column"}.get(source.format, SUBJECT)
    places = ", ".join(f"{number} files in {place}" for place, number in sorted(found.elsewhere.items()))
    text = f" But these characters stand in {places}, which nothing here can change." if places else ""
    if closed := closed_in_words(found.person.mask(str(one)) for one in found.unsearched if one.closed):
        return NotFoundError(
            f"Nothing of source '{source.name}' that could be searched holds a person with this id.{text} {closed}",
            todo=f"{OPEN_THEM} The id is {named}, exactly as the source writes it.",
        )
    return NotFoundError(
        f"Nothing of source '{source.name}' holds a person with this id.{text}",
        todo=f"The id is {named}, exactly as the source writes it.",
    )


def not_covered(lake: Lake) -> list[str]:
    """What no search from this machine reaches, in sentences: nothing where all there is lies in COHORTLOOM_HOME."""
    if lake.address is None:
        return []
    return [
        "Deliveries (landing/), catalog.duckdb, spill and Dagster's folder of other machines: give the command on each.",
        "Copies in the cache/ of other machines: `cohortloom gc --keep 1` on each removes them.",
        "Noncurrent versions of objects, if the bucket is versioned: end them by a lifecycle rule.",
        "Parts of uploads that were never completed: end them by a lifecycle rule.",
        "Runs and backups of other machines that do not share this Dagster database: see that none goes on.",
        "The text of the journal and of the reports in the bucket: it is not searched for the id.",
    ]


def _seen(lake: Lake, source: SourceSpec, found: Holdings, keep_releases: bool) -> Plan:
    held = [h for h in found.versions if not _announced(lake, h.version)]
    keys = {h.version.partition["delivery"] for h in held if "delivery" in h.version.partition} | set(found.deliveries)
    current = {key: lake.tables.current(f"raw/{source.format}", {"delivery": key}) for key in sorted(keys)}
    by_name = dict(stores(lake))
    cells = {
        (v.partition["cohort"], v.partition["month"])
        for h in held
        if "month" in (v := h.version).partition and by_name[h.store].current(v.asset, v.partition) == v
    }
    published = {name: trained for name, trained in found.releases.items() if _issued(lake, name)}
    withdrawn = sorted(name for name, trained in published.items() if trained and not keep_releases)
    return Plan(
        deliveries={key: tally.to_dict() for key, tally in found.deliveries.items()},
        raw={key: version.version if version is not None else "" for key, version in current.items()},
        versions=[h.name for h in held],
        withdraw=withdrawn,
        kept=sorted(set(published) - set(withdrawn)),
        cells=sorted([list(cell) for cell in cells]),
        identifiers=sorted(found.person.identifiers),
    )


def _issued(lake: Lake, release_id: str) -> str:
    """The SHA-256 under which the journal knows the release; "" if it does not."""
    try:
        return find_issue(lake, release_id)[1].sha256
    except NotFoundError:
        return ""


def _announced(lake: Lake, version: Version) -> bool:
    """Is it the payload of a release? What a run stored that was killed before it told the journal is none."""
    return version.asset == RELEASE and _issued(lake, version.info["release_id"]) == version.sha256


def _renew(lake: Lake, source: SourceSpec, key: str, plan: Plan, person: Person, way: Way, compute: Compute) -> str:
    """See that the current raw tables of a delivery are those without the person; gives in words how."""
    partition = {"delivery": key}
    folder = lake.home.landing / source.name / key.partition("--")[2]
    landed = (folder / SUCCESS).exists()
    if landed and look(folder, source, person).before == 0:
        hidden = folder.parent / f"{ASIDE}{key}"
        with storage_errors(key):
            folder.rename(hidden)
            remove(hidden)
        return "gone: it held nobody else"
    raw = lake.tables.current(f"raw/{source.format}", partition)
    if raw is None:
        return "gone: it held nobody else" if plan.raw.get(key) and not landed else "was not taken in"
    doomed = any((raw.label, raw.version) == (label, version) for _, label, version, _ in plan.versions)
    if not doomed and raw.version != plan.raw[key]:
        _renew_events(lake, source, key, raw, compute)
        return "was renewed before"
    reason = way.take_in(key) if landed else "it is no longer in the landing folder"
    if not reason:
        return "taken in again"
    fresh = filter_raw(lake, raw, person)
    if not anybody_left(fresh):
        lake.tables.purge(fresh)
        return "gone: it held nobody else"
    _renew_events(lake, source, key, fresh, compute)
    return f"raw tables filtered: {reason}"


def _renew_events(lake: Lake, source: SourceSpec, key: str, raw: Version | None, compute: Compute) -> None:
    """Make the events of a delivery again where they belong to other raw tables."""
    if raw is None or source.format not in FORMATS_WITH_EVENTS:
        return
    events = lake.tables.current("events", {"delivery": key})
    if events is None or events.inputs.get(raw.label) != raw.sha256:
        make_events(lake, source, key, compute)


def _purge(lake: Lake, plan: Plan, way: Way) -> None:
    """Remove the versions, what was made last first, so that a kill in between leaves the way to the rest."""
    cohorts = {
        label.partition("cohort=")[2].partition("/")[0] for _, label, _, _ in plan.versions if "cohort=" in label
    }
    for name in lake.journal.streams():
        if name.startswith("privacy/") and name.partition("/")[2] in cohorts:
            settle_open(lake, name.partition("/")[2])  # a model of a killed run is entered before it goes
    by_name = dict(stores(lake))
    versions = {(name, v.label, v.version): v for name, store in stores(lake) for v in every_version(store)}
    number = 0
    for store, label, version, _ in reversed(plan.versions):
        known = versions.get((store, label, version))
        number += known is not None and by_name[store].purge(known)
    way.say(f"{number} versions purged.")


def _sweep_rest(lake: Lake, way: Way) -> None:
    """Drafts of killed runs, spill folders of dead processes, half-built catalogues, snapshots of killed backups."""
    swept = sum(store.collect(keep=EVERYTHING, grace_seconds=0) for _, store in stores(lake))
    for path in _left_outside(lake):
        with storage_errors(path.name):
            if path.is_dir():
                descriptor = hold(path)
                if descriptor is None:
                    continue  # a living process has it
                remove(path)
                release(descriptor)
            else:
                remove(path)
            swept += 1
    if swept:
        way.say(f"{swept} half-made things of killed runs swept.")


def _left_outside(lake: Lake) -> list[Path]:
    spill = [p for name in ("spill-*", "events-*") for p in lake.home.spill.glob(name)]
    halves = [*lake.home.root.glob(".tmp-catalog-*"), *states_left(lake.home)]
    return [*spill, *halves, *lake.home.root.glob(f"{SNAPSHOT}*")]


def _renew_catalog(lake: Lake, compute: Compute, way: Way) -> None:
    from pipeline.workflow.catalog import publish_catalog

    if not lake.home.catalog.is_file():
        return
    try:
        publish_catalog(lake, compute)
        way.say("catalog.duckdb built again.")
    except (ConfigError, StoreError):
        lake.home.catalog.unlink(missing_ok=True)
        way.say("catalog.duckdb removed.")


def _rebuild(lake: Lake, plan: Plan, book: CohortBook, way: Way) -> tuple[dict[str, str], dict[str, str]]:
    """Make the affected cells again; gives label to sha256 of what is there then, and cell to why not."""
    lacking: dict[str, str] = {}
    for cohort, month in plan.cells if way.run_cell is not None else []:
        assert way.run_cell is not None
        if cohort in book.cohorts and lake.tables.current("leaderboard", {"cohort": cohort, "month": month}) is None:
            way.say(f"Making {cohort} {month[:7]} again ...")
            reason = way.run_cell(cohort, month)
            if reason:
                lacking[f"{cohort} {month[:7]}"] = reason
    rebuilt: dict[str, str] = {}
    for cohort, month in plan.cells:
        cell: Mapping[str, str] = {"cohort": cohort, "month": month}
        for _, store in stores(lake):
            for asset in store.assets():
                version = store.current(asset, cell) if asset.split("/")[0] in _REBUILT else None
                if version is not None:
                    rebuilt[version.label] = version.sha256
        if way.run_cell is None:
            lacking[f"{cohort} {month[:7]}"] = "not asked for"
        if cohort not in book.cohorts:
            lacking[f"{cohort} {month[:7]}"] = NO_COHORT
    return rebuilt, lacking


__all__ = ["Way", "already_erased", "begun", "come_back", "erase", "erased", "unknown", "whom"]
