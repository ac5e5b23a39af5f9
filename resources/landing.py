"""The landing folder as a resource: the deliveries that people and programs dropped."""

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from pipeline.store.home import Home

if TYPE_CHECKING:
    from pipeline.ingest.delivery import Delivery


class LandingResource(dg.ConfigurableResource):
    """`landing/<source>/<delivery>/` of COHORTLOOM_HOME."""

    home: str = Field(default="", description="Folder of COHORTLOOM_HOME; empty: what the environment says.")

    def folder(self) -> Home:
        """COHORTLOOM_HOME with its parts made."""
        home = Home(Path(self.home).expanduser().resolve()) if self.home else Home.from_environment()
        return home.ensure()

    def landed(self) -> "list[Delivery]":
        """Deliveries that are complete (`_SUCCESS` lies there)."""
        from pipeline.ingest.delivery import landed

        return landed(self.folder())

    def waiting(self) -> list[str]:
        """Keys of the folders that are still being written (no `_SUCCESS`)."""
        from pipeline.ingest.delivery import waiting

        return waiting(self.folder())

    def delivery(self, key: str) -> "Delivery":
        """The delivery `<source>--<delivery>`; raises `NotFoundError`."""
        from pipeline.ingest.delivery import delivery

        return delivery(self.folder(), key)
