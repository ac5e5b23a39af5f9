"""Raw FHIR tables in a draft: the COPY of each type, its duplicates, and the links between types.

All SQL of the FHIR reader that is not about the columns of one type is here. A statement that raises is reported as
"no" only; DuckDB's message stays inside, since it quotes the record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import orjson

from pipeline.errors import StoreError
from pipeline.ingest.fhir_columns import MACROS, TYPES, duckdb_columns
from pipeline.ingest.quarantine import Rejected, rejected
from pipeline.store.connection import literal

if TYPE_CHECKING:
    from pipeline.ingest.account import Account
    from pipeline.store.draft import Draft

_REFUSALS = (
    duckdb.InvalidInputException,
    duckdb.ConversionException,
    duckdb.OutOfRangeException,
    duckdb.InvalidTypeException,
)
_PARQUET = "(FORMAT parquet, COMPRESSION zstd)"
_EARLY = "TIMESTAMP '0001-01-01'"


@dataclass
class Source:
    """An NDJSON file of one type that DuckDB reads.

    Attributes:
        order: Place among the sources of its type.
        path: Plain NDJSON.
        records: Its number of records.
        raw: Number of the delivery's file if it is read as it came; None for a file from `fhir_split`.
        lines_before: For split files: lines before each (file, part).
        names: For split files: file numbers to paths in the delivery.
    """

    order: tuple[int, int, int]
    path: Path
    records: int
    raw: int | None
    lines_before: dict[tuple[int, int], int] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)


class RawTables:
    """Writes the tables of one delivery.

    Attributes:
        written: Type to the order keys of the sources its table was last made from.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, draft: Draft) -> None:
        self.connection, self.draft = connection, draft
        self.written: dict[str, list[tuple[int, int, int]]] = {}
        self.scratch = draft.folder("reading")
        for macro in MACROS:
            self._run(f"CREATE MACRO {macro}")

    def _run(self, sql: str) -> list[Any]:
        try:
            return self.connection.execute(sql).fetchall()
        except duckdb.OutOfMemoryException:
            pass
        raise StoreError("DuckDB needs more memory than it may use.", todo="Raise the memory limit of the ingest.")

    def _try(self, action: Callable[[], Any]) -> bool:
        try:
            action()
        except _REFUSALS:
            return False
        return True

    def path(self, kind: str) -> Path:
        """Where the table of a type lies in the draft."""
        return self.draft.file(f"{TYPES[kind].table}.parquet")

    def count_only(self, path: Path, kind: str, records: int) -> bool:
        """True if all `records` lines of this file are JSON objects of one type that is not modelled."""
        found: list[Any] = []
        sql = f"SELECT resourceType, count(*) FROM {_reader([path], {'resourceType': 'text'})} GROUP BY 1"
        return self._try(lambda: found.extend(self._run(sql))) and found == [(kind, records)]

    def write(self, kind: str, sources: Sequence[Source]) -> bool:
        """Write the table of a type from these sources, in their order; False where DuckDB refuses."""
        paths = [source.path for source in sources]
        if not paths:
            empty = self.scratch / "empty.ndjson"
            empty.touch()
            paths = [empty]
        whole = self._copy(kind, paths, self.path(kind))
        if whole and sources:
            (found,) = self._run(f"SELECT count(*) FROM {_parquet(self.path(kind))} WHERE {_first(kind)}")
            whole = found[0] == sum(source.records for source in sources)
        if whole:
            self.written[kind] = [source.order for source in sources]
        return whole

    def _copy(self, kind: str, paths: list[Path], target: Path) -> bool:
        reader = _reader(paths, TYPES[kind].shape)
        select = TYPES[kind].select.replace("{source}", reader)
        return self._try(lambda: self._run(f"COPY ({select}) TO {literal(target)} {_PARQUET}"))

    def reads(self, kind: str, source: Source) -> bool:
        """Does DuckDB take this source alone?"""
        return self._copy(kind, [source.path], self.scratch / "trial.parquet")

    def pick_out(self, kind: str, sources: Sequence[Source]) -> list[Rejected]:
        """Take out of split files the records that DuckDB alone objects to, by halving; gives what was taken out.

        The judge and the SELECT hold the same rules, so this is for what only DuckDB minds (a repeated key).
        The files are rewritten and the counts of their sources set anew.
        """
        found: list[Rejected] = []
        for source in sources:
            if self.reads(kind, source):
                continue
            records = source.path.read_bytes().splitlines(keepends=True)
            bad = set(self._halve(kind, records, 0))
            found += [_where(records[index], kind, source) for index in sorted(bad)]
            keep = [record for index, record in enumerate(records) if index not in bad]
            source.path.write_bytes(b"".join(keep))
            source.records = len(keep)
        return found

    def _halve(self, kind: str, records: list[bytes], offset: int) -> list[int]:
        """Indices of the records that DuckDB refuses."""
        trial = self.scratch / "trial.ndjson"
        trial.write_bytes(b"".join(records))
        if not records or self._copy(kind, [trial], self.scratch / "trial.parquet"):
            return []
        if len(records) == 1:
            return [offset]
        middle = len(records) // 2
        return self._halve(kind, records[:middle], offset) + self._halve(kind, records[middle:], offset + middle)

    def settle(self, kind: str) -> tuple[int, int]:
        """Keep one version of every resource: the latest `meta.lastUpdated`, else the last in file order.

        Returns:
            Resources kept, and resources superseded.
        """
        table, path = _parquet(self.path(kind)), self.path(kind)
        # 64-bit hashes first: cheap, and a collision only sends us the long way.
        ((total, distinct),) = self._run(
            f"SELECT count(*), count(DISTINCT hash(key)) FROM {table} WHERE {_first(kind)}"
        )
        if total == distinct:
            return total, 0
        # A resource may be several neighbouring rows (components); `start` is the row of the first of them.
        self._run(f"""
            CREATE OR REPLACE TEMP TABLE superseded AS
            WITH twice AS (SELECT key FROM {table} WHERE {_first(kind)} GROUP BY key HAVING count(*) > 1),
            placed AS (
                SELECT key, last_updated, file_row_number AS place,
                    max(CASE WHEN {_first(kind)} THEN file_row_number END)
                        OVER (PARTITION BY key ORDER BY file_row_number) AS start
                FROM {_parquet(path, rows=True)} SEMI JOIN twice USING (key)),
            kept AS (
                SELECT key, first(start ORDER BY coalesce(last_updated, {_EARLY}) DESC, start DESC) AS start
                FROM placed GROUP BY key)
            SELECT place, placed.start FROM placed JOIN kept USING (key) WHERE placed.start <> kept.start""")
        ((dropped,),) = self._run("SELECT count(DISTINCT start) FROM superseded")
        self._rewrite(
            path,
            f"SELECT * EXCLUDE (file_row_number) FROM {_parquet(path, rows=True)} "
            "WHERE file_row_number NOT IN (SELECT place FROM superseded) ORDER BY file_row_number",
        )
        return total - dropped, dropped

    def _rewrite(self, path: Path, select: str) -> None:
        """Replace a table by a SELECT over itself."""
        fresh = self.scratch / "fresh.parquet"
        self._run(f"COPY ({select}) TO {literal(fresh)} {_PARQUET}")
        fresh.replace(path)

    def link(self, account: Account) -> None:
        """Give medication requests the code of the Medication they point to, and count references to nobody."""
        request, medication = self.path("MedicationRequest"), self.path("Medication")
        if account.taken.get("Medication") and account.taken.get("MedicationRequest"):
            columns = ", ".join(
                f"coalesce(r.{name}, m.{name}) AS {name}" for name in ("code_system", "code", "display")
            )
            self._rewrite(
                request,
                f"""SELECT r.* EXCLUDE (file_row_number) REPLACE ({columns}) FROM {_parquet(request, rows=True)} r
                LEFT JOIN {_parquet(medication)} m ON r.code IS NULL AND r.display IS NULL AND r.medication = m.key
                ORDER BY r.file_row_number""",
            )
        dangling, unresolved = {}, {"conditional": 0, "contained": 0, "other": 0}
        patients = _parquet(self.path("Patient"))
        for kind in TYPES:
            if kind in ("Patient", "Medication") or not account.taken.get(kind):
                continue
            table = f"(SELECT patient, unresolved FROM {_parquet(self.path(kind))} WHERE {_first(kind)})"
            ((lost, conditional, contained, other),) = self._run(f"""
                SELECT count(*) FILTER (patient IS NOT NULL AND patient NOT IN (SELECT key FROM {patients})),
                    count(*) FILTER (contains(unresolved, '?')), count(*) FILTER (starts_with(unresolved, '#')),
                    count(*) FILTER (NOT contains(unresolved, '?') AND NOT starts_with(unresolved, '#'))
                FROM {table}""")
            if lost:
                dangling[kind] = lost
            for name, number in zip(unresolved, (conditional, contained, other), strict=True):
                unresolved[name] += number
        account.info["dangling"] = dangling
        account.info["unresolved"] = unresolved


def _first(kind: str) -> str:
    """The rows that stand for a resource each."""
    return "component = 0" if kind == "Observation" else "TRUE"


def _reader(paths: list[Path], shape: dict[str, Any]) -> str:
    files = ", ".join(literal(path) for path in paths)
    return (
        f"read_json([{files}], format = 'newline_delimited', compression = 'none', hive_partitioning = false, "
        f"columns = {duckdb_columns(shape)})"
    )


def _parquet(path: Path, *, rows: bool = False) -> str:
    extra = ", file_row_number = true" if rows else ""
    return f"read_parquet({literal(path)}, hive_partitioning = false{extra})"


def _where(record: bytes, kind: str, source: Source) -> Rejected:
    """Where in the delivery a record of a split file came from."""
    mark, _, rest = record.rstrip(b"\n").partition(b",")
    number, part, line = map(int, orjson.loads(mark + b"}")["_at"].split(":"))
    before = source.lines_before.get((number, part), 0)
    return rejected(source.names[number], before + line, kind, "refused_by_reader", b"{" + rest)
