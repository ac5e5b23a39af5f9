"""What a committed version is: its files, its hash and the record that stands in the pointer.

Names and times live in the record only. The hash covers the files' bytes and `info`, so that the same inputs,
configuration and seed give the same hash; it is the data version that Dagster sees.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.errors import StoreError
from pipeline.store.hashing import canonical_json, sha256_json
from pipeline.store.keys import label

RECORD_FORMAT = 1


@dataclass(frozen=True)
class StoredFile:
    """One file of a version.

    Attributes:
        name: Key in `Version.files`: without ".parquet" for Parquet, else the relative path.
        file: Path relative to the version's folder.
        sha256: Of the bytes, 64 hexadecimal digits.
        bytes: Size.
        rows: Number of rows; None for what is not Parquet.
        schema: Column name to Arrow type in words; None for what is not Parquet.
    """

    name: str
    file: str
    sha256: str
    bytes: int
    rows: int | None = None
    schema: dict[str, str] | None = None


@dataclass(frozen=True)
class Version:
    """One committed version of an asset's partition.

    Attributes:
        asset: Asset key, parts divided by "/".
        partition: Dimension to key, dimensions in alphabetical order; empty for an unpartitioned asset.
        version: Name of the version's folder; later versions of a partition sort after earlier ones.
        sha256: Over the sorted (name, sha256) of the files and the canonical JSON of `info`, nothing else.
        files: By name.
        inputs: What it was made from: label ("raw/fhir/delivery=...") to sha256.
        info: Small JSON about it: status, counts, fingerprints; never a patient's value.
        run_id: The run that made it; empty outside an orchestrator.
        written_at: UTC, ISO 8601.
    """

    asset: str
    partition: dict[str, str]
    version: str
    sha256: str
    files: dict[str, StoredFile]
    inputs: dict[str, str] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    run_id: str = ""
    written_at: str = ""

    @property
    def label(self) -> str:
        """Name of the asset's partition, as used in `inputs`."""
        return label(self.asset, self.partition)

    def to_bytes(self) -> bytes:
        """The record as it is stored."""
        return (canonical_json({"format": RECORD_FORMAT, **asdict(self)}) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> Version:
        """The version whose record is `data`.

        Raises:
            StoreError: it is no such record, comes from a newer CohortLoom, or belongs to another partition than
                `where` (label).
        """
        try:
            record = json.loads(data)
            if record.pop("format") != RECORD_FORMAT:
                raise StoreError(
                    "The record of this version has a format that this CohortLoom does not know.",
                    where=where,
                    todo="Use the CohortLoom that wrote it, or a newer one.",
                )
            files = {name: StoredFile(**entry) for name, entry in record.pop("files").items()}
            version = cls(files=files, **record)
            if version.label != where:
                raise StoreError(f"The record belongs to '{version.label}'.", where=where, todo="Was a folder moved?")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise StoreError(
                "The record of this version is broken.", where=where, todo="Write the partition again, or roll back."
            ) from error
        return version


def content_hash(files: Mapping[str, StoredFile], info: Mapping[str, Any]) -> str:
    """The hash of a version with these files and this info."""
    return sha256_json({"files": [[name, files[name].sha256] for name in sorted(files)], "info": info})
