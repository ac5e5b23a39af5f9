"""A fair synthetic cohort from a trained generator: pilot rows, shares of cells, rows that fill them, and an account of it.

Where the shares come from is decided here: the model's own rows, a table, or training rows (never for a private model).
The loop that fills cells is in `quotas.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import ConfigError
from pipeline.fairness.cells import Cells
from pipeline.fairness.decisions import CALIBRATION_ROWS, calibrated
from pipeline.fairness.quotas import CHUNK, fill
from pipeline.fairness.targets import label_gap, target_shares, whole_rows
from pipeline.generators.constraints.redraw import sample_constrained
from pipeline.generators.seeds import derive_seed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from pipeline.fairness.quotas import Draw, Filled
    from pipeline.features.cohort import Cohort
    from pipeline.features.constraint_spec import ConstraintSpec
    from pipeline.features.fairness_spec import FairnessSpec
    from pipeline.generators.base import Generator

MISSING_TOLD = 0.5
FEWEST_PILOT, MOST_PILOT = 5_000, 50_000
SHARES_TOLD = 6
SPARE = 1.5
"""Candidates that are asked for, for each row of cells that a condition does not tell apart."""


@dataclass
class FairAccount:
    """What a fair draw was asked for and what became of it; shares and counts of synthetic rows alone.

    Attributes:
        notion: As asked.
        aim: As asked.
        protected: As asked.
        label: As asked.
        shares: Whose shares were kept: "model", "training" or "table".
        rows: Rows that were drawn.
        lacking: Rows that could not be found.
        candidates: Rows that were drawn to find them.
        acceptance: Share of the candidates that were kept.
        native: Share of the candidates that the generator was asked for by conditions.
        label_gap_before: Largest minus smallest share of positives over the groups, as the generator draws.
        label_gap_after: The same of these rows.
        decision_gap_before: Of `aim: decisions`: gap of the decisions of a model trained on rows as the generator draws them.
        decision_gap_after: The same, trained on rows like these; both on rows of the generator, not on real people.
        groups: One mapping a group: name, share before and after, share of positives before and after, rows lacking.
        cells: Cells that lack rows: name, rows wanted, rows lacking.
        warnings: Sentences for people.
    """

    notion: str
    aim: str
    protected: list[str]
    label: str
    shares: str
    rows: int
    lacking: int
    candidates: int
    acceptance: float
    native: float
    label_gap_before: float
    label_gap_after: float
    decision_gap_before: float | None = None
    decision_gap_after: float | None = None
    groups: list[dict[str, Any]] = field(default_factory=list)
    cells: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """As JSON; the same draw gives the same bytes."""
        facts = asdict(self)
        lists = {k: [_rounded(line) for line in facts[k]] for k in ("groups", "cells")}
        return {**_rounded(facts), **lists}


@dataclass(frozen=True)
class FairDraw:
    """Fair rows, their account, and what was done for the cohort's rules (`sample_constrained`)."""

    cohort: Cohort
    account: FairAccount
    counts: dict[str, int]


