"""The files of a plain table, one by one: what columns a file has, and its rows as text (CSV) or as they are (Parquet).

Several files are put together, typed and written in `tables.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipeline.ingest.lines import ByteSource, survey
from pipeline.ingest.quarantine import Rejected
from pipeline.ingest.tables.archives import most_unpacked
from pipeline.ingest.tables.csv_rows import Header, other_encoding, read_header, strict_csv, tolerant_rows
from pipeline.ingest.tables.encodings import foreign, plain_lines
from pipeline.ingest.tables.unusable import UnusableFileError, swollen
from pipeline.store.connection import identifier, literal

if TYPE_CHECKING:
    import duckdb

    from pipeline.features.schema import TableSchema
    from pipeline.features.source import TableReading
    from pipeline.ingest.tables.files import TableFile

_BLANKS = "chr(32) || chr(9) || chr(13) || chr(10)"


@dataclass
class Part:
    """A file of a table.

    Attributes:
        file: The file.
        form: csv or parquet.
        bytes: Its unpacked size.
        kinds: The columns that are kept and their types; what has to be the same in all files of a table.
        records: Rows found, those that are set aside included.
    """

    file: TableFile
    form: Literal["csv", "parquet"]
    bytes: int
    kinds: dict[str, str]
    records: int = 0


@dataclass
class CsvPart(Part):
    """A CSV file; `load` makes its rows a DuckDB table of text.

    Attributes:
        plain: Its plain UTF-8 lines.
        header: Its columns.
        lines: Records and header as counted on the bytes.
        cut: Does its gzip end early?
        relation: The DuckDB table, with the columns `c0`, `c1`, ...
        lined: Does that table know the line of each row (`line`, `sha256`, `bytes`)?
        rejects: Rows that are set aside.
        scratch: A folder of our own for what is written; the plain file may be the delivery's.
    """

    plain: Path = Path()
    header: Header = field(default_factory=lambda: Header([], ",", False))
    lines: int = 0
    cut: bool = False
    relation: str = ""
    lined: bool = False
    rejects: list[Rejected] = field(default_factory=list)
    scratch: Path = Path()

    def load(
        self, connection: duckdb.DuckDBPyConnection, names: list[str], settings: TableReading | None, table: str
    ) -> None:
        """Make `relation` of the columns `names`, strictly if the file allows it, else row by row.

        Raises:
            UnusableFileError: The file is in another encoding.
        """
        import duckdb

        self.relation = f"part_{len(connection.execute('SHOW TABLES').fetchall())}"
        try:
            if not self.cut:
                self._make(connection, strict_csv(self.plain, self.header), names, settings)
        except duckdb.Error as error:  # its message quotes the row, so it goes no further
            if isinstance(error, duckdb.OutOfMemoryException | duckdb.IOException):
                raise
            connection.execute(f"DROP TABLE IF EXISTS {self.relation}").fetchall()
        else:
            if not self.cut and self._whole(connection):
                return
        if foreign(self.plain):
            raise other_encoding(self.plain, self.file.name, "")
        self.load_rows(connection, names, settings, table)

    def load_rows(
        self, connection: duckdb.DuckDBPyConnection, names: list[str], settings: TableReading | None, table: str
    ) -> None:
        """Make `relation` row by row, with the line of each; rows that are none go to `rejects`."""
        target = self.scratch / "rows.parquet"
        found = tolerant_rows(self.plain, self.header, target, file=self.file.name, table=table, cut=self.cut)
        self.records, self.rejects, self.lined = found.records, found.rejects, True
        connection.execute(f"DROP TABLE IF EXISTS {self.relation}").fetchall()
        self._make(connection, f"read_parquet({literal(target)})", names, settings, "line, sha256, bytes, ")

    def _make(
        self,
        connection: duckdb.DuckDBPyConnection,
        rows: str,
        names: list[str],
        settings: TableReading | None,
        beside: str = "",
    ) -> None:
        places = {name.lower(): f"c{place}" for place, name in enumerate(self.header.names)}
        cells = ", ".join(f"{_cell(places[n.lower()], settings)} AS c{place}" for place, n in enumerate(names))
        same = " AND ".join(
            f"coalesce(trim(c{place}, {_BLANKS}), '') = {literal(name)}"
            for place, name in enumerate(self.header.written)
        )
        # Whether a row says the column names again is asked of all columns, those that are not kept included.
        again = "" if beside or not same else f", ({same}) AS again"
        connection.execute(f"CREATE TABLE {self.relation} AS SELECT {beside}{cells}{again} FROM {rows}").fetchall()

    def _whole(self, connection: duckdb.DuckDBPyConnection) -> bool:
        """Did the strict reader find every row, and no row that repeats the column names?"""
        again = "count(*) FILTER (WHERE again)" if self.header.written else "0"
        ((rows, repeated),) = connection.execute(f"SELECT count(*), {again} FROM {self.relation}").fetchall()
        self.records = int(rows)
        counted = self.header.quotes or rows == self.lines - self.header.stands
        return counted and not repeated


@dataclass
class ParquetPart(Part):
    """A Parquet file that was read whole; `copy` holds the columns that are kept."""

    copy: Path = Path()


def open_csv(
    file: TableFile, path: Path, scratch: Path, settings: TableReading | None, schema: TableSchema | None
) -> CsvPart:
    """Look at a CSV file: unpack it, find its columns.

    Args:
        file: The file.
        path: Where its bytes lie.
        scratch: Folder to work in; `load` reads from there too.
        settings: How the source says that it is read.
        schema: Its declared schema.

    Raises:
        UnusableFileError: Another encoding, no header, a column that is asked for is not there.
    """
    text = scratch / "text"
    recoded = plain_lines(path, text, settings, file.name)
    cut = recoded and _is_cut(path)
    found = survey(text if recoded else path, scratch / "plain")
    if found.swollen:
        raise swollen(file.name)
    cut = cut or found.cut
    if cut and found.records <= 1:
        raise UnusableFileError("gzip_truncated", "The gzip ends before its first whole row.", where=file.name)
    header = read_header(found.plain, file.name, settings)
    wanted = settings.columns if settings is not None and settings.columns is not None else header.names
    what = "asked for"
    if schema is not None:
        wanted, what = schema.names, "of the schema"
    there = {name.lower() for name in header.names}
    if schema is not None:
        there = set(header.names)
    missing = [name for name in wanted if (name if schema is not None else name.lower()) not in there]
    if missing:
        raise _lacking(file, what, missing)
    kinds = dict.fromkeys(wanted, "text")
    return CsvPart(file, "csv", found.bytes, kinds, 0, found.plain, header, found.records, cut, scratch=scratch)


def _lacking(file: TableFile, what: str, missing: list[str]) -> UnusableFileError:
    said = f"{len(missing)} columns {what} are not in the file: {', '.join(missing[:5])}."
    return UnusableFileError("other_columns", said, where=file.name)


def _is_cut(path: Path) -> bool:
    source = ByteSource(path)
    for _ in source.pieces():
        pass
    return source.cut


def open_parquet(
    connection: duckdb.DuckDBPyConnection, file: TableFile, path: Path, scratch: Path, settings: TableReading | None
) -> ParquetPart:
    """Read a Parquet file whole and copy the columns that are kept.

    Raises:
        UnusableFileError: Damaged, or a column that is asked for is not there.
    """
    import duckdb

    source = ByteSource(path, most_unpacked(path))
    plain = path
    if source.gzipped:
        plain = scratch / "plain.parquet"
        with plain.open("wb") as out:
            for chunk in source.pieces():
                out.write(chunk)
        if source.swollen:
            raise swollen(file.name)
        if source.cut:
            what = "The gzip ends before its end, and half a Parquet file cannot be read."
            raise UnusableFileError("not_parquet", what, where=file.name)
    reader = f"read_parquet({literal(plain)}, hive_partitioning = false, file_row_number = false)"
    copy = scratch / "copy.parquet"
    kinds: dict[str, str] = {}
    rows = -1
    missing: list[str] = []
    try:
        there = {row[0]: row[1] for row in connection.execute(f"DESCRIBE SELECT * FROM {reader}").fetchall()}
        wanted = settings.columns if settings is not None and settings.columns is not None else list(there)
        folded = {name.lower(): name for name in there}
        missing = [name for name in wanted if name.lower() not in folded]
        if not missing:
            kinds = {name: there[folded[name.lower()]] for name in wanted}
            cells = ", ".join(
                f"{_cell(identifier(name), settings) if kind == 'VARCHAR' else identifier(name)} AS {identifier(name)}"
                for name, kind in kinds.items()
            )
            connection.execute(f"COPY (SELECT {cells} FROM {reader}) TO {literal(copy)} (FORMAT parquet)").fetchall()
            ((rows,),) = connection.execute(f"SELECT count(*) FROM read_parquet({literal(copy)})").fetchall()
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error:  # its message may quote cells: the error is raised below
        rows = -1
    if missing:
        raise _lacking(file, "asked for", missing)
    if rows < 0:
        raise UnusableFileError("not_parquet", "This is not a Parquet file, or it is damaged.", where=file.name)
    return ParquetPart(file, "parquet", plain.stat().st_size, kinds, int(rows), copy)


def _cell(text: str, settings: TableReading | None) -> str:
    """A text cell as the source says that it is read: without blanks around it, missing where it says so."""
    if settings is None:
        return text
    bare = f"trim({text}, {_BLANKS})"
    kept = f"nullif({bare}, '')" if settings.trim else text
    if not settings.missing:
        return kept
    codes = ", ".join(literal(code.strip()) for code in settings.missing)
    return f"CASE WHEN {bare} IN ({codes}) THEN NULL ELSE {kept} END"
