"""Checks that stand apart from the assets they look at, so that they can be run alone.

Structural ones (schema, rows, hash, data frame, declared rules) block what comes after in their run; `settings_current` blocks nothing.
All have partitions: an unpartitioned check on a partitioned asset lets the verdict of the last partition count for
all. Verdicts of the gate are given where they arise, in `evaluation.py`.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.guard import guarded
from assets.partitions import key_of
from assets.reporting import markdown_table
from pipeline.features.spec import load_book
from resources.lake import LakeResource

if TYPE_CHECKING:
    from pipeline.features.schema import Column, TableSchema
    from pipeline.workflow.constraints import Kept

STRUCTURE = {
    "schema": "The stored columns are exactly those of the schema, in order and type.",
    "row_count": "There are rows, and as many beside the table as in it.",
    "intact": "Every file has the hash it was committed with.",
}


def build_checks(cells: dg.MultiPartitionsDefinition, generators: list[str]) -> list[dg.AssetChecksDefinition]:
    """All checks that stand apart, for the features and for every generator."""
    staged = [f"{stage}/{name}" for stage in ("model", "synthetic", "evaluation") for name in generators]
    return [
        *(_structure(cells, asset) for asset in ("features", *(f"synthetic/{name}" for name in generators))),
        _real_rows_keep_rules(cells),
        *(_constraints_hold(cells, f"synthetic/{name}") for name in generators),
        _frame(cells),
        *(_settings_current(cells, asset) for asset in staged),
    ]


def _structure(cells: dg.MultiPartitionsDefinition, asset: str) -> dg.AssetChecksDefinition:
    key = dg.AssetKey(asset.split("/"))

    @dg.multi_asset_check(
        name=f"structure_of_{asset.replace('/', '_')}",
        specs=[
            dg.AssetCheckSpec(name, asset=key, blocking=True, partitions_def=cells, description=words)
            for name, words in STRUCTURE.items()
        ],
    )
    @guarded
    def structure(context: dg.AssetCheckExecutionContext, lake: LakeResource) -> Iterator[dg.AssetCheckResult]:
        from pipeline.workflow.structure import schema_of, structure_of

        store, partition = lake.open(), key_of(context)
        features = store.tables.resolve("features", partition)
        found = structure_of(store, store.tables.resolve(asset, partition), like=schema_of(store, features))
        faults = {"schema": found.schema, "row_count": found.rows, "intact": found.intact}
        for name, fault in faults.items():
            yield dg.AssetCheckResult(
                asset_key=key,
                check_name=name,
                passed=not fault,
                description=fault or None,
                metadata={"rows": found.row_count},
            )

    return structure


def _frame(cells: dg.MultiPartitionsDefinition) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset="features",
        name="frame",
        blocking=True,
        partitions_def=cells,
        description="A sample of the training rows, as a data frame, keeps types, levels, bounds and completeness of the schema.",
    )
    @guarded
    def frame(context: dg.AssetCheckExecutionContext, lake: LakeResource) -> dg.AssetCheckResult:
        from pipeline.features.stored import read_features
        from pipeline.workflow.structure import training_frame, violations

        store = lake.open()
        cohort = read_features(store.tables, store.tables.resolve("features", key_of(context)))
        sample = training_frame(cohort)
        # The type's own words quote the offending rows: only whether it holds is taken from it, the words are counts.
        holds = dg.check_dagster_type(frame_type(cohort.schema), sample).success
        broken = violations(cohort)
        words = "; ".join(f"{name}: {n} rows {what}" for name, counts in broken.items() for what, n in counts.items())
        passed = bool(holds) and not broken
        return dg.AssetCheckResult(
            passed=passed,
            description=None if passed else words or "a column's type differs",
            metadata={"rows_checked": len(sample), "columns_broken": len(broken)},
        )

    return frame


def _real_rows_keep_rules(cells: dg.MultiPartitionsDefinition) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset="features",
        name="constraints_kept",
        blocking=False,
        partitions_def=cells,
        description="The training rows keep the rules that the cohort's file asks of every synthetic row.",
    )
    @guarded
    def constraints_kept(context: dg.AssetCheckExecutionContext, lake: LakeResource) -> dg.AssetCheckResult:
        from pipeline.workflow.constraints import real_faults

        partition = key_of(context)
        found, words = real_faults(lake.open(), partition, load_book().cohort(partition["cohort"]).constraints)
        return dg.AssetCheckResult(
            passed=not words,
            severity=dg.AssetCheckSeverity.WARN,
            description=words or None,
            metadata=_rates(found),
        )

    return constraints_kept


def _constraints_hold(cells: dg.MultiPartitionsDefinition, asset: str) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=dg.AssetKey(asset.split("/")),
        name="constraints_hold",
        blocking=True,
        partitions_def=cells,
        description="Every synthetic row keeps every rule that it was drawn under.",
    )
    @guarded
    def constraints_hold(context: dg.AssetCheckExecutionContext, lake: LakeResource) -> dg.AssetCheckResult:
        from pipeline.workflow.constraints import faults, kept_by_synthetic

        store = lake.open()
        found = kept_by_synthetic(store, store.tables.resolve(asset, key_of(context)))
        words = faults(found)
        return dg.AssetCheckResult(passed=not words, description=words or None, metadata=_rates(found))

    return constraints_hold


def _rates(found: "list[Kept]") -> dict[str, Any]:
    """How often each rule is broken, as metadata."""
    rows = [{"rule": kept.rule, "broken": kept.broken, "of rows": kept.rows, "share": kept.rate} for kept in found]
    return {"rules": len(rows), **({"broken_by": markdown_table(rows)} if rows else {})}


def frame_type(schema: "TableSchema") -> dg.DagsterType:
    """The dagster-pandas type of a feature table's training rows."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        import dagster_pandas as dp

        return dp.create_dagster_pandas_dataframe_type(
            name="Features",
            description="Training rows of a feature table.",
            columns=[dp.PandasColumn(c.name, constraints=_constraints(c)) for c in schema.columns],
            dataframe_constraints=[dp.StrictColumnsConstraint(schema.names, enforce_ordering=True)],
        )


