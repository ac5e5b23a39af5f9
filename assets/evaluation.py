"""`references`, `evaluation/<generator>` and `leaderboard`. Partition: cohort x month.

How rows are judged is in `pipeline/evaluation/` and `pipeline/release/gate.py`; what is written where in
`pipeline/workflow/judging.py`.
"""

from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.generation import generated, generated_check
from assets.guard import guarded
from assets.ingest import RETRY
from assets.instance import training_seconds
from assets.partitions import key_of, one_to_one
from assets.reporting import embedded, markdown_table, plain
from pipeline.features.spec import load_book
from pipeline.workflow.cards import Card
from resources.compute import ComputeResource
from resources.lake import LakeResource

if TYPE_CHECKING:
    from pipeline.workflow.judging import Judged

GROUP = "evaluation"
OWNERS = ["team:ml"]


def build_evaluation(cells: dg.MultiPartitionsDefinition, cards: dict[str, Card]) -> list[dg.AssetsDefinition]:
    """`references`, `evaluation/<g>` for every card, and `leaderboard`."""
    return [
        _references(cells),
        *(_evaluation(cells, card) for card in cards.values()),
        _leaderboard(cells, list(cards)),
    ]


def _references(cells: dg.MultiPartitionsDefinition) -> dg.AssetsDefinition:
    @dg.asset(
        key="references",
        deps=one_to_one(["features"]),
        partitions_def=cells,
        group_name=GROUP,
        kinds={"scikitlearn", "parquet"},
        owners=OWNERS,
        tags={"phi": "false"},
        description="One row a metric and reference (fresh real rows, the training rows, shuffled columns, one row repeated): "
        "what every generator is read against.",
        code_version="1",
    )
    @guarded
    def references(
        context: dg.AssetExecutionContext, lake: LakeResource, compute: ComputeResource
    ) -> dg.MaterializeResult:
        from pipeline.workflow.cell import Cell
        from pipeline.workflow.judging import headlines, references_step

        device = compute.bound().device
        version, found = references_step(
            lake.open(), Cell.of(load_book(), **key_of(context)), device=device, run_id=context.run.run_id
        )
        rows = [{"reference": name, **headlines(results)} for name, results in found.items()]
        return dg.MaterializeResult(
            data_version=dg.DataVersion(version.sha256),
            metadata=plain({"dagster/row_count": version.files["data"].rows, "headlines": markdown_table(rows)}),
        )

    return references


def _evaluation(cells: dg.MultiPartitionsDefinition, card: Card) -> dg.AssetsDefinition:
    asset = f"evaluation/{card.name}"

    @dg.asset(
        key=["evaluation", card.name],
        deps=one_to_one(["features"], ["synthetic", card.name], ["references"]),
        partitions_def=cells,
        group_name=GROUP,
        kinds={"scikitlearn", "html"},
        owners=OWNERS,
        tags={"generator": card.name, "phi": "false"},
        description=f"One row a metric, scope and replicate of `synthetic/{card.name}`, with intervals and the reference rows "
        "beside it; the verdict; an HTML report.",
        code_version=card.code_version,
        check_specs=[
            generated_check(asset, cells),
            dg.AssetCheckSpec(
                "verdict",
                asset=dg.AssetKey(["evaluation", card.name]),
                partitions_def=cells,
                description="The synthetic rows pass the cohort's gate. Blocks nothing: the verdict is stored and read again.",
            ),
        ],
    )
    @guarded
    def evaluation(
        context: dg.AssetExecutionContext, lake: LakeResource, compute: ComputeResource
    ) -> dg.MaterializeResult:
        from pipeline.workflow.cell import Cell
        from pipeline.workflow.judging import evaluate_step

        device = compute.bound().device
        cell = Cell.of(load_book(), **key_of(context))
        judged = evaluate_step(lake.open(), cell, card.name, device=device, run_id=context.run.run_id)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(judged.version.sha256),
            metadata=plain(_evaluation_metadata(judged)),
            check_results=[generated(judged.record), _verdict(judged)],
        )

    return evaluation


def _evaluation_metadata(judged: "Judged") -> dict[str, Any]:
    """The headline figures as plain numbers (plotted over runs), the summary, a picture, and where the report lies."""
    from pipeline.evaluation.report import headline_svg, markdown_summary
    from pipeline.workflow.judging import headlines

    facts: dict[str, Any] = {"status": judged.record.status, "reason": judged.record.reason or None}
    facts["report"] = dg.MetadataValue.path(str(judged.report))
    if judged.verdict is None:
        return facts
    summary = markdown_summary(judged.results, judged.references, judged.verdict)
    return {
        **facts,
        **headlines(judged.results),
        "dagster/row_count": len(judged.results),
        "verdict": judged.verdict.status,
        "summary": dg.MetadataValue.md(summary),
        "headlines": embedded(headline_svg(judged.results, judged.references), words="headline figures"),
    }


def _verdict(judged: "Judged") -> dg.AssetCheckResult:
    """The gate's verdict as a check, with at most three of the reasons why it is not a pass."""
    verdict = judged.verdict
    reasons = verdict.reasons() if verdict is not None else [judged.record.reason]
    more = f" and {len(reasons) - 3} more" if len(reasons) > 3 else ""
    return dg.AssetCheckResult(
        check_name="verdict",
        passed=verdict is not None and verdict.status == "pass",
        description=f"{'; '.join(reasons[:3])}{more}" or None,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={"verdict": verdict.status if verdict is not None else judged.record.status},
    )


def _leaderboard(cells: dg.MultiPartitionsDefinition, generators: list[str]) -> dg.AssetsDefinition:
    @dg.asset(
        key="leaderboard",
        deps=one_to_one(*(["evaluation", name] for name in generators), ["references"]),
        partitions_def=cells,
        group_name=GROUP,
        kinds={"markdown", "parquet"},
        owners=OWNERS,
        tags={"phi": "false"},
        description="One row a generator and reference of a cohort and month, side by side; a generator without a result is a "
        "row too, with the reason.",
        code_version="1",
        retry_policy=RETRY,
        check_specs=[
            dg.AssetCheckSpec(
                "complete",
                asset="leaderboard",
                partitions_def=cells,
                description="Every generator of the graph has a row.",
            )
        ],
    )
    @guarded
    def leaderboard(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
        from pipeline.evaluation.leaderboard import to_markdown
        from pipeline.workflow.board import leaderboard_step
        from pipeline.workflow.cell import Cell
        from pipeline.workflow.report_index import publish_index

        book, store = load_book(), lake.open()
        cell = Cell.of(book, **key_of(context))
        version, rows = leaderboard_step(store, cell, generators, run_id=context.run.run_id)
        index = dg.MetadataValue.path(str(publish_index(store, book)))
        missing = sorted({*generators} - {row["key"] for row in rows})
        seconds = training_seconds(context.instance, cell.cohort, cell.month, generators)
        shown = to_markdown([{**row, "fit_seconds": seconds.get(row["key"])} for row in rows])
        return dg.MaterializeResult(
            data_version=dg.DataVersion(version.sha256),
            metadata=plain({"dagster/row_count": len(rows), "leaderboard": dg.MetadataValue.md(shown), "index": index}),
            check_results=[
                dg.AssetCheckResult(check_name="complete", passed=not missing, metadata={"missing": ", ".join(missing)})
            ],
        )

    return leaderboard
