"""Judging plain files, for the command line: real rows and synthetic rows in, report and metrics out.

The schema, unless given, is inferred from the training file; the other files are then held to it. Judging what lies
on the lake is done in `workflow/`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import ConfigError, InputError, NotFoundError
from pipeline.evaluation.context import PROFILES, RealSides
from pipeline.evaluation.intake import TakenIn, take_in_rows
from pipeline.evaluation.leaderboard import COLUMNS, Entry, cells, leaderboard
from pipeline.evaluation.plan import EvaluationPlan
from pipeline.evaluation.protocol import Parts, evaluate_references, run_evaluation
from pipeline.evaluation.registry import Metric, find_metric, metric_ids
from pipeline.evaluation.report import write_report
from pipeline.evaluation.results import results_table
from pipeline.features.evaluation_spec import EvaluationSpec, GateSpec, TaskSpec
from pipeline.features.split import assign
from pipeline.features.tables import as_cohort, cohort_from_file, read_table, read_untidy, write_table
from pipeline.release.gate import Rule, judge, with_verdict
from pipeline.release.rules.fidelity import RARE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.evaluation.results import MetricResult
    from pipeline.features.cohort import Cohort
    from pipeline.features.schema import TableSchema
    from pipeline.release.gate import Verdict

NO_HOLDOUT = Rule(
    "privacy_judged", "privacy", None, None, None, "fail", None,
    "privacy: not judged, since without a holdout nobody is known to be a stranger to the generator",
)  # fmt: skip
MOST_EQUAL = 0.5
"""Share of holdout rows that equal training rows above which the file is taken for the wrong one."""
DIVIDING_KEY = b"cohortloom-division-of-the-holdout-file"
"""Divides a holdout file into holdout and fresh reference; not secret, since the caller made the split."""


@dataclass(frozen=True)
class JudgedFiles:
    """What judging gave.

    Attributes:
        results: Rows of every replicate and pooled rows.
        columns: Headings of the leaderboard.
        cells: Its rows as texts.
        verdict: Against the default thresholds.
        report: The HTML report, which may show single real records.
        public_report: The same without what must stay in the house.
        metrics: All results as CSV.
        notes: What to bear in mind of how the rows were used and of what was wrong with them.
    """

    results: list[MetricResult]
    columns: list[str]
    cells: list[list[str]]
    verdict: Verdict
    report: Path
    public_report: Path
    metrics: Path
    notes: list[str] = field(default_factory=list)


class PlanFile(BaseModel):
    """What is asked beside the files, in the words of a cohort's file."""

    model_config = ConfigDict(extra="forbid")
    tasks: list[TaskSpec] = Field(default_factory=list, description="Prediction tasks.")
    protected: list[str] = Field(default_factory=list, description="Columns that name groups.")
    evaluation: EvaluationSpec = Field(
        default_factory=EvaluationSpec, description="Profile, analyses, rules, what an attacker knows."
    )
    gate: GateSpec = Field(default_factory=GateSpec, description="Thresholds of the verdict.")


