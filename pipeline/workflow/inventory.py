"""The state of every cell (cohort x month) and of every asset in it: ok, stale, missing, failed, refused, waiting.

Once nothing is tried again for ever, failure and staleness go quiet; this makes them loud. What the lake knows is read
here; what only the orchestrator knows (runs, versions of code) comes in as plain values. How the result is shown is in
`assets/`. Holds names, months, counts and hashes, never a patient's value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from pipeline.errors import CohortLoomError, StoreError
from pipeline.workflow.calendar import RunFact, closed_month, lacking, months_between, moved
from pipeline.workflow.cell import Cell
from pipeline.workflow.record import Record
from pipeline.workflow.settings import changed_since, judging_settings
from pipeline.workflow.standing import (
    LAST_STEP,
    THEN_ERASED,
    erased_months,
    has_inputs,
    inputs_now,
    landed_deliveries,
    months_made,
    open_reservations,
    published_months,
    recorded_inputs,
    snapshot,
    sound,
    taken_in,
)
from pipeline.workflow.tuned import tuning_moved

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pyarrow as pa

    from pipeline.features.build import CohortInputs
    from pipeline.features.spec import CohortBook, CohortSpec
    from pipeline.store.lake import Lake, Version

State = Literal["ok", "waiting", "refused", "stale", "missing", "failed", "run failed"]
STATES: tuple[State, ...] = ("ok", "waiting", "refused", "stale", "missing", "failed", "run failed")
"""From harmless to bad: a cell is as bad as the worst of its assets."""
FAILED: tuple[State, ...] = ("failed", "run failed")
INVENTORY = "inventory"
RUN = "run"
"""In place of an asset: a run that ended without a failed step."""


@dataclass(frozen=True)
class AssetState:
    """One asset of a cell.

    Attributes:
        asset: Asset key; "run" for a run that failed as a whole.
        state: Its state.
        words: Why; empty if it is ok.
        follows: It is only stale because something before it is.
    """

    asset: str
    state: State
    words: str = ""
    follows: bool = False


@dataclass(frozen=True)
class CellState:
    """One cohort in one month.

    Attributes:
        cohort: Name.
        month: `YYYY-MM-01`.
        assets: Its assets, in the order in which they are made, and what waits.
        published: It has a published release.
    """

    cohort: str
    month: str
    assets: tuple[AssetState, ...]
    published: bool = False

    @property
    def state(self) -> State:
        """The worst of its assets' states."""
        return max((a.state for a in self.assets), key=STATES.index, default="ok")

    @property
    def words(self) -> str:
        """Why it is not ok: the worst first, each reason once, with the assets that it concerns."""
        concerned: dict[str, list[str]] = {}
        for asset in sorted(self.assets, key=lambda a: -STATES.index(a.state)):
            if asset.state != "ok" and not asset.follows:
                # "run ... failed: S" says S already.
                said = next((words for words in concerned if words.endswith(f": {asset.words}")), asset.words)
                names = concerned.setdefault(said, [])
                names += [asset.asset] if asset.asset not in names else []
        return "; ".join(f"{_together(names)}: {words}" for words, names in concerned.items())

    @property
    def todo(self) -> str:
        """The command that mends it, or where to look; empty if there is nothing to do."""
        month = self.month[:7]
        if self.state == "ok":
            return ""
        if self.state == "refused":
            return "cohortloom deliveries"
        if self.state == "waiting":
            waits = next(a for a in self.assets if a.state == "waiting")
            if waits.asset == "release":
                return f"cohortloom review {self.cohort} --month {month}"
            return (
                "cohortloom deliveries"
                if waits.asset.startswith("raw/")
                else f"cohortloom run {self.cohort} --month {month}"
            )
        if self.state == "failed":
            return f"cohortloom leaderboard {self.cohort} --month {month}"
        if self.published:
            return "cohortloom releases"
        moved_on = any(a.asset in ("cohort_inputs", "features") and a.state == "stale" for a in self.assets)
        erased = any(a.words == THEN_ERASED for a in self.assets)
        if (self.state == "stale" and moved_on) or (self.state == "missing" and erased):
            return f"cohortloom backfill {self.cohort} --stale"
        return f"cohortloom run {self.cohort} --month {month}"


