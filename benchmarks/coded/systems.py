"""Who takes part in `benchmarks/codes.py`, on how many rows, and how one training of each is run in its own process."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class System:
    """A generator with settings.

    Attributes:
        name: In the table.
        generator: Its standard name.
        settings: Over its defaults.
        rows: Training rows, at most; None for all that are asked for. A published preset that takes days on two cores
            is trained and drawn on a part, and its line says so.
        drawn: Rows to draw, at most.
        note: What else its line has to say.
    """

    name: str
    generator: str
    settings: dict[str, Any] = field(default_factory=dict)
    rows: int | None = None
    drawn: int | None = None
    note: str = ""

    def run(self, seed: int, rows: int | None, folder: Path) -> tuple[Path, dict[str, float]]:
        """Train and draw, or take what an earlier run kept: the drawn counts' file and what it took.

        Raises:
            subprocess.CalledProcessError: the process failed; its last words are in `stderr`.
        """
        learned = self.on(rows)
        stem = f"{self.name.replace(' ', '_')}-{learned or 'all'}-{seed}"
        out, facts = folder / f"{stem}.npz", folder / f"{stem}.json"
        if not (out.exists() and facts.exists()):
            command = [sys.executable, str(HERE / "by_us.py"), self.generator, str(seed), str(learned or 0)]
            command += [str(self.drawn or 0), str(out), json.dumps(self.settings)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            facts.write_text(done.stdout.strip().splitlines()[-1] + "\n", encoding="utf-8")
        return out, json.loads(facts.read_text(encoding="utf-8"))

    def on(self, rows: int | None) -> int | None:
        """Training rows where so many are asked for."""
        known = [r for r in (rows, self.rows) if r is not None]
        return min(known) if known else None


MED_PAPER = {"preset": "paper", "epochs": 60, "autoencoder_epochs": 30}
MED_NOTE = "60 of 1,000 epochs, its autoencoder 30 of 100"

SYSTEMS = (
    System("independent", "independent"),
    System("cart", "cart"),
    System("vae", "vae"),
    System("scoehr", "scoehr"),
    # One evaluation of the UNet takes 12.6 ms a row on one thread: with 128 channels 1,000 steps of 1,000 rows are 3.5 hours.
    System(
        "scoehr paper",
        "scoehr",
        {"preset": "paper", "unet_channels": 32, "epochs": 80},
        rows=2000,
        drawn=300,
        note="UNet of 32 instead of 128 channels; as many steps as 5 epochs of the paper's people",
    ),
    System("ehrdiff", "ehrdiff"),
    System("ehrdiff paper", "ehrdiff", {"preset": "paper", "epochs": 300}, note="300 of 5,000 epochs"),
    System("rlsyn", "rlsyn"),
    System("mixed_flow", "mixed_flow"),
    System("medgan", "medgan"),
    System("medbgan", "medbgan"),
    System("medwgan", "medwgan"),
    System("medgan paper", "medgan", MED_PAPER, note=MED_NOTE),
    System("medbgan paper", "medbgan", MED_PAPER, note=MED_NOTE),
    System("medwgan paper", "medwgan", MED_PAPER, note=MED_NOTE),
    System("emr_wgan", "emr_wgan", {"steps": 1500}, note="1,500 of 8,000 steps"),
)
