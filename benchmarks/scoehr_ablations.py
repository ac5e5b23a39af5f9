"""ScoEHR's ablations: `python benchmarks/scoehr_ablations.py [--study epochs,rates] [--rows 2000] [--drawn 500]`.

The reproduction's two studies (epochs 12 to 100 and learning rates 2.5e-4 to 5e-3, at 144 latents), its widths (64, 144,
256, none), and what each change of the default is worth, one at a time. On DE-SynPUF code counts, judged as in
`codes.py`; beside it the reproduction's log-cluster U on MIMIC-III, as it should have been computed. On two cores the
UNet takes hours at full size: `--rows`, `--drawn`, `--channels` (128 as published), `--steps` (1,000) and `--backbone
resmlp` make it smaller, and the first line says what was run. One process a training.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from coded.figures import Figures, figures
from coded.rows import cohort, split_codes
from coded.systems import System

AGAIN: dict[str, Any] = {"preset": "reproduction"}
EPOCHS = {12: -2.22, 25: -2.58, 30: -2.45, 50: -2.85, 75: -2.88, 100: -2.72}
RATES = {2.5e-4: -2.30, 5e-4: -2.80, 1e-3: -2.45, 2.5e-3: -2.43, 5e-3: None}
"""Of the reproduction: U at 30 epochs; 5e-3 diverged, since its schedule starts at half of it and never warms up."""
WIDTHS = {"reproduction_ae64": -2.85, "reproduction": -2.48, "reproduction_ae256": -2.79, "reproduction_no_ae": -2.90}
DEFAULT: dict[str, dict[str, Any]] = {
    "default": {},
    "first-order sampler": {"sampler": "ddim"},
    "unscaled times": {"time_scale": 1.0},
    "no running mean": {"ema": 0.0},
    "no input mask": {"input_mask": 0.0},
    "sharp latents": {"latent_beta": 0.01},
    "thresholds": {"space": "published", "latent_dim": 64},
}
STUDIES: dict[str, dict[str, tuple[dict[str, Any], float | None]]] = {
    "epochs": {f"{n} epochs": ({**AGAIN, "epochs": n}, u) for n, u in EPOCHS.items()},
    "rates": {f"rate {r:g}": ({**AGAIN, "epochs": 30, "learning_rate": r}, u) for r, u in RATES.items()},
    "widths": {name: ({"preset": name}, u) for name, u in WIDTHS.items()},
    "default": {name: (settings, None) for name, settings in DEFAULT.items()},
}


def main() -> None:
    """Print a line a training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default=",".join(STUDIES), help=f"of {', '.join(STUDIES)}; all by default")
    parser.add_argument("--rows", type=int, help="training rows; all by default")
    parser.add_argument("--drawn", type=int, help="rows to draw; as many as were learned from by default")
    parser.add_argument("--channels", type=int, default=128, help="of the UNet's first level")
    parser.add_argument("--steps", type=int, default=1000, help="of the published sampler")
    parser.add_argument(
        "--backbone",
        choices=("unet", "resmlp"),
        default="unet",
        help="resmlp: minutes in place of hours, all else as published",
    )
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    split = split_codes(given.rows)
    vocabulary = split.train.schema.blocks[0].vocabulary
    network = f"UNet of {given.channels}" if given.backbone == "unet" else "residual layers in place of the UNet"
    print(f"{split.train.n_rows:,} people, {len(vocabulary)} codes; {network}, {given.steps} steps")
    names = Figures.names()
    print(f"{'':22}" + "".join(f"{name:>12}" for name in [*names, "fit s", "draw s", "MIMIC U"]))
    with tempfile.TemporaryDirectory(prefix="cohortloom-bench-") as folder:
        for study in given.study.split(","):
            for name, (settings, published) in STUDIES[study.strip()].items():
                if study.strip() != "default":
                    smaller = {"unet_channels": given.channels, "sampling_steps": given.steps}
                    settings = {**settings, **smaller, "backbone": given.backbone}
                system = System(name, "scoehr", settings, drawn=given.drawn)
                try:
                    out, took = system.run(given.seed, given.rows, Path(folder))
                except subprocess.CalledProcessError as error:
                    last = (error.stderr or "").strip().splitlines()
                    print(f"{name:22}  failed: {last[-1] if last else error.returncode}", flush=True)
                    continue
                from scipy.sparse import load_npz

                found = asdict(figures(split, cohort(load_npz(out), vocabulary))[0])
                cells = [_text(found[key]) for key in names]
                cells += [f"{took['fit_s']:.1f}", f"{took['draw_s']:.1f}", _text(published)]
                print(f"{name:22}" + "".join(f"{cell:>12}" for cell in cells), flush=True)


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    main()
