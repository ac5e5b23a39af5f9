"""`erase` as a user runs it: it lists, it erases, it proves, and it never prints or keeps an id."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

COHORTLOOM = Path(sys.executable).with_name("cohortloom")
CANARY = "zz-canary-7781"
NAME = "Wimbledorf"


@pytest.fixture
def cohortloom(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    (tmp_path / "cohorts").mkdir()
    (tmp_path / "cohorts" / "sources.yaml").write_text(
        "hospital: {format: fhir, dates: none, description: Made-up patients}\nward: {format: table, dates: none}\n"
    )
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DAGSTER_", "COHORTLOOM_"))}

    def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        own = {"COHORTLOOM_HOME": str(tmp_path / "home"), "COHORTLOOM_COHORTS": str(tmp_path / "cohorts")}
        return subprocess.run(
            [COHORTLOOM, *arguments],
            env={**kept, **own, "DAGSTER_DISABLE_TELEMETRY": "1"},
            capture_output=True,
            input=stdin,
            text=True,
            timeout=300,
            check=False,
        )

    return run


def test_a_person_is_listed_erased_and_proven(
    cohortloom: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    export = tmp_path / "export"
    export.mkdir()
    rows = [{"resourceType": "Patient", "id": i, "name": [{"family": NAME}]} for i in ("p1", "p2", CANARY)]
    (export / "Patient.ndjson").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (export / "scan.pdf").write_bytes(b"%PDF-1.7")
    (export / "notes.xml").write_bytes(b"<a/>")
    done = cohortloom("deliver", "hospital", str(export), "--as", "2026-10-31")
    assert done.returncode == 0, done.stderr
    said = []

    def erase(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        done = cohortloom("erase", *arguments, stdin=stdin)
        said.append(done.stdout + done.stderr)
        return done

    unknown = erase("zz-canary-778", "--source", "hospital")
    assert unknown.returncode == 1
    assert unknown.stderr.count("error: ") == 1
    assert "holds a person with this id" in unknown.stderr
    assert "1 FILE COULD NOT BE SEARCHED" in unknown.stderr
    assert "Set `person: COLUMN`" in erase("17", "--source", "ward").stderr
    listed = erase("-", "--source", "hospital", "--json", stdin=f"{CANARY}\n")
    assert listed.returncode == 0, listed.stderr
    found = json.loads(listed.stdout)
    assert found["counts"].pop("report of delivery versions") >= 1
    assert found["counts"] == {
        "deliveries": 1,
        "records in deliveries": 1,
        "events versions": 1,
        "raw versions": 1,
    }
    shown = erase("-", "--source", "hospital", stdin=CANARY)
    assert "nothing was changed" in shown.stderr
    home = tmp_path / "home"
    assert CANARY in (home / "landing/hospital/2026-10-31/Patient.ndjson").read_text()

    proof = tmp_path / "proof.json"
    done = erase("-", "--source", "hospital", "--yes", "--proof", str(proof), stdin=CANARY)
    assert done.returncode == 0, done.stderr
    assert "Searched again: nothing that could be searched holds this person." in done.stderr
    assert "1 FILE COULD NOT BE SEARCHED and may hold them: hospital--2026-10-31: scan.pdf (" in done.stderr
    assert "brings them back" in done.stderr
    entry = json.loads(proof.read_text())
    assert entry["person"] == found["person"]
    assert entry["deliveries"]["hospital--2026-10-31"]["records_after"] == 2
    assert {label.partition("/")[0] for label, _, _ in entry["purged"]} >= {"raw", "events"}
    assert entry["not_covered"] == []
    assert entry["id_elsewhere"] == {}
    assert entry["not_searched"] == ["hospital--2026-10-31: notes.xml (no reader takes it: searched as bytes only)"]
    assert [one.partition(" (")[0] for one in entry["could_not_be_searched"]] == ["hospital--2026-10-31: scan.pdf"]
    assert entry["not_searched"][0] in done.stderr.replace("\n", "")
    again = erase("-", "--source", "hospital", "--yes", "--json", stdin=CANARY)
    assert again.returncode == 0
    assert json.loads(again.stdout) == entry
    left = [path for path in home.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]
    assert left == []
    assert CANARY not in "".join(said)
    assert CANARY not in proof.read_text()


def test_every_run_that_is_not_over_keeps_an_erasure_from_beginning(tmp_path: Path) -> None:
    import dagster as dg

    from assets.cli.erase import _nothing_runs
    from assets.instance import open_instance, prepare_dagster_home
    from pipeline.errors import ConfigError
    from pipeline.store.home import Home

    home = Home(tmp_path / "home").ensure()
    prepare_dagster_home(home)

    @dg.job
    def empty() -> None: ...

    with open_instance(home) as instance:
        run = instance.create_run_for_job(empty, status=dg.DagsterRunStatus.NOT_STARTED)
        with pytest.raises(ConfigError, match="1 runs are under way"):
            _nothing_runs(home)
        instance.report_run_canceling(run)
        with pytest.raises(ConfigError, match="1 runs are under way"):
            _nothing_runs(home)
        instance.report_run_canceled(run)
        _nothing_runs(home)
