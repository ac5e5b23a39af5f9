"""A compiled view over FHIR files, without a store: for `cohortloom view` and for tests.

Deliveries go another way (`ingest/fhir/reader.py`), which quarantines; here the first record that does not fit ends the run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import duckdb
import orjson

from pipeline.errors import InputError
from pipeline.ingest.fhir.pieces import as_json
from pipeline.ingest.lines import DOCUMENT_LIMIT, ByteSource, lines
from pipeline.ingest.viewdefinition.compile import CompiledView
from pipeline.ingest.viewdefinition.definition import ViewError
from pipeline.ingest.viewdefinition.macros import MACROS
from pipeline.ingest.viewdefinition.shape import duckdb_columns, duckdb_type
from pipeline.store.connection import literal

if TYPE_CHECKING:
    import pyarrow as pa

_NONE: Final = object()
"""What is no JSON."""
_OBJECT: Final = 16 * 1024 * 1024
"""Bytes of a record that DuckDB reads without being told that there are longer ones."""
_REASONS: Final = {
    "more than one item": "a path gives several items where the column is one value (add .first(), or collection: true)",
    "value_not_a_number": "a number is written as something else",
    "not a whole number": "a number has decimals where the column is an integer",
    "invalid_date": "a date or time is not written as FHIR has it",
    "wrong_type": "an object, a list or a text stands where another kind of value belongs",
    "no key": "a resource has no id",
}


@dataclass
class Gathered:
    """What was found in files: the resources of one type, and counts of the rest.

    Attributes:
        taken: Resources of the type.
        others: Resources of other types, by type.
        unreadable: Lines and files that are no FHIR.
        longest: Bytes of the longest resource of the type.
    """

    taken: int = 0
    others: Counter[str] = field(default_factory=Counter)
    unreadable: int = 0
    longest: int = 0


def gather(files: Sequence[Path], kind: str, target: Path) -> Gathered:
    """Write the resources of one type to an NDJSON file: from NDJSON, bundles and single resources, plain or gzipped.

    Raises:
        InputError: A file cannot be read.
    """
    found = Gathered()
    with target.open("wb") as out:
        for file in files:
            for resource in _resources(file, found):
                _keep(resource, kind, out, found)
    return found


def _keep(resource: dict[str, Any], kind: str, out: IO[bytes], found: Gathered) -> None:
    name = resource.get("resourceType")
    if name == kind:
        found.taken += 1
        found.longest = max(found.longest, out.write(as_json(resource) + b"\n"))
    elif isinstance(name, str):
        found.others[name] += 1
    else:
        found.unreadable += 1


def _resources(file: Path, found: Gathered) -> Iterator[dict[str, Any]]:
    """The resources of a file; those of bundles one by one."""
    for record in _records(file, found):
        if isinstance(record, list):
            yield from (item for item in record if isinstance(item, dict))
            found.unreadable += sum(not isinstance(item, dict) for item in record)
        elif not isinstance(record, dict):
            found.unreadable += 1
        elif record.get("resourceType") == "Bundle" and isinstance(record.get("entry"), list):
            for entry in record["entry"]:
                if isinstance(entry, dict) and isinstance(entry.get("resource"), dict):
                    yield entry["resource"]
        else:
            yield record


def _records(file: Path, found: Gathered) -> Iterator[Any]:
    """What a file holds as JSON: the document, or one line after the other without holding the others."""
    try:
        document = _document(file)
        yield from _lines(file, found) if document is _NONE else [document]
    except OSError:
        raise InputError("The file cannot be read.", where=file.name) from None


def _document(file: Path) -> Any:
    """The one JSON value that a file is; `_NONE` where its first line is one already, or the whole is none."""
    first = next((line for line in lines(ByteSource(file).chunks()) if line.data is None or line.data.strip()), None)
    if first is None or (first.data is not None and _parsed(first.data) is not _NONE):
        return _NONE
    data = bytearray()
    for chunk in ByteSource(file).chunks():
        data += chunk
        if len(data) > DOCUMENT_LIMIT:
            return _NONE
    return _parsed(data)


def _lines(file: Path, found: Gathered) -> Iterator[Any]:
    """The JSON of every line; lines that are none are counted, and so is a gzip that is cut off."""
    source = ByteSource(file)
    for line in lines(source.chunks()):
        if line.data is not None and not line.data.strip():
            continue
        record = _NONE if line.data is None else _parsed(line.data)
        if record is not _NONE:
            yield record
        elif line.ended or not source.cut:
            found.unreadable += 1
    found.unreadable += source.cut


def _parsed(data: bytes | bytearray) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return _NONE


def prepare(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the macros that compiled views call."""
    for macro in MACROS:
        connection.execute(f"CREATE MACRO {macro}").fetchall()


def check_view(view: CompiledView, connection: duckdb.DuckDBPyConnection) -> None:
    """Let DuckDB look at the SQL of a view without any data; `prepare` the connection first.

    Raises:
        ViewError: It cannot be run: two sides of an operator are of kinds that do not go together, for instance.
    """
    columns = ", ".join(f'CAST(NULL AS {duckdb_type(shape)}) AS "{name}"' for name, shape in view.shape.items())
    try:
        connection.execute("EXPLAIN " + view.select.replace("{source}", f"(SELECT {columns} WHERE FALSE)")).fetchall()
    except duckdb.Error:  # its message quotes the SQL, not the view
        failed = True
    else:
        failed = False
    if failed:
        raise ViewError(
            "The view cannot be run.", where=view.name, todo="A path puts values together that do not go together."
        )


def run_view(view: CompiledView, ndjson: Path, connection: duckdb.DuckDBPyConnection, *, longest: int = 0) -> pa.Table:
    """The rows of a view over an NDJSON file of its type; `prepare` the connection first.

    Args:
        view: The view.
        ndjson: Resources of its type.
        connection: Where it runs.
        longest: Bytes of the longest resource, where it may be above DuckDB's limit.

    Raises:
        InputError: A record does not fit; DuckDB's message stays inside, since it quotes the record.
    """
    reader = (
        f"read_json({literal(ndjson)}, format = 'newline_delimited', compression = 'none', hive_partitioning = false, "
        f"maximum_object_size = {max(_OBJECT, longest + 1024)}, columns = {duckdb_columns(view.shape)})"
    )
    try:
        return connection.sql(view.select.replace("{source}", reader)).to_arrow_table()
    except duckdb.Error as error:
        reason = next((why for mark, why in _REASONS.items() if mark in str(error)), "a value is of another type")
    raise InputError(f"A {view.resource} does not fit the view: {reason}.", where=view.name)
