"""The lake as a resource: where COHORTLOOM_HOME lies, and the stores in it."""

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from pipeline.store.home import Home

if TYPE_CHECKING:
    from pipeline.store.lake import Lake


class LakeResource(dg.ConfigurableResource):
    """COHORTLOOM_HOME and the versioned stores in it (tables, models, reports, journal)."""

    home: str = Field(default="", description="Folder of COHORTLOOM_HOME; empty: what the environment says.")

    def folder(self) -> Home:
        """COHORTLOOM_HOME with its parts made; raises `StoreError` if it cannot be written."""
        home = Home(Path(self.home).expanduser().resolve()) if self.home else Home.from_environment()
        return home.ensure()

    def open(self) -> "Lake":
        """The stores. Imported here so that loading the code location costs no DuckDB and no Arrow."""
        from pipeline.store.lake import Lake

        return Lake(self.folder())
