"""Tells Dagster of rows that were made elsewhere and judged from the command line, and of the leaderboard with them."""

from typing import TYPE_CHECKING

import dagster as dg

from assets.partitions import cohort_month_key
from assets.rollback import DATA_VERSION

if TYPE_CHECKING:
    from pipeline.store.lake import Version


def tell_made(instance: dg.DagsterInstance, version: "Version", words: str) -> None:
    """Enter a version that no run of Dagster made: the lake is the truth, the UI must not show an older one."""
    partition = cohort_month_key(version.partition["cohort"], version.partition["month"])
    instance.report_runless_asset_event(
        dg.AssetMaterialization(
            dg.AssetKey(version.asset.split("/")),
            partition=partition,
            description=words,
            tags={DATA_VERSION: version.sha256},
        )
    )
