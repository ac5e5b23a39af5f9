"""The text of a plain table as UTF-8 lines to look through, and back to the bytes in which it was delivered.

What `encodings.py` does for reading, both ways: byte-order marks, declared encodings, old line ends, comments.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pipeline.ingest.lines import BOM, CHUNK, ByteSource

if TYPE_CHECKING:
    from pipeline.features.source import TableReading

_MARKS: Final = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_ESCAPE: Final = "surrogateescape"


@dataclass(frozen=True)
class TextForm:
    """How a text was written.

    Attributes:
        mark: Its byte-order mark.
        encoding: Its encoding where that is not UTF-8.
        old_ends: Are its lines ended by a carriage return alone?
        comments: Line to the comment that stood there; the line is empty in what is looked through.
        damaged: Is it a gzip with bytes that could not be unpacked?
    """

    mark: bytes = b""
    encoding: str | None = None
    old_ends: bool = False
    comments: dict[int, bytes] = field(default_factory=dict)
    damaged: bool = False

    def back(self, piece: bytes) -> bytes:
        """UTF-8 text as it was written."""
        if self.old_ends:
            return piece.replace(b"\n", b"\r")
        return piece if self.encoding is None else piece.decode("utf-8", _ESCAPE).encode(self.encoding, _ESCAPE)


def unpack(path: Path, target: Path, reading: TableReading | None = None) -> TextForm:
    """Write a text as UTF-8 lines without mark and comments; gives what `TextForm.back` needs.

    Args:
        path: Plain or gzipped.
        target: Where to write.
        reading: Its declared encoding and comment character.

    Raises:
        UnicodeError: The file is not in its encoding.
    """
    head = next(ByteSource(path).pieces(), b"")
    mark, encoding = next(((mark, name) for mark, name in _MARKS if head.startswith(mark)), (b"", None))
    declared = codecs.lookup(reading.encoding).name if reading is not None and reading.encoding else None
    if declared not in (None, "utf-8", "utf-8-sig", "utf-16", "utf-32") and not (encoding and declared == encoding):
        mark, encoding = b"", declared
    elif declared in ("utf-16", "utf-32") and encoding is None:
        encoding = f"{declared}-le"
    if encoding is None and head.startswith(BOM):
        mark = BOM
    source = ByteSource(path)
    with target.open("wb") as out:
        for piece in _decoded(source, mark, encoding):
            out.write(piece)
    old_ends = encoding is None and _old_line_ends(target)
    if old_ends:
        _rewrite(target, (piece.replace(b"\r", b"\n") for piece in _pieces(target)))
    comments: dict[int, bytes] = {}
    if reading is not None and reading.comment is not None:
        _rewrite(target, _uncommented(target, reading.comment.encode(), comments))
    return TextForm(mark, encoding, old_ends, comments, source.damaged)


def _decoded(source: ByteSource, mark: bytes, encoding: str | None) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)(_ESCAPE) if encoding is not None else None
    first = True
    for piece in source.pieces():
        bare = piece.removeprefix(mark) if first else piece
        first = False
        yield bare if decoder is None else decoder.decode(bare).encode("utf-8", _ESCAPE)
    if decoder is not None:
        yield decoder.decode(b"", final=True).encode("utf-8", _ESCAPE)


def _old_line_ends(path: Path) -> bool:
    seen = False
    for piece in _pieces(path):
        if b"\n" in piece:
            return False
        seen = seen or b"\r" in piece
    return seen


def _uncommented(path: Path, comment: bytes, comments: dict[int, bytes]) -> Iterator[bytes]:
    """The lines with comments taken away and noted; a line within a quoted cell is no comment."""
    quoted = False
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not quoted and line.startswith(comment):
                comments[number] = line.removesuffix(b"\n")
                yield b"\n" if line.endswith(b"\n") else b""
            else:
                quoted ^= line.count(b'"') % 2 == 1
                yield line


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            yield piece


def _rewrite(path: Path, pieces: Iterator[bytes]) -> None:
    fresh = path.with_name(f"{path.name}.rewritten")
    try:
        with fresh.open("wb") as out:
            for piece in pieces:
                out.write(piece)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
