"""Raw FHIR tables in a draft: the COPY of each type, its duplicates, and the links between types.

All SQL of the FHIR reader that is not about the columns of one type is here. A statement that raises is reported as
"no" only; DuckDB's message stays inside, since it quotes the record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import orjson

from pipeline.errors import StoreError
from pipeline.ingest.fhir.columns import MACROS, TYPES, ResourceType, duckdb_columns
from pipeline.ingest.fhir.judge import repeats_a_key
from pipeline.ingest.fhir.unread import condition, foreign, sequence, unread
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
_OBJECT = 16 * 1024 * 1024
"""Bytes of a record that DuckDB reads without being told that there are longer ones."""
_EARLY = "TIMESTAMP '0001-01-01'"


@dataclass
class Source:
    """An NDJSON file of one type that DuckDB reads.

    Attributes:
        order: Place among the sources of its type.
        path: Plain NDJSON.
        records: Its number of records.
        raw: Number of the delivery's file if it is read as it came; None for a file from `split`.
        lines_before: For split files: lines before each (file, part).
        names: For split files: file numbers to paths in the delivery.
        longest: For split files: bytes of the longest record.
    """

    order: tuple[int, int, int]
    path: Path
    records: int
    raw: int | None
    lines_before: dict[tuple[int, int], int] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    longest: int = 0


class RawTables:
    """Writes the tables of one delivery.

    Attributes:
        written: Type to the order keys of the sources its table was last made from.
        unread: Type to the number of values in a form without a column, by path.
        dropped: Type to a Parquet file with the places (`nth`, from 0, of all resources of the type in the order of
            their sources) of superseded resources, where there are any.
    """

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, draft: Draft, kinds: Mapping[str, ResourceType] = TYPES
    ) -> None:
        self.connection, self.draft, self.kinds = connection, draft, kinds
        self.written: dict[str, list[tuple[int, int, int]]] = {}
        self.unread: dict[str, dict[str, int]] = {}
        self.dropped: dict[str, Path] = {}
        self.scratch = draft.folder("reading")
        for macro in MACROS:
            self.run(f"CREATE MACRO {macro}")
        for kind, known in kinds.items():
            for name in unread(kind, known.shape):
                self.run(f"CREATE SEQUENCE {sequence(kind, name)}")

    def run(self, sql: str) -> list[Any]:
        """Rows of a statement."""
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
        return self.file(self.kinds[kind].table)

    def file(self, table: str) -> Path:
        """Where a table lies in the draft."""
        return self.draft.file(f"{table}.parquet")

    def scan(self, kind: str, *, rows: bool = False) -> str:
        """The table of a type as something to select from, with `file_row_number` if asked for."""
        return _parquet(self.path(kind), rows=rows)

    def read(self, source: Source, shape: dict[str, Any]) -> str:
        """The records of a source as something to select from."""
        return _reader([source.path], shape, source.longest)

    def read_all(self, sources: Sequence[Source], shape: dict[str, Any]) -> str:
        """The records of several sources, in their order, as something to select from."""
        return _reader(self._paths(sources), shape, max((source.longest for source in sources), default=0))

    def _paths(self, sources: Sequence[Source]) -> list[Path]:
        """Their files; an empty one where there are none."""
        empty = self.scratch / "empty.ndjson"
        empty.touch()
        return [source.path for source in sources] or [empty]

    def copies(self, select: str, target: Path, *, primary: str = "") -> bool:
        """Write the rows of a SELECT; False where DuckDB refuses, and then nothing is written.

        Args:
            select: The SELECT.
            target: The Parquet file.
            primary: Name of the table that holds the resources that the rows come from, noted in the file.
        """
        fresh = self.scratch / "fresh.parquet"
        note = f', KV_METADATA {{"primary": {literal(primary)}}}' if primary else ""
        written = self._try(lambda: self.run(f"COPY ({select}) TO {literal(fresh)} {_PARQUET[:-1]}{note})"))
        if written:
            fresh.replace(target)
        return written

    def counted(self, files: Mapping[Path, tuple[str, int]]) -> set[Path]:
        """The files of which every line is a JSON object of one type, told by counting alone.

        Args:
            files: File to the type and the number of records that it should hold.
        """
        if not files:
            return set()
        found: list[tuple[str, str, int]] = []
        # Of a single column DuckDB 2.0 takes twenty times as long as of two, so a second one is named.
        reader = _reader(list(files), {"resourceType": "text", "id": "text"})[:-1] + ", filename = true)"
        sql = f"SELECT filename, resourceType, count(*) FROM {reader} GROUP BY ALL"
        if not self._try(lambda: found.extend(self.run(sql))):
            # Something in one of them: each for itself.
            return set() if len(files) == 1 else {path for path in files if self.counted({path: files[path]})}
        kinds: dict[Path, list[tuple[str, int]]] = {}
        for name, kind, number in found:
            kinds.setdefault(Path(name), []).append((kind, number))
        return {path for path, expected in files.items() if kinds.get(path) == [expected]}

    def write(self, kind: str, sources: Sequence[Source]) -> bool:
        """Write the table of a type from these sources, in their order; False where DuckDB refuses."""
        paths = self._paths(sources)
        self.unread[kind] = {}
        before = self._counted(kind)
        longest = max((source.longest for source in sources), default=0)
        whole = self._copy(kind, paths, self.path(kind), longest)
        if whole and sources:
            (found,) = self.run(f"SELECT count(*) FROM {_parquet(self.path(kind))} WHERE {_first(kind)}")
            whole = found[0] == sum(source.records for source in sources)
        if whole:
            self.written[kind] = [source.order for source in sources]
            found = {name: count - before[name] for name, count in self._counted(kind).items()}
            self.unread[kind] = {f"{kind}.{name}": count for name, count in found.items() if count}
        return whole

    def _counted(self, kind: str) -> dict[str, int]:
        """How far the sequences have come that count the unread fields of a type."""
        names = {sequence(kind, name): name for name in unread(kind, self.kinds[kind].shape)}
        rows = self.run("SELECT sequence_name, coalesce(last_value, 0) FROM duckdb_sequences()") if names else []
        return {names[name]: value for name, value in rows if name in names}

    def _copy(self, kind: str, paths: list[Path], target: Path, longest: int) -> bool:
        shape = self.kinds[kind].shape
        reader = _reader(paths, self._watched(kind), longest)
        select = self.kinds[kind].select.replace("{source}", f"(SELECT * FROM {reader} WHERE {condition(kind, shape)})")
        return self._try(lambda: self.run(f"COPY ({select}) TO {literal(target)} {_PARQUET}"))

    def reads(self, kind: str, source: Source) -> bool:
        """Does DuckDB take this source alone?"""
        return self._copy(kind, [source.path], self.scratch / "trial.parquet", source.longest)

    def _watched(self, kind: str) -> dict[str, Any]:
        """The shape of a type with the fields beside it that are watched."""
        shape = self.kinds[kind].shape
        return {**shape, **dict.fromkeys((*unread(kind, shape), *foreign(kind, shape)), "text")}

    def pick_out(self, kind: str, sources: Sequence[Source]) -> list[Rejected]:
        """Take out of split files the records that DuckDB alone objects to; gives what was taken out.

        The judge and the SELECT hold the same rules, so this is for what only DuckDB minds: a repeated key, which is
        looked for (a whole file may be written so), and whatever else there is, which is found by halving.
        The files are rewritten and the counts of their sources set anew.
        """
        shape = self._watched(kind)
        found: list[Rejected] = []
        for source in sources:
            if self.reads(kind, source):
                continue
            records = [record + b"\n" for record in source.path.read_bytes().split(b"\n")[:-1]]
            bad = {index for index, record in enumerate(records) if repeats_a_key(record, shape)}
            others = [index for index in range(len(records)) if index not in bad]
            bad |= {others[place] for place in self._halve(kind, [records[index] for index in others], 0)}
            found += take_out(source, kind, bad, "refused_by_reader")
        return found

    def _halve(self, kind: str, records: list[bytes], offset: int) -> list[int]:
        """Indices of the records that DuckDB refuses."""
        trial = self.scratch / "trial.ndjson"
        trial.write_bytes(b"".join(records))
        longest = max(map(len, records), default=0)
        if not records or self._copy(kind, [trial], self.scratch / "trial.parquet", longest):
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
        ((total, distinct),) = self.run(f"SELECT count(*), count(DISTINCT hash(key)) FROM {table} WHERE {_first(kind)}")
        if total == distinct:
            return total, 0
        # A resource may be several neighbouring rows (components); `start` is the row of the first of them.
        self.run(f"""
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
        ((dropped,),) = self.run("SELECT count(DISTINCT start) FROM superseded")
        self.dropped[kind] = self.scratch / f"dropped-{kind}.parquet"
        self.run(f"""
            COPY (SELECT nth FROM (SELECT file_row_number AS place, row_number() OVER (ORDER BY file_row_number) - 1 AS nth
                FROM {_parquet(path, rows=True)} WHERE {_first(kind)}) WHERE place IN (SELECT start FROM superseded))
            TO {literal(self.dropped[kind])} {_PARQUET}""")
        self.rewrite(
            path,
            f"SELECT * EXCLUDE (file_row_number) FROM {_parquet(path, rows=True)} "
            "WHERE file_row_number NOT IN (SELECT place FROM superseded) ORDER BY file_row_number",
        )
        return total - dropped, dropped

    def rewrite(self, path: Path, select: str) -> None:
        """Replace a table by a SELECT over itself."""
        fresh = self.scratch / "fresh.parquet"
        self.run(f"COPY ({select}) TO {literal(fresh)} {_PARQUET}")
        fresh.replace(path)

    def link(self, account: Account) -> None:
        """Give medication requests the code of the Medication they point to, and count references to nobody."""
        request, medication = self.path("MedicationRequest"), self.path("Medication")
        if account.taken.get("Medication") and account.taken.get("MedicationRequest"):
            columns = ", ".join(
                f"coalesce(r.{name}, m.{name}) AS {name}" for name in ("code_system", "code", "display")
            )
            self.rewrite(
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
            ((lost, conditional, contained, other),) = self.run(f"""
                SELECT count(*) FILTER (patient IS NOT NULL AND patient NOT IN (SELECT key FROM {patients})),
                    count(*) FILTER (contains(unresolved, '?')), count(*) FILTER (starts_with(unresolved, '#')),
                    count(*) FILTER (NOT contains(unresolved, '?') AND NOT starts_with(unresolved, '#'))
                FROM {table}""")
            if lost:
                dangling[kind] = lost
            for name, number in zip(unresolved, (conditional, contained, other), strict=True):
                unresolved[name] += number
        if account.taken.get("MedicationRequest"):
            ((lost,),) = self.run(f"""
                SELECT count(*) FROM {_parquet(request)} WHERE code IS NULL AND display IS NULL
                    AND medication IS NOT NULL AND medication NOT IN (SELECT key FROM {_parquet(medication)})""")
            if lost:
                dangling["MedicationRequest.medication"] = lost
        account.info["dangling"] = dangling
        account.info["unresolved"] = unresolved


def _first(kind: str) -> str:
    """The rows that stand for a resource each."""
    return "component = 0" if kind == "Observation" else "TRUE"


def _reader(paths: list[Path], shape: dict[str, Any], longest: int = 0) -> str:
    """A scan of NDJSON files; `longest` is the length of their longest record where it may be above DuckDB's limit."""
    files = ", ".join(literal(path) for path in paths)
    size = f", maximum_object_size = {longest + 1024}" if longest > _OBJECT else ""
    return (
        f"read_json([{files}], format = 'newline_delimited', compression = 'none', hive_partitioning = false{size}, "
        f"columns = {duckdb_columns(shape)})"
    )


def _parquet(path: Path, *, rows: bool = False) -> str:
    extra = ", file_row_number = true" if rows else ""
    return f"read_parquet({literal(path)}, hive_partitioning = false{extra})"


def take_out(source: Source, kind: str, indices: set[int], reason: str) -> list[Rejected]:
    """Take records out of a split file, which is written anew.

    Args:
        source: The file; its count is set anew.
        kind: Its resource type.
        indices: Lines of the file, from 0.
        reason: A key of `REASONS`.
    """
    fresh = source.path.with_suffix(".fresh")
    found = []
    with source.path.open("rb") as records, fresh.open("wb") as kept:
        for index, record in enumerate(records):
            if index in indices:
                found.append(_where(record, kind, source, reason))
            else:
                kept.write(record)
    fresh.replace(source.path)
    source.records -= len(found)
    return found


def _where(record: bytes, kind: str, source: Source, reason: str) -> Rejected:
    """Where in the delivery a record of a split file came from."""
    mark, _, rest = record.rstrip(b"\n").partition(b",")
    if rest.startswith(b'"_from"'):
        rest = rest.partition(b",")[2]
    number, part, line, _ = map(int, orjson.loads(mark + b"}")["_at"].split(":"))
    before = source.lines_before.get((number, part), 0)
    return rejected(source.names[number], before + line, kind, reason, b"{" + rest)
