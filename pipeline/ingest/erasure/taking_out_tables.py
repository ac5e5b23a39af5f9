"""Taking one person out of plain tables: the rows of a CSV or Parquet file without theirs.

CSV rows that stay keep their bytes; Parquet keeps columns, types, order and row groups. Whose a row is, is what the
person column says, nothing else. How a delivery is rewritten on disk is in `taking_out.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError
from pipeline.ingest.erasure.person import Person
from pipeline.ingest.erasure.taking_out_files import PersonFile
from pipeline.ingest.erasure.taking_out_text import TextForm, unpack
from pipeline.ingest.erasure.tally import Tally, Unsearched
from pipeline.ingest.lines import ByteSource, Line
from pipeline.ingest.tables.csv_rows import fields_of, read_header, records

if TYPE_CHECKING:
    import pyarrow as pa


def sift_csv(file: PersonFile, scratch: Path, person: Person, tally: Tally) -> Iterator[bytes]:
    """The rows of a CSV file without the person's, byte for byte; a row that cannot be read goes if it carries the id.

    Args:
        file: Plain or gzipped, with how it is read.
        scratch: A file to unpack to; the caller removes it.
        person: Who goes.
        tally: Takes the counts.
    """
    try:
        form = unpack(file.path, scratch, file.reading)
    except UnicodeError:
        form = None
    if form is None:  # nobody can read it
        tally.unsearched.append(Unsearched(file.name, "not in its encoding", closed=True))
        yield from ByteSource(file.path).pieces()
        return
    yield form.mark
    for piece in _rows(file, form, scratch, person, tally):
        yield form.back(piece)
    if form.damaged:
        tally.note_damage(file.name)


def _rows(file: PersonFile, form: TextForm, plain: Path, person: Person, tally: Tally) -> Iterator[bytes]:
    """What stays of the lines of a CSV in UTF-8."""
    try:
        header = read_header(plain, file.name, file.reading)
    except InputError:  # no reader takes it either; what carries the id goes
        tally.unsearched.append(Unsearched(file.name, "no header"))
        for line in _lines(plain):
            tally.before += 1
            gone = person.traced(line.data or b"")
            tally.removed += gone
            if not gone:
                yield (line.data or b"") + (b"\n" if line.ended else b"")
        return
    place = _place(header.names, file.columns)
    if place is None:
        tally.unsearched.append(Unsearched(file.name))
    first = header.stands
    may_hold = _hint(person)
    for number, raw, ended in records(_lines(plain), header.delimiter):
        end = b"\n" if ended else b""
        if not raw.strip():
            yield from _comment(form.comments.get(number, raw), end, person, tally)
            continue
        if first:
            first = False
            yield raw + end
            continue
        fields = fields_of(raw, header)[0] if may_hold is None or may_hold in raw else []
        if fields is None:  # no row: nobody can tell whose its lines are, so each that carries the id goes
            parts = raw.split(b"\n")
            kept = [part for part in parts if not person.traced(part)]
            tally.before += len(parts)
            tally.removed += len(parts) - len(kept)
            if kept:
                yield b"\n".join(kept) + end
            continue
        tally.before += 1
        hits = [i for i, cell in enumerate(fields) if person.same(cell)] if fields else []
        gone = place in hits or (place is None and person.distinctive and bool(hits))
        tally.mentions += bool(hits) and not gone and person.distinctive
        if gone:
            tally.removed += 1
        else:
            yield raw + end


def _comment(line: bytes, end: bytes, person: Person, tally: Tally) -> Iterator[bytes]:
    """An empty line, or a comment: one about the person goes."""
    if line.strip() and person.distinctive and person.traced(line):
        tally.before += 1
        tally.removed += 1
    else:
        yield line + end


def _hint(person: Person) -> bytes | None:
    """Bytes without which no cell of a row is the id (17 and 17.0 are one); None where that cannot be said."""
    if '"' in person.id:  # stands doubled in a CSV
        return None
    return str(abs(person.number)).encode() if person.number is not None else person.id.encode()


def _lines(path: Path) -> Iterator[Line]:
    """Lines of any length with all their bytes (those of `lines.py` give up a line that is too long to be a record)."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            ended = line.endswith(b"\n")
            yield Line(number, line[:-1] if ended else line, ended)


