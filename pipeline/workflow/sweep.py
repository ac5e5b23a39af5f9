"""What privacy costs: a generator of a cell trained at several epsilons, every figure of the evaluation against each.

Each epsilon is a training of its own: held in the privacy ledger before its first gradient, charged for every seed, and
kept as a point `sweep_point/<generator>` as soon as it is judged, so that a sweep that was stopped goes on. No model and
no row of it is kept; `sweep/<generator>` holds all points together and a page with the curves. A point at the epsilon
that the cohort asks of its models anyway is the same training and costs nothing more.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError, UnsupportedError, nearest
from pipeline.evaluation.context import Parts
from pipeline.evaluation.protocol import references_from_table, run_evaluation
from pipeline.evaluation.report.sweep_page import curves_of, epsilon_words, sweep_html
from pipeline.evaluation.results import results_from_table, results_table
from pipeline.privacy.spec import TrainingPrivacy
from pipeline.store.disk import make_folders
from pipeline.workflow.judging import HOLDOUT_ACCESS, plan_of
from pipeline.workflow.ledger import entered, model_hash, privacy_info, spent_of, training_of
from pipeline.workflow.record import OK, Record
from pipeline.workflow.settings import judging_settings
from pipeline.workflow.training import attempted, fit_cell, read_whole
from pipeline.workflow.tuned import tuned_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pyarrow as pa

    from pipeline.evaluation.plan import EvaluationPlan
    from pipeline.evaluation.results import MetricResult
    from pipeline.features.cohort import Cohort
    from pipeline.privacy.composition import Loss
    from pipeline.privacy.ledger import Reservation, Training
    from pipeline.store.lake import Lake, Version
    from pipeline.workflow.cell import Cell
    from pipeline.workflow.compute import Compute

SWEEP, POINT = "sweep", "sweep_point"
EPSILONS: tuple[float, ...] = (1.0, 2.0, 5.0, 10.0, 20.0, math.inf)
SEEDS = 5
PAGE = "sweep.html"


@dataclass(frozen=True)
class Point:
    """One epsilon of a sweep.

    Attributes:
        epsilon: What each training was asked for; infinite: no privacy.
        record: How it ended.
        kept: Was it there from an earlier run?
        spent: What its version says of the spend: `epsilon` ("inf" if not private), `delta`, `replicates`.
        results: Rows of its evaluation.
    """

    epsilon: float
    record: Record
    kept: bool = False
    spent: Mapping[str, Any] = field(default_factory=dict)
    results: list[MetricResult] = field(default_factory=list)


@dataclass(frozen=True)
class Swept:
    """What a sweep left.

    Attributes:
        version: Of `sweep/<generator>`.
        record: How it ended; ok if any epsilon gave figures.
        page: The HTML page; None where there is nothing to show.
        points: One an epsilon, the smallest first.
    """

    version: Version
    record: Record
    page: Path | None
    points: list[Point]


@dataclass(frozen=True)
class _Work:
    """What all points of a sweep share."""

    lake: Lake
    generator: str
    compute: Compute
    features: Version
    references: Version
    parts: Parts
    plan: EvaluationPlan
    anchors: Mapping[str, Sequence[MetricResult]]
    run_id: str


def sweep_step(
    lake: Lake,
    cell: Cell,
    generator: str,
    compute: Compute,
    *,
    epsilons: Sequence[float] = EPSILONS,
    seeds: int = SEEDS,
    run_id: str = "",
    told: Callable[[Point, int, int], None] | None = None,
) -> Swept:
    """Train and judge a generator at every epsilon, and commit the curves.

    An epsilon that fails (too few people for DP-SGD, no budget left) is a point with the reason; the others go on.

    Args:
        lake: The lake.
        cell: Cohort and month, with features and reference rows.
        generator: One that the cohort enables and that can train with differential privacy.
        compute: Device of the trainings.
        epsilons: Above 0; infinite for trainings without privacy.
        seeds: Trainings an epsilon.
        run_id: Recorded with the pointers.
        told: Called after each point with it, how many are done and how many there are.

    Raises:
        NotFoundError: the cell has no features or no reference rows.
        ConfigError: the cohort does not enable the generator, or an epsilon or the seeds are none.
        StoreError: the store or the ledger fails.
    """
    wanted = checked_epsilons(cell, generator, epsilons, seeds)
    features = lake.tables.resolve("features", cell.partition)
    references = lake.tables.resolve("references", cell.partition)
    work = _Work(
        lake=lake,
        generator=generator,
        compute=compute,
        features=features,
        references=references,
        parts=Parts.of(read_whole(lake, features)),
        plan=plan_of(cell, compute.device),
        anchors=references_from_table(lake.tables.read(references)),
        run_id=run_id,
    )
    points = []
    for epsilon in wanted:
        points.append(_point(work, at_epsilon(cell, generator, epsilon, seeds), epsilon))
        if told is not None:
            told(points[-1], len(points), len(wanted))
    return _folded(work, cell, points, seeds)


def at_epsilon(cell: Cell, generator: str, epsilon: float, seeds: int) -> Cell:
    """The cell with another epsilon asked of a generator and another number of replicates; all else as it is."""
    trainings = dict(cell.spec.privacy.trainings)
    asked = trainings.pop(generator, None)
    if math.isfinite(epsilon):
        base = TrainingPrivacy(epsilon=epsilon) if asked is None else TrainingPrivacy.of(asked)
        trainings[generator] = base.model_copy(update={"epsilon": epsilon, "noise_multiplier": None})
    privacy = cell.spec.privacy.model_copy(update={"trainings": trainings})
    return replace(cell, spec=cell.spec.model_copy(update={"privacy": privacy, "replicates": seeds}))


def checked_epsilons(cell: Cell, generator: str, epsilons: Sequence[float], seeds: int) -> list[float]:
    """The epsilons, each once, the smallest first.

    Raises:
        ConfigError: the cohort does not enable the generator, it cannot train privately, or an epsilon or the seeds are none.
    """
    from pipeline.generators.registry import generator_class

    if generator not in cell.spec.generators:
        raise ConfigError(
            f"'{cell.cohort}' does not enable '{generator}'.", todo=nearest(generator, list(cell.spec.generators))
        )
    if not generator_class(generator).private:
        raise ConfigError(
            f"'{generator}' cannot train with differential privacy, so there is nothing to sweep.",
            todo="docs/generators.md says which generators can.",
        )
    bad = [e for e in epsilons if not e > 0]
    if bad or not epsilons:
        raise ConfigError("Every epsilon must be a number above 0, or inf.", todo="For example 1, 2, 5, 10, 20, inf.")
    if seeds < 1:
        raise ConfigError(f"{seeds} seeds were asked for.", todo="Give at least one; 5 show the spread.")
    return sorted({float(e) for e in epsilons})


def _key(epsilon: float) -> str:
    return "inf" if math.isinf(epsilon) else repr(epsilon)


def _point(work: _Work, cell: Cell, epsilon: float) -> Point:
    """One epsilon: what the lake has of exactly this training and judgement, else train, draw, judge and keep."""
    lake, asset = work.lake, f"{POINT}/{work.generator}"
    partition = {**cell.partition, "epsilon": _key(epsilon)}
    inputs = {v.label: v.sha256 for v in (work.features, work.references)}
    record, begun = attempted(lake, lambda: _begun(work, cell))
    if begun is None:
        return Point(epsilon, record)
    training, settings = begun
    decisive = {"training": training.identity, "judging": judging_settings(cell.spec, None)}
    kept = lake.tables.current(asset, partition)
    if kept is not None and kept.inputs == inputs and all(kept.info.get(k) == v for k, v in decisive.items()):
        return Point(epsilon, OK, True, kept.info["privacy"], results_from_table(lake.tables.read(kept)))

    def train_and_judge() -> Point:
        make_folders(lake.home.spill)
        with (
            entered(lake, cell, training) as held,
            tempfile.TemporaryDirectory(prefix="spill-sweep-", dir=lake.home.spill) as aside,
        ):
            reports = fit_cell(lake, cell, training, work.parts.train, Path(aside), work.compute, settings)
            model, spent = model_hash(Path(aside)), spent_of(training, reports)
            held.confirm(model, spent)
            drawn = _drawn(work, cell, held, model, spent, Path(aside))
            _note_access(work, cell, model, epsilon)
            results = run_evaluation(work.parts, drawn, work.plan, references=work.anchors).results
            charged = privacy_info(training, spent)
            info = {**OK.to_info(), **decisive, "privacy": charged}
            with lake.tables.draft(asset, partition) as draft:
                draft.add_table("data", results_table(results))
                draft.commit(inputs=inputs, info=info, run_id=work.run_id)
        held.complete(model, spent)
        return Point(epsilon, OK, False, charged, results)

    record, point = attempted(lake, train_and_judge)
    return point or Point(epsilon, record)


def _begun(work: _Work, cell: Cell) -> tuple[Training, dict[str, Any]]:
    """The training of a point, and the settings over the file's own (those of a tuning, where the file asks for them)."""
    settings = tuned_settings(work.lake, cell, work.generator).settings
    return training_of(cell, work.generator, work.features, settings, work.compute), settings


