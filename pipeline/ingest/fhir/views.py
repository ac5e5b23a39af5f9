"""The tables of the user's views in a draft, made after those of the resource types from the very same files.

A superseded or deleted resource gives no row: the primary table of its type says which resources are left. What a view
cannot take is found by halving, left out of it and counted; the resource itself stays taken.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import orjson

from pipeline.ingest.fhir.user_views import UserView
from pipeline.store.connection import literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pipeline.ingest.fhir.state import Work
    from pipeline.ingest.fhir.tables import RawTables, Source

_CHUNK: Final = 16 * 1024 * 1024
_MOST_TRIALS: Final = 400
"""How often a view is tried on part of the resources before it is given up for this delivery."""


def write_views(work: Work, tables: RawTables, views: Sequence[UserView]) -> None:
    """Write the tables of these views, and say in the account how they went.

    Args:
        work: The delivery; its tables are written, settled and without deleted resources.
        tables: Those tables.
        views: The views.
    """
    told = {}
    for view in views:
        sources = sorted(work.sources.get(view.compiled.resource, []), key=lambda source: source.order)
        left_out = _Writing(tables, view).write(sources)
        rows = None
        if left_out is not None:
            ((rows,),) = tables.run(f"SELECT count(*) FROM read_parquet({literal(tables.file(view.name))})")
        told[view.name] = {"resource": view.compiled.resource, "rows": rows, "left_out": left_out}
    if told:
        work.account.info["views"] = told


class _Writing:
    """One view over the files of one delivery."""

    def __init__(self, tables: RawTables, view: UserView) -> None:
        self.tables, self.view, self.trials = tables, view, 0

    def write(self, sources: Sequence[Source]) -> int | None:
        """Write the table; gives how many resources it could not take, None where there is no table for too many."""
        if self._copy(sources):
            return 0
        fitting, left_out = [], 0
        for number, source in enumerate(sources):
            if self._fits([source]):
                fitting.append(source)
                continue
            path = self.tables.scratch / f"view-{number}.ndjson"
            bad = self._without_misfits(source, path)
            if bad is None:
                return None
            left_out += bad
            fitting.append(replace(source, path=path))
        return left_out if self._copy(fitting) else None

    def _without_misfits(self, source: Source, target: Path) -> int | None:
        """Write a source with stand-ins for the resources that the view cannot take; gives their number."""
        total = 0
        with target.open("wb") as out:
            for records in _chunks(source.path):
                bad = self._halve(records, 0, source)
                if bad is None:
                    return None
                total += len(bad)
                for place in bad:
                    records[place] = _stand_in(self.view.compiled.resource)
                out.writelines(records)
        return total

    def _halve(self, records: list[bytes], offset: int, source: Source) -> list[int] | None:
        """Places of the records that the view cannot take; None where there are too many to look for."""
        trial = self.tables.scratch / "trial.ndjson"
        trial.write_bytes(b"".join(records))
        self.trials += 1
        if self.trials > _MOST_TRIALS:
            return None
        if not records or self._fits([replace(source, path=trial, longest=max(map(len, records)))]):
            return []
        if len(records) == 1:
            return [offset]
        middle = len(records) // 2
        first = self._halve(records[:middle], offset, source)
        second = self._halve(records[middle:], offset + middle, source) if first is not None else None
        return None if first is None or second is None else first + second

    def _fits(self, sources: Sequence[Source]) -> bool:
        compiled = self.view.compiled
        reader = self.tables.read_all(sources, compiled.shape)
        select = compiled.select.replace("{source}", f"(SELECT * FROM {reader})")
        return self.tables.copies(select, self.tables.scratch / "trial.parquet")

    def _copy(self, sources: Sequence[Source]) -> bool:
        """Write the rows of the resources that the delivery keeps."""
        compiled, kind = self.view.compiled, self.view.compiled.resource
        reader = self.tables.read_all(sources, compiled.shape)
        dropped = self.tables.dropped.get(kind)
        if dropped is None:
            source = f"(SELECT * FROM {reader})"
        else:
            numbered = f"SELECT *, row_number() OVER () - 1 AS _nth FROM {reader}"
            source = (
                f"(SELECT * FROM ({numbered}) WHERE _nth NOT IN (SELECT nth FROM read_parquet({literal(dropped)})))"
            )
        select = compiled.select.replace("{source}", source)
        kept = f"SELECT * FROM ({select}) WHERE key IN (SELECT key FROM {self.tables.scan(kind)})"
        return self.tables.copies(kept, self.tables.file(self.view.name), primary=self.view.primary)


def _chunks(path: Path) -> Iterator[list[bytes]]:
    """The records of a file, some MiB at a time."""
    records: list[bytes] = []
    size = 0
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                records.append(line if line.endswith(b"\n") else line + b"\n")
                size += len(line)
            if size > _CHUNK:
                yield records
                records, size = [], 0
    yield records


def _stand_in(kind: str) -> bytes:
    """A resource with nothing in it: it keeps the place of one that is left out, and its key is not the key of any."""
    return orjson.dumps({"resourceType": kind, "id": "(left out)"}) + b"\n"
