"""Releases: what state a cell is in, what people may decide about it, publishing, taking back, handing out.

    missing -> withheld | rejected | awaiting_signature | passed -> published -> withdrawn

The state is a pure function of the cohort's file, the current versions and the journal; nothing else remembers it.
The store's asset `release` holds payloads only. One of them counts as published only if the journal says so: a run
killed between the two leaves a payload that nobody hands out, and the next run adds the entry. How a candidate is
read is in `candidate.py`, how decisions are counted in `release/signoff.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pipeline.errors import StoreError
from pipeline.features.stored import read_beside
from pipeline.privacy.composition import NOTHING, Loss
from pipeline.privacy.ledger import Ledger
from pipeline.release.payload import released_rows
from pipeline.release.signoff import (
    Decision,
    Decisions,
    Waiver,
    decisions,
    issues,
    next_release_id,
)
from pipeline.workflow.bundle import CARD_JSON, bundle_cards, write_bundle
from pipeline.workflow.candidate import Candidate, NoCandidate, read_candidate
from pipeline.workflow.released import (
    ASSET,
    ReleaseRow,
    export,
    payload,
    published_versions,
    releases,
    stream,
    withdraw,
)
from pipeline.workflow.training import CANDIDATE, read_whole

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.features.cohort import Cohort
    from pipeline.privacy.spec import PrivacySpec
    from pipeline.release.gate import Verdict
    from pipeline.store.lake import Lake, Version
    from pipeline.workflow.cell import Cell

State = Literal["missing", "withheld", "rejected", "awaiting_signature", "passed", "published", "withdrawn"]


@dataclass(frozen=True)
class Spending:
    """What the ledger says: of the candidate's model, of all trainings of the cohort, and what these may spend."""

    model: Mapping[str, Any] = field(default_factory=dict)
    cohort: Loss = NOTHING
    budget: PrivacySpec | None = None


@dataclass(frozen=True)
class ReleaseState:
    """Where a cell stands.

    Attributes:
        state: See the module's docstring. "published" stays while a newer candidate waits.
        seal: What a decision would be given for now; empty without a candidate.
        reasons: What keeps the candidate back, in words of rules; empty if nothing does.
        verdict: By today's thresholds; None without a candidate.
        waivers: Those that hold now.
        signatures: Those that count.
        lacking_roles: Roles that have not signed; empty where the gate alone decides.
        release_id: Of the newest release of the month, published or withdrawn; empty before the first.
        generator: The candidate's; empty if the cohort's file names none.
        ledger: What was spent.
        rejections: Roles whose last word was no.
        lapsed: Waivers that have run out.
        overrides: What the launchpad changed for the candidate's model.
        standing: The candidate's own state, whatever was published before it.
        waiting: In words, where a newer candidate than the published one stands; empty if there is none.
        candidate: The candidate.
        version: The published payload; None while nothing is published.
    """

    state: State
    seal: str = ""
    reasons: list[str] = field(default_factory=list)
    verdict: Verdict | None = None
    waivers: list[Waiver] = field(default_factory=list)
    signatures: list[Decision] = field(default_factory=list)
    lacking_roles: list[str] = field(default_factory=list)
    release_id: str = ""
    generator: str = ""
    ledger: Spending = field(default_factory=Spending)
    rejections: list[Decision] = field(default_factory=list)
    lapsed: list[Waiver] = field(default_factory=list)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    standing: State = "missing"
    waiting: str = ""
    candidate: Candidate | None = None
    version: Version | None = None


@dataclass(frozen=True)
class Released:
    """What `release_step` left: the state, and the payload if one is published."""

    state: ReleaseState
    version: Version | None


def release_state(lake: Lake, cell: Cell) -> ReleaseState:
    """Where a cell stands now. Reads and hashes the candidate's files.

    Raises:
        StoreError: something was changed by hand (`candidate.read_candidate`), or the store or journal is broken.
    """
    found = read_candidate(lake, cell)
    return _state(lake, cell, found, lake.journal.entries(stream(cell.cohort)))


def release_step(lake: Lake, cell: Cell, run_id: str = "") -> Released:
    """Publish the candidate if its gate is passed and everybody has signed who must; else say what it waits for.

    Raises:
        StoreError: something was changed by hand, or what is published is damaged.
    """
    found = read_candidate(lake, cell)
    state = _state(lake, cell, found, lake.journal.entries(stream(cell.cohort)))
    if not isinstance(found, Candidate) or state.standing != "passed":
        _purge_unpublished(lake, cell)
        if state.version is not None:
            lake.tables.verify(state.version)
        return Released(state, state.version)
    made = _payload_for(lake, cell, found, state, run_id)
    _announce(lake, cell, found, made)
    after = release_state(lake, cell)
    if after.version is None or after.version.sha256 != made.sha256:
        _purge_unpublished(lake, cell)  # somebody objected in this very moment
    return Released(after, after.version)


# ---- the state


def _state(
    lake: Lake, cell: Cell, found: Candidate | NoCandidate, entries: Sequence[Mapping[str, Any]]
) -> ReleaseState:
    known = issues(entries, cell.month)
    newest = known[-1] if known else None
    alone = _candidate_state(lake, cell, found, entries)
    if newest is None:
        return alone
    alone = replace(alone, release_id=newest.release_id)
    if newest.withdrawn is not None:
        return alone if alone.state == "passed" else replace(alone, state="withdrawn")
    version = payload(lake, cell.cohort, newest)
    if version is None:
        raise StoreError(
            "The files of this release are gone.", where=newest.release_id, todo="Restore a backup, or withdraw it."
        )
    if isinstance(found, Candidate) and newest.seal == found.seal:
        done: State = "published"
        return replace(alone, state=done, standing=done, version=version, reasons=[], lacking_roles=[])
    waiting = f"A newer candidate is {_WORDS[alone.state]}." if isinstance(found, Candidate) else ""
    return replace(alone, state="published", version=version, waiting=waiting)


