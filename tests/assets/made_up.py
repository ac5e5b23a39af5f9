"""Made-up cohorts and deliveries for the tests of the graph."""

from __future__ import annotations

import datetime as dt
import json
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.ingest.delivery import Delivery
    from pipeline.store.home import Home

MONTH = "2026-10-01"
GENERATORS: dict[str, dict[str, Any]] = {"independent": {}, "gaussian_copula": {"calibration_steps": 0}}


class Book:
    """Writes the files of cohorts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def sources(self, formats: dict[str, str], *, extra: str = "description: made up") -> None:
        lines = [f"{n}: {{format: {f}, dates: none, split_key: published, {extra}}}" for n, f in formats.items()]
        (self.folder / "sources.yaml").write_text("\n".join(lines) + "\n")

    def cohort(self, name: str, *, source: str, generators: dict | None = None, extra: str = "") -> None:
        """A cohort of one row a row of the table `visits`, judged by the quick profile."""
        (self.folder / f"{name}.yaml").write_text(
            textwrap.dedent(f"""\
                title: A tiny cohort
                source: {source}
                unit: row
                subject: row
                sql: {name}.sql
                columns:
                  age: {{kind: continuous, source: [visits.age], description: Age in years.}}
                  sex: {{kind: binary, source: [visits.sex]}}
                  died: {{kind: binary, source: [visits.died]}}
                tasks: [{{name: mortality, label: died}}]
                protected: [sex]
                evaluation: {{profile: quick}}
                generators: {json.dumps(GENERATORS if generators is None else generators)}
                """)
            + extra
        )
        (self.folder / f"{name}.sql").write_text("SELECT age, sex, lactate, died FROM visits\n")


def visits(path: Path, rows: int = 240, seed: int = 0) -> Path:
    """A folder with `visits.csv`: made-up rows with dependence between the columns."""
    rng = np.random.default_rng(seed)
    age = np.round(rng.normal(60, 12, rows), 1)
    sex = rng.choice(["female", "male"], rows)
    lactate = np.round(np.exp(rng.normal(0.3 + 0.01 * (age - 60), 0.4)), 2)
    died = (rng.random(rows) < 1 / (1 + np.exp(-(lactate - 1.8) * 2))).astype(int)
    path.mkdir(parents=True, exist_ok=True)
    lines = ["age,sex,lactate,died", *(f"{a},{s},{v},{d}" for a, s, v, d in zip(age, sex, lactate, died, strict=True))]
    (path / "visits.csv").write_text("\n".join(lines) + "\n")
    return path


def deliver(home: Home, source: str, folder: Path, *, as_of: str = "2026-10-15", name: str | None = None) -> Delivery:
    from pipeline.ingest.delivery import hand_over

    return hand_over(home, source, folder, as_of=dt.date.fromisoformat(as_of), name=name)
