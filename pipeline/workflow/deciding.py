"""What people may decide about a cell's candidate: sign, reject, waive. Each decision is one entry of the journal.

A decision is refused unless it means something now: the role and the person are those of the cohort's file, there is
a candidate, and it is the one that was looked at. How decisions are counted is in `release/signoff.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError, NotFoundError
from pipeline.release.signoff import Waiver, check_speaker, check_waivable, decisions, person
from pipeline.workflow.housekeeping import operator
from pipeline.workflow.released import stream
from pipeline.workflow.releasing import ReleaseState, release_state

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import date

    from pipeline.store.lake import Lake
    from pipeline.workflow.cell import Cell

SHORTEST_SEAL = 6


def sign(lake: Lake, cell: Cell, *, role: str, name: str, seal: str = "", comment: str = "") -> ReleaseState:
    """Sign the candidate as it stands; gives the state afterwards.

    Args:
        lake: The lake.
        cell: Cohort and month.
        role: A role of the cohort's file.
        name: Who signs.
        seal: First digits of the seal that was reviewed; empty: whatever stands now.
        comment: Goes with the signature.

    Raises:
        ConfigError: the role or person is not in the cohort's file, the gate does not pass, another seal stands now,
            the gate alone decides, or the person has signed in another role.
        NotFoundError: there is no candidate.
        StoreError: something was changed by hand.
    """
    check_speaker(cell.spec.release, role, name)
    state = _open_state(lake, cell, seal)
    if state.standing == "withheld":
        raise ConfigError(
            f"The candidate does not pass, so there is nothing to sign: {state.reasons[0]}",
            where=_where(cell),
            todo=f"See `cohortloom review {cell.cohort} --month {cell.month[:7]}`.",
        )
    if state.standing == "passed" and not state.signatures and cell.spec.release.mode == "auto":
        raise ConfigError("The cohort is released by its gate alone (`mode: auto`).", where=_where(cell))

    def decide(entries: list[dict[str, Any]]) -> dict[str, Any] | None:
        said = decisions(entries, cell.month, state.seal, cell.spec.release, lake.journal.now())
        for known in said.signatures:
            if person(known.name) == person(name) and known.role != role:
                raise ConfigError(
                    f"'{name}' has signed as {known.role}; several roles are signed by different people.",
                    where=_where(cell),
                )
            if person(known.name) == person(name) and known.role == role:
                return None
        return _entry(cell, "sign", state, role, name, comment)

    return _decided(lake, cell, decide)


def reject(lake: Lake, cell: Cell, *, role: str, name: str, reason: str, seal: str = "") -> ReleaseState:
    """Object to the candidate; it is not published until the same role signs it.

    Raises:
        ConfigError, NotFoundError, StoreError: as `sign`; no reason is given, or it is published already.
    """
    check_speaker(cell.spec.release, role, name)
    _needed(reason)
    state = _open_state(lake, cell, seal)
    return _decided(lake, cell, lambda _: _entry(cell, "reject", state, role, name, reason))


def waive(
    lake: Lake, cell: Cell, rule: str, *, until: date, role: str, name: str, reason: str, seal: str = ""
) -> ReleaseState:
    """Let the candidate miss one rule of its gate, through the day `until` (UTC).

    Raises:
        ConfigError, NotFoundError, StoreError: as `sign`; the rule is unknown, kept, or cannot be waived; the day is
            past.
    """
    check_speaker(cell.spec.release, role, name)
    _needed(reason)
    state = _open_state(lake, cell, seal)
    if state.verdict is None:
        raise NotFoundError("There is no verdict yet.", where=_where(cell))
    check_waivable(state.verdict, rule)
    if not Waiver(role, name, "", rule=rule, until=until.isoformat()).holds(lake.journal.now()):
        raise ConfigError(f"{until} is past.", where=_where(cell), todo="Name a day to come with --until.")
    entry = {**_entry(cell, "waive", state, role, name, reason), "rule": rule, "until": until.isoformat()}
    return _decided(lake, cell, lambda _: entry)


def _open_state(lake: Lake, cell: Cell, seal: str) -> ReleaseState:
    """The state, if it has a candidate that can still be decided about and its seal begins with `seal`."""
    state = release_state(lake, cell)
    if state.candidate is None:
        raise NotFoundError(
            f"There is nothing to decide about: {state.reasons[0]}",
            where=_where(cell),
            todo=f"Run it first: cohortloom run {cell.cohort} --month {cell.month[:7]}.",
        )
    if seal and (len(seal) < SHORTEST_SEAL or not state.seal.startswith(seal.lower())):
        raise ConfigError(
            f"The seal is {state.seal[:12]} now, not {seal[:12]}: what was reviewed is not what stands.",
            where=_where(cell),
            todo=f"Review it again; give at least {SHORTEST_SEAL} digits.",
        )
    if state.standing == "published":
        raise ConfigError(
            f"It is published already, as {state.release_id}.",
            where=_where(cell),
            todo=f"To take it back: cohortloom withdraw {state.release_id}.",
        )
    return state


def _decided(lake: Lake, cell: Cell, decide: Callable[[list[dict[str, Any]]], dict[str, Any] | None]) -> ReleaseState:
    lake.journal.transact(stream(cell.cohort), decide)
    return release_state(lake, cell)


def _entry(cell: Cell, kind: str, state: ReleaseState, role: str, name: str, words: str) -> dict[str, Any]:
    said = {"role": role, "name": " ".join(name.split()), "words": words.strip(), "user": operator()}
    return {"kind": kind, "month": cell.month, "seal": state.seal, **said}


def _needed(reason: str) -> None:
    if not reason.strip():
        raise ConfigError("A reason is needed.", todo="Give it with --reason.")


def _where(cell: Cell) -> str:
    return f"{cell.cohort} {cell.month[:7]}"
