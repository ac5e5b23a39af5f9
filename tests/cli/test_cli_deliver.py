"""`deliver`, `deliveries` and `quarantine` as a user runs them: the account, what is refused, and what never leaks."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

COHORTLOOM = Path(sys.executable).with_name("cohortloom")
CANARY = "Quackenbush"
"""Family name, part of ids and of a bundle's file name; must never be printed or stored by Dagster."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("deliver")


@pytest.fixture(scope="module")
def cohortloom(root: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    (root / "cohorts").mkdir()
    (root / "cohorts" / "sources.yaml").write_text(
        "clinic: {format: fhir, dates: real, accumulate: merge, description: Made-up patients}\n"
    )
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DAGSTER_", "COHORTLOOM_"))}

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        own = {"COHORTLOOM_HOME": str(root / "home"), "COHORTLOOM_COHORTS": str(root / "cohorts")}
        return subprocess.run(
            [COHORTLOOM, *arguments],
            env={**kept, **own, "DAGSTER_DISABLE_TELEMETRY": "1", **variables},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


def patient(number: int) -> dict[str, Any]:
    return {
        "resourceType": "Patient",
        "id": f"{CANARY}-{number}",
        "birthDate": "1950-02",
        "name": [{"family": CANARY}],
    }


def observation(number: int, value: Any) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": f"o{number}",
        "code": {"coding": [{"system": "http://loinc.org", "code": "39156-5"}]},
        "subject": {"reference": f"Patient/{CANARY}-{number}"},
        "valueQuantity": {"value": value, "unit": "kg/m2"},
    }


def lines(records: list[Any]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """40 patients as NDJSON, 40 observations as a gzipped bundle that bears a patient's name."""
    made = tmp_path / "export"
    made.mkdir()
    (made / "Patient.ndjson").write_bytes(lines([patient(n) for n in range(40)]))
    entries = [{"resource": observation(n, 20.5 + n)} for n in range(40)]
    bundle = json.dumps({"resourceType": "Bundle", "type": "collection", "entry": entries}).encode()
    (made / f"{CANARY}_Ann.json.gz").write_bytes(gzip.compress(bundle))
    return made


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one error sentence of a command that failed as it should."""
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert CANARY not in done.stderr
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return sentence


def test_a_delivery_is_taken_in_counted_and_listed(
    cohortloom: Callable[..., subprocess.CompletedProcess[str]], folder: Path, root: Path
) -> None:
    (folder / "Extra.ndjson").write_bytes(
        lines([observation(100, "high"), patient(3), {"resourceType": "Claim", "id": "c"}])
    )
    done = cohortloom("deliver", "clinic", str(folder), "--as", "2026-10-31", "--json")
    assert done.returncode == 0, done.stderr
    account = json.loads(done.stdout)
    assert account["delivery"] == "clinic--2026-10-31"
    assert account["in"] == 83
    assert account["taken"] == {"Observation": 40, "Patient": 40}
    assert account["superseded"] == {"Patient": 1}
    assert account["not_modelled"] == {"Claim": 1}
    assert account["quarantined"] == {"value_not_a_number": 1}
    assert CANARY not in done.stdout + done.stderr

    listed = json.loads(cohortloom("deliveries", "--json").stdout)
    row = next(row for row in listed if row["delivery"] == "clinic--2026-10-31")
    assert (row["state"], row["in"], row["taken"], row["quarantined"]) == ("ingested", 83, 80, 1)

    found = json.loads(cohortloom("quarantine", "clinic--2026-10-31", "--json").stdout)
    assert found["reasons"] == {"value_not_a_number": 1}
    assert [(r["file"], r["line"]) for r in found["rows"]] == [("Extra.ndjson", 1)]
    assert "clinic--2026-10-31" in refused(cohortloom("quarantine", "clinic--2026-10-30"))

    logged = [path for path in (root / "home" / "dagster").rglob("*") if path.is_file()]
    assert any(path.stat().st_size for path in logged)
    assert not [path.name for path in logged if CANARY.encode() in path.read_bytes()]


def test_what_cannot_be_taken_is_refused_in_one_sentence(
    cohortloom: Callable[..., subprocess.CompletedProcess[str]], folder: Path, tmp_path: Path
) -> None:
    assert "Did you mean 'clinic'" in refused(cohortloom("deliver", "clinik", str(folder)))
    assert "no such file" in refused(cohortloom("deliver", "clinic", str(tmp_path / "nowhere")))
    (tmp_path / "empty").mkdir()
    assert "empty" in refused(cohortloom("deliver", "clinic", str(tmp_path / "empty")))
    (tmp_path / "file").touch()
    home = str(tmp_path / "file")
    assert "cannot be written" in refused(cohortloom("deliver", "clinic", str(folder), COHORTLOOM_HOME=home))
    dstu2 = tmp_path / "Condition.ndjson"
    dstu2.write_bytes(lines([{"resourceType": "Condition", "id": "c", "dateRecorded": "2015-01-01", "patient": {}}]))
    assert "FHIR DSTU2" in refused(cohortloom("deliver", "clinic", str(dstu2), "--name", "dstu2"))


def test_too_much_quarantine_names_the_counts_and_takes_nothing(
    cohortloom: Callable[..., subprocess.CompletedProcess[str]], folder: Path
) -> None:
    (folder / f"{CANARY}_Bob.json").write_text("not JSON, by " + CANARY)
    (folder / "Observation.ndjson").write_bytes(lines([observation(n, CANARY) for n in range(200, 220)]))
    sentence = refused(cohortloom("deliver", "clinic", str(folder), "--name", "toomuch"))
    assert "21 of 101 records (20.8%" in sentence
    assert "20 value_not_a_number (first at Observation.ndjson:1)" in sentence
    assert "1 not_json (first at bundle " in sentence
    states = {row["delivery"]: row["state"] for row in json.loads(cohortloom("deliveries", "--json").stdout)}
    assert states["clinic--toomuch"] == "refused"
