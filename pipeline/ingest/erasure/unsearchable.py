"""Files that nobody can look into: archives other than ZIP, compressed, encrypted and binary ones.

Their bytes are not what is in them, so that not finding an id there says nothing. They are told by how they begin or,
where that says nothing, by what they are called; nothing is unpacked here but gzip.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pipeline.ingest.lines import ByteSource

PACKED: Final = "packed, encrypted or no text: what is in it could not be searched"
_BEGINNINGS: Final = re.compile(
    rb"PK\x03\x04|PK\x05\x06|PK\x07\x08|7z\xbc\xaf\x27\x1c|\xfd7zXZ\x00|BZh[1-9]1AY&SY|\x28\xb5\x2f\xfd|\x04\x22\x4d\x18|"
    rb"Rar!\x1a\x07|\x1f\x9d|\x1f\xa0|LZIP\x01|\x5d\x00\x00|MSCF\x00|\xff\x06\x00\x00sNaPpY|\x1f\x8b|%PDF-|PAR1\x15|Obj\x01|"
    rb"ARROW1\x00|\x89HDF|\xd0\xcf\x11\xe0|\x89PNG|\xff\xd8\xff|-----BEGIN PGP|age-encryption|Salted__"
)
"""Of archives, compressed files, tables in columns, documents and pictures, and of what was encrypted."""
OPEN_THEM: Final = "Unpack them, or take them out of the landing folder, and give the command again."
"""What to do about such files where a person is to be erased."""
_NAMED: Final = 10
"""Files that are named in a sentence."""
_TAR: Final = slice(257, 262)
_ENDINGS: Final = (
    *(".zip", ".7z", ".rar", ".tar", ".tgz", ".xz", ".txz", ".bz2", ".tbz", ".tbz2", ".zst", ".tzst", ".lz", ".lz4"),
    *(".lzma", ".z", ".br", ".sz", ".snappy", ".cab", ".gpg", ".pgp", ".asc", ".age", ".enc", ".aes", ".p7m", ".orc"),
    *(".pdf", ".dcm", ".docx", ".xlsx", ".xls", ".xlsb", ".odt", ".ods", ".sav", ".sas7bdat", ".rds", ".rdata"),
)


def is_packed(name: str, path: Path) -> bool:
    """Would searching the bytes of this file (of a gzip: what it unpacks to) say nothing of what is in it?

    Args:
        name: What it is called.
        path: Where its bytes lie.
    """
    head = next(ByteSource(path).pieces(), b"")
    if not head:
        return path.stat().st_size > 0 and ByteSource(path).gzipped  # a gzip of which nothing can be unpacked
    return (
        _BEGINNINGS.match(head) is not None
        or head[_TAR] == b"ustar"
        or name.lower().removesuffix(".gz").endswith(_ENDINGS)
    )


def closed_in_words(files: Iterable[str]) -> str:
    """That these files could not be searched; empty where there are none."""
    named = sorted(files)
    if not named:
        return ""
    more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    number = f"{len(named)} FILE{'S' * (len(named) != 1)}"
    return f"{number} COULD NOT BE SEARCHED and may hold them: {'; '.join(named[:_NAMED])}{more}."
