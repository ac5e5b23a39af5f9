"""Rows made elsewhere (`external/<name>`), judged in the same leaderboard as the generators of the house.

They are no candidates: nothing is known of what made them, so they can never be released. On the leaderboard and in the
store they go by the generator name `external.<name>`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError, InputError, NotFoundError, nearest
from pipeline.evaluation.intake import take_in_rows
from pipeline.features.stored import read_features
from pipeline.features.tables import read_untidy
from pipeline.workflow.judging import Judged, Rows, judge_rows, references_current, references_step

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.store.lake import Lake, Version
    from pipeline.workflow.cell import Cell

PREFIX = "external."
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")


def rows_asset(generator: str) -> str:
    """Where the rows of a generator lie: `synthetic/<g>`, or `external/<name>` of one that is not of the house."""
    return f"external/{generator.removeprefix(PREFIX)}" if generator.startswith(PREFIX) else f"synthetic/{generator}"


def external_generators(lake: Lake, cell: Cell) -> list[str]:
    """Names of the rows made elsewhere that this cell has, as generator names, sorted."""
    assets = [a for a in lake.tables.assets() if a.startswith("external/")]
    return [PREFIX + a.partition("/")[2] for a in assets if lake.tables.current(a, cell.partition) is not None]


def take_external(
    lake: Lake, cell: Cell, name: str, file: Path, *, encoding: str | None = None
) -> tuple[Version, list[str]]:
    """Put a file of synthetic rows into `external/<name>` of the cell; gives the version and what is wrong with the rows.

    Raises:
        ConfigError: the name is none.
        NotFoundError: there is no such file, or the cell has no features.
        InputError: the file cannot be read, has no row, or no column of the cohort.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"'{name}' is no name.", todo="Use letters, digits, _ and -, at most 40.")
    features = lake.tables.resolve("features", cell.partition)
    schema = read_features(lake.tables, features).schema
    try:
        table = read_untidy(file, like=schema, encoding=encoding)
        taken = take_in_rows(table, schema)
    except InputError as error:
        raise InputError(error.what, where=error.where or str(file), todo=error.todo) from None
    with lake.tables.draft(f"external/{name}", cell.partition) as draft:
        draft.add_table("data", table)
        info = {"generator": PREFIX + name, "rows": table.num_rows, "notes": taken.notes}
        # Whose rows these may hold is not known: erasing somebody of the features takes them too.
        version = draft.commit(inputs={features.label: features.sha256}, info=info)
    return version, taken.notes


def judge_external(lake: Lake, cell: Cell, name: str, *, device: str = "auto") -> Judged:
    """Judge `external/<name>` into `evaluation/external.<name>`, scoring the reference rows first where that is due.

    Raises:
        NotFoundError: there are no such rows, or the cell has no features.
    """
    features = lake.tables.resolve("features", cell.partition)
    stored = lake.tables.resolve(f"external/{name}", cell.partition)
    if not references_current(lake, cell):
        references_step(lake, cell, device=device)
    references = lake.tables.resolve("references", cell.partition)
    schema = read_features(lake.tables, features).schema
    taken = take_in_rows(lake.tables.read(stored), schema)
    info: dict[str, Any] = {"generator": PREFIX + name, "notes": taken.notes}
    rows = Rows(PREFIX + name, [taken.cohort], stored, features, references)
    return judge_rows(lake, cell, rows, info=info, device=device)


def remove_external(lake: Lake, cell: Cell, name: str) -> int:
    """Remove `external/<name>` of the cell for good, with its evaluation and reports; gives how many versions that was.

    Raises:
        NotFoundError: the cell has no such rows.
    """
    known = [g.removeprefix(PREFIX) for g in external_generators(lake, cell)]
    if name not in known:
        raise NotFoundError(f"There are no rows '{name}' in {cell.cohort} {cell.month[:7]}.", todo=nearest(name, known))
    evaluation = f"evaluation/{PREFIX}{name}"
    # The rows go last: after a kill in between they are still there, and the same command goes on.
    places = ((lake.reports, evaluation), (lake.tables, evaluation), (lake.tables, f"external/{name}"))
    return sum(store.purge(version) for store, asset in places for version in store.history(asset, cell.partition))