def _drawn(work: _Work, cell: Cell, held: Reservation, model: str, spent: Loss, replicates: Path) -> list[Cohort]:
    """As many rows as there are for training from every seed.

    Trainings whose rows cannot be drawn are paid for as others are: what is told of the failure was told by them.
    """
    from pipeline.generators.replicates import sample_replicates

    seeds = cell.seeds(work.generator, "sample")
    try:
        drawn, _ = sample_replicates(
            replicates, work.parts.train.n_rows, seeds=seeds, constraints=cell.spec.constraints
        )
    except UnsupportedError:
        held.complete(model, spent)
        raise
    return drawn


def _note_access(work: _Work, cell: Cell, model: str, epsilon: float) -> None:
    """Enter in the journal that rows of this model are held against the holdout, once."""
    entry = {**cell.partition, "generator": work.generator, "sha256": model, "sweep_epsilon": _key(epsilon)}
    work.lake.journal.transact(
        HOLDOUT_ACCESS, lambda known: None if any(entry.items() <= e.items() for e in known) else entry
    )


def _folded(work: _Work, cell: Cell, points: list[Point], seeds: int) -> Swept:
    """All points in one table, and the page."""
    lake, asset = work.lake, f"{SWEEP}/{work.generator}"
    good = [p for p in points if p.record.ok]
    inputs = {v.label: v.sha256 for v in (work.features, work.references)}
    info: dict[str, Any] = {
        "generator": work.generator,
        "seeds": seeds,
        "epsilons": [_key(p.epsilon) for p in points],
        "failed": {_key(p.epsilon): p.record.reason for p in points if not p.record.ok},
        "spent": {_key(p.epsilon): dict(p.spent) for p in good},
    }
    if not good:
        record = Record("failed", f"No epsilon gave figures: {points[0].record.reason}")
        with lake.tables.draft(asset, cell.partition) as draft:
            version = draft.commit(inputs=inputs, info={**info, **record.to_info()}, run_id=work.run_id)
        return Swept(version, record, None, points)
    info |= OK.to_info()
    with lake.reports.draft(asset, cell.partition) as draft:
        page = sweep_html(
            curves_of({p.epsilon: p.results for p in good}),
            [p.epsilon for p in good],
            title=f"{work.generator} on {cell.cohort}, {cell.month[:7]}",
            notes=_notes(points, seeds),
        )
        draft.file(PAGE).write_text(page, encoding="utf-8")
        report = draft.commit(inputs=inputs, info=info, run_id=work.run_id)
    with lake.tables.draft(asset, cell.partition) as draft:
        draft.add_table("data", sweep_table(good))
        version = draft.commit(inputs=inputs, info=info, run_id=work.run_id)
    return Swept(version, OK, lake.reports.path(report, PAGE), points)


