"""Seed deliveries cut from the real data that COHORTLOOM_DATA points to; they are never written into the repository."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from fuzzing.deliveries import Files, Seed, canaries_of, head_of


def seeds(format: str, data: Path) -> list[Seed]:
    """The seeds of a format that the folder has data for."""
    found = {"fhir": _fhir, "table": _tables, "mimic3": _mimic3, "mimic4": _mimic4}.get(format)
    cuts = found(data) if found else {}
    return [Seed(name, format, files, canaries_of(files)) for name, files in cuts.items() if files]


def _read(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def _fhir(data: Path) -> dict[str, Files]:
    bundles = sorted((data / "synthea-r4-smart" / "bundles").rglob("*.json*"), key=lambda path: path.stat().st_size)
    synthea: Files = {}
    for path in bundles[:3]:
        bundle = json.loads(_read(path))
        bundle["entry"] = bundle["entry"][:60]
        synthea[path.name.removesuffix(".gz")] = json.dumps(bundle).encode()
    mimic = {
        path.name.removesuffix(".gz"): head_of(path, 11)
        for path in sorted((data / "mimic-iv-demo-fhir-2.1.0" / "fhir").glob("*.ndjson*"))
    }
    examples: Files = {}
    for path in sorted((data / "fhir-hl7-examples" / "r4-4.0.1").rglob("*.json*"))[::6]:
        content = _read(path)
        if len(content) < 60_000:
            examples[path.name.removesuffix(".gz")] = content
    return {"Synthea bundles": synthea, "MIMIC on FHIR": mimic, "HL7 examples": examples}


def _tables(data: Path) -> dict[str, Files]:
    wanted = {
        "diabetes-130": "diabetic_data*.csv*",
        "support": "*.csv*",
        "support2": "*.csv*",
        "compas": "*.csv*",
    }
    found: dict[str, Files] = {}
    for folder, pattern in wanted.items():
        for path in sorted((data / folder).rglob(pattern))[:1]:
            found[folder] = {path.name.removesuffix(".gz"): head_of(path, 150)}
    return found


def _mimic3(data: Path) -> dict[str, Files]:
    return {"MIMIC-III demo": _patients(data / "mimic-iii-demo-1.4", "subject_id")}


def _mimic4(data: Path) -> dict[str, Files]:
    return {"MIMIC-IV demo": _patients(data / "mimic-iv-demo-2.2", "subject_id")}


def _patients(folder: Path, person: str, few: int = 4, most: int = 120) -> Files:
    """The rows of a few patients in every table, and the first rows of tables that name no patient."""
    import csv

    from fuzzing.deliveries import csv_of

    files: Files = {}
    keep: set[str] = set()
    for path in sorted(folder.rglob("*.csv.gz"), key=lambda p: "patients" not in p.name.lower()):
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            head = next(rows)
            place = head.index(person) if person in head else None
            if not keep and place is not None:
                some = [row for _, row in zip(range(few), rows, strict=False)]
                keep = {row[place] for row in some}
            else:
                some = []
                for row in rows:
                    if place is None or row[place] in keep:
                        some.append(row)
                    if len(some) >= most:
                        break
        files[path.relative_to(folder).as_posix().removesuffix(".gz")] = csv_of([head, *some])
    return files
