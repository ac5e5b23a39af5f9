"""`catalog`: the DuckDB file that notebooks and BI open. Unpartitioned, with a job of its own; built in `pipeline/workflow/`."""

import dagster as dg

from assets.guard import guarded
from assets.ingest import FORMATS, OWNERS, RETRY
from assets.partitions import every_partition_of
from assets.reporting import markdown_table, plain
from resources.compute import ComputeResource
from resources.lake import LakeResource

GROUP = "catalog"


def build_catalog(generators: list[str]) -> dg.AssetsDefinition:
    """The catalogue; it reads what the lake has, whatever of it was made."""
    upstream = [
        *(["raw", format] for format in FORMATS),
        ["events"],
        ["features"],
        ["references"],
        ["leaderboard"],
        ["release"],
        *([stage, name] for stage in ("synthetic", "evaluation") for name in generators),
    ]

    @dg.asset(
        key="catalog",
        deps=every_partition_of(*upstream),
        group_name=GROUP,
        kinds={"duckdb"},
        owners=OWNERS,
        tags={"phi": "true"},
        description="One DuckDB file: `features.<cohort>`, `synthetic.<cohort>`, `released.<cohort>` and `metrics.*` as tables, raw "
        "tables and events as views. Open it read-only; it is replaced as a whole.",
        code_version="1",
        pool="catalog",
        retry_policy=RETRY,
    )
    @guarded
    def catalog(
        context: dg.AssetExecutionContext, lake: LakeResource, compute: ComputeResource
    ) -> dg.MaterializeResult:
        from pipeline.workflow.catalog import publish_catalog

        published = publish_catalog(lake.open(), compute.bound())
        rows = [
            {"table": name, "rows": count if count is not None else "view"} for name, count in published.tables.items()
        ]
        return dg.MaterializeResult(
            data_version=dg.DataVersion(published.sha256),
            metadata=plain(
                {
                    "path": dg.MetadataValue.path(str(published.path)),
                    "tables": markdown_table(rows),
                    "dagster/row_count": sum(count or 0 for count in published.tables.values()),
                }
            ),
        )

    return catalog
