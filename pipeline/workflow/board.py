"""The leaderboard of a cell on the lake: every generator of the graph, rows made elsewhere, and the reference rows.

How generators are ordered is in `evaluation/leaderboard.py`; how rows are judged in `judging.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.evaluation.leaderboard import Entry, leaderboard
from pipeline.evaluation.protocol import references_from_table
from pipeline.evaluation.results import with_draws
from pipeline.workflow.external import external_generators, rows_asset
from pipeline.workflow.judging import results_of, verdict_of
from pipeline.workflow.record import Record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

    from pipeline.evaluation.results import MetricResult
    from pipeline.store.lake import Lake, Version
    from pipeline.workflow.cell import Cell

BOARD = "leaderboard.html"


def leaderboard_step(
    lake: Lake, cell: Cell, generators: Sequence[str], *, run_id: str = ""
) -> tuple[Version, list[dict[str, Any]]]:
    """Set all generators and reference rows side by side into `leaderboard`, from what the lake has.

    Args:
        lake: The lake.
        cell: Cohort and month.
        generators: Everyone who must have a row; one that was never run, or whose evaluation belongs to rows or
            features that have been replaced since, is a failed row that says so. Rows made elsewhere come by themselves.
        run_id: The run.
    """
    references = lake.tables.current("references", cell.partition)
    found = references_from_table(lake.tables.read(references)) if references is not None else {}
    entries, inputs = {}, {}
    names = [*generators, *external_generators(lake, cell)]
    for name in names:
        version = lake.tables.current(f"evaluation/{name}", cell.partition)
        entries[name] = _entry(lake, cell, name, version)
        if version is not None:
            inputs[version.label] = version.sha256
    if references is not None:
        inputs[references.label] = references.sha256
    rows = leaderboard(entries, found)
    _board_page(lake, cell, rows, inputs, run_id)
    with lake.tables.draft("leaderboard", cell.partition) as draft:
        draft.add_table("data", leaderboard_table(rows))
        return draft.commit(inputs=inputs, info={"generators": sorted(names)}, run_id=run_id), rows


def _board_page(
    lake: Lake, cell: Cell, rows: Sequence[Mapping[str, Any]], inputs: Mapping[str, str], run_id: str
) -> None:
    """Write the leaderboard's page into the store of reports."""
    from pipeline.evaluation.report.leaderboard_page import leaderboard_html

    with lake.reports.draft("leaderboard", cell.partition) as draft:
        page = leaderboard_html(rows, title=f"{cell.cohort}, {cell.month[:7]}")
        draft.file(BOARD).write_text(page, encoding="utf-8")
        draft.commit(inputs=inputs, run_id=run_id)


def _entry(lake: Lake, cell: Cell, generator: str, version: Version | None) -> Entry:
    if version is None:
        return Entry("not_run", f"'{generator}' was not run for this month.")
    record = Record.of(version)
    made_of = [lake.tables.current(name, cell.partition) for name in ("features", rows_asset(generator))]
    if any(v is None or version.inputs.get(v.label) != v.sha256 for v in made_of):
        return Entry("failed", "The evaluation belongs to rows that have been replaced since; run it again.")
    if not record.ok:
        return Entry(record.status, record.reason)
    model = lake.models.current(f"model/{generator}", cell.partition)
    spent = (model.info.get("privacy") or {}).get("epsilon") if model is not None else None
    epsilon = float(spent) if isinstance(spent, int | float) else None
    return Entry(results=compared_results(lake, version), verdict=verdict_of(lake, version), epsilon=epsilon)


def compared_results(lake: Lake, evaluation: Version) -> list[MetricResult]:
    """The same with the bootstrap draws that comparisons between generators need."""
    return with_draws(results_of(lake, evaluation), lake.tables.read(evaluation, "draws"))


def leaderboard_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """The rows of a leaderboard as an Arrow table of a fixed schema (an empty column keeps its type)."""
    import pyarrow as pa

    numbers = [(name, pa.float64()) for name in ("value", "lo", "hi", "score")]
    figure = pa.struct([*numbers, ("note", pa.string())])
    types: dict[str, pa.DataType] = {
        "reference": pa.bool_(),
        "why": pa.list_(pa.string()),
        "seeds": pa.int64(),
        "layer": pa.int64(),
        **dict.fromkeys(("dependence_score", "exact_copies", "epsilon", "stability", "fit_seconds"), pa.float64()),
        **dict.fromkeys(("generator", "key", "status", "reason", "verdict", "tier", "task"), pa.string()),
    }
    names = list(rows[0]) if rows else ["generator", "key", "status", "reason", "verdict"]
    return pa.Table.from_pylist([dict(r) for r in rows], schema=pa.schema([(n, types.get(n, figure)) for n in names]))