def read_plan(path: Path) -> PlanFile:
    """A plan from its YAML file; raises `NotFoundError` or `ConfigError` (what is wrong and where in it)."""
    import yaml

    if not path.is_file():
        raise NotFoundError("There is no such plan.", where=str(path))
    try:
        return PlanFile(**(yaml.safe_load(path.read_text(encoding="utf-8")) or {}))
    except (ValidationError, TypeError, yaml.YAMLError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": "it is no YAML mapping"}
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(f"This is not a valid plan: {where or 'file'}: {first['msg']}.", where=str(path)) from None


def evaluate_files(
    *,
    train: Path,
    holdout: Path | None,
    synthetic: Sequence[Path],
    out: Path,
    asked: PlanFile | None = None,
    schema_file: Path | None = None,
    subject: str | None = None,
    drop: Sequence[str] = (),
    encoding: str | None = None,
) -> JudgedFiles:
    """Judge synthetic files against real ones; writes `report.html`, `report_public.html` and `metrics.csv` to `out`.

    Half of the holdout's subjects stay the holdout, the other half become the fresh real rows that the reference row
    and calibrated attacks need. Without a holdout the real rows are divided among all parts: fidelity, utility and
    fairness can then be judged, privacy cannot, since nobody is known to be a stranger to the generator.

    Args:
        train: The real rows that the generator was trained on.
        holdout: Real rows that it never saw; None if there are none.
        synthetic: Synthetic rows, one file a replicate; what does not fit the training rows is told and judged as it is.
        out: Folder for the results.
        asked: Tasks, groups, analyses, rules, thresholds.
        schema_file: A TableSchema as JSON; inferred from the training rows if left out.
        subject: Column that identifies the subject in the real files.
        drop: Columns to leave out.
        encoding: Of CSV files that are not UTF-8.

    Raises:
        NotFoundError, InputError, ConfigError: a real file is missing, cannot be read or lacks a column; a synthetic file
            without a row or without a column that the training rows have; an unknown label; too few rows.
    """
    asked = asked or PlanFile()
    given = cohort_from_file(train, schema_file=schema_file, subject=subject, drop=drop, encoding=encoding)
    if schema_file is None:
        # What was inferred from one sample's extremes binds nobody else: other real people exceed them too.
        given = replace(given, schema=_unbounded(given.schema))
    real = given.schema
    if not synthetic:
        raise InputError("There is no synthetic file.", todo="Pass --synthetic.")
    taken = [_taken(path, real, encoding) for path in synthetic]
    _check_labels(asked.tasks, real)
    plan = EvaluationPlan.asked(asked.tasks, asked.protected, asked.evaluation)
    shared = ""
    if holdout is None:
        parts = _divide_all(given)
    else:
        strangers, shared = _strangers(
            _like(holdout, real, subject, encoding), given, holdout, by_id=subject is not None
        )
        parts = _divide(given, strangers)
    metrics = _without_privacy(plan) if holdout is None else None
    sides = RealSides(parts, plan)
    references = evaluate_references(parts, plan, metrics=metrics, sides=sides)
    found = run_evaluation(parts, [t.cohort for t in taken], plan, references=references, metrics=metrics, sides=sides)
    results = found.results if holdout is not None else [*found.results, *_no_privacy(plan)]
    verdict = judge(results, asked.gate, plan, references=references)
    if holdout is None:
        verdict = verdict.instead("privacy", NO_HOLDOUT)
    results = with_verdict(results, verdict)
    notes = _notes(parts, holdout, [*filter(None, [shared]), *(note for t in taken for note in t.notes)])
    out.mkdir(parents=True, exist_ok=True)
    told: dict[str, Any] = {
        "title": " + ".join(p.name for p in synthetic),
        "facts": {
            "training rows": f"{parts.train.n_rows:,}",
            "holdout rows": f"{parts.holdout.n_rows:,}",
            "fresh real rows": f"{parts.reference0.n_rows + parts.reference1.n_rows:,}",
            "synthetic rows": ", ".join(f"{t.cohort.n_rows:,}" for t in taken),
            "profile": plan.profile,
            **({"to bear in mind": " ".join(notes)} if notes else {}),
        },
        "results": results,
        "references": references,
        "verdict": verdict,
        "details": found.details,
    }
    report = write_report(out / "report.html", **told)
    public = write_report(out / "report_public.html", **told, profile="public")
    metrics_file = out / "metrics.csv"
    write_table(results_table(results), metrics_file)
    board = leaderboard({synthetic[0].name: Entry(results=results, verdict=verdict)}, references)
    return JudgedFiles(
        results=results,
        columns=COLUMNS,
        cells=[cells(row) for row in board],
        verdict=verdict,
        report=report,
        public_report=public,
        metrics=metrics_file,
        notes=notes,
    )


def _unbounded(schema: TableSchema) -> TableSchema:
    """The schema without bounds of numbers."""
    return schema.model_copy(update={"columns": [c.model_copy(update={"bounds": None}) for c in schema.columns]})


def _check_labels(tasks: Sequence[TaskSpec], schema: TableSchema) -> None:
    for task in tasks:
        column = schema.column(task.label)
        if column.kind != "binary":
            raise ConfigError(
                f"The label must have two values; it is {column.kind}"
                + (f" with {len(column.levels)} levels." if column.levels else "."),
                where=f"column {task.label}",
                todo="Derive a column with two values from it and name that.",
            )


def _without_privacy(plan: EvaluationPlan) -> list[str]:
    """The metrics that the profile allows and that need no strangers."""
    return [name for name, metric in _allowed(plan).items() if metric.spec.family != "privacy"]


def _no_privacy(plan: EvaluationPlan) -> list[MetricResult]:
    """Every privacy metric without a value: that nobody can tell is a result too.

    Rare levels are no rule then: of the training rows a part stands in for the rest, so that a rare level may be common.
    """
    why = "no holdout: nobody is known to be a stranger to the generator"
    return [
        spec.not_applicable("no holdout: the training rows are divided")
        if spec.id == RARE.metric
        else spec.result(None, note=why)
        for spec in (metric.spec for metric in _allowed(plan).values())
        if spec.family == "privacy"
    ]


def _allowed(plan: EvaluationPlan) -> dict[str, Metric]:
    found = {name: find_metric(name) for name in metric_ids()}
    return {name: m for name, m in found.items() if m.spec.cost in PROFILES[plan.profile].costs}


def _notes(parts: Parts, holdout: Path | None, notes: list[str]) -> list[str]:
    """What to bear in mind of how the rows were used."""
    fresh = parts.reference0.n_rows + parts.reference1.n_rows
    if holdout is None:
        first = (
            f"Without a holdout the real rows were divided ({parts.train.n_rows:,} as training, {parts.holdout.n_rows:,} to "
            f"compare with, {fresh:,} fresh); privacy cannot be judged."
        )
    else:
        first = (
            f"Of the holdout file {parts.holdout.n_rows:,} rows are judged, {fresh:,} serve as fresh real rows for reference "
            "and attackers; people needed are counted among those judged."
        )
    return [first, *notes]


def _taken(path: Path, schema: TableSchema, encoding: str | None) -> TakenIn:
    """A synthetic file's rows under the training rows' schema."""
    try:
        return take_in_rows(read_untidy(path, like=schema, encoding=encoding), schema)
    except InputError as error:
        raise InputError(error.what, where=error.where or str(path), todo=error.todo) from None


def _like(path: Path, schema: TableSchema, subject: str | None, encoding: str | None) -> Cohort:
    """The rows of a real file in the training file's schema, allowing missing cells wherever they occur."""
    table = read_table(path, like=schema, encoding=encoding)
    absent = [name for name in schema.names if name not in table.column_names]
    if absent:
        raise InputError(
            f"The file lacks {len(absent)} columns of the training file, the first is '{absent[0]}'.", where=str(path)
        )
    columns = [
        c.model_copy(update={"nullable": c.nullable or table.column(c.name).null_count > 0}) for c in schema.columns
    ]
    loose = schema.model_copy(update={"columns": columns})
    try:
        return as_cohort(table, loose, subject=subject)
    except (InputError, ConfigError) as error:
        todo = "Give train and holdout rows the same columns and types." if "SQL" in error.todo else error.todo
        what = error.what.replace("the declared type", "the training file's type")
        raise type(error)(what, where=f"{path}: {error.where}".rstrip(": "), todo=todo) from None


def _strangers(held: Cohort, train: Cohort, path: Path, *, by_id: bool) -> tuple[Cohort, str]:
    """The holdout rows of people who were not in training, and a sentence on the others.

    Whoever was in training is no stranger: counted as one, a leak would look harmless. Without ids equal rows may be
    chance; a file of which most rows equal training rows is the wrong file.

    Raises:
        InputError: nobody is left, or most rows equal training rows.
    """
    known = np.isin(held.subject, train.subject)
    if not known.any():
        return held, ""
    if (by_id and known.all()) or (not by_id and known.mean() > MOST_EQUAL):
        how = "belong to subjects of" if by_id else "equal rows of"
        raise InputError(
            f"{int(known.sum()):,} of the {held.n_rows:,} holdout rows {how} the training file: nobody there is a stranger.",
            where=str(path),
            todo="Pass real rows that the generator never saw.",
        )
    if not by_id:
        return held, ""
    people = len(np.unique(held.subject[known]))
    note = f"{people:,} holdout subjects ({int(known.sum()):,} rows) were in training too and are left out."
    return held.take(~known), note


def _divide(train: Cohort, holdout: Cohort) -> Parts:
    part, _ = assign(holdout.subject, DIVIDING_KEY)
    first = holdout.take(part == "train")
    return Parts(train, first, holdout.take(part == "holdout"), holdout.take((part != "train") & (part != "holdout")))


def _divide_all(real: Cohort) -> Parts:
    """Real rows alone, divided among all parts by their subjects."""
    part, _ = assign(real.subject, DIVIDING_KEY)
    parts = Parts.of(replace(real, split=part, tune=None))
    if not parts.train.n_rows or not parts.holdout.n_rows:
        raise InputError(f"{real.n_rows} real rows are too few to be divided.", todo="Give more rows, or a --holdout.")
    return parts
