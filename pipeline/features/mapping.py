"""Mapping files that a user brings to group codes: phecodes, CCS and CCSR as they are downloaded, or one's own.

Which column is what is found by the header, or declared. What is done with the pairs is in `codes.py`.
"""

from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING, Final, NamedTuple

from pipeline.errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import pyarrow as pa

    from pipeline.features.block_spec import MappingSpec

CODE: Final = {
    "code": None, "icd": None, "icdcode": None, "diagnosiscode": None,
    "icd9": 9, "icd9cm": 9, "icd9code": 9, "icd9cmcode": 9,
    "icd10": 10, "icd10cm": 10, "icd10code": 10, "icd10cmcode": 10, "icd10pcs": 10, "icd10pcscode": 10,
}  # fmt: skip
"""Names of code columns (letters and digits only), and the version of ICD that a name tells."""
GROUP: Final = ("group", "phecode", "phecodes", "ccsrcategory", "prccsr", "ccscategory")
SYSTEM: Final = ("system", "codesystem", "version", "icdversion", "vocabularyid", "vocabulary", "flag")
_NUMBERED_GROUP: Final = re.compile(r"ccsrcategory\d+|prccsr\d+")
_HEADER_WITHIN: Final = 20
"""Lines among which the header is looked for: AHRQ's files begin with a note."""
_DELIMITERS: Final = (",", "\t", ";", "|")


class _Header(NamedTuple):
    """Where things stand in a mapping file: line of the header, delimiter, names, and the places of what is read."""

    line: int
    delimiter: str
    names: list[str]
    code: int
    groups: list[int]
    system: int | None
    version: int | None


def read_mapping(spec: MappingSpec, folder: Path) -> pa.Table:
    """The pairs of all files: `code` and `system` as they stand there, `version` told from the header, `group`.

    Raises:
        ConfigError: a file cannot be read, its columns cannot be told, or a line has another number of cells.
    """
    import pyarrow as pa

    rows = [row for name in spec.files for row in _pairs(folder / name, spec)]
    if not rows:
        raise ConfigError("The mapping holds no code with a group.", where=", ".join(spec.files))
    codes, systems, versions, groups = zip(*rows, strict=True)
    return pa.table(
        {
            "code": pa.array(codes, pa.string()),
            "system": pa.array(systems, pa.string()),
            "version": pa.array(versions, pa.int32()),
            "group": pa.array(groups, pa.string()),
        }
    )


def _pairs(file: Path, spec: MappingSpec) -> Iterator[tuple[str, str | None, int | None, str]]:
    """Code, system, version, group of every line and group column; blank codes and groups are none."""
    where = f"{file.parent.name}/{file.name}"
    try:
        # utf-8-sig: spreadsheets put a byte-order mark first. What is read is ASCII; a title may be anything.
        text = file.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise ConfigError(
            f"The mapping file cannot be read ({error.strerror}).", where=where, todo="It belongs beside the YAML."
        ) from None
    header = _header(text, spec, where)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=header.delimiter)
    for number, cells in enumerate(lines, 1):
        if number <= header.line or not any(cells):
            continue
        if len(cells) != len(header.names):
            raise ConfigError(
                f"The line has {len(cells)} cells, the header {len(header.names)}.", where=f"{where}:{lines.line_num}"
            )
        code = _bare(cells[header.code])
        system = None if header.system is None else _bare(cells[header.system]) or None
        for place in header.groups:
            group = _bare(cells[place])
            if code and group:
                yield code, system, header.version, group


def _header(text: str, spec: MappingSpec, where: str) -> _Header:
    """The first line whose cells name a code and a group."""
    first: list[str] = []
    for delimiter in _DELIMITERS:
        for number, cells in enumerate(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), 1):
            if number > _HEADER_WITHIN:
                break
            names = [_bare(cell) for cell in cells]
            first = first or names
            found = _places(names, spec)
            if found:
                code, groups, system = found
                version = CODE.get(_letters(names[code]))
                return _Header(number, delimiter, names, code, groups, system, version)
    wanted = [w for w in (spec.code, *(spec.groups or []), spec.system) if w and w not in first]
    if wanted:
        raise ConfigError(f"The mapping has no column '{wanted[0]}'.", where=where, todo=nearest(wanted[0], first))
    raise ConfigError(
        "The header names no column of codes and one of groups.",
        where=where,
        todo="Call them `code` and `group`, or declare `code:` and `groups:` under roll_up.",
    )


def _places(names: Sequence[str], spec: MappingSpec) -> tuple[int, list[int], int | None] | None:
    """Places of the code, the groups and the system in a header; None where this is none."""
    plain = [_letters(name) for name in names]
    declared = [name for name in (spec.code, *(spec.groups or []), spec.system) if name]
    if any(name not in names for name in declared):
        return None
    code = names.index(spec.code) if spec.code else next((i for i, n in enumerate(plain) if n in CODE), None)
    if spec.groups:
        groups = [names.index(name) for name in spec.groups]
    else:
        groups = [i for i, n in enumerate(plain) if _NUMBERED_GROUP.fullmatch(n)]
        groups = groups or [i for i, n in enumerate(plain) if n in GROUP][:1]
    system = names.index(spec.system) if spec.system else next((i for i, n in enumerate(plain) if n in SYSTEM), None)
    return None if code is None or not groups else (code, groups, system)


def _bare(cell: str) -> str:
    """A cell without blanks and the single quotes that AHRQ puts around codes."""
    return cell.strip().strip("'").strip()


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
