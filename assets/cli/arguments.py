"""What several commands take or ask: the option --json, a month, the home of this environment."""

import datetime as dt
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import ConfigError, NotFoundError

if TYPE_CHECKING:
    from pipeline.store.home import Home
    from pipeline.store.lake import Lake

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def home_here() -> "Home":
    """COHORTLOOM_HOME, made if need be; raises `StoreError` if it cannot be written."""
    from pipeline.store.home import Home

    return Home.from_environment().ensure()


def month_start(text: str) -> str:
    """The partition key `YYYY-MM-01` of a month given as `YYYY-MM`; raises `ConfigError` if it is none."""
    try:
        return f"{dt.datetime.strptime(text[:7], '%Y-%m').date():%Y-%m}-01"  # noqa: DTZ007 (a month has no zone)
    except ValueError as error:
        raise ConfigError(f"'{text}' is not a month.", todo="Write it as YYYY-MM, for example 2026-10.") from error


def evaluated_month(lake: "Lake", cohort: str, month: str | None) -> str:
    """The month asked for, or the newest, if the cohort was evaluated for it; raises `NotFoundError` if not."""
    months = [p["month"] for p in lake.tables.partitions("leaderboard") if p["cohort"] == cohort]
    chosen = month_start(month) if month else (months[-1] if months else None)
    if not months:
        raise NotFoundError(f"Cohort '{cohort}' has no leaderboard yet.", todo=f"cohortloom run {cohort}")
    if chosen is None or chosen not in months:
        made = ", ".join(m[:7] for m in months)
        raise NotFoundError(
            f"Cohort '{cohort}' was not evaluated for that month (there are: {made}).",
            todo=f"cohortloom run {cohort} --month {chosen[:7]}" if chosen else f"cohortloom run {cohort}",
        )
    return chosen
