"""`privacy_ledger`: what the trainings of a cohort have cost, up to a month. Partition: cohort x month.

The ledger itself is in the journal, where a training that would pass the budget is refused before it begins; this
asset is how it is read, plotted and checked. What adds up how is in `pipeline/privacy/`.
"""

from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.guard import guarded
from assets.ingest import RETRY
from assets.partitions import key_of, one_to_one
from assets.reporting import markdown_table, plain
from pipeline.features.spec import load_book
from resources.lake import LakeResource

if TYPE_CHECKING:
    from pipeline.workflow.ledger import Folded

GROUP = "release"
OWNERS = ["team:privacy"]
SHOWN = ("month", "generator", "state", "replicates", "models", "epsilon", "delta", "cumulative_epsilon")


def build_ledger(cells: dg.MultiPartitionsDefinition, generators: list[str]) -> dg.AssetsDefinition:
    """`privacy_ledger` over the models of all generators."""

    @dg.asset(
        key="privacy_ledger",
        deps=one_to_one(*(["model", name] for name in generators)),
        partitions_def=cells,
        group_name=GROUP,
        kinds={"markdown", "parquet"},
        owners=OWNERS,
        tags={"phi": "false"},
        description="One row a training of the cohort up to this month, with what it cost in privacy and what all before it "
        "cost together.",
        code_version="1",
        retry_policy=RETRY,
        check_specs=[
            dg.AssetCheckSpec(
                "within_budget",
                asset="privacy_ledger",
                partitions_def=cells,
                description="The trainings up to this month cost no more than the cohort may spend. Blocks nothing: a "
                "training beyond the budget is refused before it begins, and a release reads the ledger itself.",
            )
        ],
    )
    @guarded
    def privacy_ledger(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
        from pipeline.workflow.cell import Cell
        from pipeline.workflow.ledger import ledger_step

        cell = Cell.of(load_book(), **key_of(context))
        folded = ledger_step(lake.open(), cell, run_id=context.run.run_id)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(folded.version.sha256),
            metadata=plain(_metadata(folded)),
            check_results=[
                dg.AssetCheckResult(
                    check_name="within_budget",
                    passed=folded.within,
                    description=folded.words or None,
                    severity=dg.AssetCheckSeverity.ERROR,
                    metadata=plain({"epsilon": folded.total.epsilon, "delta": folded.total.delta}),
                )
            ],
        )

    return privacy_ledger


def _metadata(folded: "Folded") -> dict[str, Any]:
    """The ledger as a table, and its sums as numbers (plotted over runs; an infinite one as text)."""
    facts: dict[str, Any] = {
        "dagster/row_count": len(folded.rows),
        "epsilon": folded.total.epsilon,
        "delta": folded.total.delta,
        "open": sum(row["state"] == "open" for row in folded.rows),
        "trainings": markdown_table(folded.rows, SHOWN),
        "without_an_entry": ", ".join(folded.unentered) or None,
    }
    if folded.budget is not None:
        facts |= {"budget_epsilon": folded.budget.epsilon, "budget_delta": folded.budget.delta}
    return facts
