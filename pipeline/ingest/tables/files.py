"""Which files of a delivery of plain tables make up which table: members of archives included, by pattern or by stem.

Nothing is read here but what a file is. How files become tables is in `tables.py`.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pipeline.ingest.account import BESIDE_THE_DATA
from pipeline.ingest.lines import ByteSource
from pipeline.ingest.tables.archives import Member, is_archive, members
from pipeline.ingest.tables.unusable import UnusableFileError
from pipeline.store.hashing import sha256_file

if TYPE_CHECKING:
    from pipeline.features.source import TableReading

CSV_SUFFIXES = (".csv", ".tsv")
PARQUET_SUFFIXES = (".parquet", ".pq")
SCHEMA_SUFFIX = ".schema.json"
MOST_LETTERS = 100
"""Longest name of a table that is called by its file."""


@dataclass(frozen=True)
class TableFile:
    """One file: as it lies in the delivery, or as a member of an archive.

    Attributes:
        name: Path in the delivery, with `/`; `<archive>/<member>` for a member.
        path: The file, or the archive.
        member: Set for a member.
    """

    name: str
    path: Path
    member: Member | None = None

    @property
    def bare(self) -> str:
        """The name in lower case without `.gz`."""
        return self.name.lower().removesuffix(".gz")

    def unpacked(self, target: Path) -> Path:
        """A path where the file's own bytes lie; of a member after they were written to `target`."""
        if self.member is None:
            return self.path
        self.member.unpack(target)
        return target

    def size(self) -> int:
        """Bytes as delivered; of a member the unpacked ones."""
        return self.path.stat().st_size if self.member is None else self.member.info.file_size

    def sha256(self) -> str:
        """Hash of the file as delivered; of a member that of its entry (name, checksum and size)."""
        if self.member is not None:
            entry = self.member.info
            return hashlib.sha256(f"{self.name}\0{entry.CRC}\0{entry.file_size}".encode()).hexdigest()
        return sha256_file(self.path)


@dataclass
class Assigned:
    """What became of the files before any was read.

    Attributes:
        tables: Table name to its files, in order of their names.
        schemas: `*.schema.json` files by name in lower case.
        others: Files that are no tables.
        refused: Archives and members that cannot be read, and files whose table's name is taken.
    """

    tables: dict[str, list[TableFile]] = field(default_factory=dict)
    schemas: dict[str, TableFile] = field(default_factory=dict)
    others: list[TableFile] = field(default_factory=list)
    refused: list[tuple[TableFile, UnusableFileError]] = field(default_factory=list)


def assign_files(files: Iterable[tuple[str, Path]], tables: Mapping[str, TableReading]) -> Assigned:
    """Find the files of every table.

    Args:
        files: The files of the delivery.
        tables: The declared tables; where there are none, every CSV and Parquet file is a table, called by its stem.
            A file that two of them match belongs to the first.
    """
    found = Assigned()
    for file in _files(files, found):
        if file.bare.endswith(SCHEMA_SUFFIX):
            found.schemas[file.bare] = file
            continue
        names = [name for name, settings in tables.items() if matches(file.name, settings.files)]
        if not tables and file.bare.endswith(CSV_SUFFIXES + PARQUET_SUFFIXES):
            names = [table_name(file.name)]
        if not names:
            found.others.append(file)
        elif not tables and (clash := _clash(names[0], found)):
            found.refused.append((file, UnusableFileError("name_clash", clash, where=file.name, todo="Rename it.")))
        else:
            found.tables.setdefault(names[0], []).append(file)
    return found


def _files(files: Iterable[tuple[str, Path]], found: Assigned) -> Iterable[TableFile]:
    """The files with the members of archives in their place; what is in the way of that goes to `found.refused`."""
    for name, path in files:
        file = TableFile(name, path)
        if not is_archive(name):
            yield file
            continue
        try:
            inside, refused = members(name, path)
        except UnusableFileError as error:
            found.refused.append((file, error))
            continue
        found.refused += [(TableFile(member.name, path, member), error) for member, error in refused]
        yield from (TableFile(member.name, path, member) for member in inside)


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Does a file's name match one of the patterns, with its `.gz` or without, whatever the case?"""
    folded = name.lower()
    bare = folded.removesuffix(".gz")
    # `*` matches `/` as well, and a pattern without a folder names the file wherever it lies.
    seen = {folded, bare, PurePosixPath(folded).name, PurePosixPath(bare).name}
    return any(fnmatch.fnmatchcase(one, pattern.lower()) for pattern in patterns for one in seen)


def _clash(table: str, found: Assigned) -> str:
    """What is wrong with another table of this name; nothing if it is free."""
    if table in BESIDE_THE_DATA:
        return f"'{table}' is the name of a table of every delivery."
    return f"Two files of the delivery would be the table '{table}'." if table in found.tables else ""


def table_name(file: str) -> str:
    """The table's name of a file: its stem, lower case, `[a-z0-9_]`, not starting with a digit; a long one is cut."""
    stem = PurePosixPath(re.sub(r"(?i)\.gz$", "", file)).stem.lower()
    name = re.sub(r"[^a-z0-9_]+", "_", stem).strip("_") or "table"
    if len(name) > MOST_LETTERS:  # the file of the table has to have a name, too
        name = f"{name[: MOST_LETTERS - 9]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return f"t_{name}" if name[0].isdigit() else name


def is_parquet(file: TableFile, path: Path) -> bool:
    """Is a file Parquet: by its name, else (of a declared table) by its first bytes."""
    if file.bare.endswith(PARQUET_SUFFIXES):
        return True
    return not file.bare.endswith(CSV_SUFFIXES) and next(ByteSource(path).pieces(), b"").startswith(b"PAR1")