def fair_sample(
    generator: Generator,
    n: int,
    *,
    seed: int,
    fairness: FairnessSpec,
    constraints: Sequence[ConstraintSpec] = (),
    training: Cohort | None = None,
) -> FairDraw:
    """Draw `n` rows that keep a notion of fairness.

    Args:
        generator: A trained one.
        n: Rows.
        seed: Same model, settings and seed: same rows.
        fairness: What is asked, complete (`FairnessSpec.resolved`).
        constraints: Rules of the cohort; every candidate keeps them.
        training: Training rows, to check what is asked against and, if `shares: training` is asked, to count. Must be None
            of a private model: then only its own rows are looked at.

    Raises:
        ConfigError: what is asked makes no sense for these columns, or `shares: training` without training rows.
        UnsupportedError: more than a tenth of the rows could not be found.
    """
    counts: dict[str, int] = {}

    def draw(size: int, with_seed: int, frame: pd.DataFrame | None) -> Cohort:
        rows, more = sample_constrained(generator, size, with_seed, constraints, conditions=frame)
        for name, value in more.items():
            counts[name] = counts.get(name, 0) + int(value)
        return rows

    start = draw(min(max(n, FEWEST_PILOT), CHUNK), seed, None)
    cells = Cells.of(fairness, start.schema)
    if fairness.shares == "training" and training is None:
        raise ConfigError(
            "`shares: training` counts training rows, and there are none that may be looked at.",
            where="fairness",
            todo="A private model's rows may be balanced by its own shares, or by a table: leave `shares` out. "
            "`cohortloom sample` has a model alone.",
        )
    if training is not None:
        cells = cells.checked(cells.counts([training]), "the training rows")
    pilot = _pilot(draw, start, _pilot_size(n, fairness), seed)
    if training is None:
        cells = cells.checked(cells.counts(pilot), "the rows that the model draws")
    before = cells.counts(pilot)
    columns = [cells.label.title, *fairness.protected, *(fairness.strata if fairness.aim == "labels" else [])]
    native = generator.draws_given(columns) and not any(a.cuts for a in (*cells.protected, *cells.strata))
    if fairness.aim == "decisions":
        return _decided(draw, cells, pilot, before, n, seed, native, counts)
    base = cells.counts([training]) if fairness.shares == "training" and training is not None else before
    wanted = whole_rows(target_shares(cells.table_counts(base), fairness.notion), n)
    found = fill(
        draw,
        wanted.ravel(),
        cells.cell_of,
        seed=seed,
        first=pilot,
        asking=_Asking(cells, places=cells.places) if native else None,
        names=lambda i: cell_name(cells, i),
    )
    return FairDraw(found.rows, _account(cells, before, found), counts)


def fair_replicates(
    folder: Path,
    n: int,
    *,
    seeds: Sequence[int],
    fairness: FairnessSpec,
    constraints: Sequence[ConstraintSpec] = (),
    training: Cohort | None = None,
) -> tuple[list[Cohort], dict[str, int], list[dict[str, Any]]]:
    """`fair_sample` from each replicate: the cohorts, the sum of the counts, and one account a replicate.

    Raises:
        ConfigError: as many seeds as replicates are needed; see `fair_sample`.
        NotFoundError: the folder holds no replicates.
    """
    from pipeline.generators.base import load_generator
    from pipeline.generators.replicates import replicate_folders

    places = replicate_folders(folder)
    if len(seeds) != len(places):
        raise ConfigError(f"{len(seeds)} seeds were given for {len(places)} replicates.")
    drawn: list[FairDraw] = []
    total: dict[str, int] = {}
    for place, seed in zip(places, seeds, strict=True):
        model = load_generator(place)
        made = fair_sample(model, n, seed=seed, fairness=fairness, constraints=constraints, training=training)
        drawn.append(made)
        for name, value in made.counts.items():
            total[name] = total.get(name, 0) + value
    return [d.cohort for d in drawn], total, [d.account.plain() for d in drawn]


def _pilot_size(n: int, fairness: FairnessSpec) -> int:
    if fairness.aim == "decisions":
        return CALIBRATION_ROWS
    return min(max(n, FEWEST_PILOT), MOST_PILOT)


def _pilot(draw: Draw, start: Cohort, size: int, seed: int) -> list[Cohort]:
    """Rows as the generator draws them, in chunks; the first chunk is there."""
    parts, k = [start], 0
    while (open_rows := size - sum(p.n_rows for p in parts)) > 0:
        parts.append(draw(min(open_rows, CHUNK), derive_seed(seed, "fair pilot", k), None))
        k += 1
    return parts


def _decided(
    draw: Draw,
    cells: Cells,
    pilot: list[Cohort],
    before: NDArray[np.float64],
    n: int,
    seed: int,
    native: bool,
    counts: dict[str, int],
) -> FairDraw:
    from pipeline.fairness.quotas import shuffled

    change = calibrated(cells, shuffled(pilot, seed), size=n, seed=derive_seed(seed, "fair risk") % 2**31)
    wanted = whole_rows(change.shares, n)
    # The rows that the model of risk was learned from are too well known to it: only fresh ones are kept.
    found = fill(
        draw,
        wanted.ravel(),
        change.cell_of,
        seed=seed,
        first=[],
        asking=_Asking(cells, places=len(wanted), spare=SPARE) if native else None,
        names=lambda i: cell_name(cells, i % (cells.groups * cells.outcomes)),
    )
    account = _account(cells, before, found)
    account.decision_gap_before, account.decision_gap_after = change.gap_before, change.gap_after
    if change.left_alone:
        account.warnings.append(f"Too few cases to be judged, left as drawn: {'; '.join(change.left_alone)}.")
    return FairDraw(found.rows, account, counts)


