"""Judging plain files, for the command line: real rows and synthetic rows in, report and metrics out.

The schema, unless given, is inferred from the training file; the other files are then held to it. Judging what lies
on the lake is done in `workflow/`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError, InputError
from pipeline.evaluation.leaderboard import COLUMNS, Entry, cells, leaderboard
from pipeline.evaluation.plan import EvaluationPlan
from pipeline.evaluation.protocol import Parts, evaluate_references, run_evaluation
from pipeline.evaluation.report import write_report
from pipeline.evaluation.results import results_table
from pipeline.features.evaluation_spec import GateSpec, TaskSpec
from pipeline.features.split import assign
from pipeline.features.tables import as_cohort, cohort_from_file, read_table, write_table
from pipeline.release.gate import judge

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.evaluation.results import MetricResult
    from pipeline.features.cohort import Cohort
    from pipeline.features.schema import TableSchema
    from pipeline.release.gate import Verdict

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
        report: The HTML report.
        metrics: All results as CSV.
        note: What to bear in mind of how the rows were used.
    """

    results: list[MetricResult]
    columns: list[str]
    cells: list[list[str]]
    verdict: Verdict
    report: Path
    metrics: Path
    note: str = field(default="")


def evaluate_files(
    *,
    train: Path,
    holdout: Path,
    synthetic: Sequence[Path],
    out: Path,
    labels: Sequence[str] = (),
    leak: Sequence[str] = (),
    protected: Sequence[str] = (),
    schema_file: Path | None = None,
    subject: str | None = None,
    drop: Sequence[str] = (),
    profile: str = "standard",
    seed: int = 0,
    encoding: str | None = None,
) -> JudgedFiles:
    """Judge synthetic files against real ones with the default gate; writes `report.html` and `metrics.csv` to `out`.

    Half of the holdout's subjects stay the holdout, the other half become the fresh real rows that the reference row
    and calibrated attacks need.

    Files that are not UTF-8 are read in `encoding`.

    Raises:
        NotFoundError, InputError, ConfigError: a file is missing, cannot be read, lacks a column of the training file
            or has other types; an unknown label; too few rows.
    """
    given = cohort_from_file(train, schema_file=schema_file, subject=subject, drop=drop, encoding=encoding)
    real = given.schema
    held = _like(holdout, real, subject, encoding)
    rows = [_like(path, real, None, encoding) for path in synthetic]
    if not rows:
        raise InputError("There is no synthetic file.", todo="Pass --synthetic.")
    for name in (*labels, *leak, *protected):
        real.column(name)
    for name in labels:
        column = real.column(name)
        if column.kind != "binary":
            raise ConfigError(
                f"The label must have two values; it is {column.kind}"
                + (f" with {len(column.levels)} levels." if column.levels else "."),
                where=f"column {name}",
                todo="Derive a column with two values from it and name that.",
            )
    parts = _divide(given, held)
    tasks = tuple(TaskSpec(name=label, label=label, leak=list(leak)) for label in labels)
    plan = EvaluationPlan(tasks, tuple(protected), profile=profile, seed=seed)
    references = evaluate_references(parts, plan)
    found = run_evaluation(parts, rows, plan, references=references)
    verdict = judge(found.results, GateSpec(), plan, references=references)
    out.mkdir(parents=True, exist_ok=True)
    report = write_report(
        out / "report.html",
        title=" + ".join(p.name for p in synthetic),
        facts={
            "training rows": f"{given.n_rows:,}",
            "holdout rows": f"{parts.holdout.n_rows:,}",
            "fresh real rows": f"{parts.reference0.n_rows + parts.reference1.n_rows:,}",
            "synthetic rows": ", ".join(f"{c.n_rows:,}" for c in rows),
            "profile": profile,
        },
        results=found.results,
        references=references,
        verdict=verdict,
        details=found.details,
    )
    metrics = out / "metrics.csv"
    write_table(results_table(found.results), metrics)
    board = leaderboard({synthetic[0].name: Entry(results=found.results, verdict=verdict)}, references)
    fresh = parts.reference0.n_rows + parts.reference1.n_rows
    return JudgedFiles(
        results=found.results,
        columns=COLUMNS,
        cells=[cells(row) for row in board],
        verdict=verdict,
        report=report,
        metrics=metrics,
        note=f"Of the holdout file {parts.holdout.n_rows:,} rows judged, {fresh:,} served as fresh real reference.",
    )


def _like(path: Path, schema: TableSchema, subject: str | None, encoding: str | None) -> Cohort:
    """The rows of a file in the training file's schema, allowing missing cells wherever they occur."""
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
        todo = (
            "Give train, holdout and synthetic rows the same columns and types." if "SQL" in error.todo else error.todo
        )
        what = error.what.replace("the declared type", "the training file's type")
        raise type(error)(what, where=f"{path}: {error.where}".rstrip(": "), todo=todo) from None


def _divide(train: Cohort, holdout: Cohort) -> Parts:
    part, _ = assign(holdout.subject, DIVIDING_KEY)
    first = holdout.take(part == "train")
    return Parts(train, first, holdout.take(part == "holdout"), holdout.take((part != "train") & (part != "holdout")))
