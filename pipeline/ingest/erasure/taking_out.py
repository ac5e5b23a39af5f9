"""Taking one person out of a delivery in the landing folder: `look` counts, `take_out` rewrites.

A file is rewritten aside and renamed, so it is the old one or the new one at every moment, and doing it again changes
nothing; `_SUCCESS` is not touched, and of `_DELIVERY.json` the hash alone. What stays is byte for byte what it was (in a
gzip or archive: what it unpacks to). Which file is looked through how is in `taking_out_files.py`; what is a person's
record, in `taking_out_fhir.py` and `taking_out_tables.py`.
"""

from __future__ import annotations

import gzip
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pipeline.ingest.delivery import renew_content
from pipeline.ingest.erasure.person import Person
from pipeline.ingest.erasure.taking_out_archives import Sift, sift_archive
from pipeline.ingest.erasure.taking_out_fhir import sift_document, sift_lines
from pipeline.ingest.erasure.taking_out_files import PersonFile, file_of, files_of
from pipeline.ingest.erasure.taking_out_tables import sift_csv, sift_parquet
from pipeline.ingest.erasure.tally import Tally, Unsearched
from pipeline.ingest.erasure.unsearchable import PACKED, is_packed
from pipeline.ingest.lines import DOCUMENT_LIMIT, ByteSource
from pipeline.store.disk import remove, storage_errors, sync_file, sync_folder

if TYPE_CHECKING:
    from pipeline.features.source import SourceSpec

ASIDE = ".erase-"
"""Names of the work folders beside the deliveries of a source; what a killed erasure left is swept by the next."""
HALF_COPIED = ".tmp-"
_OPENED = ("archive", "parquet", "dictionary")
"""Forms of files that are packed and yet opened, or hold nobody."""
_HANDING_OVER_SECONDS = 3600.0


def look(folder: Path, source: SourceSpec, person: Person) -> Tally:
    """Count what a delivery's folder holds of a person. Changes nothing.

    Raises:
        StoreError: no space to unpack, or a file cannot be read.
    """
    total = Tally()
    with storage_errors(str(folder)), _aside(folder) as scratch:
        for file in files_of(folder, source, person.column):
            tally = Tally()
            for _ in _sifted(file, source, person, tally, scratch):
                pass
            total.add(_named(file, file.name, person, tally))
    return total


def take_out(folder: Path, source: SourceSpec, person: Person) -> Tally:
    """Rewrite a delivery's folder without a person; gives what was there before.

    A file in which nothing is left is removed, and so is one that nobody reads or can read and that carries the id;
    a file that is called by the id and holds others' records is renamed.

    Raises:
        StoreError: disk full or not writable; every file is then whole, the old one or the new one.
    """
    total = Tally()
    with storage_errors(str(folder)), _aside(folder) as scratch:
        for file in list(files_of(folder, source, person.column)):
            tally = Tally()
            fresh = scratch / "fresh"
            with _writer(fresh, file.path) as out:
                for piece in _sifted(file, source, person, tally, scratch):
                    out.write(piece)
            _named(file, file.name, person, tally)
            if tally.whole:
                remove(file.path)
            elif tally.held:
                sync_file(fresh)
                shutil.copymode(file.path, fresh)
                fresh.replace(file.path)
            if not tally.whole:
                _rename(folder, file, person)
            sync_folder(file.path.parent if file.path.parent.is_dir() else folder)
            total.add(tally)
        _sweep_empty(folder)
        if total.held:
            renew_content(folder, scratch / "manifest")
    return total


def sweep(folder: Path) -> int:
    """Remove what killed processes left beside the deliveries of a source (`landing/<source>`); gives the number.

    A delivery that is being handed over this very hour stays: `half_copied` finds it.
    """
    swept = 0
    with storage_errors(str(folder)):
        for path in folder.glob(".*") if folder.is_dir() else ():
            old = path.name.startswith(HALF_COPIED) and path.stat().st_mtime < time.time() - _HANDING_OVER_SECONDS
            if path.name.startswith(ASIDE) or old:
                remove(path)
                swept += 1
    return swept


def half_copied(folder: Path) -> int:
    """How many deliveries of a source (`landing/<source>`) are being handed over, or were left so by a killed process."""
    return sum(1 for _ in folder.glob(f"{HALF_COPIED}*")) if folder.is_dir() else 0


