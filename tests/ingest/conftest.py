"""Deliveries made in a line of code, read through the real store."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from fhir_records import ndjson

from pipeline.features.source import Format, SourceSpec
from pipeline.ingest.account import Account
from pipeline.ingest.delivery import MANIFEST, SUCCESS, delivery
from pipeline.ingest.readers import read_delivery
from pipeline.store.home import Home
from pipeline.store.lake import Lake, Version

Files = Mapping[str, bytes | list[Any]]


@dataclass
class Taken:
    """A delivery that was read and committed."""

    lake: Lake
    version: Version
    account: Account

    def table(self, name: str) -> pa.Table:
        return self.lake.tables.read(self.version, name)

    def rows(self, name: str) -> list[dict[str, Any]]:
        return self.table(name).to_pylist()

    def rejects(self) -> list[tuple[str, int, str]]:
        return [(row["file"], row["line"], row["reason"]) for row in self.rows("quarantine")]


@pytest.fixture
def land(home: Home) -> Callable[..., Any]:
    """Drop files into the landing folder; gives the delivery."""
    number = 0

    def drop(files: Files, *, source: str = "test") -> Any:
        nonlocal number
        number += 1
        folder = home.landing / source / f"d{number}"
        for name, data in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            body = ndjson(data) if isinstance(data, list) else data
            path.write_bytes(gzip.compress(body) if name.endswith(".gz") and body[:2] != b"\x1f\x8b" else body)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST).write_text(json.dumps({"source": source, "as_of": "2026-10-31"}))
        (folder / SUCCESS).touch()
        return delivery(home, f"{source}--{folder.name}")

    return drop


def _standing(folder: Path) -> list[tuple[str, int, int]]:
    """Every file of a folder with its size and time."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]


@pytest.fixture
def take(home: Home, land: Callable[..., Any]) -> Callable[..., Taken]:
    """Read files as a delivery (format fhir, every quarantine rate allowed) and commit."""

    def read(
        files: Files | Path, *, format: Format = "fhir", limit: float = 1.0, threads: int = 2, **settings: Any
    ) -> Taken:
        lake = Lake(home)
        if isinstance(files, Path):
            from pipeline.ingest.delivery import hand_over

            came = hand_over(home, "real", files, as_of=None, name="d1")
        else:
            came = land(files)
        with lake.tables.draft(f"raw/{format}", {"delivery": came.key}) as draft:
            source = SourceSpec(name=came.source, format=format, max_quarantine_rate=limit, **settings)
            before = _standing(came.folder)
            account = read_delivery(came, draft, source, threads=threads)
            assert _standing(came.folder) == before, "reading a delivery writes nothing into it"
            version = draft.commit(info={"account": account.to_dict()})
        return Taken(lake, version, account)

    return read