@dataclass(frozen=True)
class Code:
    """Versions of code, which only the orchestrator keeps.

    Attributes:
        now: Asset key to the version that would be run.
        made: Asset key to (cohort, month) to the version that made it.
    """

    now: Mapping[str, str] = field(default_factory=dict)
    made: Mapping[str, Mapping[tuple[str, str], str]] = field(default_factory=dict)

    def moved(self, asset: str, cohort: str, month: str) -> str:
        """In words, whether the code of an asset is another one than what made it; empty if not, or not known."""
        then, now = self.made.get(asset, {}).get((cohort, month)), self.now.get(asset)
        return f"its code has changed ({then} to {now})" if then and now and then != now else ""


NO_CODE = Code()


def inventory(
    lake: Lake, book: CohortBook, runs: Sequence[RunFact] = (), *, now: datetime | None = None, code: Code = NO_CODE
) -> list[CellState]:
    """The state of every cell of every enabled cohort that was made, begun or is due, by cohort and month.

    Args:
        lake: The lake.
        book: All cohorts and sources.
        runs: Runs under way, and failed ones that no later run has made good.
        now: The moment by which months are over; default the present.
        code: Versions of code.
    """
    seen = snapshot(lake)
    out = published_months(lake)
    closed = closed_month(now or datetime.now(UTC))
    found: list[CellState] = []
    for spec in book.cohorts.values():
        if spec.enabled:
            cells = _Cells(seen, book, spec, runs, code, closed)
            published = out.get(spec.name, frozenset())
            states = {month: tuple(cells.assets(month)) for month in sorted(cells.months())}
            found += [CellState(spec.name, m, states[m], m in published) for m in sorted(states) if states[m]]
    return sorted(found, key=lambda cell: (cell.cohort, cell.month))


def failures(cells: Iterable[CellState]) -> list[CellState]:
    """The cells in which something failed."""
    return [cell for cell in cells if any(a.state in FAILED for a in cell.assets)]


def staleness(cells: Iterable[CellState]) -> list[CellState]:
    """The cells in which something is stale or missing."""
    return [cell for cell in cells if any(a.state in ("stale", "missing") for a in cell.assets)]


def inventory_step(lake: Lake, cells: Sequence[CellState], *, run_id: str = "") -> Version:
    """Write the inventory into `inventory`, one row an asset of a cell; the same one is not written again."""
    columns = ("cohort", "month", "asset", "state", "words", "published")
    rows = [
        (cell.cohort, cell.month[:7], a.asset, a.state, a.words, cell.published) for cell in cells for a in cell.assets
    ]
    table = _table(columns, rows)
    current = sound(lake.tables, INVENTORY, {})
    if current is not None and lake.tables.read(current).equals(table):
        return current
    counts = {state: sum(a.state == state for cell in cells for a in cell.assets) for state in STATES}
    with lake.tables.draft(INVENTORY, {}) as draft:
        draft.add_table("data", table)
        return draft.commit(info={"cells": len(cells), "assets": counts}, run_id=run_id)


def _table(columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> pa.Table:
    import pyarrow as pa

    types = [pa.bool_() if name == "published" else pa.string() for name in columns]
    values = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in columns]
    arrays = [pa.array(column, type) for column, type in zip(values, types, strict=True)]
    return pa.Table.from_arrays(arrays, names=list(columns))


