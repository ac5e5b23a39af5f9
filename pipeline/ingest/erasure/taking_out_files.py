"""Which file of a delivery is looked through for a person in which way, by the format of its source.

Nothing is read here but what a file is. How a file is looked through is in `taking_out_fhir.py`, `taking_out_tables.py`
and `taking_out_archives.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final, Literal

from pipeline.ingest.delivery import MANIFEST, SUCCESS, content
from pipeline.ingest.fhir.files import form_of
from pipeline.ingest.meds.layout import CODES, DATASET, OLD_SUBJECT
from pipeline.ingest.mimic.mimic3_tables import MIMIC3
from pipeline.ingest.mimic.mimic4_tables import MIMIC4
from pipeline.ingest.tables.archives import is_archive
from pipeline.ingest.tables.files import CSV_SUFFIXES, PARQUET_SUFFIXES, TableFile, is_parquet, matches

if TYPE_CHECKING:
    from pipeline.features.source import SourceSpec, TableReading

SUBJECT: Final = "subject_id"
"""The column that names the person in every table of MIMIC and MEDS that is about people."""
Form = Literal["lines", "document", "csv", "parquet", "archive", "dictionary"]
_FHIR_FORMS: Final[dict[str, Form]] = {"lines": "lines", "document": "document"}
_MIMIC: Final = {"mimic3": MIMIC3, "mimic4": MIMIC4}


@dataclass(frozen=True)
class PersonFile:
    """One file, or one member of an archive once it is unpacked.

    Attributes:
        name: Path in the delivery; of a member `<archive>/<member>`.
        path: Where its bytes lie.
        form: How it is looked through; None: no reader takes it. A `dictionary` is about nobody.
        reading: Of a plain table, how the source says that it is read.
        columns: Names of the column that says whose a row is; the first that is there counts.
    """

    name: str
    path: Path
    form: Form | None
    reading: TableReading | None = None
    columns: tuple[str, ...] = ()


def files_of(folder: Path, source: SourceSpec, column: str | None) -> Iterator[PersonFile]:
    """Every file below a delivery's folder but its marks; hidden ones too, which no reader takes.

    Args:
        folder: The delivery.
        source: Its source.
        column: Of plain tables, the person column.
    """
    read = dict(content(folder))
    for name, path in read.items():
        yield file_of(name, path, source, column)
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in read and name not in (SUCCESS, MANIFEST):
            yield PersonFile(name, path, None)


def file_of(name: str, path: Path, source: SourceSpec, column: str | None) -> PersonFile:
    """How one file is looked through; archives of every format are, whether its reader takes them or not."""
    if is_archive(name):
        return PersonFile(name, path, "archive", columns=() if column is None else (column,))
    if source.format == "fhir":
        return PersonFile(name, path, _FHIR_FORMS.get(form_of(name, path) or ""))
    if source.format == "meds":
        return _of_meds(name, path)
    if source.format in _MIMIC:
        return _of_mimic(name, path, source.format)
    return _of_tables(name, path, source, column)


def is_dictionary(format: str, table: str) -> bool:
    """Is a raw table of a format one of codes, items or staff, in which no patient stands?"""
    if format == "meds":
        return table == "codes"
    declared = _MIMIC[format].tables.get(table) if format in _MIMIC else None
    return declared is not None and SUBJECT not in declared.columns


def _of_meds(name: str, path: Path) -> PersonFile:
    if f"/{name}".endswith((f"/{CODES}", f"/{DATASET}")):
        return PersonFile(name, path, "dictionary")
    if name.lower().endswith(".parquet"):
        return PersonFile(name, path, "parquet", columns=(SUBJECT, OLD_SUBJECT))
    return PersonFile(name, path, None)


def _of_mimic(name: str, path: Path, format: str) -> PersonFile:
    found = re.fullmatch(r"(.+)\.csv(\.gz)?", PurePosixPath(name).name.lower())
    if found is None:
        return PersonFile(name, path, None)
    return PersonFile(name, path, "dictionary" if is_dictionary(format, found[1]) else "csv", columns=(SUBJECT,))


def _of_tables(name: str, path: Path, source: SourceSpec, column: str | None) -> PersonFile:
    columns = () if column is None else (column,)
    file = TableFile(name, path)
    reading = next((r for r in source.tables.values() if matches(name, r.files)), None)
    if reading is not None:  # declared tables may have any name
        return PersonFile(name, path, "parquet" if is_parquet(file, path) else "csv", reading, columns)
    if file.bare.endswith(CSV_SUFFIXES):
        return PersonFile(name, path, "csv", columns=columns)
    if file.bare.endswith(PARQUET_SUFFIXES):
        return PersonFile(name, path, "parquet", columns=columns)
    return PersonFile(name, path, None, columns=columns)