_WORDS: dict[str, str] = {
    "withheld": "withheld by its gate",
    "rejected": "rejected",
    "awaiting_signature": "waiting for signatures",
    "passed": "ready to be published",
}


def _candidate_state(
    lake: Lake, cell: Cell, found: Candidate | NoCandidate, entries: Sequence[Mapping[str, Any]]
) -> ReleaseState:
    """The state that the candidate alone would give, whatever was published before."""
    ledger = Spending(cohort=Ledger(lake.journal, cell.cohort).total(), budget=cell.spec.privacy.budget)
    if isinstance(found, NoCandidate):
        state: State = "withheld" if found.made else "missing"
        return ReleaseState(state, standing=state, reasons=[found.reason], generator=found.generator, ledger=ledger)
    release = cell.spec.release
    said = decisions(entries, cell.month, found.seal, release, lake.journal.now())
    kept_back = [*found.obstacles, *(rule.words for rule in said.unwaived(found.verdict))]
    if kept_back:
        state = "withheld"
    elif said.rejections:
        state = "rejected"
        kept_back = [f"Rejected by {r.name} ({r.role}): {r.words}" for r in said.rejections]
    else:
        state = "passed" if said.allows(release) else "awaiting_signature"
    by_gate_alone = release.mode == "auto" and not said.withdrawn
    return ReleaseState(
        state,
        seal=found.seal,
        reasons=kept_back,
        verdict=found.verdict,
        waivers=said.waivers,
        signatures=said.signatures,
        lacking_roles=[] if by_gate_alone else said.lacking,
        generator=found.generator,
        ledger=replace(ledger, model=found.model.info.get("privacy") or {}),
        rejections=said.rejections,
        lapsed=said.lapsed,
        overrides=found.overrides,
        standing=state,
        candidate=found,
    )


# ---- publishing


def _payload_for(lake: Lake, cell: Cell, found: Candidate, state: ReleaseState, run_id: str) -> Version:
    """The payload; not published before the journal says so. One that a killed run left is taken as it is."""
    release_id = next_release_id(lake.journal.entries(stream(cell.cohort)), cell.cohort, cell.month)
    rows = released_rows(_replicate(lake, found), cell.spec.release.rows)
    texts = bundle_cards(lake, cell, found, state, release_id, rows)
    left = lake.tables.current(ASSET, cell.partition)
    if left is not None and (left.info["seal"], left.info["release_id"]) == (found.seal, release_id):
        lake.tables.verify(left)
        if lake.tables.path(left, CARD_JSON).read_text(encoding="utf-8") == texts[CARD_JSON]:
            return left
    inputs = {v.label: v.sha256 for v in (found.synthetic, found.evaluation)}
    facts = {"seal": found.seal, "release_id": release_id, "generator": found.generator, "rows": rows.n_rows}
    with lake.tables.draft(ASSET, cell.partition) as draft:
        write_bundle(lake, cell, found, state, release_id, rows, texts, draft)
        return draft.commit(inputs=inputs, info={**facts, "status": "ok"}, run_id=run_id)


def _replicate(lake: Lake, found: Candidate) -> Cohort:
    """The rows of the candidate: those of replicate 0, as they were judged."""
    whole = read_whole(lake, found.synthetic)
    beside = read_beside(lake.tables.path(found.synthetic, "subjects").parent)
    return whole.take(np.asarray(beside.column("_replicate").to_numpy()) == CANDIDATE)


def _announce(lake: Lake, cell: Cell, found: Candidate, made: Version) -> None:
    """Enter the release in the journal, if what people decided still allows it at that very moment."""

    def decide(entries: list[dict[str, Any]]) -> dict[str, Any] | None:
        said: Decisions = decisions(entries, cell.month, found.seal, cell.spec.release, lake.journal.now())
        standing = [i for i in issues(entries, cell.month) if i.withdrawn is None]
        if standing and standing[-1].seal == found.seal:
            return None
        if said.unwaived(found.verdict) or not said.allows(cell.spec.release):
            return None
        return {
            "kind": "published",
            "month": cell.month,
            "seal": found.seal,
            "release_id": made.info["release_id"],
            "generator": found.generator,
            "sha256": made.sha256,
            "inputs": made.inputs,  # outlives the files: what is behind a withdrawn release must still be found
        }

    lake.journal.transact(stream(cell.cohort), decide)


def _purge_unpublished(lake: Lake, cell: Cell) -> None:
    """Remove payloads that no entry of the journal stands behind."""
    announced = {i.sha256 for i in issues(lake.journal.entries(stream(cell.cohort)), cell.month) if not i.withdrawn}
    for version in lake.tables.history(ASSET, cell.partition):
        if version.sha256 not in announced:
            lake.tables.purge(version)


__all__ = [
    "ReleaseRow",
    "ReleaseState",
    "Released",
    "Spending",
    "State",
    "export",
    "published_versions",
    "release_state",
    "release_step",
    "releases",
    "withdraw",
]
