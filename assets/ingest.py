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
    from pathlib import Path

    from pipeline.features.source import SourceSpec
    from pipeline.ingest.account import Account
    from pipeline.store.lake import Lake, Version

GROUP = "ingest"
OWNERS = ["team:data-platform"]
FORMATS: tuple[str, ...] = get_args(Format)

_GRAINS = {
    "fhir": "One row a FHIR R4 resource (Observation: one a value or component) in nine typed tables, for one delivery.",
    "mimic3": "One row a row of the CSV files of MIMIC-III 1.4, one table a declared table, for one delivery.",
    "mimic4": "One row a row of the CSV files of MIMIC-IV (hosp and icu), one table a declared table, for one delivery.",
    "meds": "One row an event as delivered, of a MEDS dataset (0.3 or 0.4), and its codes and labels, for one delivery.",
    "table": "One row a row of the CSV and Parquet files, one table a file name, for one delivery.",
}
_KINDS = {"fhir": "fhir", "meds": "meds"}
"""What the asset shows that it is made of; the others are CSV."""
RETRY = dg.RetryPolicy(max_retries=2, delay=2, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.FULL)
"""For bodies that mostly read and write files; only what a second attempt may mend is retried (`guard.py`)."""


def build_ingest() -> list[dg.AssetsDefinition]:
    """`raw/<format>` for every format, and `events`."""
    return [*(_raw(format) for format in FORMATS), _events()]


def _raw(format: str) -> dg.AssetsDefinition:
    key = dg.AssetKey(["raw", format])
    checks = {"balanced": True, "quarantine_rate": False, **({"validation": True} if format == "fhir" else {})}

    @dg.asset(
        key=key,
        partitions_def=DELIVERY,
        group_name=GROUP,
        kinds={"duckdb", "parquet", _KINDS.get(format, "csv")},
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
        from pipeline.workflow.delivery_report import publish_report

        delivery = landing.delivery(key_of(context)["delivery"])
        source = load_book().source(delivery.source)
        store = lake.open()
        version, account = take_in(store, delivery, source, format, compute.bound(), run_id=context.run.run_id)
        context.log.info(account.sentence())
        page = publish_report(store, version, run_id=context.run.run_id)
        words = {"as_of": delivery.as_of.isoformat(), **_report_metadata(store, version, page)}
        return dg.MaterializeResult(
            data_version=dg.DataVersion(version.sha256),
            metadata=plain({**words, **_raw_metadata(version, account)}),
            check_results=[
                *_raw_checks(account, source.max_quarantine_rate),
                *([_validation_check(account, source)] if "validation" in checks else []),
            ],
        )

    return raw


def _report_metadata(store: "Lake", version: "Version", page: "Path") -> dict[str, Any]:
    from pipeline.ingest.report import DeliveryFacts, markdown

    return {
        "report": dg.MetadataValue.md(markdown(DeliveryFacts.of(store.tables, version))),
        "report_page": dg.MetadataValue.path(str(page)),
    }


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
            description=_files_set_aside(account),
            metadata={
                "rate": float(rate),
                "limit": float(limit),
                "files": markdown_table([{"outcome": o, "files": n} for o, n in _outcomes(account).items()]),
            },
        ),
    ]


def _outcomes(account: "Account") -> dict[str, int]:
    return dict(account.info.get("files_by_outcome", {}))


def _files_set_aside(account: "Account") -> str | None:
    """How many files could not be used, in a sentence; None where all could."""
    counts = _outcomes(account)
    whole, partly = counts.get("quarantined", 0), counts.get("partly taken", 0)
    if not whole and not partly:
        return None
    return f"Of {sum(counts.values()):,} files {whole:,} could not be used and {partly:,} only in part; all others were taken."


def _validation_check(account: "Account", source: "SourceSpec") -> dg.AssetCheckResult:
    """The share of validated resources that failed, against the source's limit; only FHIR is validated."""
    from pipeline.ingest.fhir.validation import failure_rate

    told = account.info["validation"]
    rate, limit = failure_rate(told), source.validation.max_failure_rate
    words = f"{told['failed']:,} of {told['checked']:,} validated resources failed ({rate:.1%})"
    return dg.AssetCheckResult(
        check_name="validation",
        passed=rate <= limit,
        severity=dg.AssetCheckSeverity.ERROR,
        description=f"{words}, {'within' if rate <= limit else 'more than'} the {limit:.1%} that the source allows.",
        metadata={
            "mode": told["mode"],
            "rate": float(rate),
            "limit": float(limit),
            "types": markdown_table([{"type": kind, **counts} for kind, counts in told["types"].items()]),
            "faults": markdown_table(told["faults"]),
        },
    )


_CHECKS = {
    "balanced": "Records in = taken + not modelled + superseded + quarantined.",
    "quarantine_rate": "Quarantined records stay under half of the source's limit (above the limit the delivery is refused).",
    "validation": "Resources that fail validation by fhir.resources stay under the source's `validation.max_failure_rate`.",
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
        from pipeline.workflow.delivery_report import publish_report

        key = key_of(context)["delivery"]
        source = load_book().source(key.partition("--")[0])
        store = lake.open()
        version = make_events(store, source, key, compute.bound(), run_id=context.run.run_id)
        publish_report(
            store, store.tables.resolve(f"raw/{source.format}", {"delivery": key}), run_id=context.run.run_id
        )
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
