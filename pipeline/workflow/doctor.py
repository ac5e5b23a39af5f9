"""Is the house in order? Everything below COHORTLOOM_HOME that is broken, exposed, left over or about to run out.

Changes nothing; what can be mended without losing anything carries how (`Finding.mend`). How the stores are looked
over is in `store/inspection.py`; what only Dagster knows is in `assets/doctor.py`.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
import uuid
from typing import TYPE_CHECKING

from pipeline.errors import CohortLoomError, StoreError
from pipeline.features.spec import load_book
from pipeline.features.split import ENVIRONMENT, PUBLISHED_KEY, fingerprint
from pipeline.ingest.delivery import delivery, landed, waiting
from pipeline.privacy.ledger import SHORT, Ledger
from pipeline.store.backup import half_restored
from pipeline.store.disk import hold, release, remove, size, storage_errors
from pipeline.store.files import left_behind
from pipeline.store.home import OTHERS, PROBE
from pipeline.store.inspection import COLLECT, Finding, inspect_journal, inspect_store
from pipeline.store.keys import DRAFT
from pipeline.workflow.housekeeping import LITTER
from pipeline.workflow.ledger import unentered_models

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from pipeline.store.home import Home
    from pipeline.store.lake import Lake

FULL_BYTES = 200 * 2**20
LOW_BYTES = 2 * 2**30
LANDING_HOURS = 1.0
WAITING_HOURS = 24.0
_SHORTEST_KEY = 16
_LAST_MONTH = "9999-12-01"


def examine(lake: Lake, *, deep: bool = False) -> list[Finding]:
    """Everything that is not as it should be, errors first.

    Args:
        lake: The stores of the home.
        deep: Read every file of every version and compare hashes, too.
    """
    home = lake.home
    if not home.root.is_dir():
        what = "There is no such folder."
        return [Finding("error", what, str(home.root), "Set COHORTLOOM_HOME, or run something: it is made then.")]
    found = [*_permissions(home), *_disk(home)]
    for store in (lake.tables, lake.models, lake.reports):
        found += inspect_store(store, deep=deep)
    found += [*inspect_journal(lake.journal), *_split_key(lake), *_catalog(home), *_landing(home), *_litter(home)]
    found += [*_ledgers(lake), *_erased(lake)]
    return in_order(found)


def in_order(findings: list[Finding]) -> list[Finding]:
    """Errors first, each kind in the order in which it was found."""
    return sorted(findings, key=lambda finding: finding.severity != "error")


def mend(findings: list[Finding]) -> tuple[list[str], list[Finding]]:
    """Mend what can be; gives what was done, in words, and what remains."""
    done, left = [], []
    for finding in findings:
        if finding.mend is None:
            left.append(finding)
            continue
        try:
            with storage_errors(finding.where):
                done.append(finding.mend())
        except StoreError as error:
            left.append(finding)
            left.append(Finding("warning", f"It could not be mended: {error.what}", finding.where, error.todo))
    return done, left


# ---- the folder itself


def _permissions(home: Home) -> Iterator[Finding]:
    """Whether others than the owner can read patient data, models or the secret of the split."""
    todo = "cohortloom doctor --fix closes it."
    if home.root.stat().st_mode & OTHERS:
        what = f"Other users can read COHORTLOOM_HOME (mode {_mode(home.root):o}), which holds patient data."
        yield Finding("error", what, str(home.root), todo, lambda: _close({home.root: 0o700}))
    inside = {**dict.fromkeys((*home.parts, home.spill, home.cache, home.studies), 0o700), home.catalog: 0o600}
    exposed = {part: mode for part, mode in inside.items() if part.exists() and part.stat().st_mode & OTHERS}
    if exposed:
        names = ", ".join(part.name for part in exposed)
        what = f"Other users could read parts of the home if its own mode let them: {names}."
        yield Finding("warning", what, str(home.root), todo, lambda: _close(exposed))


def _close(modes: Mapping[Path, int]) -> str:
    before = [f"{path} (was {_mode(path):o})" for path in modes]
    for path, mode in modes.items():
        path.chmod(mode)
    return f"closed to other users: {', '.join(before)}"


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _disk(home: Home) -> Iterator[Finding]:
    """Room that is left, and whether locks work."""
    free = shutil.disk_usage(home.root).free
    if free < LOW_BYTES:
        what = f"Only {free / 2**20:,.0f} MiB are free."
        todo = "Free some: cohortloom gc --keep 1, or a larger disk."
        yield Finding("error" if free < FULL_BYTES else "warning", what, str(home.root), todo)
    probe = home.root / f"{PROBE}{uuid.uuid4().hex}"
    try:
        with storage_errors(str(home.root)):
            probe.mkdir(mode=0o700)
            try:
                first = hold(probe)
                second = hold(probe)
                for descriptor in (first, second):
                    if descriptor is not None:
                        release(descriptor)
            finally:
                remove(probe)
    except StoreError as error:
        what = f"The home cannot be written, or its file system knows no locks: {error.what}"
        yield Finding("error", what, str(home.root), error.todo or "Use a local POSIX file system.")
        return
    if first is None or second is not None:
        what = "Locks (flock) have no effect on this file system: two writers could damage a partition."
        yield Finding("error", what, str(home.root), "Move COHORTLOOM_HOME to a local POSIX file system.")


# ---- the secret of the split


def _split_key(lake: Lake) -> Iterator[Finding]:
    """Whether the key that features were split with is there, whole and private."""
    path = lake.home.split_key
    made = _own_fingerprints(lake)
    from_environment = os.environ.get(ENVIRONMENT, "").strip().encode()
    if path.is_file() and path.stat().st_mode & OTHERS:
        what = f"Other users can read the split key (mode {_mode(path):o}), and nothing runs with such a key."
        yield Finding("error", what, str(path), "cohortloom doctor --fix closes it.", lambda: _close({path: 0o600}))
    key = from_environment or (path.read_bytes().strip() if path.is_file() else b"")
    where = ENVIRONMENT if from_environment else str(path)
    if not made and not key:
        return
    if made and not key:
        what = f"The split key is missing, and {sum(made.values())} feature tables were made with it."
        yield Finding("error", what, where, "Restore split.key from a backup before anything is run.")
    elif len(key) < _SHORTEST_KEY:
        yield Finding("error", "The split key is empty or cut short.", where, "Restore split.key from a backup.")
    elif others := sum(
        count for mark, count in made.items() if mark not in (fingerprint(key), fingerprint(PUBLISHED_KEY))
    ):
        what = f"{others} feature tables were split with another key than the one there is now."
        yield Finding("error", what, where, "Restore the old key, or accept a new split for good with --new-split.")


def _own_fingerprints(lake: Lake) -> dict[str, int]:
    """Fingerprints of keys that current features were made with, but for the published one, with counts."""
    found: dict[str, int] = {}
    for partition in lake.tables.partitions("features"):
        try:
            version = lake.tables.current("features", partition)
        except StoreError:
            continue  # told by `inspect_store`
        mark = version.info.get("split_fingerprint") if version is not None else None
        if mark is not None and mark != fingerprint(PUBLISHED_KEY):
            found[mark] = found.get(mark, 0) + 1
    return found


# ---- what lies beside the stores


def _catalog(home: Home) -> Iterator[Finding]:
    """Whether the catalogue can be opened by this DuckDB."""
    if not home.catalog.exists():
        return
    import duckdb

    todo = "Nothing is lost: materialise the asset `catalog` again."
    try:
        with storage_errors(home.catalog.name):
            connection = duckdb.connect(str(home.catalog), read_only=True)
            try:
                connection.execute("SELECT count(*) FROM duckdb_tables()").fetchall()
            finally:
                connection.close()
    except (duckdb.Error, StoreError) as error:
        version = "version" in str(error).lower()
        what = (
            f"The catalogue was written by another version than DuckDB {duckdb.__version__}."
            if version
            else f"The catalogue cannot be opened ({type(error).__name__})."
        )
        yield Finding("warning", what, str(home.catalog), todo)


def _landing(home: Home) -> Iterator[Finding]:
    """Deliveries that were never finished, and marks that cannot be read."""
    for path in sorted(home.landing.glob(f"*/{DRAFT}*")):
        if _untouched_hours(path) > LANDING_HOURS:
            what = f"A delivery whose handing over was killed ({size(path):,} bytes)."
            yield Finding("warning", what, str(path), f"Hand it over again; {COLLECT}")
    for key in waiting(home):
        path = home.landing / key.replace("--", "/", 1)
        hours = _untouched_hours(path)
        if hours > WAITING_HOURS:
            what = f"A delivery without _SUCCESS, untouched for {hours / 24:.0f} days: nobody takes it in."
            yield Finding("warning", what, str(path), "Finish it and create _SUCCESS in it, or remove it.")
    for one in landed(home):
        try:
            delivery(home, one.key)
        except CohortLoomError as error:
            yield Finding("error", error.what, str(one.folder), error.todo or "Mend the file.")


def _litter(home: Home) -> Iterator[Finding]:
    """Half-made things outside the stores that no living process holds."""
    for path in sorted(home.spill.glob("spill-*")) if home.spill.is_dir() else []:
        if path.is_dir() and _untouched_hours(path) > 0.01 and left_behind(path, time.time_ns()):
            yield Finding("warning", f"Spill of a process that was killed ({size(path):,} bytes).", str(path), COLLECT)
    for path in sorted(home.root.iterdir()):
        if (
            path.name.startswith(LITTER)
            and _untouched_hours(path) > LANDING_HOURS
            and left_behind(path, time.time_ns())
        ):
            yield Finding("warning", f"Left by a process that was killed ({size(path):,} bytes).", str(path), COLLECT)
    for path in half_restored(home):
        what = f"Left by a restore that was killed: a copy of everything ({size(path):,} bytes)."
        yield Finding("warning", what, str(path), "Remove it; the next `restore` beside it does so, too.")


def _untouched_hours(path: Path) -> float:
    """Hours since anything in it changed; 0 if it is going this moment."""
    try:
        newest = max(entry.lstat().st_mtime for entry in [path, *path.rglob("*")])
    except FileNotFoundError:
        return 0.0
    return (time.time() - newest) / 3600


# ---- the ledgers


def _ledgers(lake: Lake) -> Iterator[Finding]:
    """Reservations that nobody settled, ledgers that cannot be read, models that no entry stands for."""
    cohorts = {partition["cohort"] for asset in _models(lake) for partition in lake.models.partitions(asset)}
    cohorts |= {stream.partition("/")[2] for stream in lake.journal.streams() if stream.startswith("privacy/")}
    for cohort in sorted(cohorts):
        where = f"privacy ledger of {cohort}"
        try:
            for spend in Ledger(lake.journal, cohort).spends():
                if spend.state == "open":
                    training = spend.training
                    yield Finding(
                        "warning",
                        f"Training {training.identity[:SHORT]} ('{training.generator}', {training.month[:7]}) is not settled: "
                        "it is running now, or was killed. It counts as spent.",
                        where,
                        f"Run it again (it takes the reservation over): cohortloom run {cohort} --month {training.month[:7]}",
                    )
            models = unentered_models(lake, cohort, _LAST_MONTH)
        except StoreError as error:
            yield Finding("error", f"It cannot be read: {error.what}", where, error.todo or "Restore the journal.")
            continue
        if models:
            what = f"{len(models)} models stand in no entry, so the ledger says too little. The first: {models[0]}."
            yield Finding(
                "warning", what, where, "Train them again (models made before there was a ledger are no error)."
            )


def _erased(lake: Lake) -> Iterator[Finding]:
    """People who were erased and whom a later delivery brought back."""
    from pipeline.workflow.erasures import come_back

    for name, source in load_book().sources.items():
        for key in come_back(lake, source):
            what = "A delivery holds somebody who was erased from this source."
            todo = f"Have the person taken out of '{name}' where it comes from, and `cohortloom erase` again."
            yield Finding("error", what, key, todo)


def _models(lake: Lake) -> list[str]:
    return [asset for asset in lake.models.assets() if asset.startswith("model/")]