def _sifted(file: PersonFile, source: SourceSpec, person: Person, tally: Tally, scratch: Path) -> Iterator[bytes]:
    """What stays of a file; `tally.whole` says afterwards that nothing does."""
    work = scratch / "unpacked"
    data = ByteSource(file.path)
    try:
        if file.form == "lines":
            yield from sift_lines(data.pieces(), person, tally)
        elif file.form == "document":
            yield from _document(data, person, tally)
        elif file.form == "csv":
            yield from sift_csv(file, work, person, tally)
        elif file.form == "parquet":
            yield from sift_parquet(file, work, person, tally)
        elif file.form == "archive":
            yield from sift_archive(file, scratch, person, tally, _sift_member(source, person))
        elif file.form is None and person.distinctive:
            tally.whole += any(person.traced(window) for window in _windows(data))
        if data.damaged:
            tally.note_damage(file.name)
    finally:
        work.unlink(missing_ok=True)


def _document(data: ByteSource, person: Person, tally: Tally) -> Iterator[bytes]:
    """What stays of a JSON document; one that is too large for its reader goes whole if it carries the id."""
    pieces, size = [], 0
    for piece in data.pieces():
        size += len(piece)
        if size > DOCUMENT_LIMIT:
            break
        pieces.append(piece)
    if size <= DOCUMENT_LIMIT:
        kept = sift_document(b"".join(pieces), person, tally)
        tally.whole += kept is None
        yield kept or b""
        return
    gone = any(person.traced(window) for window in _windows(data))
    tally.before += 1
    tally.removed += gone
    tally.whole += gone
    tally.unread += not gone
    if not gone:
        yield from data.pieces()


def _sift_member(source: SourceSpec, person: Person) -> Sift:
    """How a member of an archive is looked through: as a file is; an archive in it is read by nobody."""

    def sift(name: str, path: Path, scratch: Path, tally: Tally) -> Iterator[bytes]:
        member = file_of(name, path, source, person.column)
        if member.form == "archive":
            member = replace(member, form=None)
        yield from _sifted(member, source, person, tally, scratch)
        _named(member, name.partition("/")[2], person, tally)

    return sift


def _windows(data: ByteSource) -> Iterator[bytes]:
    """The unpacked bytes in pieces that overlap, so that nothing is cut in two."""
    last = b""
    for piece in data.pieces():
        yield last + piece
        last = piece[-200:]


def _named(file: PersonFile, name: str, person: Person, tally: Tally) -> Tally:
    """Take into account what a file is called, and that nothing is left of it."""
    called = person.mentions(name) or (person.distinctive and person.traced(name.encode()))
    empty = tally.after == (tally.unread if called else 0) and file.form not in ("parquet", "dictionary")
    if empty and (tally.removed or called) and not (file.form in ("csv", "archive") and not called):
        tally.whole, tally.removed = 1, tally.before
    if tally.whole:
        tally.unsearched.clear()  # nothing of it is left
    if tally.held or any(one.closed for one in tally.unsearched):
        return tally
    if file.form not in _OPENED and is_packed(file.name if file.form is None else "", file.path):
        tally.unsearched.append(Unsearched(file.name, PACKED, closed=True))
    elif file.form is None and file.path.stat().st_size:
        how = "as bytes only" if person.distinctive else "not at all, the id is short"
        tally.unsearched.append(Unsearched(file.name, f"no reader takes it: searched {how}"))
    return tally


def _rename(folder: Path, file: PersonFile, person: Person) -> None:
    """Give a file that is called by the id and stays another name."""
    if not (person.distinctive and person.traced(file.name.encode())):
        return
    target = folder / file.name.replace(person.id, f"erased-{person.mark[:8]}")
    target.parent.mkdir(parents=True, exist_ok=True)
    file.path.replace(target)


@contextmanager
def _writer(fresh: Path, like: Path) -> Iterator[IO[bytes]]:
    """A new file, gzipped (without name and time) where the old one is."""
    with fresh.open("wb") as raw:
        if ByteSource(like).gzipped:
            with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed:
                yield packed  # type: ignore[misc]
        else:
            yield raw


@contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    """A private work folder on the same file system."""
    scratch = folder.parent / f"{ASIDE}{uuid.uuid4().hex}"
    scratch.mkdir(mode=0o700)
    try:
        yield scratch
    finally:
        remove(scratch)


def _sweep_empty(folder: Path) -> None:
    """Remove folders inside the delivery that nothing is left in: their names may be a person's."""
    for path in sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True):
        if not os.listdir(path):  # noqa: PTH208 - only: is it empty?
            path.rmdir()
