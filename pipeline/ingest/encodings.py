"""From a file as it was delivered to plain UTF-8 lines: gzip, byte-order marks, other encodings, comments, line ends.

An encoding is never guessed and used: UTF-16 and UTF-32 with a byte-order mark say what they are, others have to be
declared. What looks like another one is told apart from a few stray bytes (`foreign`), so that the file can be set
aside as a whole with the reason, instead of losing just the rows that hold an umlaut.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.ingest.lines import BOM, CHUNK, ByteSource

if TYPE_CHECKING:
    from pipeline.features.source import TableReading

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_HANDLER = "cohortloom.unreadable"
_UNREADABLE = "\udcff"
"""What stands for bytes that an encoding does not know; written as 0xFF, so that the row is quarantined as not UTF-8."""
_STRAY_LINES = 2
"""Lines with bytes that are not UTF-8 that are still taken for damage, and quarantined one by one."""
_LOOKED_AT = 4 << 20
_LETTERS = re.compile(
    rb"[A-Za-z\xc0-\xd6\xd8-\xf6\xf8-\xff][\xc0-\xd6\xd8-\xf6\xf8-\xff]|[\xc0-\xd6\xd8-\xf6\xf8-\xff][a-z]"
)


def _mark(error: UnicodeError) -> tuple[str, int]:
    return _UNREADABLE, error.end if isinstance(error, UnicodeDecodeError) else 0


codecs.register_error(_HANDLER, _mark)


def marked(path: Path) -> str | None:
    """The encoding that the file's byte-order mark names, if it is not UTF-8."""
    first = next(ByteSource(path).pieces(), b"")
    return next((name for mark, name in _MARKS if first.startswith(mark)), None)


def plain_lines(path: Path, target: Path, settings: TableReading | None) -> bool:
    """Write the file's text as UTF-8 to `target` if it is not plain UTF-8 lines already.

    Args:
        path: The file, plain or gzipped.
        target: Where to write.
        settings: Its declared encoding and comment character.

    Returns:
        Whether it was written; if not, the file can be read where it lies.
    """
    encoding = (settings.encoding if settings else None) or marked(path)
    comment = settings.comment if settings else None
    old = encoding is None and _old_line_ends(path)
    if encoding is None and comment is None and not old:
        return False
    source: Iterable[bytes] = ByteSource(path).pieces() if encoding else ByteSource(path).chunks()
    if encoding is not None:
        source = _recoded(source, encoding)
    if old:
        source = (piece.replace(b"\r", b"\n") for piece in source)
    if comment is not None:
        source = _uncommented(source, comment.encode())
    with target.open("wb") as out:
        for piece in source:
            out.write(piece)
    return True


def _recoded(pieces: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)(_HANDLER)
    first = True
    for piece in pieces:
        text = decoder.decode(piece)
        if first and text:
            first = False
            text = text.removeprefix("\ufeff")
        yield text.encode("utf-8", "surrogateescape")
    yield decoder.decode(b"", final=True).encode("utf-8", "surrogateescape")


def _uncommented(pieces: Iterable[bytes], comment: bytes) -> Iterator[bytes]:
    """Comment lines as empty ones, so that every row keeps its line; a line within a quoted cell is no comment."""
    rest, quoted = b"", False
    for piece in pieces:
        lines = (rest + piece).split(b"\n")
        rest = lines.pop()
        kept = []
        for line in lines:
            gone = not quoted and line.startswith(comment)
            quoted ^= not gone and line.count(b'"') % 2 == 1
            kept.append(b"\n" if gone else line + b"\n")
        yield b"".join(kept)
    if quoted or not rest.startswith(comment):
        yield rest


def _old_line_ends(path: Path) -> bool:
    """Does the file end its lines as a Macintosh did, with a carriage return alone?"""
    seen = False
    for piece in ByteSource(path).pieces():
        if b"\n" in piece:
            return False
        seen = seen or b"\r" in piece
    return seen


def foreign(path: Path) -> str | None:
    """Which other encoding a plain file seems to be in, or None if it is UTF-8 but for a few damaged lines.

    Args:
        path: Plain file.
    """
    with path.open("rb") as file:
        head = file.read(4096)
        if head[1::2].count(0) > len(head) // 4 or head[::2].count(0) > len(head) // 4:
            return "utf-16-le" if head[1::2].count(0) >= head[::2].count(0) else "utf-16-be"
        file.seek(0)
        wrong, letters, whole = 0, 0, True
        decoder = codecs.getincrementaldecoder("utf-8")()
        while piece := file.read(CHUNK):
            try:
                decoder.decode(piece)
            except UnicodeDecodeError:
                whole = False
                break
        if whole:
            return None
        file.seek(0)
        data = file.read(_LOOKED_AT)
    for line in data.split(b"\n"):
        if line.isascii():
            continue
        try:
            line.decode("utf-8")
        except UnicodeDecodeError:
            wrong += 1
            letters += _LETTERS.search(line) is not None
        else:
            return None  # some lines are UTF-8, so the others are damaged
    return "windows-1252" if wrong > _STRAY_LINES and letters > wrong // 2 else None


__all__ = ["BOM", "foreign", "marked", "plain_lines"]
