"""What was released: the list of all releases, their payloads, taking one back, handing one out.

The journal says what is published, the store holds the files; a release without its files is "lost" and one that was
withdrawn has none. How a release comes about is in `releasing.py`.
"""

from __future__ import annotations

import shutil
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pipeline.errors import ConfigError, NotFoundError, StoreError, nearest
from pipeline.release.signoff import Issue, cohort_of, issues
from pipeline.store.disk import storage_errors
from pipeline.store.hashing import sha256_file
from pipeline.workflow.housekeeping import operator
from pipeline.workflow.judging import RELEASE_STREAM

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.ingest.meds.export import Written
    from pipeline.store.lake import Lake, Version
    from pipeline.workflow.compute import Compute

ASSET = "release"


@dataclass(frozen=True)
class ReleaseRow:
    """One release in a list: published, superseded by a later one of its month, withdrawn, or its files lost."""

    release_id: str
    cohort: str
    month: str
    generator: str
    state: Literal["published", "superseded", "withdrawn", "lost"]
    published_at: str
    sha256: str
    rows: int | None
    why: str = ""


def stream(cohort: str) -> str:
    """The journal stream of a cohort's releases."""
    return f"{RELEASE_STREAM}/{cohort}"


def releases(lake: Lake) -> list[ReleaseRow]:
    """All releases that ever were, by cohort and then in the order in which they were published."""
    return [_row(lake, cohort, issue, known) for cohort, known in all_issues(lake).items() for issue in known]


def published_versions(lake: Lake) -> list[Version]:
    """The payloads of all releases that were not withdrawn, superseded ones too: what must not be collected."""
    found = [
        payload(lake, cohort, issue)
        for cohort, known in all_issues(lake).items()
        for issue in known
        if issue.withdrawn is None
    ]
    return [version for version in found if version is not None]


def withdraw(lake: Lake, release_id: str, reason: str, by: str) -> ReleaseRow:
    """Take a release back: noted in the journal first, then its payload is purged.

    Doing it again purges what a killed withdrawal left, and notes nothing.

    Raises:
        NotFoundError: there is no such release.
        ConfigError: no reason or no name is given.
    """
    cohort, issue = find_issue(lake, release_id)
    if not reason.strip() or not by.strip():
        raise ConfigError("A withdrawal needs a reason and the name of who decides it.", where=release_id)

    def decide(entries: list[dict[str, Any]]) -> dict[str, Any] | None:
        if next(i for i in issues(entries) if i.release_id == release_id).withdrawn is not None:
            return None
        facts = {"release_id": release_id, "month": issue.month, "seal": issue.seal}
        return {"kind": "withdrawn", **facts, "name": by.strip(), "words": reason.strip(), "user": operator()}

    lake.journal.transact(stream(cohort), decide)
    for version in lake.tables.history(ASSET, {"cohort": cohort, "month": issue.month}):
        if version.info["release_id"] == release_id:
            lake.tables.purge(version)
    cohort, issue = find_issue(lake, release_id)
    return _row(lake, cohort, issue, all_issues(lake)[cohort])


def find_issue(lake: Lake, release_id: str) -> tuple[str, Issue]:
    """Cohort and journal's record of a release.

    Raises:
        NotFoundError: there is no such release, with the nearest.
        ConfigError: the text is no release id.
    """
    cohort = cohort_of(release_id)
    known = all_issues(lake)
    for issue in known.get(cohort, []):
        if issue.release_id == release_id:
            return cohort, issue
    names = [issue.release_id for found in known.values() for issue in found]
    raise NotFoundError(f"There is no release '{release_id}'.", todo=nearest(release_id, names))


