"""A run: which seed delivery, what is done to it, and under which settings; all from the format and a number."""

from __future__ import annotations

import gzip
import io
import random
import zipfile
import zlib
from dataclasses import dataclass
from typing import Any

from fuzzing.damage import ANY, Damage
from fuzzing.damage_csv import CSV, TABLES
from fuzzing.damage_json import JSON
from fuzzing.damage_meds import MEDS, PARQUET
from fuzzing.deliveries import Files, Seed

OWN: dict[str, list[Damage]] = {"fhir": JSON, "table": [*TABLES, *PARQUET], "mimic3": CSV, "mimic4": CSV, "meds": MEDS}
"""What a format has of its own; half of the damage is drawn from here."""


@dataclass(frozen=True)
class Case:
    """One run.

    Attributes:
        format: Of the source.
        number: What everything was drawn from.
        seed: The delivery as it should be.
        files: The delivery as it is handed over.
        story: What was done to it, for people.
        threads: Threads to read with.
        limit: The source's `max_quarantine_rate`.
        settings: Further settings of the source.
        span: Bytes of a line file that are judged in one piece; 0 for what is usual.
    """

    format: str
    number: int
    seed: Seed
    files: Files
    story: tuple[str, ...]
    threads: int
    limit: float
    settings: dict[str, Any]
    span: int = 0

    def plain(self, name: str) -> bytes | None:
        """The unpacked content of a file or of a member of an archive; None where its packing is damaged."""
        if name in self.files:
            return unpacked(self.files[name])
        archive = self.archive(name)
        try:
            with zipfile.ZipFile(io.BytesIO(self.files[archive])) as packed:
                return unpacked(packed.read(name.removeprefix(f"{archive}/")))
        except (KeyError, OSError, RuntimeError, ValueError, NotImplementedError, zipfile.BadZipFile, zlib.error):
            return None

    def archive(self, name: str) -> str:
        """The file that was delivered: of a member of an archive, the archive."""
        return next((a for a in self.files if name.startswith(f"{a}/") and a.lower().endswith(".zip")), name)


def unpacked(data: bytes, most: int = 64 << 20) -> bytes | None:
    """Plain content as it is, well-packed content unpacked, None for a damaged gzip or a huge one."""
    if data[:2] != b"\x1f\x8b":
        return data
    out = []
    while data.strip(b"\0"):
        decoder = zlib.decompressobj(wbits=31)
        try:
            out.append(decoder.decompress(data, most))
        except zlib.error:
            return None
        if not decoder.eof:
            return None
        data = decoder.unused_data
    return b"".join(out)


def make(format: str, number: int, seeds: list[Seed]) -> Case:
    """The run of this number."""
    rng = random.Random(f"{format} {number}")
    seed = rng.choice(seeds)
    files = dict(seed.files)
    story = []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        damage = rng.choice(OWN[format] if rng.random() < 0.5 else ANY)
        story.append(f"{damage.__name__}: {damage(rng, files)}")
    if rng.random() < 0.2:
        for name in sorted(files):
            if rng.random() < 0.5 and not name.endswith((".gz", ".md", ".parquet", ".zip")) and "schema" not in name:
                files[f"{name}.gz"] = gzip.compress(files.pop(name), mtime=0)
    limit = rng.choice([1.0, 1.0, 1.0, 1.0, 1.0, 0.05])
    settings = dict(seed.settings)
    if format == "fhir":
        settings["validation"] = {"mode": rng.choice(["off"] * 9 + ["sample"]), "sample": 20}
    threads, span = rng.choice([1, 2]), rng.choice([0, 0, 0, 0, 0, 2000])
    return Case(format, number, seed, files, tuple(story), threads, limit, settings, span)


def undamaged(format: str, seed: Seed) -> Case:
    """The seed itself as a run: what the others are held against."""
    return Case(format, -1, seed, dict(seed.files), ("nothing",), 1, 1.0, dict(seed.settings))
