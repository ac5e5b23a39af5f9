"""Reading files byte by byte, whatever state they are in: plain or gzipped, cut off, or with broken lines.

Nothing here raises on the content of a file. A gzip that ends early yields what stands before the cut and says so;
what a line means is judged elsewhere.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO

from pipeline.ingest.tables.archives import most_unpacked

CHUNK = 1 << 20
LINE_LIMIT = 64 * 1024 * 1024
"""Longest line (bytes) that is read as a record. Lines longer than DuckDB's default object size are split first."""
DOCUMENT_LIMIT = 128 * 1024 * 1024
"""Largest JSON document (unpacked bytes) that is read; it is held in memory whole, about nine times its size."""
BOM = b"\xef\xbb\xbf"


def is_gzip(path: Path) -> bool:
    """True if the file starts with gzip's magic bytes, whatever it is called."""
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


class ByteSource:
    """The unpacked bytes of a file, in chunks; `cut` is True after reading a gzip that is truncated or damaged, `damaged`
    where there are bytes behind the place, and `swollen` after reading one that unpacks to more than `most` bytes.

    Args:
        path: Plain or gzipped file (told apart by content; several gzip members in a row are one stream).
        most: Where to stop unpacking (`archives.most_unpacked`); None reads on, as erasure must.
    """

    def __init__(self, path: Path, most: int | None = None) -> None:
        self.path = path
        self.most = most
        self.gzipped = is_gzip(path)
        self.cut = False
        self.damaged = False
        self.swollen = False

    def chunks(self) -> Iterator[bytes]:
        """Yield the content in pieces of about a MiB, without a byte-order mark at the start."""
        first = True
        for piece in self.pieces():
            if first and piece:
                first = False
                piece = piece.removeprefix(BOM)
            if piece:
                yield piece

    def pieces(self) -> Iterator[bytes]:
        """Yield the content as it is, a byte-order mark included."""
        yield from self._gunzip() if self.gzipped else self._plain()

    def _plain(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            while piece := file.read(CHUNK):
                yield piece

    def _gunzip(self) -> Iterator[bytes]:
        decoder = zlib.decompressobj(wbits=31)
        size = 0
        with self.path.open("rb") as file:
            while packed := file.read(CHUNK):
                while packed:
                    try:
                        piece = decoder.decompress(packed, CHUNK * 4)
                    except zlib.error:
                        self.cut = self.damaged = True
                        return
                    size += len(piece)
                    if self.most is not None and size > self.most:
                        self.swollen = True
                        return
                    yield piece
                    if decoder.eof:
                        packed = decoder.unused_data.lstrip(b"\0")
                        if packed:
                            decoder = zlib.decompressobj(wbits=31)
                    else:
                        packed = decoder.unconsumed_tail
        self.cut = not decoder.eof


@dataclass(frozen=True)
class Line:
    """One line of a file.

    Attributes:
        number: 1-based.
        data: Its bytes without the line break; None if it is longer than `LINE_LIMIT`.
        ended: False for a last line without a line break.
    """

    number: int
    data: bytes | None
    ended: bool = True


def lines(chunks: Iterator[bytes], *, start: int = 1) -> Iterator[Line]:
    """Cut chunks into lines; memory stays below a few times `LINE_LIMIT` even where there are no line breaks.

    Args:
        chunks: Bytes in any pieces.
        start: Number of the first line.
    """
    number, rest, oversized = start, b"", False
    for chunk in chunks:
        parts = (rest + chunk).split(b"\n")
        rest = parts.pop()
        for part in parts:
            yield Line(number, None if oversized or len(part) > LINE_LIMIT else part)
            oversized = False
            number += 1
        if len(rest) > LINE_LIMIT:
            rest, oversized = b"", True
    if rest or oversized:
        yield Line(number, None if oversized else rest, ended=False)


@dataclass(frozen=True)
class Survey:
    """What one pass over a line file found.

    Attributes:
        plain: Where its unpacked bytes lie (the file itself if it is not gzipped and has no byte-order mark).
        records: Lines that are not blank.
        bytes: Unpacked size.
        odd: True if the file holds what DuckDB would accept without being JSON (a trailing comma).
        cut: True if its gzip ends early.
        swollen: True if its gzip unpacks to more than is likely; nothing of it is at `plain` then.
    """

    plain: Path
    records: int
    bytes: int
    odd: bool
    cut: bool
    swollen: bool = False


def survey(path: Path, unpacked: Path) -> Survey:
    """Count the records of a line file, unpacking it to `unpacked` if it is gzipped or starts with a byte-order mark.

    The count is made on bytes, apart from any JSON reader, so that it can hold the account against it.
    """
    source = ByteSource(path, most_unpacked(path))
    with path.open("rb") as file:
        copy = source.gzipped or file.read(3) == BOM
    out: IO[bytes] | None = unpacked.open("wb") if copy else None
    size, pairs = 0, _Pairs()
    last = b"\n"  # as if a line had just ended
    try:
        for chunk in source.chunks():
            if out is not None:
                out.write(chunk)
            size += len(chunk)
            pairs.look(last + chunk)
            last = chunk[-1:]
    finally:
        if out is not None:
            out.close()
    if source.swollen:
        unpacked.unlink()
        return Survey(path, 0, 0, odd=False, cut=False, swollen=True)
    plain = unpacked if copy else path
    # Every line has a first byte, and before it stands a line break (the first one being made up).
    records = pairs.starts
    if pairs.blank:
        records = sum(1 for line in lines(_read(plain)) if line.data is None or line.data.strip())
    return Survey(plain, records, size, pairs.odd, source.cut)


class _Pairs:
    """What neighbouring bytes say: how many lines start, may one be blank, does a comma stand before a closing bracket.

    NumPy over small blocks: several times faster than searching bytes, and it lets other threads run.
    """

    BLOCK = 1 << 16

    def __init__(self) -> None:
        self.starts, self.blank, self.odd = 0, False, False

    def look(self, data: bytes) -> None:
        """Take the pairs of neighbouring bytes of `data` into account."""
        import numpy as np

        whole = np.frombuffer(data, np.uint8)
        for place in range(0, len(whole) - 1, self.BLOCK):
            first, second = whole[place : place + self.BLOCK], whole[place + 1 : place + 1 + self.BLOCK]
            first = first[: len(second)]
            after = second[np.flatnonzero(first == 10)]
            self.starts += len(after)
            self.blank = self.blank or bool(np.isin(after, (9, 10, 13, 32)).any())
            # "]" and "}" differ in one bit
            self.odd = self.odd or bool(((first == 44) & ((second | 32) == 125)).any())


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            yield piece


def spans(path: Path, size: int) -> list[tuple[int, int]]:
    """Cut a plain file into byte ranges of about `size` that end at line breaks."""
    total = path.stat().st_size
    cuts = [0]
    with path.open("rb") as file:
        while cuts[-1] + size < total:
            file.seek(cuts[-1] + size)
            while (piece := file.read(CHUNK)) and b"\n" not in piece:
                pass
            here = file.tell() - len(piece) + piece.find(b"\n") + 1 if piece else total
            cuts.append(here)
    if cuts[-1] < total or total == 0:
        cuts.append(total)
    return list(pairwise(cuts))


def read_span(path: Path, begin: int, end: int) -> Iterator[bytes]:
    """The bytes of a plain file from `begin` up to `end`, in chunks."""
    with path.open("rb") as file:
        file.seek(begin)
        left = end - begin
        while left > 0 and (piece := file.read(min(CHUNK, left))):
            left -= len(piece)
            yield piece
