"""Jobs: taking in a delivery (one job a format), a cohort's month as a whole, the leaderboard and the release alone, the catalog,
the inventory, tuning, epsilon sweeps.

A job takes assets of one partitions definition, so deliveries and cohort-months never share one.
"""

from typing import get_args

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from pipeline.features.source import Format
from pipeline.workflow.deliveries import FORMATS_WITH_EVENTS

COHORT_MONTH_JOB = "cohort_month"
LEADERBOARD_JOB = "leaderboard_alone"
RELEASE_JOB = "publish_release"
CATALOG_JOB = "publish_catalog"
INVENTORY_JOB = "take_inventory"
TUNE_JOB = "tune"
SWEEP_JOB = "epsilon_sweep"


def ingest_job_name(format: str) -> str:
    """The job that takes in a delivery of this format."""
    return f"ingest_{format}"


def build_jobs(
    chain: list[dg.AssetKey], tuning: list[dg.AssetKey], sweeps: list[dg.AssetKey]
) -> list[UnresolvedAssetJobDefinition]:
    """All jobs; `chain` are the assets from `cohort_inputs` to `release`, `tuning` those that search settings, `sweeps`
    those that train at several epsilons.
    """
    return [
        *(_ingest_job(format) for format in get_args(Format)),
        dg.define_asset_job(
            COHORT_MONTH_JOB,
            selection=dg.AssetSelection.assets(*chain),
            description="One cohort in one month: inputs, features, every generator, evaluation, leaderboard, release.",
            tags={"dagster/priority": "1"},
        ),
        dg.define_asset_job(
            LEADERBOARD_JOB,
            selection=dg.AssetSelection.assets("leaderboard"),
            description="The leaderboard from what the lake has, e.g. after a run that ran out of memory.",
        ),
        dg.define_asset_job(
            RELEASE_JOB,
            selection=dg.AssetSelection.assets("release"),
            description="Publish the candidate of a cohort's month if it has passed and was signed; else say what it waits for.",
        ),
        dg.define_asset_job(
            CATALOG_JOB,
            selection=dg.AssetSelection.assets("catalog"),
            description="Build catalog.duckdb aside and swap it in.",
        ),
        dg.define_asset_job(
            INVENTORY_JOB,
            selection=dg.AssetSelection.assets("inventory"),
            description="Look over every cohort-month: what failed, is stale, missing or waits.",
        ),
        *_branch(TUNE_JOB, tuning, "Search settings of generators on a cohort's month; goes on where it was stopped."),
        *_branch(
            SWEEP_JOB,
            sweeps,
            "Train generators at several epsilons; charged to the ledger, goes on where it was stopped.",
        ),
    ]


def _branch(name: str, keys: list[dg.AssetKey], words: str) -> list[UnresolvedAssetJobDefinition]:
    """The job of a branch that is materialised when somebody asks for it; none where no generator in use has it."""
    return [dg.define_asset_job(name, selection=dg.AssetSelection.assets(*keys), description=words)] if keys else []


def _ingest_job(format: str) -> UnresolvedAssetJobDefinition:
    keys = [dg.AssetKey(["raw", format]), *([dg.AssetKey("events")] if format in FORMATS_WITH_EVENTS else [])]
    return dg.define_asset_job(
        ingest_job_name(format),
        selection=dg.AssetSelection.assets(*keys),
        description=f"Take in one {format} delivery" + (" and make its MEDS events." if len(keys) > 1 else "."),
    )
