"""COHORTLOOM_HOME: the one folder that holds everything, and what lies where in it."""

from __future__ import annotations

import os
import uuid
import warnings
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import StoreError

OTHERS = 0o077
"""Permission bits of everybody but the owner."""
PROBE = ".probe-"
_told: set[Path] = set()


@dataclass(frozen=True)
class Home:
    """Paths inside COHORTLOOM_HOME. Holds patient data: the folder is made with mode 0700."""

    root: Path

    @classmethod
    def from_environment(cls) -> Home:
        """The folder named by COHORTLOOM_HOME, default `./.cohortloom`."""
        return cls(Path(os.environ.get("COHORTLOOM_HOME") or ".cohortloom").expanduser().resolve())

    @property
    def landing(self) -> Path:
        """Deliveries as they came: `landing/<source>/<delivery>/`."""
        return self.root / "landing"

    @property
    def lake(self) -> Path:
        """Parquet versions of every asset partition."""
        return self.root / "lake"

    @property
    def models(self) -> Path:
        """Model bundles, versioned like the lake."""
        return self.root / "models"

    @property
    def reports(self) -> Path:
        """Evaluation reports, versioned like the lake."""
        return self.root / "reports"

    @property
    def journal(self) -> Path:
        """Append-only entries: privacy spend, signatures, holdout access."""
        return self.root / "journal"

    @property
    def dagster(self) -> Path:
        """DAGSTER_HOME: runs and events. May be deleted; the lake is the truth."""
        return self.root / "dagster"

    @property
    def spill(self) -> Path:
        """Where DuckDB puts what does not fit into its memory; emptied by itself."""
        return self.root / "spill"

    @property
    def cache(self) -> Path:
        """Local copies of what lies on an object store, and drafts on their way there; may be deleted at rest."""
        return self.root / "cache"

    @property
    def studies(self) -> Path:
        """What tuning has tried so far: one SQLite file a study, made when the first one begins."""
        return self.root / "studies"

    @property
    def split_key(self) -> Path:
        """The secret that keys the split."""
        return self.root / "split.key"

    @property
    def catalog(self) -> Path:
        """The read-only DuckDB catalogue for notebooks and BI."""
        return self.root / "catalog.duckdb"

    @property
    def parts(self) -> tuple[Path, ...]:
        """The folders that every home has."""
        return self.landing, self.lake, self.models, self.reports, self.journal, self.dagster

    def ensure(self) -> Home:
        """Make the folder and its parts, for the owner only; one that others can read is warned of, once a process.

        Raises:
            StoreError: it cannot be written.
        """
        try:
            self.root.mkdir(parents=True, mode=0o700, exist_ok=True)
            if self.root.stat().st_mode & OTHERS and self.root not in _told:
                _told.add(self.root)
                warnings.warn(
                    f"{self.root} holds patient data and other users can read it: run `cohortloom doctor --fix`.",
                    stacklevel=2,
                )
            for part in self.parts:
                part.mkdir(mode=0o700, exist_ok=True)
            # Threads of one process look at the same time, too.
            probe = self.root / f"{PROBE}{uuid.uuid4().hex}"
            probe.write_bytes(b"cohortloom")
            probe.unlink()
        except OSError as error:
            raise StoreError(
                f"COHORTLOOM_HOME cannot be written ({error.strerror}).",
                where=str(self.root),
                todo="Point COHORTLOOM_HOME at a folder on a disk with space that you may write.",
            ) from error
        return self
