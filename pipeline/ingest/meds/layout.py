"""Which files of a delivery are what of a MEDS dataset, and which version of MEDS it is. No row is read here."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipeline.errors import InputError

if TYPE_CHECKING:
    from pipeline.ingest.delivery import Delivery

DATASET: Final = "metadata/dataset.json"
CODES: Final = "metadata/codes.parquet"
SPLITS: Final = ("metadata/subject_splits.parquet", "metadata/patient_splits.parquet")
OLD_SUBJECT: Final = "patient_id"
"""What MEDS 0.3.0 called `subject_id`."""
READ: Final = ((0, 3), (0, 4))
"""Versions that are read: 0.3 differs in names only (and in that text_value is a column of the dataset's own)."""
_VERSION: Final = re.compile(r"\s*v?(\d+)\.(\d+)(\D.*)?")
_ROLES: Final = (
    "raw_source_id_columns",
    "code_modifier_columns",
    "additional_value_modality_columns",
    "site_id_columns",
    "other_extension_columns",
)


@dataclass
class Layout:
    """The files of a dataset.

    Attributes:
        shards: `data/**/*.parquet` by name.
        labels: Parquet files below `labels/`.
        dataset: `metadata/dataset.json`.
        codes: `metadata/codes.parquet`.
        splits: `metadata/subject_splits.parquet`.
        others: Files that are no part of MEDS.
        described: What `dataset.json` says that is kept in the account: version of MEDS and roles of columns.
        fault: Why `dataset.json` cannot be used: a key of `quarantine.REASONS`, else empty.
        missing: Metadata that a MEDS dataset should have and this one has not.
    """

    shards: dict[str, Path] = field(default_factory=dict)
    labels: dict[str, Path] = field(default_factory=dict)
    dataset: tuple[str, Path] | None = None
    codes: tuple[str, Path] | None = None
    splits: tuple[str, Path] | None = None
    others: list[tuple[str, Path]] = field(default_factory=list)
    described: dict[str, Any] = field(default_factory=dict)
    fault: str = ""
    missing: list[str] = field(default_factory=list)


def read_layout(delivery: Delivery) -> Layout:
    """Sort the files of a delivery, whose dataset may lie in a folder of its own.

    Raises:
        InputError: No MEDS dataset, several, or one of a version that is not read.
    """
    files = delivery.files()
    root = _root([name for name, _ in files])
    layout = Layout()
    for name, path in files:
        inner = name.removeprefix(root)
        parquet = inner.lower().endswith(".parquet")
        if not name.startswith(root):
            layout.others.append((name, path))
        elif parquet and inner.startswith("data/"):
            layout.shards[name] = path
        elif parquet and inner.startswith("labels/"):
            layout.labels[name] = path
        elif inner == DATASET:
            layout.dataset = (name, path)
        elif inner == CODES:
            layout.codes = (name, path)
        elif inner in SPLITS:
            layout.splits = (name, path)
        else:
            layout.others.append((name, path))
    layout.missing = [n for n, f in ((DATASET, layout.dataset), (CODES, layout.codes)) if f is None]
    if layout.dataset is not None:
        _describe(layout, layout.dataset[1])
    return layout


def _root(names: list[str]) -> str:
    """The folder of the dataset within the delivery ("" or ending in "/")."""
    marked = {name.removesuffix(DATASET) for name in names if f"/{name}".endswith(f"/{DATASET}")}
    shards = [name for name in names if name.lower().endswith(".parquet") and "/data/" in f"/{name}"]
    roots = marked or {f"/{name}".partition("/data/")[0].removeprefix("/") for name in shards}
    roots = {root if not root or root.endswith("/") else f"{root}/" for root in roots}
    if not shards:
        raise InputError(
            "The delivery holds no MEDS dataset: there is no data/**/*.parquet.",
            todo="Hand over the folder that holds data/ and metadata/.",
        )
    if len(roots) > 1:
        raise InputError(
            f"The delivery holds {len(roots)} MEDS datasets.", todo="Hand them over as deliveries of their own."
        )
    return roots.pop()


def _describe(layout: Layout, path: Path) -> None:
    """Look at `dataset.json`: may it be used, and is the version one that is read?"""
    from meds import DatasetMetadataSchema

    try:
        content = json.loads(path.read_bytes())
    except ValueError:  # also bytes that are no text
        layout.fault = "not_json"
        return
    if isinstance(content, dict):
        content = {name: value for name, value in content.items() if value is not None}
    if not isinstance(content, dict) or not _valid(DatasetMetadataSchema, content):
        layout.fault = "wrong_type"
        return
    version = content.get("meds_version")
    found = _VERSION.fullmatch(version) if version else None
    if version and (found is None or (int(found[1]), int(found[2])) not in READ):
        shown = f"{found[1]}.{found[2]}" if found else "an unknown version"
        raise InputError(
            f"This is MEDS {shown}; MEDS 0.3 and 0.4 are read.", where=DATASET, todo="Convert it to MEDS 0.4."
        )
    layout.described = {"meds_version": f"{found[1]}.{found[2]}" if found else ""}
    layout.described |= {role: sorted(map(str, content[role])) for role in _ROLES if content.get(role)}


def _valid(schema: Any, content: dict[str, Any]) -> bool:
    from flexible_schema.exceptions import SchemaValidationError, TableValidationError

    try:
        schema.validate(content)
    except (SchemaValidationError, TableValidationError, TypeError, ValueError):
        return False
    return True
