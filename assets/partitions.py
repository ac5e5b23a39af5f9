"""How the graph is cut: deliveries, cohorts and months.

One dynamic definition for everything that is made once a delivery, one two-dimensional definition (cohort x month)
for everything else, so that one run of one job makes a whole cohort-month. Generators are part of the asset key,
never a dimension: see `generation.py`. No edge relies on a mapping that Dagster infers; use `one_to_one` and
`every_partition_of`, which say it.
"""

import os
import re
from collections.abc import Sequence

import dagster as dg

from pipeline.errors import ConfigError
from pipeline.features.spec import CohortBook

DELIVERY = dg.DynamicPartitionsDefinition(name="delivery")
DEFAULT_START_MONTH = "2024-01-01"
_COHORT_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def start_month() -> str:
    """First month of the calendar, `YYYY-MM-01`, from COHORTLOOM_START_MONTH (`YYYY-MM` or a date).

    Raises:
        ConfigError: the variable is no month.
    """
    text = os.environ.get("COHORTLOOM_START_MONTH") or DEFAULT_START_MONTH
    if not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])(-\d{2})?", text):
        raise ConfigError(
            f"COHORTLOOM_START_MONTH is '{text}', which is no month.", todo="Write it as YYYY-MM, e.g. 2024-01."
        )
    return f"{text[:7]}-01"


def months() -> dg.MonthlyPartitionsDefinition:
    """Every month from the first one up to and including the running one (which is provisional)."""
    return dg.MonthlyPartitionsDefinition(start_date=start_month(), end_offset=1)


def cohort_keys(book: CohortBook) -> list[str]:
    """All cohorts, also retired ones and those whose file cannot be read: their partitions stay visible."""
    broken = [name for name in book.broken if _COHORT_KEY.fullmatch(name)]
    return sorted({*book.cohorts, *broken})


def cohort_month(book: CohortBook) -> dg.MultiPartitionsDefinition:
    """The partitions of everything between `cohort_inputs` and `leaderboard`: key `cohort|YYYY-MM-01`."""
    return dg.MultiPartitionsDefinition({"cohort": dg.StaticPartitionsDefinition(cohort_keys(book)), "month": months()})


def cohort_month_key(cohort: str, month: str) -> dg.MultiPartitionKey:
    """The key of one cohort in one month (`YYYY-MM-01`)."""
    return dg.MultiPartitionKey({"cohort": cohort, "month": month})


def key_of(context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext) -> dict[str, str]:
    """The store's partition of what is being made: `{"cohort", "month"}`, `{"delivery"}`, or nothing."""
    if not context.has_partition_key:
        return {}
    key = context.partition_key
    if isinstance(key, dg.MultiPartitionKey):
        return {"cohort": key.keys_by_dimension["cohort"], "month": key.keys_by_dimension["month"]}
    return {"delivery": str(key)}


def one_to_one(*keys: Sequence[str]) -> list[dg.AssetDep]:
    """Dependencies between assets of the same partitions, partition by partition."""
    return [dg.AssetDep(dg.AssetKey(list(key)), partition_mapping=dg.IdentityPartitionMapping()) for key in keys]


def every_partition_of(*keys: Sequence[str]) -> list[dg.AssetDep]:
    """Dependencies on all partitions: the body reads what the lake has, missing ones are no error."""
    return [dg.AssetDep(dg.AssetKey(list(key)), partition_mapping=dg.AllPartitionMapping()) for key in keys]
