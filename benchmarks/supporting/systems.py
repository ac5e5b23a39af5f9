"""Who takes part in `benchmarks/support.py`, and how one training of each is run in a process of its own.

What a process drew and what it took are kept in a folder, so that figures can be computed anew without training again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SDV, MOSTLY = "COHORTLOOM_SDV_PYTHON", "COHORTLOOM_MOSTLYAI_PYTHON"
"""Environment variables that name the Python of a peer's own environment (pins in benchmarks/peers)."""


@dataclass(frozen=True)
class System:
    """A generator of ours or of a peer.

    Attributes:
        name: In the table.
        package: "cohortloom", "sdv" or "mostlyai-engine".
        generator: Its name in that package.
        settings: Of ours, over its defaults.
        epochs: Of a neural network of SDV; None for its default.
    """

    name: str
    package: str
    generator: str
    settings: dict[str, Any] = field(default_factory=dict)
    epochs: int | None = None

    @property
    def python(self) -> str | None:
        """The interpreter it runs in; None where the peer's environment is not named."""
        if self.package == "cohortloom":
            return sys.executable
        return os.environ.get(SDV if self.package == "sdv" else MOSTLY)

    def command(self, seed: int, train: Path, out: Path) -> list[str]:
        """What is run for one seed."""
        python = self.python
        assert python is not None
        if self.package == "cohortloom":
            return [python, str(HERE / "by_us.py"), self.generator, str(seed), str(out), json.dumps(self.settings)]
        if self.package == "sdv":
            more = [] if self.epochs is None else [str(self.epochs)]
            return [python, str(HERE / "by_sdv.py"), self.generator, str(seed), str(train), str(out), *more]
        return [python, str(HERE / "by_mostly.py"), str(seed), str(train), str(out)]

    def run(self, seed: int, train: Path, folder: Path) -> tuple[Path, dict[str, float]]:
        """Train and draw, or take what an earlier run kept: the drawn rows' file and what it took.

        Raises:
            subprocess.CalledProcessError: the process failed; its last words are on stderr.
        """
        stem = f"{self.name.replace(' ', '_')}-{seed}"
        out, facts = folder / f"{stem}.parquet", folder / f"{stem}.json"
        if not (out.exists() and facts.exists()):
            done = subprocess.run(self.command(seed, train, out), stdout=subprocess.PIPE, text=True, check=True)
            facts.write_text(done.stdout.strip().splitlines()[-1] + "\n", encoding="utf-8")
        return out, json.loads(facts.read_text(encoding="utf-8"))


PEERS = (
    System("sdv gaussian_copula", "sdv", "gaussian_copula"),
    System("sdv tvae", "sdv", "tvae"),
    System("sdv ctgan", "sdv", "ctgan"),
    System("mostlyai argn", "mostlyai-engine", "argn"),
)
