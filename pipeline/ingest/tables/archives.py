"""ZIP archives of a delivery: their members are files like others, called `<archive>/<member>`.

A member is unpacked to a path of the caller's, never to its own name. What must not or cannot be unpacked (encrypted,
nested, damaged, path-like names, more than is likely) is given back with the reason, and the other members are read.
"""

from __future__ import annotations

import errno
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipeline.ingest.tables.unusable import UnusableFileError

CHUNK = 1 << 20
MOST_RATIO = 300
"""An archive that unpacks to more than this many times its size is refused (tables rarely pass 50) ..."""
FREE_BYTES = 256 << 20
"""... unless all of it unpacks to less than this."""
MOST_BYTES = 200 << 30
MOST_MEMBERS = 20_000
_ENCRYPTED = 0x1
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OverflowError,
)
"""What `zipfile` raises on bytes that are no archive, or a kind of it that is not known."""


@dataclass(frozen=True)
class Member:
    """One file in an archive.

    Attributes:
        name: `<archive>/<member>`.
        archive: The archive.
        info: Its entry in the archive's directory.
    """

    name: str
    archive: Path
    info: zipfile.ZipInfo

    def unpack(self, target: Path) -> None:
        """Write the member's bytes to `target`.

        Raises:
            UnusableFileError: Its bytes are damaged.
            OSError: The disk is full or not writable.
        """
        damaged = False
        with zipfile.ZipFile(self.archive) as archive, target.open("wb") as out:
            for piece in _pieces(archive, self.info):
                if piece is None:
                    damaged = True
                else:
                    out.write(piece)
        if damaged:  # outside the handler of `_pieces`: zipfile's messages quote names
            raise UnusableFileError("bad_archive", "The member is damaged.", where=self.name)


def _pieces(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes | None]:
    """The bytes of a member; None once, at the end, if they are damaged. Never more than the directory says."""
    try:
        with archive.open(info) as packed:
            while piece := packed.read(CHUNK):
                yield piece
    except _DAMAGED:
        yield None
    except OSError as error:
        if error.errno != errno.EINVAL:  # a place before the file's beginning; other errors are the disk's
            raise
        yield None


def most_unpacked(packed: Path) -> int:
    """The bytes that a ZIP or gzip file may unpack to before it counts as a bomb."""
    return max(FREE_BYTES, min(MOST_BYTES, MOST_RATIO * packed.stat().st_size))


def is_archive(name: str) -> bool:
    """True if the file is a ZIP by its name (by content, every spreadsheet would be one)."""
    return name.lower().endswith(".zip")


def is_packed(name: str) -> bool:
    """True if the file is an archive of any kind by its name, also of those that are not unpacked here."""
    return name.lower().endswith((".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".7z", ".rar"))


def members(name: str, path: Path) -> tuple[list[Member], list[tuple[Member, UnusableFileError]]]:
    """The members of an archive that can be unpacked, by name, and the others with the reason.

    Folders, hidden files and what macOS puts beside the files (`__MACOSX/`) are no content.

    Raises:
        UnusableFileError: The archive itself is damaged, or unpacks to more than is likely.
    """
    entries = _directory(name, path)
    total = sum(entry.file_size for entry in entries)
    if len(entries) > MOST_MEMBERS or total > most_unpacked(path):
        raise UnusableFileError(
            "too_large",
            f"The archive would unpack to {len(entries):,} files of {total / 2**20:,.0f} MiB, {total // max(1, path.stat().st_size):,} "
            "times its size.",
            where=name,
            todo="If that is right, hand over the files themselves.",
        )
    found: list[Member] = []
    refused: list[tuple[Member, UnusableFileError]] = []
    for entry in sorted(entries, key=lambda e: e.filename):
        member = Member(f"{name}/{entry.filename}", path, entry)
        fault = _fault(entry)
        if fault is None and found and found[-1].name == member.name:
            fault = ("name_clash", "Two members have this name.", "Rename one of them.")
        if fault is None:
            found.append(member)
        else:
            reason, what, todo = fault
            refused.append((member, UnusableFileError(reason, what, where=member.name, todo=todo)))
    return found, refused


def _fault(entry: zipfile.ZipInfo) -> tuple[str, str, str] | None:
    """Why a member is not unpacked: reason, words and remedy."""
    if not _safe(entry.filename):
        return "unsafe_name", "The member's name is a path that leads out of the archive.", "Rename it."
    if entry.flag_bits & _ENCRYPTED:
        return "encrypted", "The member is encrypted.", "Hand it over decrypted."
    if is_archive(entry.filename):
        return "nested_archive", "The member is an archive itself.", "Unpack it first."
    return None


def _directory(name: str, path: Path) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(path) as archive:
            return [e for e in archive.infolist() if not e.is_dir() and not _hidden(e.filename)]
    except _DAMAGED:
        pass  # the error is raised outside the handler: these quote names
    raise UnusableFileError("bad_archive", "This is not a ZIP archive, or it is damaged.", where=name)


def _hidden(member: str) -> bool:
    parts = PurePosixPath(member).parts
    return "__MACOSX" in parts or any(part.startswith(".") and part != ".." for part in parts)


def _safe(member: str) -> bool:
    """A plain relative path."""
    parts = PurePosixPath(member).parts
    return not (
        not parts
        or member.startswith("/")
        or ".." in parts
        or "\\" in member
        or ":" in parts[0]
        or any(ord(character) < 32 for character in member)
    )
