"""Postgres in place of SQLite for what Dagster knows of runs: DAGSTER_PG_URL in the environment is enough.

A home's dagster.yaml is given the block that names the variable; address and password never stand in a file. Only
runs, events and ticks are kept there. Data, models, ledger and journal are files of the lake, so a database that is
lost costs history and the run that was under way, never a result.
"""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.errors import CohortLoomError, ConfigError
from pipeline.store.disk import check_space, write_over
from pipeline.store.home import Home

URL_VARIABLE = "DAGSTER_PG_URL"
DRIVER = "postgresql+psycopg2"
STORAGE = {"postgres": {"postgres_url": {"env": URL_VARIABLE}}}
BLOCK = f"""
# Written because {URL_VARIABLE} was set when this home was prepared: runs and events are in that database.
storage:
  postgres:
    postgres_url:
      env: {URL_VARIABLE}
"""
CONNECT_SECONDS = 5
_DATABASE_MODULES = ("sqlalchemy", "psycopg", "psycopg2", "dagster_postgres", "sqlite3")


class InstanceError(CohortLoomError):
    """The database in which Dagster keeps its runs cannot be used."""


def settle_storage(configuration: Path) -> None:
    """Make a home's dagster.yaml use Postgres where the environment says so, and see that it answers.

    A block `storage` that somebody wrote by hand is left alone.

    Args:
        configuration: The home's dagster.yaml; it exists.

    Raises:
        ConfigError: the package is missing, the address is none, or the home keeps its runs in Postgres and the
            environment does not say where.
        InstanceError: the server does not answer, or does not let us in.
    """
    import yaml

    text = configuration.read_text(encoding="utf-8")
    storage = (yaml.safe_load(text) or {}).get("storage")
    url = with_driver(os.environ.get(URL_VARIABLE) or "")
    if storage is not None and storage != STORAGE:
        return
    if not url:
        if storage == STORAGE:
            raise ConfigError(
                f"This home keeps its runs in Postgres, but {URL_VARIABLE} is not set.",
                where=str(configuration),
                todo="Set it in the environment of every process, or take the block `storage` out (the history stays "
                "in the database).",
            )
        return
    _reach(url)
    os.environ[URL_VARIABLE] = url
    if storage is None:
        write_over(configuration, (text.rstrip("\n") + "\n" + BLOCK).encode())


def with_driver(url: str) -> str:
    """The address with the driver that dagster-postgres speaks.

    From version 2.1 on SQLAlchemy takes another one (psycopg 3) where none is named, and that refuses Dagster's NOTIFY
    statements.
    """
    scheme, separator, rest = url.partition("://")
    return f"{DRIVER}{separator}{rest}" if scheme in ("postgresql", "postgres") else url


@contextmanager
def kept_in_storage() -> Iterator[None]:
    """Turn the loss of Dagster's database while a run writes to it into one sentence; other errors pass.

    Raises:
        InstanceError: the database was lost.
        StoreError: the disk is full.
    """
    lost = False
    try:
        yield
    except Exception as error:
        if not _of_database(error):
            raise
        lost = True
    if lost:  # outside of the except block: texts of database errors quote statements and values
        check_space(Home.from_environment().root)  # SQLite calls a full disk an I/O error
        raise InstanceError(
            f"Dagster's database ({_named()}) was lost in the middle of the run.",
            todo="What the run had committed stays in the lake; run the same command again when the database is back.",
        )


def _reach(url: str) -> None:
    """Connect once."""
    if importlib.util.find_spec("dagster_postgres") is None:
        raise ConfigError(
            f"{URL_VARIABLE} is set, but the package dagster-postgres is not installed.",
            todo="Install the extra: pip install -e '.[dist]'.",
        )
    import sqlalchemy

    place = _place(url)  # raises before SQLAlchemy looks for a driver
    try:
        engine = sqlalchemy.create_engine(url, connect_args={"connect_timeout": CONNECT_SECONDS})
        engine.connect().close()
    except sqlalchemy.exc.SQLAlchemyError as error:
        reason = _reason(str(error))
    else:
        return
    raise InstanceError(f"Postgres at {place} {reason}.", todo=f"Start it, or mend {URL_VARIABLE}.")


def _place(url: str) -> str:
    """Host and port of an address, without user and password."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = None, None, None
    if parts is None or parts.scheme != DRIVER or not host:
        raise ConfigError(
            f"{URL_VARIABLE} is no address of a Postgres database.",
            todo="Write it as postgresql://USER:PASSWORD@HOST:5432/DATABASE.",
        )
    return f"{host}:{port or 5432}"


def _reason(text: str) -> str:
    """What the driver's text comes to; the text itself may hold the user's name."""
    if "authentication failed" in text or "no password supplied" in text:
        return "does not accept the user or the password"
    if "does not exist" in text:
        return "has no such database or user"
    return "does not answer"


def _named() -> str:
    url = os.environ.get(URL_VARIABLE)
    return f"Postgres at {_place(with_driver(url))}" if url else "SQLite in the folder dagster/"


def _of_database(error: BaseException | None) -> bool:
    """Does a database's driver stand anywhere in the chain of causes?"""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if type(error).__module__.split(".")[0] in _DATABASE_MODULES:
            return True
        error = error.__cause__ or error.__context__
    return False
