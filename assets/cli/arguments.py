"""What several commands take or ask: the option --json, a month, the home of this environment."""

import datetime as dt
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.store.home import Home

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
