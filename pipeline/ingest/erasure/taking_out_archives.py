"""Taking one person out of a ZIP archive: the archive again, with every member as it is without them.

Members keep their names, order, times and packing. A member that cannot be unpacked (encrypted, damaged) was read by
nobody; it stays where the archive does, but cannot be put into one that is made anew. How members are looked through is
the caller's.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.ingest.erasure.person import Person
from pipeline.ingest.erasure.tally import Tally, Unsearched
from pipeline.ingest.lines import CHUNK
from pipeline.ingest.tables.archives import Member, members
from pipeline.ingest.tables.unusable import UnusableFileError

if TYPE_CHECKING:
    from pipeline.ingest.erasure.taking_out_files import PersonFile

Sift = Callable[[str, Path, Path, Tally], Iterator[bytes]]
"""Name, unpacked member, scratch folder and tally to what stays of it; `tally.whole`: nothing does."""


def sift_archive(file: PersonFile, scratch: Path, person: Person, tally: Tally, sift: Sift) -> Iterator[bytes]:
    """The archive without the person; nothing is yielded where it does not hold them.

    Args:
        file: The archive.
        scratch: A folder to work in.
        person: Who goes.
        tally: Takes the counts.
        sift: Looks through a member.
    """
    try:
        members(file.name, file.path)  # raises where nobody unpacks it: damaged, or far too large
    except UnusableFileError:
        tally.unsearched.append(Unsearched(file.name, "not readable as a ZIP archive", closed=True))
        return
    fresh = scratch / "archive"
    total = Tally()
    lost = 0
    try:
        with zipfile.ZipFile(file.path) as old, zipfile.ZipFile(fresh, "w") as new:
            new.comment = old.comment
            for entry in old.infolist():
                if entry.is_dir():
                    new.writestr(entry, b"")
                elif not _rewritten(file, entry, new, scratch, person, total, sift):
                    lost += 1
        if total.held:
            total.removed += lost
        else:
            total.unread += lost
        total.before += lost
        total.whole = 0
        held = total.held
        _count_in(tally, total)
        if held:
            with fresh.open("rb") as packed:
                while piece := packed.read(CHUNK):
                    yield piece
    finally:
        fresh.unlink(missing_ok=True)


def _rewritten(
    file: PersonFile,
    entry: zipfile.ZipInfo,
    new: zipfile.ZipFile,
    scratch: Path,
    person: Person,
    total: Tally,
    sift: Sift,
) -> bool:
    """Put a member into the new archive without the person; False where it cannot be unpacked."""
    name = f"{file.name}/{entry.filename}"
    plain, kept = scratch / "member", scratch / "kept"
    try:
        Member(name, file.path, entry).unpack(plain)
    except UnusableFileError:
        total.unsearched.append(Unsearched(name, "encrypted or damaged", closed=True))
        return False
    try:
        one = Tally()
        with kept.open("wb") as out:
            for piece in sift(name, plain, scratch, one):
                out.write(piece)
        total.add(one)
        if one.whole:
            total.blotted += not one.removed  # it holds no records that could be counted
            return True
        fresh = zipfile.ZipInfo(person.mask(entry.filename) if person.distinctive else entry.filename, entry.date_time)
        fresh.compress_type, fresh.comment = entry.compress_type, entry.comment
        fresh.external_attr, fresh.create_system = entry.external_attr, entry.create_system
        total.blotted += fresh.filename != entry.filename and not one.held
        with (kept if one.held else plain).open("rb") as body, new.open(fresh, "w", force_zip64=True) as out:
            shutil.copyfileobj(body, out)
        return True
    finally:
        plain.unlink(missing_ok=True)
        kept.unlink(missing_ok=True)


def _count_in(tally: Tally, total: Tally) -> None:
    """An archive is one file."""
    files = tally.files
    tally.add(total)
    tally.files = files
