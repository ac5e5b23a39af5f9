"""Generators on SUPPORT beside their peers: `python benchmarks/support.py [--seeds 5] [--generators cart vae]`.

70/30 at random with seed 0; every generator learns the same 70 % in a process of its own and draws as many rows, which
are judged against the other 30 % (`supporting/quality.py` says what each figure is). Mean of the seeds with a 95 %
t interval. "training rows" and "shuffled columns" are the limits that the figures are read against.

    .venv/bin/python benchmarks/support.py --generators independent gaussian_copula cart vae tvae --set vae.beta=0.7
    COHORTLOOM_SDV_PYTHON=... COHORTLOOM_MOSTLYAI_PYTHON=... .venv/bin/python benchmarks/support.py --peers

Peers run in environments of their own (pins in benchmarks/peers/sdv.txt and mostlyai.txt); one whose environment is not
named is left out, and said so. `--keep FOLDER` keeps what was drawn, so that a second run only computes figures.
CPU seconds of the fit stand beside the wall time; set OMP_NUM_THREADS=1 on a busy machine.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from supporting.quality import Quality, quality
from supporting.rows import split_support
from supporting.systems import MOSTLY, PEERS, SDV, System

if TYPE_CHECKING:
    import pandas as pd

TITLES = {
    "detection": "detection", "logistic": "logistic", "svc": "SVC", "correlation": "corr RMSE", "tstr": "TSTR AUC",
    "membership": "MIA AUC", "tpr": "TPR at 1 %", "copies": "copies",
}  # fmt: skip
TOOK = {"fit_s": "fit s", "fit_cpu_s": "fit CPU s", "draw_s": "draw s", "peak_mib": "peak MiB"}
COLUMN = 15


def main() -> None:
    """Train, judge, print."""
    from assets.cli.tables import parse_settings

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--generators", nargs="*", default=["independent", "gaussian_copula", "cart", "vae", "synthvae", "tvae"]
    )
    parser.add_argument("--set", action="append", default=[], help="generator.setting=value; repeat for more")
    parser.add_argument("--peers", action="store_true", help="also SDV and mostlyai-engine")
    parser.add_argument("--equal-epochs", type=int, help="also SDV's TVAE and our vae with so many epochs, for speed")
    parser.add_argument("--keep", type=Path, help="folder for what is drawn")
    given = parser.parse_args()
    settings: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, value in parse_settings(given.set).items():
        generator, _, setting = name.partition(".")
        settings[generator][setting] = value
    systems = [System(name, "cohortloom", name, settings[name]) for name in given.generators]
    systems += PEERS if given.peers else ()
    if given.equal_epochs:
        epochs = given.equal_epochs
        systems.append(System(f"vae {epochs} epochs", "cohortloom", "vae", {"epochs": epochs, "patience": 0}))
        systems.append(System(f"sdv tvae {epochs} epochs", "sdv", "tvae", epochs=epochs))
    with tempfile.TemporaryDirectory() as aside:
        folder = given.keep or Path(aside)
        folder.mkdir(parents=True, exist_ok=True)
        compare(systems, given.seeds, folder)


def compare(systems: list[System], seeds: int, folder: Path) -> None:
    """One line a system, as soon as it is done."""
    train, holdout = split_support().frames
    rows = folder / "train.parquet"
    train.to_parquet(rows)
    threads = os.environ.get("OMP_NUM_THREADS", "unset")
    print(f"support: train {len(train):,}, holdout {len(holdout):,}; {seeds} seeds, 95 % intervals; ", end="")
    print(f"OMP_NUM_THREADS={threads}, {os.cpu_count()} cores")
    print(_line("", [*TITLES.values()], [*TOOK.values()]), flush=True)
    limits = {"training rows": train, "shuffled columns": _shuffled(train)}
    for name, table in limits.items():
        print(_line(name, _figures([asdict(quality(train, holdout, table))], Quality.names()), []), flush=True)
    for system in systems:
        if system.python is None:
            variable = SDV if system.package == "sdv" else MOSTLY
            print(f"{system.name:22} left out: {variable} names no environment", flush=True)
            continue
        found, took = judged(system, seeds, rows, train, holdout, folder)
        print(_line(system.name, _figures(found, Quality.names()), _figures(took, list(TOOK), digits=1)), flush=True)


def judged(
    system: System, seeds: int, rows: Path, train: pd.DataFrame, holdout: pd.DataFrame, folder: Path
) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """Figures of each seed, and what each took."""
    import pandas as pd

    found, took = [], []
    for seed in range(seeds):
        out, facts = system.run(seed, rows, folder)
        drawn = pd.read_parquet(out)
        found.append(asdict(quality(train, holdout, drawn.astype(train.dtypes.to_dict()))))
        took.append(facts)
    return found, took


def _shuffled(train: pd.DataFrame) -> pd.DataFrame:
    """Every column by itself: right margins, no dependence."""
    return train.apply(lambda column: column.sample(frac=1, random_state=len(column.name)).to_numpy())


def _figures(found: list[dict[str, float]], names: list[str], digits: int = 4) -> list[str]:
    """Mean and half-width of the 95 % t interval over seeds."""
    import numpy as np
    from scipy.stats import t

    out = []
    for name in names:
        values = np.array([row[name] for row in found])
        text = f"{values.mean():.{digits}f}"
        if len(values) > 1:
            half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
            text += f" ±{half:.{digits}f}".replace("±0.", "±.")
        out.append(text)
    return out


def _line(name: str, figures: list[str], took: list[str]) -> str:
    return f"{name:22}" + "".join(f"{text:>{COLUMN}}" for text in [*figures, *took])


if __name__ == "__main__":
    main()