@dataclass(frozen=True)
class _Asking:
    """Conditions on outcome, groups and strata for a generator that draws them natively.

    Attributes:
        cells: The cells.
        places: Strata, or bins of risk, which cannot be asked for.
        spare: Candidates for each row in need.
    """

    cells: Cells
    places: int
    spare: float = 1.0

    def frame(self, need: NDArray[np.int64], most: int) -> pd.DataFrame | None:
        """See `quotas.Asking`."""
        import pandas as pd

        cells = self.cells
        table = need.reshape(self.places, cells.groups, cells.outcomes)
        if self.places != cells.places:
            table = table.sum(axis=0, keepdims=True)
        if cells.pooled:
            table = table[:, :-1].copy()
            table[:, list(cells.pooled)] = 0
        axes = (*(cells.strata if self.places == cells.places else ()), *cells.protected, cells.label)
        number = np.flatnonzero(table.ravel())
        often = np.ceil(table.ravel()[number] * self.spare).astype(np.int64)
        if not len(number):
            return None
        if often.sum() > most:
            often = np.maximum(often * most // often.sum(), 1)
        parts = np.unravel_index(np.repeat(number, often), [len(a.names) for a in axes])
        columns: dict[str, list[Any]] = {}
        for axis, part in zip(axes, parts, strict=True):
            levels = [*(axis.column.levels or []), None]
            columns[axis.title] = [levels[i] for i in part]
        return pd.DataFrame(columns, dtype=object)


def cell_name(cells: Cells, number: int) -> str:
    """E.g. "sex = Female, income = yes"."""
    place, group, outcome = np.unravel_index(number, cells.shape)
    label = cells.label
    said = f"{label.title} {'' if outcome == cells.outcomes - 1 else '= '}{label.names[outcome]}"
    return ", ".join(filter(None, [cells.stratum_names[place], cells.group_names[group], said]))


def _account(cells: Cells, before: NDArray[np.float64], found: Filled) -> FairAccount:
    after = cells.counts([found.rows])
    spec = cells.spec
    lacking = found.lacking
    account = FairAccount(
        notion=spec.notion,
        aim=spec.aim,
        protected=list(spec.protected),
        label=cells.label.title,
        shares="table" if spec.table else spec.shares,
        rows=found.rows.n_rows,
        lacking=int(lacking.sum()),
        candidates=found.drawn,
        acceptance=found.acceptance,
        native=found.asked / max(found.drawn, 1),
        label_gap_before=label_gap(before, cells.positive),
        label_gap_after=label_gap(after, cells.positive),
        groups=_groups(cells, before, after),
    )
    inner = cells.groups * cells.outcomes
    for i in np.flatnonzero(lacking):
        name = cell_name(cells, int(i)) if len(lacking) == cells.size else cell_name(cells, int(i) % inner)
        account.cells.append({"cell": name, "wanted": int(found.wanted[i]), "lacking": int(lacking[i])})
    missing = float(before[..., -1].sum() / max(before.sum(), 1.0))
    if missing > MISSING_TOLD:
        account.warnings.append(
            f"The label is missing in {missing:.0%} of the rows: what is promised is promised of the others alone."
        )
    if account.lacking:
        account.warnings.append(
            f"{account.lacking:,} of {int(found.wanted.sum()):,} rows could not be found among {found.drawn:,} that were drawn: the "
            "shares are off by so much."
        )
    return account


def _groups(cells: Cells, before: NDArray[np.float64], after: NDArray[np.float64]) -> list[dict[str, Any]]:
    lines = []
    for g, name in enumerate(cells.group_names):
        pair = [table[:, g].sum(axis=0) for table in (before, after)]
        if not any(part.sum() for part in pair):
            continue
        line: dict[str, Any] = {"group": name}
        for what, part, table in zip(("before", "after"), pair, (before, after), strict=True):
            known = part[:-1].sum()
            line[f"share_{what}"] = float(part.sum() / table.sum())
            line[f"positive_{what}"] = float(part[cells.positive] / known) if known else None
        lines.append(line)
    return lines


def _rounded(line: Mapping[str, Any]) -> dict[str, Any]:
    return {k: round(v, SHARES_TOLD) if isinstance(v, float) else v for k, v in line.items()}