def payload_of(lake: Lake, release_id: str) -> Version:
    """The payload of a release, after checking that it may be handed out and that its files are whole.

    Raises:
        NotFoundError: there is no such release.
        ConfigError: it was withdrawn.
        StoreError: its files are gone or damaged.
    """
    cohort, issue = find_issue(lake, release_id)
    if issue.withdrawn is not None:
        raise ConfigError(
            f"It was withdrawn on {issue.withdrawn.at[:10]} by {issue.withdrawn.name}: {issue.withdrawn.words}",
            where=release_id,
        )
    version = payload(lake, cohort, issue)
    if version is None:
        raise StoreError("The files of this release are gone.", where=release_id, todo="Restore a backup.")
    lake.tables.verify(version)
    return version


def export(lake: Lake, release_id: str, folder: Path) -> list[Path]:
    """Copy a release into a new or empty folder, whole or not at all; gives the files.

    Raises:
        NotFoundError, ConfigError, StoreError: as `payload_of`; the folder is not empty, or cannot be written.
    """
    version = payload_of(lake, release_id)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError("The folder is not empty.", where=str(folder), todo="Name one that does not exist yet.")
    work = folder.parent / f".{folder.name}-{uuid.uuid4().hex}"
    with storage_errors(str(folder)):
        work.mkdir(parents=True)
        try:
            for stored in version.files.values():
                target = work / stored.file
                shutil.copyfile(lake.tables.path(version, stored.name), target)
                if sha256_file(target) != stored.sha256:
                    raise StoreError("The copy is not what was released.", where=stored.file, todo="Try again.")
            if folder.exists():
                folder.rmdir()
            work.rename(folder)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
    return sorted(folder / stored.file for stored in version.files.values())


def export_visits(lake: Lake, release_id: str, folder: Path, compute: Compute) -> Written:
    """Write the visits of a release as a MEDS dataset into a new or empty folder, whole or not at all.

    Raises:
        NotFoundError, ConfigError, StoreError: as `export`; the release has no visits.
    """
    from pipeline.ingest.meds.synthetic import write_synthetic
    from pipeline.release.payload import read_visits

    version = payload_of(lake, release_id)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError("The folder is not empty.", where=str(folder), todo="Name one that does not exist yet.")
    rows = read_visits(lake.tables.folder(version))
    with storage_errors(str(folder)):
        return write_synthetic(
            rows,
            folder,
            name=release_id,
            version=version.partition["month"][:7],
            threads=compute.engine_threads,
            memory_limit=compute.memory_limit,
        )


def all_issues(lake: Lake) -> dict[str, list[Issue]]:
    """All releases that the journal knows, by cohort, withdrawn ones too, in the order in which they were published."""
    prefix = f"{RELEASE_STREAM}/"
    cohorts = [name.removeprefix(prefix) for name in lake.journal.streams() if name.startswith(prefix)]
    return {cohort: issues(lake.journal.entries(stream(cohort))) for cohort in cohorts}


def payload(lake: Lake, cohort: str, issue: Issue) -> Version | None:
    """The stored version of a release; several runs may have stored the same bytes."""
    stored = lake.tables.history(ASSET, {"cohort": cohort, "month": issue.month})
    return next((v for v in stored if v.sha256 == issue.sha256), None)


def _row(lake: Lake, cohort: str, issue: Issue, known: Sequence[Issue]) -> ReleaseRow:
    version = payload(lake, cohort, issue)
    newest = [i for i in known if i.month == issue.month][-1]
    state: Literal["published", "superseded", "withdrawn", "lost"] = "published"
    why = ""
    if issue.withdrawn is not None:
        state, why = "withdrawn", f"{issue.withdrawn.at[:10]}, {issue.withdrawn.name}: {issue.withdrawn.words}"
    elif version is None:
        state, why = "lost", "its files are gone"
    elif newest != issue:
        state, why = "superseded", f"by {newest.release_id}"
    rows = version.info["rows"] if version is not None else None
    where = (issue.release_id, cohort, issue.month, issue.generator)
    return ReleaseRow(*where, state, issue.at, issue.sha256, rows, why)
