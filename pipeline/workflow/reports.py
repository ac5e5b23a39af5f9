"""The reports on an evaluation, in the store of reports: the internal one, the public one, and what they are made from.

The public report of a release is written anew when it is published, since waivers and signatures come after the
evaluation; `report.json` keeps the aggregates that this needs. What a report shows is in `evaluation/report/`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pipeline.errors import NotFoundError
from pipeline.evaluation.protocol import references_from_table
from pipeline.evaluation.results import results_from_table
from pipeline.fairness.words import drawn_under

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pipeline.evaluation.protocol import Evaluation
    from pipeline.evaluation.results import MetricResult
    from pipeline.features.cohort import Cohort
    from pipeline.release.gate import Verdict
    from pipeline.release.signoff import Waiver
    from pipeline.store.lake import Lake, Version
    from pipeline.workflow.cell import Cell
    from pipeline.workflow.judging import Rows

REPORT, PUBLIC_REPORT, CONTENT = "report.html", "report_public.html", "report.json"


def publish_reports(
    lake: Lake,
    cell: Cell,
    rows: Rows,
    cohort: Cohort,
    evaluation: Evaluation,
    references: Mapping[str, Sequence[MetricResult]],
    verdict: Verdict,
    *,
    inputs: Mapping[str, str],
    accesses: int,
    run_id: str = "",
) -> Version:
    """Write both reports of an evaluation into the store of reports.

    Args:
        lake: The lake.
        cell: Cohort and month.
        rows: What was judged.
        cohort: The real rows.
        evaluation: What judging gave.
        references: The reference rows.
        verdict: The gate's verdict.
        inputs: Label to sha256 of what the evaluation was made from.
        accesses: How often this generator's rows were held against this holdout, this time counted.
        run_id: The run.
    """
    from pipeline.evaluation.report import plain, write_report

    generator = rows.generator
    # Shares that were moved on purpose: who reads the figures has to know.
    under = drawn_under(rows.synthetic.info.get("fairness", []))
    content: dict[str, Any] = {
        "title": f"{cell.cohort}: {generator}",
        "facts": {
            "cohort": cell.spec.title or cell.cohort,
            "month": cell.month[:7],
            "generator": generator,
            "one row": cohort.schema.unit,
            "real rows": f"{cohort.n_rows:,}",
            "real subjects": f"{cohort.n_subjects:,}",
            "privacy of the training": _spent(rows.model) if rows.model is not None else "made elsewhere",
            **({"drawn under": under} if under else {}),
            **{label.partition("/cohort=")[0]: sha256[:12] for label, sha256 in inputs.items()},
        },
        "details": plain({**evaluation.details, "losses": _losses(lake, rows.model)}),
        "accesses": accesses,
    }
    with lake.reports.draft(f"evaluation/{generator}", cell.partition) as draft:
        # Not with sorted keys: figures are drawn in the order in which metrics leave their aggregates.
        draft.file(CONTENT).write_text(json.dumps(content, allow_nan=False) + "\n", encoding="utf-8")
        judged: dict[str, Any] = {"results": evaluation.results, "references": references, "verdict": verdict}
        write_report(draft.file(REPORT), **content, **judged)
        write_report(draft.file(PUBLIC_REPORT), **content, **judged, profile="public")
        info = {"generator": generator, "verdict": verdict.status}
        return draft.commit(inputs=inputs, info=info, run_id=run_id)


def write_release_report(
    lake: Lake,
    cell: Cell,
    evaluation: Version,
    verdict: Verdict,
    path: Path,
    *,
    waivers: Sequence[Waiver] = (),
    facts: Mapping[str, str] | None = None,
) -> Path:
    """Write the public report of a stored evaluation as it stands at its release.

    Args:
        lake: The lake.
        cell: Cohort and month.
        evaluation: Version of `evaluation/<generator>`.
        verdict: By the thresholds that hold at the release.
        path: The file.
        waivers: Those that hold, printed on the first page.
        facts: More of what the head of the report says, e.g. the release's id and who signed.

    Raises:
        NotFoundError: the evaluation's reports are gone, or an older CohortLoom made them.
        StoreError: somebody changed what they are drawn from.
    """
    from pipeline.evaluation.report import write_report

    judged = json.loads(lake.tables.path(evaluation, "verdict.json").read_text(encoding="utf-8"))
    bound = judged.get("bound", {}).get("report")
    stored = [v for v in lake.reports.history(evaluation.asset, cell.partition) if CONTENT in v.files]
    made = next((v for v in stored if v.files[CONTENT].sha256 == bound), None)
    if made is None:
        raise NotFoundError(
            "There is no report of this evaluation to release.",
            where=evaluation.label,
            todo="Run the cohort again from evaluation.",
        )
    lake.reports.verify(made)
    content = json.loads(lake.reports.path(made, CONTENT).read_text(encoding="utf-8"))
    content["facts"] = {**content["facts"], **(facts or {})}
    references = lake.tables.resolve("references", cell.partition)
    return write_report(
        path,
        **content,
        results=results_from_table(lake.tables.read(evaluation)),
        references=references_from_table(lake.tables.read(references)),
        verdict=verdict,
        profile="public",
        waivers=waivers,
    )


def _losses(lake: Lake, model: Version | None) -> list[dict[str, float]]:
    """The losses of the first seed's training; none where the generator keeps none."""
    if model is None or "fit.json" not in model.files:
        return []
    reports = json.loads(lake.models.path(model, "fit.json").read_text(encoding="utf-8"))
    found: list[dict[str, float]] = reports[0].get("losses", []) if reports else []
    return found


def _spent(model: Version) -> str:
    """What the training spent, in words."""
    spent = model.info.get("privacy") or {}
    epsilon = spent.get("epsilon", "inf")
    if epsilon == "inf":
        return "no differential privacy"
    return f"epsilon {epsilon:g}, delta {spent['delta']:g}"
