"""`cohort_inputs` and `features`. Partition: cohort x month. How a feature table is built is in `pipeline/features/`."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from assets.guard import guarded
from assets.ingest import FORMATS, OWNERS, RETRY
from assets.partitions import every_partition_of, key_of, one_to_one
from assets.reporting import BLOCKS_SAID, column_lineage, column_schema, markdown_table, plain
from pipeline.features.spec import CohortBook, load_book
from resources.compute import ComputeResource
from resources.lake import LakeResource

if TYPE_CHECKING:
    from pipeline.features.block_account import BlockAccount

GROUP = "features"


def build_features(cells: dg.MultiPartitionsDefinition, book: CohortBook) -> list[dg.AssetsDefinition]:
    """`cohort_inputs` and `features`; `book` is only looked at for what is disabled."""
    return [_cohort_inputs(cells, book), _features(cells)]


class InputsConfig(dg.Config):
    """What may be said of `cohort_inputs` in the launchpad."""

    new_split: bool = Field(
        default=False,
        description="Accept that the split key has changed: former training subjects may then judge new models.",
    )


def _cohort_inputs(cells: dg.MultiPartitionsDefinition, book: CohortBook) -> dg.AssetsDefinition:
    @dg.asset(
        key="cohort_inputs",
        deps=every_partition_of(*(["raw", format] for format in FORMATS), ["events"]),
        partitions_def=cells,
        group_name=GROUP,
        kinds={"json"},
        owners=OWNERS,
        tags={"phi": "false"},
        description="One record a cohort and month: which deliveries of the cohort's source count, with their hashes, and "
        "the hashes of its SQL and columns. Its data version changes only when one of these does.",
        metadata={f"disabled/{name}": reason for name, reason in book.broken.items()},
        code_version="1",
        retry_policy=RETRY,
        check_specs=[
            dg.AssetCheckSpec(
                "cohort_file",
                asset="cohort_inputs",
                blocking=True,
                partitions_def=cells,
                description="The cohort's file can be read; a broken one disables this cohort and no other.",
            )
        ],
    )
    @guarded
    def cohort_inputs(
        context: dg.AssetExecutionContext, config: InputsConfig, lake: LakeResource
    ) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult]:
        from pipeline.workflow.cell import Cell
        from pipeline.workflow.features import gather_step

        key, now = key_of(context), load_book()
        reason = now.broken.get(key["cohort"], "")
        yield dg.AssetCheckResult(check_name="cohort_file", passed=not reason, description=reason or None)
        version, inputs = gather_step(
            lake.open(), Cell.of(now, **key), new_split=config.new_split, run_id=context.run.run_id
        )
        rows = [
            {"delivery": key, "as of": str(as_of), "sha256": sha256[:12]} for key, sha256, as_of in inputs.deliveries
        ]
        yield dg.MaterializeResult(
            data_version=dg.DataVersion(version.sha256),
            metadata=plain(
                {
                    "deliveries": markdown_table(rows),
                    "delivery_count": len(rows),
                    "provisional": inputs.provisional,
                    "known_until": inputs.as_of_end.isoformat(),
                    "sql_sha256": inputs.sql_sha256[:12],
                    "columns_sha256": inputs.spec_sha256[:12],
                    "split_fingerprint": inputs.split_fingerprint,
                }
            ),
            tags={"provisional": str(inputs.provisional).lower()},
        )

    return cohort_inputs


def _features(cells: dg.MultiPartitionsDefinition) -> dg.AssetsDefinition:
    @dg.asset(
        key="features",
        deps=one_to_one(["cohort_inputs"]),
        partitions_def=cells,
        group_name=GROUP,
        kinds={"duckdb", "sql", "parquet"},
        owners=OWNERS,
        tags={"phi": "true"},
        description="One row a unit of the cohort (patient, stay or row) as known at the end of the month, with subject "
        "ids and the frozen split beside it.",
        metadata={"dagster/table_name": "features"},
        code_version="1",
        retry_policy=RETRY,
    )
    @guarded
    def features(
        context: dg.AssetExecutionContext, lake: LakeResource, compute: ComputeResource
    ) -> dg.MaterializeResult:
        from pipeline.workflow.cell import Cell
        from pipeline.workflow.features import features_step

        cell = Cell.of(load_book(), **key_of(context))
        version, built = features_step(lake.open(), cell, compute.bound(), run_id=context.run.run_id)
        schema = built.cohort.schema
        return dg.MaterializeResult(
            data_version=dg.DataVersion(version.sha256),
            metadata=plain(
                {
                    "dagster/row_count": built.cohort.n_rows,
                    "dagster/column_schema": column_schema(schema),
                    "dagster/column_lineage": column_lineage(schema, dg.AssetKey(["raw", cell.source.format])),
                    "columns": len(schema.columns),
                    "subjects": built.cohort.n_subjects,
                    "counts": markdown_table([{"what": name, "count": n} for name, n in built.counts.items()]),
                    **_block_facts(built.blocks),
                }
            ),
        )

    return features


def _block_facts(blocks: "Mapping[str, BlockAccount]") -> dict[str, Any]:
    """What the code blocks hold, and what of their records was left out and why; nothing for a cohort without any."""
    if not blocks:
        return {}
    held = [
        {
            "block": name,
            "codes": b.codes,
            "cells": b.cells,
            "density": b.density,
            "records": b.records,
            "taken": b.taken,
        }
        for name, b in blocks.items()
    ]
    beside = [
        {"block": name, "what": what, "reason": reason, "codes": tally.codes, "records": tally.records}
        for name, b in blocks.items()
        for what, tallies in (("left out", b.left_out), ("kept as it is", b.as_they_are))
        for reason, tally in tallies.items()
    ]
    numbers = {
        f"{name}_{what}": n for name, b in blocks.items() for what, n in (("codes", b.codes), ("density", b.density))
    }
    said = "\n".join(b.sentence(name) for name, b in blocks.items())
    tables = {"code_blocks": markdown_table(held), "codes_left_out": markdown_table(beside)}
    return {BLOCKS_SAID: said, **tables, **numbers}