def _constraints(column: "Column") -> list[Any]:
    from dagster_pandas import constraints as rules

    dtypes = {
        "float64": {"float64"},
        "float32": {"float32"},
        "int64": {"Int64"},
        "int32": {"Int32"},
        "bool": {"boolean"},
        "string": {"string"},
        "timestamp[us]": {"datetime64[us]", "datetime64[ns]"},
        "date32[day]": {"object"},
    }
    made: list[Any] = [rules.ColumnDTypeInSetConstraint(dtypes[column.dtype])]
    if not column.nullable:
        made.append(rules.NonNullableColumnConstraint())
    if column.dtype == "string" and column.levels:
        made.append(
            rules.CategoricalColumnConstraint({str(level) for level in column.levels}, ignore_missing_vals=True)
        )
    elif column.discrete and column.levels and column.dtype != "bool":
        numbers = [float(level) for level in column.levels]
        made.append(rules.InRangeColumnConstraint(min(numbers), max(numbers), ignore_missing_vals=True))
    elif column.kind in ("continuous", "count") and column.bounds is not None:
        made.append(rules.InRangeColumnConstraint(*column.bounds, ignore_missing_vals=True))
    return made


def _settings_current(cells: dg.MultiPartitionsDefinition, asset: str) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=dg.AssetKey(asset.split("/")),
        name="settings_current",
        blocking=False,
        partitions_def=cells,
        description="Made with the settings that the cohort's file has now. Run it alone after editing a cohort.",
    )
    @guarded
    def settings_current(context: dg.AssetCheckExecutionContext, lake: LakeResource) -> dg.AssetCheckResult:
        from pipeline.workflow.settings import moved_on

        store = lake.open()
        kept = store.models if asset.startswith("model/") else store.tables
        partition = key_of(context)
        words = moved_on(kept.resolve(asset, partition), load_book().cohort(partition["cohort"]))
        return dg.AssetCheckResult(passed=not words, severity=dg.AssetCheckSeverity.WARN, description=words or None)

    return settings_current
