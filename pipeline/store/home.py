"""COHORTLOOM_HOME: the one folder that holds everything, and what lies where in it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import StoreError


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
    def split_key(self) -> Path:
        """The secret that keys the split."""
        return self.root / "split.key"

    @property
    def catalog(self) -> Path:
        """The read-only DuckDB catalogue for notebooks and BI."""
        return self.root / "catalog.duckdb"

    def ensure(self) -> Home:
        """Make the folder and its parts; raises `StoreError` if it cannot be written."""
        try:
            if not self.root.exists():
                self.root.mkdir(parents=True, mode=0o700)
            for part in (self.landing, self.lake, self.models, self.reports, self.journal, self.dagster):
                part.mkdir(exist_ok=True)
            probe = self.root / f".probe-{os.getpid()}"
            probe.write_bytes(b"cohortloom")
            probe.unlink()
        except OSError as error:
            raise StoreError(
                f"COHORTLOOM_HOME cannot be written ({error.strerror}).",
                where=str(self.root),
                todo="Point COHORTLOOM_HOME at a folder on a disk with space that you may write.",
            ) from error
        return self