def _place(names: list[str], columns: tuple[str, ...]) -> int | None:
    """Where the person column stands: by its name, else by its name in any case."""
    lowered = [name.lower() for name in names]
    for column in columns:
        for known, wanted in ((names, column), (lowered, column.lower())):
            if wanted in known:
                return known.index(wanted)
    return None


def sift_parquet(file: PersonFile, scratch: Path, person: Person, tally: Tally) -> Iterator[bytes]:
    """A Parquet file without the person's rows; nothing is yielded where it holds none of them.

    Args:
        file: Plain or gzipped.
        scratch: A file to work in; the caller removes it.
        person: Who goes.
        tally: Takes the counts.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    plain = file.path
    if ByteSource(file.path).gzipped:
        with scratch.open("wb") as out:
            for piece in ByteSource(file.path).pieces():
                out.write(piece)
        plain = scratch
    fresh = scratch.with_name(f"{scratch.name}.fresh")
    try:
        with pq.ParquetFile(plain) as source:
            tally.before += source.metadata.num_rows
            place = _place(source.schema_arrow.names, file.columns)
            if place is None:
                tally.unsearched.append(Unsearched(file.name))
                return
            name = source.schema_arrow.names[place]
            found = sum(count_rows(batch.column(0), person) for batch in source.iter_batches(columns=[name]))
            tally.removed += found
            if not found:
                return
            _write_without(source, name, fresh, person)
        with fresh.open("rb") as made:
            while piece := made.read(1 << 20):
                yield piece
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk, and not what stands in the file
            raise
        tally.unsearched.append(Unsearched(file.name, "not readable as Parquet", closed=True))
    finally:
        fresh.unlink(missing_ok=True)


def _write_without(source: Any, name: str, target: Path, person: Person) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    # A dictionary column would carry the values of rows that are gone along in its dictionary.
    fields = [f.with_type(f.type.value_type) if pa.types.is_dictionary(f.type) else f for f in source.schema_arrow]
    schema = pa.schema(fields, metadata=source.schema_arrow.metadata)
    codec = source.metadata.row_group(0).column(0).compression.lower() if source.metadata.num_row_groups else "snappy"
    with pq.ParquetWriter(target, schema, compression="none" if codec == "uncompressed" else codec) as writer:
        for group in range(source.num_row_groups):
            table = source.read_row_group(group)
            table = table.filter(pc.invert(rows_of(table.column(name), person))).cast(schema)
            writer.write_table(table, row_group_size=max(1, table.num_rows))


def rows_of(column: Any, person: Person) -> Any:
    """A mask of the cells of an Arrow column that hold the person's id, in text or as a number."""
    import pyarrow as pa
    import pyarrow.compute as pc

    types, dtype = pa.types, column.type
    if types.is_dictionary(dtype):
        column = column.cast(dtype.value_type)
        dtype = dtype.value_type
    if types.is_integer(dtype) or types.is_floating(dtype) or types.is_decimal(dtype):
        number = person.number
        small = number is not None and ((types.is_integer(dtype) and -(2**63) <= number < 2**63) or abs(number) < 2**53)
        if not small:
            return _nobody(column)
        value = pa.scalar(number) if types.is_integer(dtype) else pa.scalar(float(number or 0))
        column = column if types.is_integer(dtype) else column.cast(pa.float64())
        return pc.fill_null(pc.equal(column, value), False)
    if types.is_nested(dtype) or types.is_binary(dtype):
        return _nobody(column)
    text = pc.utf8_trim_whitespace(column.cast(pa.string()))
    same = pc.fill_null(pc.equal(text, person.id), False)
    if person.number is not None:  # 17 and 17.0 are one, as in a CSV
        spelled = [t for t in pc.unique(text).to_pylist() if t is not None and person.same(t)]
        same = pc.fill_null(pc.is_in(text, value_set=pa.array(spelled, pa.string())), False)
    return same


def _nobody(column: Any) -> pa.Array:
    import pyarrow as pa

    return pa.array([False] * len(column), pa.bool_())


def count_rows(column: Any, person: Person) -> int:
    """How many cells of an Arrow column hold the person's id."""
    import pyarrow.compute as pc

    return int(pc.sum(rows_of(column, person)).as_py() or 0)