def _notes(points: Sequence[Point], seeds: int) -> list[str]:
    """What stands below the heading of the page."""
    deltas = sorted({float(p.spent["delta"]) for p in points if p.record.ok and math.isfinite(p.epsilon)})
    private = sum(math.isfinite(p.epsilon) and p.record.ok for p in points)
    notes = [f"{seeds} trainings an epsilon; each one is charged to the cohort's privacy ledger."]
    if deltas:
        shown = f"{deltas[0]:g}" if len(deltas) == 1 else f"{deltas[0]:g} to {deltas[-1]:g}"
        notes.append(f"delta is {shown} in the {private} private points.")
    return notes + [
        f"epsilon {epsilon_words(p.epsilon)} gave no figures: {p.record.reason}" for p in points if not p.record.ok
    ]


def sweep_table(points: Sequence[Point]) -> pa.Table:
    """The results of all points, one after the other, with the `epsilon` that was asked for and what was spent.

    Returns:
        The columns of `results_table`, then `epsilon`, `spent_epsilon` (infinite without privacy) and `spent_delta`.
    """
    import pyarrow as pa

    tables = []
    for point in points:
        table = results_table(point.results)
        n = table.num_rows
        for name, value in (
            ("epsilon", point.epsilon),
            ("spent_epsilon", float(point.spent["epsilon"])),
            ("spent_delta", float(point.spent["delta"])),
        ):
            table = table.append_column(name, pa.array([value] * n, pa.float64()))
        tables.append(table)
    return pa.concat_tables(tables)
