"""What speaks against a FHIR delivery being whole and right, though every record in it can be read: files that the
manifest of its export names and that did not come, and records that are dated after the delivery.

Nothing is set aside for it; it is told in the account.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

import orjson

from pipeline.ingest.lines import ByteSource
from pipeline.ingest.quarantine import public_name
from pipeline.store.connection import literal

if TYPE_CHECKING:
    from datetime import date

    from pipeline.ingest.fhir.state import Work
    from pipeline.ingest.fhir.tables import RawTables

MANIFEST: Final = "(export manifest)"
MOST_NAMES: Final = 20
"""Files that did not come which the account names; it counts all."""
_PARTS: Final = ("output", "deleted")
"""What the manifest lists that belongs to the delivery; its `error` files tell of the export only."""
_DATED: Final = {
    "Patient": ("birth_date", "deceased_at"),
    "Encounter": ("start",),
    "Condition": ("onset", "recorded"),
    "Observation": ("effective",),
    "Procedure": ("performed_start",),
    "MedicationRequest": ("authored",),
    "Immunization": ("occurrence",),
    "AllergyIntolerance": ("recorded",),
    "DiagnosticReport": ("effective",),
}
"""When something was, by type; ends are left out, as they may be planned."""


def note_missing_files(work: Work) -> None:
    """Enter the files that a manifest of the delivery names and that did not come: their number, and the first names.

    Only where some of its files came under their names: who renames one renames all.
    """
    came = {_bare(name) for name in work.names.values()}
    missing: dict[str, str] = {}
    for part in work.documents:
        if part.number in work.seen and work.seen[part.number].not_modelled[MANIFEST]:
            named = _named(b"".join(ByteSource(part.path).chunks()))
            if came & named.keys():
                missing.update({name: shown for name, shown in named.items() if name not in came})
    if missing:
        work.account.info["manifest_missing"] = {
            "files": len(missing),
            "names": sorted(missing.values())[:MOST_NAMES],
        }


def _named(manifest: bytes) -> dict[str, str]:
    """The files that a manifest names: name to compare, and name to show."""
    found = {}
    for entry in _entries(manifest):
        url = entry.get("url") if isinstance(entry, dict) else None
        name = PurePosixPath(unquote(_path(url))).name if isinstance(url, str) else ""
        if "." in name:  # others are numbers of the server, and no names of files
            found[_bare(name)] = public_name(name)
    return found


def _entries(manifest: bytes) -> list[Any]:
    """What it lists; nothing where it is no JSON document of its own."""
    try:
        document = orjson.loads(manifest)
    except orjson.JSONDecodeError:
        return []
    lists = [document.get(part) for part in _PARTS] if isinstance(document, dict) else []
    return [entry for entries in lists if isinstance(entries, list) for entry in entries]


def _path(url: str) -> str:
    try:
        return urlsplit(url).path
    except ValueError:
        return ""


def _bare(name: str) -> str:
    return PurePosixPath(name.lower()).name.removesuffix(".gz")


def note_late_records(work: Work, tables: RawTables, as_of: date) -> None:
    """Enter by type how many records say of themselves that they are of a day after the delivery's.

    The day is compared as it was written, so that time zones change nothing.
    """
    late = {}
    for kind, columns in _DATED.items():
        if not work.account.taken.get(kind):
            continue
        later = " OR ".join(f"left({column}_text, 10) > {literal(as_of.isoformat())}" for column in columns)
        own = "AND component = 0" if kind == "Observation" else ""
        ((number,),) = tables.run(
            f"SELECT count(*) FROM read_parquet({literal(tables.path(kind))}, hive_partitioning = false) "
            f"WHERE ({later}) {own}"
        )
        if number:
            late[kind] = number
    if late:
        work.account.info["after_the_delivery"] = late