class _Cells:
    """Reads the cells of one cohort."""

    def __init__(
        self, lake: Lake, book: CohortBook, spec: CohortSpec, runs: Sequence[RunFact], code: Code, closed: str
    ) -> None:
        self.lake, self.spec, self.code = lake, spec, code
        self.source = book.source(spec.source)
        self.runs = [run for run in runs if run.cohort == spec.name]
        self.inputs: Callable[[str], CohortInputs] = inputs_now(lake, spec, self.source)
        made = months_made(lake, spec.name)
        self.made = {m.month for m in made}
        self.known = {m.month: m.inputs for m in made if m.inputs is not None}
        self.there = taken_in(lake, self.source)
        self.erased = erased_months(lake, spec.name, self.source)
        self.wanted = self.made | self.erased
        """The months that are missed if they are not there: made once, begun, or due up to the month just closed."""
        if spec.schedule.enabled:
            self.wanted |= set(months_between(min(self.wanted, default=closed), closed))
        self.wanted |= {p["month"] for p in lake.tables.partitions("cohort_inputs") if p.get("cohort") == spec.name}
        self.landed = landed_deliveries(lake, self.source, runs)
        self.open: list[tuple[str, str]] = open_reservations(lake, spec.name)

    def months(self) -> set[str]:
        """The months to look at: those that are wanted, run and waited for."""
        waited = {f"{d.as_of:%Y-%m}-01" for d in self.landed} | {month for month, _ in self.open}
        return self.wanted | waited | {run.month for run in self.runs if run.state == "failed"}

    def assets(self, month: str) -> Iterator[AssetState]:
        """The states of a cell; none for a month that is not there and need not be. Asked in order of the months."""
        cell = Cell(self.spec, self.source, month)
        running = any(run.state == "running" and run.month == month for run in self.runs)
        failed = {
            step: run
            for run in self.runs
            if run.state == "failed" and run.month == month
            for step in run.steps or (RUN,)
        }
        begun = self._current("cohort_inputs", cell) is not None or month in self.made
        if begun:
            yield from self._chain(cell, failed)
            yield from (a for a in self._release(cell) if not (a.state == "failed" and a.asset in failed))
        elif not has_inputs(month, self.inputs):
            failed = {}  # before the first delivery: there is nothing to make it of, and nothing to make good
        elif month in self.wanted and not failed:
            yield from self._not_begun(month)
        known = {"cohort_inputs", *self._parents()} if begun else set()
        for step, run in failed.items():
            if step not in known:
                yield AssetState(step, "run failed", _failure(run))
        for state, words in lacking(self.landed, self.there, month, self.source.accumulate):
            yield AssetState(f"raw/{self.source.format}", state, words)
        if not running:
            for when, generator in self.open:
                if when == month:
                    yield AssetState(
                        f"model/{generator}",
                        "waiting",
                        "a training that was cut off holds its reservation in the privacy ledger; the same run takes it over",
                    )

    def _not_begun(self, month: str) -> Iterator[AssetState]:
        try:
            now = self.inputs(month)
        except CohortLoomError:
            return  # it cannot be made; the schedule's decision says why
        before = max((m for m in self.known if m < month), default=None)
        differences = moved(self.known[before], now, self.there) if before is not None else []
        if month in self.erased:
            yield AssetState(LAST_STEP, "missing", THEN_ERASED)
        elif before is None or differences or self.spec.schedule.always:
            since = f" ({'; '.join(differences)} since {before[:7]})" if before is not None and differences else ""
            yield AssetState(LAST_STEP, "missing", f"not made{since}" if self.made or self.erased else "never made")
        else:
            return
        self.known[month] = now  # the same inputs are missed once, not in every month that follows

    def _parents(self) -> dict[str, list[str]]:
        """Every asset after `cohort_inputs` to what it is made from, in the order in which they are made."""
        names = list(self.spec.generators)
        chain = {"features": ["cohort_inputs"], "references": ["features"]}
        for name in names:
            chain[f"model/{name}"] = ["features"]
            chain[f"synthetic/{name}"] = [f"model/{name}"]
            chain[f"evaluation/{name}"] = [f"synthetic/{name}", "features", "references"]
        chain[LAST_STEP] = [*(f"evaluation/{name}" for name in names), "references"]
        return chain

    def _chain(self, cell: Cell, failed: Mapping[str, RunFact]) -> Iterator[AssetState]:
        bad: set[str] = set()
        for asset, parents in {"cohort_inputs": [], **self._parents()}.items():
            if asset in failed:
                state = AssetState(asset, "run failed", _failure(failed[asset]))
            else:
                state = self._asset(cell, asset, parents, bad)
            if state.state not in ("ok", "waiting"):
                bad.add(asset)
            yield state

    def _asset(self, cell: Cell, asset: str, parents: Sequence[str], bad: set[str]) -> AssetState:
        try:
            version = self._store(asset).current(asset, cell.partition)
        except StoreError as error:
            return AssetState(asset, "failed", f"{error.what} See cohortloom doctor.")
        if version is None:
            # Behind a failed run everything is missing: that is said once, where it failed.
            words = THEN_ERASED if asset == LAST_STEP and cell.month in self.erased else "not made"
            return AssetState(asset, "missing", words, follows=any(parent in bad for parent in parents))
        record = Record.of(version)
        if record.status in ("failed", "refused"):
            return AssetState(asset, "failed", f"{record.status}: {record.reason}")
        words = self._moved(cell, asset, version, parents)
        if words:
            return AssetState(asset, "stale", words)
        behind = [parent for parent in parents if parent in bad]
        return AssetState(asset, "stale", f"follows {behind[0]}", follows=True) if behind else AssetState(asset, "ok")

    def _moved(self, cell: Cell, asset: str, version: Version, parents: Sequence[str]) -> str:
        """In words, what an asset was made from that is another one now: inputs, settings or code."""
        if asset == "cohort_inputs":
            try:
                return "; ".join(moved(recorded_inputs(version), self.inputs(cell.month), self.there))
            except CohortLoomError as error:
                return f"{error.what} {error.todo}".strip()
        others = []
        for parent in parents:
            current = self._current(parent, cell)
            if current is not None and version.inputs.get(current.label) != current.sha256:
                others.append(parent)
        words = [f"made from another version of {_together(others)}"] if others else []
        if asset == "references":
            if version.info.get("settings") != judging_settings(cell.spec, None):
                words.append("the cohort's file has changed since")
        elif "/" in asset:
            words.append(changed_since(version, cell.spec).rstrip("."))
            words.append(tuning_moved(self.lake, cell, version) if asset.startswith("model/") else "")
        words.append(self.code.moved(asset, cell.cohort, cell.month))
        return "; ".join(word for word in words if word)

    def _release(self, cell: Cell) -> Iterator[AssetState]:
        """What the release waits for; only where a candidate is fixed and everything before it is there."""
        if self.spec.release.generator is None or cell.month not in self.made:
            return
        from pipeline.workflow.releasing import release_state

        try:
            found = release_state(self.lake, cell)
        except CohortLoomError as error:
            yield AssetState("release", "failed", str(error))
            return
        if found.waiting:
            yield AssetState("release", "waiting", found.waiting)
        elif found.state == "awaiting_signature":
            lacking = ", ".join(found.lacking_roles)
            yield AssetState(
                "release", "waiting", f"awaits the signature of {lacking}" if lacking else "awaits a signature"
            )
        else:
            yield AssetState("release", "ok", found.state.replace("_", " "))

    def _current(self, asset: str, cell: Cell) -> Version | None:
        try:
            return self._store(asset).current(asset, cell.partition)
        except StoreError:
            return None

    def _store(self, asset: str) -> Any:
        return self.lake.models if asset.startswith("model/") else self.lake.tables


def _failure(run: RunFact) -> str:
    return f"run {run.run_id[:8]} failed: {run.reason or 'it ended without a failed step (killed?)'}"


def _together(assets: Sequence[str]) -> str:
    """Asset names in short: generators of one stage together."""
    stages: dict[str, list[str]] = {}
    for asset in assets:
        stage, _, name = asset.partition("/")
        stages.setdefault(stage, []).append(name)
    return ", ".join(f"{s}/{'+'.join(n)}" if n[0] else s for s, n in stages.items())
