"""Backfills through a running UI, as a data engineer asks for them; and one whose whole UI is killed in the middle.

No browser is needed. Cells are polled, not the backfill's status: Dagster's daemon looks every thirty seconds, so a
backfill is reported complete a minute after it was asked for at the earliest.
"""

from __future__ import annotations

import json
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from e2e_home import COHORTLOOM, DagsterUI, environment
from made_up import Book, deliver, visits

from assets.backfill import RunningUI
from assets.backfill_plan import BackfillError, Progress
from pipeline.store.home import Home
from pipeline.store.lake import Lake

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.distributed, pytest.mark.slow]
COHORTS = ("tiny", "other")
LIMIT = 420
"""Seconds for four cells on a busy machine; nothing is asserted about how long they take."""


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Cohorts on plain tables, judged by the quick profile."""
    book = Book(tmp_path_factory.mktemp("backfill") / "cohorts")
    book.sources({"clinic": "table", "ward": "table"})
    book.cohort("tiny", source="clinic", generators={"independent": {}, "vae": {}})
    book.cohort("other", source="ward", generators={"independent": {}})
    return {"COHORTLOOM_COHORTS": str(book.folder), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, variables: dict[str, str]) -> Path:
    """A home with one delivery of each source, both of January."""
    folder = tmp_path_factory.mktemp("backfill")
    home = Home(folder / "home").ensure()
    for k, source in enumerate(("clinic", "ward")):
        made = deliver(home, source, visits(folder / source, seed=k), as_of="2026-01-15", name="one")
        done = command(home.root, variables, "deliver", source, str(made.folder), "--as", "2026-01-15", "--name", "one")
        assert done.returncode == 0, done.stderr
    return home.root


@pytest.fixture(scope="module")
def ui(root: Path, variables: dict[str, str]) -> Iterator[DagsterUI]:
    made = DagsterUI(root, variables)
    made.start()
    try:
        yield made
    finally:
        made.stop()


def command(root: Path, variables: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COHORTLOOM, *arguments],
        env={**environment(root), **variables},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def launch(ui: DagsterUI, months: str, *more: str) -> str:
    asked = ("backfill", *COHORTS, "--months", months, "--preset", "quick", *more)
    done = command(ui.root, ui.variables, *asked, "--url", ui.url, "--json")
    assert done.returncode == 0, done.stderr
    assert f"{ui.url}/runs/b/" in done.stderr
    return json.loads(done.stdout)["backfill"]


def until(ui: DagsterUI, backfill: str, reached: Callable[[Progress], bool]) -> Progress:
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        now = RunningUI(ui.url).progress(backfill)
        if reached(now):
            return now
        time.sleep(1)
    raise AssertionError(f"{now}\n{ui.log.read_text()[-3000:]}")


def made(root: Path, months: tuple[str, ...]) -> set[tuple[str, str]]:
    """The cells of these months that have a leaderboard, every generator's row and every version whole."""
    lake = Lake(Home(root))
    found = set()
    for cell in lake.tables.partitions("leaderboard"):
        if cell["month"] in months:
            rows = lake.tables.read(lake.tables.resolve("leaderboard", cell)).to_pylist()
            statuses = {row["key"]: row["status"] for row in rows if not row["reference"]}
            assert statuses["independent"] == "ok"
            found.add((cell["cohort"], cell["month"]))
    for store in (lake.tables, lake.models, lake.reports):
        for asset in store.assets():
            for partition in store.partitions(asset):
                store.verify(store.resolve(asset, partition))
    return found


def test_two_cohorts_by_two_months(ui: DagsterUI, root: Path) -> None:
    months = ("2026-01-01", "2026-02-01")
    ended = until(ui, launch(ui, "2026-01..2026-02"), lambda p: p.over)
    assert dict(ended.cells) == {f"{c}|{m}": "done" for c in COHORTS for m in months}
    assert made(root, months) == {(c, m) for c in COHORTS for m in months}
    lake = Lake(Home(root))
    for cohort, status in (("tiny", "ok"), ("other", "not_enabled")):
        version = lake.tables.resolve("evaluation/vae", {"cohort": cohort, "month": months[1]})
        assert version.info["status"] == status
    model = lake.models.resolve("model/vae", {"cohort": "tiny", "month": months[0]})
    assert model.info["overrides"] == {"preset": "quick"}


def test_mistakes_get_one_sentence(ui: DagsterUI, root: Path, tmp_path: Path) -> None:
    def sentence(*arguments: str, home: Path = root) -> str:
        done = command(home, ui.variables, "backfill", *arguments)
        assert done.returncode == 1
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        return line

    asked = ("tiny", "--months", "2026-01")
    assert "No UI answers" in sentence(*asked, "--url", "http://127.0.0.1:9")
    elsewhere = sentence("--resume", "nosuchid", "--url", ui.url, home=tmp_path / "elsewhere")
    assert f"serves {root}, not {tmp_path / 'elsewhere'}" in elsewhere
    assert "has no backfill 'nosuchid'" in sentence("--resume", "nosuchid", "--url", ui.url)
    assert "Did you mean 'tiny'" in sentence("tinny", "--months", "2026-01", "--url", ui.url)


def test_a_backfill_survives_the_death_of_its_ui(ui: DagsterUI, root: Path) -> None:
    """Webserver, daemon, code server and runs are killed at once; started again, the backfill loses nothing."""
    months = ("2026-03-01", "2026-04-01")
    backfill = launch(ui, "2026-03..2026-04", "-g", "independent")
    until(ui, backfill, lambda p: p.count("running") >= 1)
    ui.kill()
    before = made(root, months)
    assert len(before) < 4
    ui.start()
    ended = until(ui, backfill, lambda p: p.over)
    assert dict(ended.cells) == {f"{c}|{m}": "done" for c in COHORTS for m in months}
    assert made(root, months) == {(c, m) for c in COHORTS for m in months}
    with pytest.raises(BackfillError):  # there is nothing left to make, or it is not reported complete yet
        RunningUI(ui.url).resume(backfill)
