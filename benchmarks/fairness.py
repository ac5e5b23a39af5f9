"""Fairness on real people: `python benchmarks/fairness.py [--data adult,...] [--systems ...] [--seeds 5] [--cells FILE]`.

Models are trained on the rows of each system and tested on real people that nobody learned from: Adult (sex), COMPAS
(ethnicity), diabetes130 (race), split anew for every seed. Boosting unless `--model lr`; it sees the protected column, as
in the evaluation of the pipeline. Systems: `real`; `best_order` (the least that parity costs a model of the real rows);
`kamiran_calders` (rows drawn so often as their weight says); `fairlearn` (ExponentiatedGradient with DemographicParity
over the same kind of model, whose chance of a yes is the score); and GENERATOR, GENERATOR+labels (fair quotas),
GENERATOR+decisions. `--rows` caps the training rows. Cells that FILE holds are not computed again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from supporting.cells import keep_cell, kept_cells
from supporting.fair_figures import interval
from supporting.fair_rows import DATA, fair_split
from supporting.fair_systems import ON_TOP, REFERENCES, Bench, check_systems, run

GENERATORS = ("cart", "vae", "argn")
FAIR_GENERATORS = ("fairgan", "bt_gan_minus", "bt_gan", "decaf")
"""Fair by themselves, and named without a suffix in `--systems`."""
DEFAULT = (
    *REFERENCES,
    *(f"{g}{s}" for g in GENERATORS for s in ("", "+labels", "+decisions")),
    *FAIR_GENERATORS,
)
PAPER: dict[str, dict[str, tuple[float, float, float, float]]] = {
    "adult": {"real": (0.902, 0.921, 0.198, 0.121), "DECAF": (0.781, 0.881, 0.011, 0.001), "FairGAN": (0.661, 0.679, 0.089, 0.097), "Bt-GAN": (0.898, 0.900, 0.002, 0.001)},
    "compas": {"real": (0.903, 0.914, 0.239, 0.258), "DECAF": (0.874, 0.886, 0.021, 0.003), "FairGAN": (0.785, 0.832, 0.045, 0.205), "Bt-GAN": (0.896, 0.899, 0.001, 0.002)},
}  # fmt: skip
"""Bt-GAN paper, table 6: precision, recall, AUROC gap, parity gap."""
SHOWN = (
    "precision", "recall", "auroc", "auroc_gap", "parity_gap", "parity_gap_half", "opportunity_gap", "odds_gap", "label_gap",
    "leak_data", "leak_model", "ldss",
)  # fmt: skip


def main() -> None:
    """Compute what is not kept yet, and print a table a data set, Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=",".join(DATA), help="of " + ", ".join(DATA))
    parser.add_argument("--systems", default=",".join(DEFAULT), help=f"references, GENERATOR or GENERATOR+{{{', '.join(filter(None, ON_TOP))}}}")  # fmt: skip
    parser.add_argument("--seeds", type=int, default=5, help="splits and trainings")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--rows", type=int, help="training rows at most; all by default")
    parser.add_argument("--model", default="hgb", choices=["hgb", "lr"], help="what is trained on the rows")
    parser.add_argument("--cells", type=Path, help="file that keeps figures between runs")
    parser.add_argument("--only-table", action="store_true", help="print what is kept and compute nothing")
    given = parser.parse_args()
    systems = given.systems.split(",")
    check_systems(systems)
    for name in given.data.split(","):
        found: dict[str, list[dict[str, float]]] = {system: [] for system in systems}
        for seed in range(given.first, given.first + given.seeds):
            _one_split(name, seed, found, given)
        _print(name, found, given)


def _one_split(name: str, seed: int, found: dict[str, list[dict[str, float]]], given: argparse.Namespace) -> None:
    bench: Bench | None = None
    for system in found:
        cell = f"{name}/{given.rows or 'all'}/{given.model}/{seed}/{system}"
        known = kept_cells(given.cells)
        if cell not in known:
            if given.only_table:
                continue
            bench = bench or Bench(fair_split(name, seed, given.rows), seed, given.model)
            known[cell] = run(bench, system)
            keep_cell(given.cells, cell, known[cell])
            print(f"{cell}: {known[cell]['cpu_s']:.0f} s", file=sys.stderr, flush=True)
        found[system].append(known[cell])


def _print(name: str, found: dict[str, list[dict[str, float]]], given: argparse.Namespace) -> None:
    data = DATA[name]
    print(f"\n{name}: {data.groups[0]} minus {data.groups[1]}; {given.model}; {given.rows or 'all'} training rows\n")
    print("| system | seeds | " + " | ".join(SHOWN) + " |\n| --- | --- | " + " | ".join("---" for _ in SHOWN) + " |")
    for system, cells in found.items():
        if not cells:
            continue
        shown = [interval([c[key] for c in cells]) if all(key in c for c in cells) else "-" for key in SHOWN]
        print(f"| {system} | {len(cells)} | " + " | ".join(shown) + " |")
    for system, (precision, recall, auroc_gap, parity_gap) in PAPER.get(name, {}).items():
        told = {"precision": precision, "recall": recall, "auroc_gap": auroc_gap, "parity_gap": parity_gap}
        print(f"| paper: {system} | - | " + " | ".join(f"{told[k]:.3f}" if k in told else "-" for k in SHOWN) + " |")


if __name__ == "__main__":
    main()
