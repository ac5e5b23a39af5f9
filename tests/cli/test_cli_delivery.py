"""`deliver` again and again, and `delivery`: nothing to do, refused, replaced, stale months, the report and its page."""

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

    Run = Callable[..., subprocess.CompletedProcess[str]]

COHORTLOOM = Path(sys.executable).with_name("cohortloom")
CANARY = "Quackenbush"
KEY = "ward--2026-10-31"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("delivery")


@pytest.fixture(scope="module")
def cohortloom(root: Path) -> Run:
    (root / "cohorts").mkdir()
    (root / "cohorts" / "sources.yaml").write_text("ward: {format: fhir, max_quarantine_rate: 0.5}\n")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DAGSTER_", "COHORTLOOM_"))}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        own = {"COHORTLOOM_HOME": str(root / "home"), "COHORTLOOM_COHORTS": str(root / "cohorts")}
        return subprocess.run(
            [COHORTLOOM, *arguments],
            env={**kept, **own, "DAGSTER_DISABLE_TELEMETRY": "1"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


def observation(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": f"o{number}",
        "status": "final",
        "code": {"text": "weight"},
        "subject": {"reference": f"Patient/{CANARY}"},
        "effectiveDateTime": "2026-10-01",
        "valueQuantity": {"value": number},
        **fields,
    }


def lines(records: list[Any]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("export")
    patient = {"resourceType": "Patient", "id": CANARY, "name": [{"family": CANARY}], "birthDate": "1950"}
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": patient}]}
    (made / f"{CANARY}_Ann.json.gz").write_bytes(gzip.compress(json.dumps(bundle).encode()))
    misbuilt = observation(90, performer={"display": CANARY})
    (made / "Observation.ndjson").write_bytes(lines([*map(observation, range(20)), misbuilt]))
    (made / "broken.json").write_text("{" + CANARY)
    (made / "README.md").write_text(CANARY)
    return made


@pytest.mark.slow
def test_a_delivery_from_first_to_last(cohortloom: Run, folder: Path, root: Path) -> None:
    first = cohortloom("deliver", "ward", str(folder), "--as", "2026-10-31")
    assert first.returncode == 0, first.stderr
    assert "files: 1 no data, 1 partly taken, 1 quarantined, 1 taken" in first.stdout
    assert "validated: 22 (sample), 1 failed, 1 of them structurally" in first.stdout

    again = cohortloom("deliver", "ward", str(folder), "--as", "2026-10-31", "--json")
    assert again.returncode == 0
    assert f"Nothing to do: {KEY}" in again.stderr
    assert json.loads(again.stdout)["taken"] == {"Observation": 20, "Patient": 1}

    told = json.loads(cohortloom("delivery", KEY, "--json").stdout)
    assert told["outcome"] == "Taken in; 2 records set aside"
    assert told["files_by_outcome"] == {"no data": 1, "partly taken": 1, "quarantined": 1, "taken": 1}
    assert told["quarantined"] == {"fails_validation": 1, "not_json": 1}
    assert told["events"]["events"] > 0
    assert any(step.startswith(f"See what was set aside: cohortloom quarantine {KEY}") for step in told["next"])
    shown = cohortloom("delivery", KEY)
    assert shown.returncode == 0
    # What goes to a file is the whole report: the outcome, what to do next, the page.
    for part in (
        f"{KEY} (fhir, as of 2026-10-31): Taken in; 2 records set aside. ",
        "Validation",
        "See what",
        "page: ",
    ):
        assert part in shown.stdout
    page = Path(cohortloom("delivery", KEY, "--open-path").stdout.strip())
    html = page.read_text()
    assert "Files by outcome" in html
    assert "Observation.ndjson:21" in html
    assert "Events (MEDS)" in html
    for text in (html, json.dumps(told), shown.stdout, shown.stderr, first.stdout, first.stderr):
        assert CANARY not in text

    (folder / "Observation.ndjson").write_bytes(lines(list(map(observation, range(30)))))
    refused = cohortloom("deliver", "ward", str(folder), "--as", "2026-10-31")
    assert refused.returncode == 1
    assert "other content; nothing was changed" in refused.stderr
    assert "--replace" in refused.stderr
    replaced = cohortloom("deliver", "ward", str(folder), "--as", "2026-10-31", "--replace", "--json")
    assert replaced.returncode == 0, replaced.stderr
    assert json.loads(replaced.stdout)["taken"] == {"Observation": 30, "Patient": 1}
    assert cohortloom("delivery", KEY, "--open-path").stdout.strip() != str(page)
    (entry,) = (root / "home" / "journal" / "operations").iterdir()
    assert json.loads(entry.read_text())["operation"] == "replace"
    assert CANARY not in entry.read_text()


def test_a_delivery_that_was_not_taken_in_is_not_found(cohortloom: Run) -> None:
    done = cohortloom("delivery", "ward--2026-10-30")
    assert done.returncode == 1
    assert f"Did you mean '{KEY}'" in done.stderr
