"""Telling Dagster that a partition was rolled back, so that the UI and staleness are right."""

from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.partitions import cohort_month_key

if TYPE_CHECKING:
    from pipeline.store.version import Version

DATA_VERSION = "dagster/data_version"
_LOOK_BACK = 200
"""Materialisations of the partition that are searched for the one that made the version."""


def report_rollback(instance: dg.DagsterInstance, version: "Version", by: str) -> bool:
    """Report the version as the partition's latest materialisation, as it was reported when it was made.

    Its inputs are taken over too: what it was made from decides whether it is stale.

    Args:
        instance: Dagster's instance.
        version: The version that is current now.
        by: Who rolled back.

    Returns:
        Was the run that made it still known? If not, only the data version is told.
    """
    key = dg.AssetKey(version.asset.split("/"))
    keys = version.partition
    partition = cohort_month_key(keys["cohort"], keys["month"]) if "cohort" in keys else next(iter(keys.values()), None)
    before = _made(instance, key, partition, version.sha256)
    metadata: dict[str, Any] = {"rolled_back_to": version.version, "by": by}
    if before is not None:
        metadata = {**before.metadata, **metadata}
    tags = {name: text for name, text in ((before.tags or {}) if before is not None else {}).items() if _of_data(name)}
    instance.report_runless_asset_event(
        dg.AssetMaterialization(
            key,
            partition=partition,
            description=f"Rolled back to {version.version}.",
            metadata=metadata,
            tags={**tags, DATA_VERSION: version.sha256},
        )
    )
    return before is not None


def _made(
    instance: dg.DagsterInstance, key: dg.AssetKey, partition: str | None, sha256: str
) -> dg.AssetMaterialization | None:
    """The newest materialisation of the partition with this data version."""
    wanted = dg.AssetRecordsFilter(key, asset_partitions=[str(partition)] if partition is not None else None)
    for record in instance.fetch_materializations(wanted, limit=_LOOK_BACK).records:
        made = record.asset_materialization
        if made is not None and (made.tags or {}).get(DATA_VERSION) == sha256:
            return made
    return None


def _of_data(tag: str) -> bool:
    """Does the tag say what the data is and was made from? (Those of the partition are set anew.)"""
    return tag.startswith(("dagster/data_version", "dagster/code_version", "dagster/input_"))
