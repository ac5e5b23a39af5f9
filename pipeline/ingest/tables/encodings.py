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

from pipeline.errors import InputError
from pipeline.ingest.lines import BOM, CHUNK, ByteSource
from pipeline.ingest.tables.archives import most_unpacked
from pipeline.ingest.tables.unusable import swollen

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


def plain_lines(path: Path, target: Path, settings: TableReading | None, file: str = "") -> bool:
    """Write the file's text as UTF-8 to `target` if it is not plain UTF-8 lines already.

    Args:
        path: The file, plain or gzipped.
        target: Where to write.
        settings: Its declared encoding and comment character.
        file: Its name for messages.

    Returns:
        Whether it was written; if not, the file can be read where it lies.

    Raises:
        UnusableFileError: Its gzip unpacks to more than is likely.
    """
    encoding = (settings.encoding if settings else None) or marked(path)
    comment = settings.comment if settings else None
    old = encoding is None and _old_line_ends(path)
    if encoding is None and comment is None and not old:
        return False
    unpacked = ByteSource(path, most_unpacked(path))
    source: Iterable[bytes] = unpacked.pieces() if encoding else unpacked.chunks()
    if encoding is not None:
        source = _recoded(source, encoding)
    if old:
        source = (piece.replace(b"\r", b"\n") for piece in source)
    if comment is not None:
        source = _uncommented(source, comment.encode())
    with target.open("wb") as out:
        for piece in source:
            out.write(piece)
    if unpacked.swollen:
        target.unlink()
        raise swollen(file)
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
    for piece in ByteSource(path, most_unpacked(path)).pieces():
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
        if wide := _wide(head):
            return wide
        file.seek(0)
        whole = True
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
        return _single_bytes(file.read(_LOOKED_AT))


def utf8_of(data: bytes, encoding: str | None, where: str) -> bytes:
    """The text of a whole file as UTF-8; one that is UTF-8 already is left as it is, whatever is declared.

    Args:
        data: The file's bytes, unpacked.
        encoding: What it is in, if it is not UTF-8 and has no byte-order mark.
        where: The file, for messages.

    Raises:
        InputError: It is not UTF-8, with the encoding that it seems to be in; or not what was declared.
    """
    seems = next((name for mark, name in _MARKS if data.startswith(mark)), None)
    if seems is None and b"\0" not in data[:4096]:
        try:
            data.decode("utf-8")
        except UnicodeDecodeError:
            seems = encoding
        else:
            return data
    seems = seems or encoding
    if seems is None:
        likely = _wide(data[:4096]) or _single_bytes(data[:_LOOKED_AT])
        what = f": it looks like {likely}" if likely else ""
        raise InputError(f"The file is not UTF-8{what}.", where=where, todo=f"Pass --encoding {likely or 'NAME'}.")
    try:
        return data.decode(seems).removeprefix("\ufeff").encode("utf-8")
    except (UnicodeDecodeError, UnicodeEncodeError):
        pass  # raised outside the handler: the error holds the file's bytes
    raise InputError(f"The file is not in the encoding {seems}.", where=where)


def _wide(head: bytes) -> str | None:
    """UTF-16 without a mark, by the zeros in its first bytes."""
    low, high = head[1::2].count(0), head[::2].count(0)
    return ("utf-16-le" if low >= high else "utf-16-be") if max(low, high) > len(head) // 4 else None


def _single_bytes(data: bytes) -> str | None:
    """An encoding of one byte a character, where several lines are not UTF-8 and none is."""
    wrong, letters = 0, 0
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


__all__ = ["BOM", "foreign", "marked", "plain_lines", "utf8_of"]
