"""Deliveries: `raw/<format>` (typed raw tables, account, quarantine) and `events` (MEDS). Partition: delivery.

How formats are read is in `pipeline/ingest/`; who asks for a delivery to be taken in is in `sensors.py`.
"""

from typing import TYPE_CHECKING, Any, get_args

import dagster as dg

from assets.guard import guarded
from assets.partitions import DELIVERY, key_of, one_to_one
from assets.reporting import markdown_table, plain, raw_column_schema
from pipeline.features.source import Format
from pipeline.features.spec import load_book
from pipeline.workflow.deliveries import FORMATS_WITH_EVENTS
from resources.compute import ComputeResource
from resources.lake import LakeResource
from resources.landing import LandingResource

if TYPE_CHECKING:
    from pipeline.ingest.account import Account
    from pipeline.store.lake import Version

GROUP = "ingest"
OWNERS = ["team:data-platform"]
FORMATS: tuple[str, ...] = get_args(Format)

_GRAINS = {
    "fhir": "One row a FHIR R4 resource (Observation: one a value or component) in nine typed tables, for one delivery.",
    "table": "One row a row of the CSV and Parquet files, one table a file name, for one delivery.",
}
RETRY = dg.RetryPolicy(max_retries=2, delay=2, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.FULL)
"""For bodies that mostly read and write files; only what a second attempt may mend is retried (`guard.py`)."""


def build_ingest() -> list[dg.AssetsDefinition]:
    """`raw/<format>` for every format, and `events`."""
    return [*(_raw(format) for format in FORMATS), _events()]


def _raw(format: str) -> dg.AssetsDefinition:
    key = dg.AssetKey(["raw", format])
    checks = {"balanced": True, "quarantine_rate": False}

    @dg.asset(
        key=key,
        partitions_def=DELIVERY,
        group_name=GROUP,
        kinds={"duckdb", "parquet", "fhir" if format == "fhir" else "csv"},
        owners=OWNERS,
        tags={"phi": "true", "format": format},
        description=f"{_GRAINS[format]} Beside them the delivery account and the quarantine.",
        code_version="1",
        retry_policy=RETRY,
        check_specs=[
            dg.AssetCheckSpec(name, asset=key, blocking=blocking, partitions_def=DELIVERY, description=_CHECKS[name])
            for name, blocking in checks.items()
        ],
    )
    @guarded
    def raw(
        context: dg.AssetExecutionContext, lake: LakeResource, landing: LandingResource, compute: ComputeResource
    ) -> dg.MaterializeResult:
        from pipeline.workflow.deliveries import take_in

        delivery = landing.delivery(key_of(context)["delivery"])
        source = load_book().source(delivery.source)
        version, account = take_in(lake.open(), delivery, source, format, compute.bound(), run_id=context.run.run_id)
        context.log.info(account.sentence())
        return dg.MaterializeResult(
            data_version=dg.DataVersion(version.sha256),
            metadata=plain({"as_of": delivery.as_of.isoformat(), **_raw_metadata(version, account)}),
            check_results=_raw_checks(account, source.max_quarantine_rate),
        )

    return raw


def _raw_metadata(version: "Version", account: "Account") -> dict[str, Any]:
    tables = {name: stored.schema for name, stored in version.files.items() if stored.schema is not None}
    parts = [("taken", account.taken), ("not modelled", account.not_modelled), ("superseded", account.superseded)]
    kinds = sorted({kind for _, part in parts for kind in part})
    return {
        "dagster/row_count": sum(stored.rows or 0 for stored in version.files.values()),
        "dagster/column_schema": raw_column_schema(tables),
        "account": markdown_table([{"type": k, **{name: part.get(k, 0) for name, part in parts}} for k in kinds]),
        "records_in": account.in_,
        "records_quarantined": sum(account.quarantined.values()),
        "quarantine": markdown_table([{"reason": r, "records": n} for r, n in account.quarantined.items()]),
        "files": account.files,
        "bytes": account.bytes,
    }


def _raw_checks(account: "Account", limit: float) -> list[dg.AssetCheckResult]:
    rate = account.quarantine_rate
    return [
        dg.AssetCheckResult(check_name="balanced", passed=account.balanced, metadata={"account": account.sentence()}),
        dg.AssetCheckResult(
            check_name="quarantine_rate",
            passed=rate <= limit / 2,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"rate": float(rate), "limit": float(limit)},
        ),
    ]


_CHECKS = {
    "balanced": "Records in = taken + not modelled + superseded + quarantined.",
    "quarantine_rate": "Quarantined records stay under half of the source's limit (above the limit the delivery is refused).",
}


def _events() -> dg.AssetsDefinition:
    @dg.asset(
        key="events",
        deps=one_to_one(*(["raw", format] for format in FORMATS_WITH_EVENTS)),
        partitions_def=DELIVERY,
        group_name=GROUP,
        kinds={"meds", "parquet"},
        owners=OWNERS,
        tags={"phi": "true"},
        description="One row an event of a patient (MEDS 0.4), for one delivery; plain tables skip it.",
        code_version="1",
        retry_policy=RETRY,
    )
    @guarded
    def events(context: dg.AssetExecutionContext, lake: LakeResource, compute: ComputeResource) -> dg.MaterializeResult:
        from pipeline.workflow.deliveries import make_events

        key = key_of(context)["delivery"]
        source = load_book().source(key.partition("--")[0])
        version = make_events(lake.open(), source, key, compute.bound(), run_id=context.run.run_id)
        data, subjects = version.files["data"], version.files["subjects"]
        return dg.MaterializeResult(
            data_version=dg.DataVersion(version.sha256),
            metadata=plain(
                {
                    "dagster/row_count": data.rows,
                    "dagster/column_schema": dg.TableSchema(
                        columns=[dg.TableColumn(name, kind) for name, kind in (data.schema or {}).items()]
                    ),
                    "subjects": subjects.rows,
                    "rows_without_subject": version.info["counts"]["without_subject"],
                }
            ),
        )

    return events
