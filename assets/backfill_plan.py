"""What a backfill makes, and how far it is: a plan of cells, and the state of each.

Who makes them is in `backfill.py` (a running UI) and `local_backfill.py` (processes of this command).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from assets.definitions import generators_in_use
from assets.partitions import cohort_month_key, months
from assets.run import delivery_days
from pipeline.errors import CohortLoomError, ConfigError, NotFoundError, nearest
from pipeline.features.spec import CohortBook
from pipeline.workflow.cards import cards

if TYPE_CHECKING:
    from pipeline.store.lake import Lake

State = Literal["waiting", "running", "done", "failed", "cancelled"]
STATES: tuple[State, ...] = ("done", "running", "failed", "cancelled", "waiting")
ENDED = frozenset({"COMPLETED", "COMPLETED_SUCCESS", "COMPLETED_FAILED", "FAILED", "CANCELED"})
"""What Dagster calls a backfill that is over."""
_STATE_OF: dict[str, State] = {
    "SUCCESS": "done",
    "FAILURE": "failed",
    "CANCELED": "cancelled",
    "CANCELING": "running",
    "STARTED": "running",
    "STARTING": "running",
}
_MONTH = re.compile(r"\d{4}-(0[1-9]|1[0-2])")


class BackfillError(CohortLoomError):
    """The UI cannot be used for a backfill, or refused it."""


@dataclass(frozen=True)
class Plan:
    """What a backfill makes.

    Attributes:
        cells: Cohort and month (`YYYY-MM-01`) of each cell.
        generators: Only these; None: every generator of the graph.
        preset: Settings that every training starts from instead of the cohort's; None: as the cohort says.
    """

    cells: tuple[tuple[str, str], ...]
    generators: tuple[str, ...] | None = None
    preset: str | None = None

    @property
    def keys(self) -> list[str]:
        """The partition keys of the cells, as Dagster writes them."""
        return [str(cohort_month_key(cohort, month)) for cohort, month in self.cells]

    @property
    def title(self) -> str:
        """One line for the list of backfills."""
        cohorts = ", ".join(sorted({cohort for cohort, _ in self.cells}))
        wanted = sorted({month[:7] for _, month in self.cells})
        span = wanted[0] if len(wanted) == 1 else f"{wanted[0]} to {wanted[-1]}"
        return f"{cohorts}: {span}" + (f" ({', '.join(self.generators)})" if self.generators else "")


def plan_backfill(
    book: CohortBook,
    cohorts: Sequence[str],
    wanted: Sequence[str],
    *,
    generators: Sequence[str] | None = None,
    preset: str | None = None,
) -> Plan:
    """The plan of all these months of all these cohorts.

    Args:
        book: What can be asked for.
        cohorts: Names; one named twice counts once.
        wanted: Months, `YYYY-MM-01`.
        generators: Only these, which every cohort must enable.
        preset: Name of a preset that each of the generators must have.

    Raises:
        NotFoundError: unknown cohort.
        ConfigError: a broken cohort, a generator that a cohort does not enable, an unknown preset, or no month at all.
    """
    names = list(dict.fromkeys(cohorts))
    for name in names:
        spec = book.cohort(name)
        for generator in generators or ():
            if generator not in spec.generators:
                raise ConfigError(
                    f"Cohort '{name}' does not enable '{generator}'.", todo=nearest(generator, list(spec.generators))
                )
    if not names or not wanted:
        raise ConfigError("There is nothing to make: no cohort or no month was named.")
    if preset is not None:
        for card in cards(generators or generators_in_use(book)).values():
            if preset not in card.presets:
                raise ConfigError(f"'{card.name}' has no preset '{preset}'.", todo=nearest(preset, list(card.presets)))
    cells = tuple((name, month) for name in names for month in sorted(set(wanted)))
    return Plan(cells, tuple(sorted(set(generators))) if generators else None, preset)


def months_of(text: str) -> list[str]:
    """The months of `2026-01..2026-10`, or the one of `2026-01`, as `YYYY-MM-01`.

    Raises:
        ConfigError: no month or no range, or outside the calendar.
    """
    first, dots, last = text.strip().partition("..")
    last = last if dots else first
    for part in (first, last):
        if not _MONTH.fullmatch(part):
            raise ConfigError(f"'{text}' is no range of months.", todo="Write it as 2026-01..2026-10, or one month.")
    known = months().get_partition_keys()
    for part in (first, last):
        if f"{part}-01" not in known:
            todo = "Set COHORTLOOM_START_MONTH to an earlier month." if part < known[0] else "It has not begun yet."
            raise ConfigError(f"The calendar goes from {known[0][:7]} to {known[-1][:7]}, without {part}.", todo=todo)
    if first > last:
        raise ConfigError(f"'{text}' ends before it begins.", todo=f"Write it as {last}..{first}.")
    return [month for month in known if first <= month[:7] <= last]


def check_deliveries(plan: Plan, book: CohortBook, lake: "Lake") -> None:
    """Make sure that every cell has a delivery to be made from, before anything begins.

    Raises:
        NotFoundError: a cohort's source has no delivery, or none by the end of a month.
    """
    for cohort in dict.fromkeys(cohort for cohort, _ in plan.cells):
        spec = book.cohort(cohort)
        first = f"{min(delivery_days(spec, lake)):%Y-%m}-01"
        early = sorted(month for name, month in plan.cells if name == cohort and month < first)
        if early:
            raise NotFoundError(
                f"Source '{spec.source}' of '{cohort}' has no delivery by the end of {early[0][:7]}.",
                todo=f"The first usable month is {first[:7]}.",
            )


@dataclass(frozen=True)
class Progress:
    """How far a backfill is.

    Attributes:
        status: As Dagster says ("REQUESTED" until its daemon has looked twice, then e.g. "COMPLETED_SUCCESS").
        cells: Partition key to state.
        runs: Partition key to the id of its newest run.
        reason: Why the backfill as a whole failed; empty if it did not.
        rest: It makes what another one left: a cell may then need several runs, so that a run's end is not the cell's.
    """

    status: str
    cells: Mapping[str, State]
    runs: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""
    rest: bool = False

    @property
    def over(self) -> bool:
        """Is nothing more to come? All cells there counts, though Dagster notices up to a minute later."""
        there = bool(self.cells) and all(state == "done" for state in self.cells.values())
        return self.status in ENDED or (there and not self.rest)

    def count(self, state: State) -> int:
        """Cells in this state."""
        return sum(s == state for s in self.cells.values())


def require_generators(names: Iterable[str], known: Sequence[str]) -> None:
    """Raise `NotFoundError` with the nearest name for a generator that is not installed."""
    for name in names:
        if name not in known:
            raise NotFoundError(f"There is no generator '{name}'.", todo=nearest(name, list(known)))


def state_of(status: str) -> State:
    """What the status of a cell's run means for the cell."""
    return _STATE_OF.get(status, "waiting")
