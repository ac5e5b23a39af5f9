"""Proxies of the protected group (Bt-GAN paper, appendix F): `python benchmarks/proxies.py --cells FILE [--data compas,support2/death]`.

A column that agrees with the group in 95 % of the rows is put into the real rows before anything is learned from them. Told
is what the rows of each system then say: group and proxy, proxy and outcome, group and outcome (phi and bits), and the same
of the real columns that tell most of the group. The paper says that the first survives and the others weaken. And what it
is worth for real people: the parity gap of a model that sees the proxies and not the group. `--data`: a data set of
`fairness.py`, or COHORT/TASK of `four_tasks.py`. Systems and options as there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from time import process_time
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from supporting.cells import keep_cell, kept_cells
from supporting.fair_figures import figures, interval
from supporting.fair_rows import DATA, FairSplit, fair_split
from supporting.fair_systems import WITHOUT_ROWS, Bench, check_systems, drawn, settings_of
from supporting.proxy_figures import AGREES, PROXY, natural_proxies, proxy_figures, with_proxy
from supporting.task_rows import read_studies, read_task_table, task_splits

DEFAULT = (
    "real", "kamiran_calders", "cart", "cart+labels", "cart+decisions", "bt_gan", "bt_gan_minus", "fairgan",
)  # fmt: skip
SHOWN = {
    "corr_group_proxy": "group, proxy (phi)",
    "corr_group_outcome": "group, outcome (phi)",
    "corr_proxy_outcome": "proxy, outcome (phi)",
    "bits_group_proxy": "group, proxy (bits)",
    "bits_proxy_outcome": "proxy, outcome (bits)",
    "bits_group_natural": "group, real proxies (bits)",
    "bits_natural_outcome": "real proxies, outcome (bits)",
    "parity_gap": "parity gap",
    "parity_gap_blind": "parity gap, group not seen",
    "parity_gap_no_proxy": "parity gap, nor the proxy",
    "auroc": "AUROC",
}
NATURAL = 3
"""Real columns that tell most of the group, whose figures are averaged."""


def main() -> None:
    """Compute what is not kept yet, and print a table a data set, Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="compas,support2/death", help=f"of {', '.join(DATA)}, or COHORT/TASK")
    parser.add_argument("--systems", default=",".join(DEFAULT), help="as in four_tasks.py")
    parser.add_argument("--model", default="hgb", choices=["hgb", "lr"], help="what is trained on the rows")
    parser.add_argument("--seeds", type=int, default=5, help="splits and trainings")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--rows", type=int, help="training rows at most; all by default")
    parser.add_argument("--steps", type=int, help="steps of generators that have them; their own by default")
    parser.add_argument("--cells", type=Path, help="file that keeps figures between runs")
    parser.add_argument("--only-table", action="store_true", help="print what is kept and compute nothing")
    given = parser.parse_args()
    systems = given.systems.split(",")
    if without_rows := [s for s in systems if s in WITHOUT_ROWS]:
        parser.error(f"{without_rows[0]} is no set of rows: see fairness.py")
    check_systems(systems)
    for name in given.data.split(","):
        found: dict[str, list[dict[str, Any]]] = {}
        for seed in range(given.first, given.first + given.seeds):
            _one_seed(name, seed, found, systems, given)
        print("\n".join(table_lines(name, found, given.rows)))


def _one_seed(
    name: str, seed: int, found: dict[str, list[dict[str, Any]]], systems: list[str], given: argparse.Namespace
) -> None:
    settings = settings_of(systems, given.steps)
    bench: Bench | None = None
    natural: list[str] = []
    for system in systems:
        at = f"@{given.steps}" if system.partition("+")[0] in settings else ""
        key = f"{name}/{given.rows or 'all'}/{given.model}/{seed}/{system}{at}"
        known = kept_cells(given.cells)
        if key not in known:
            if given.only_table:
                continue
            if bench is None:
                split = with_proxy(split_of(name, seed, given.rows), seed)
                natural = natural_proxies(split, NATURAL)
                bench = Bench(split, seed, given.model, settings=settings)
            known[key] = cell_of(bench, system, natural)
            keep_cell(given.cells, key, known[key])
            print(f"{key}: {known[key]['cpu_s']:.0f} s", file=sys.stderr, flush=True)
        found.setdefault(system, []).append(known[key])


def split_of(name: str, seed: int, rows: int | None) -> FairSplit:
    """The split of a data set of `fairness.py`, or of a task of `four_tasks.py`.

    Raises:
        ValueError: there is no such data set or task.
    """
    if name in DATA:
        return fair_split(name, seed, rows)
    cohort, _, task = name.partition("/")
    if cohort in read_studies():
        for split in task_splits(read_task_table(cohort), seed, rows):
            if split.task.name == task:
                return split
    known = [*DATA, *(f"{c}/TASK" for c in read_studies())]
    raise ValueError(f"'{name}' is none of {', '.join(known)}")


def cell_of(bench: Bench, system: str, natural: list[str]) -> dict[str, Any]:
    """All figures of one system, or what it refuses."""
    from pipeline.errors import CohortLoomError

    began = process_time()
    try:
        made = drawn(bench, system)
        group = bench.split.data.protected
        seen = figures(bench.people, bench.scores(made.rows, made.often))
        blind = figures(bench.people, bench.scores(made.rows, made.often, unseen=(group,)))
        without = figures(bench.people, bench.scores(made.rows, made.often, unseen=(group, PROXY)))
        found: dict[str, Any] = {
            **proxy_figures(bench.split, made.as_often, natural),
            **{name: seen[name] for name in ("auroc", "parity_gap") if name in seen},
            "natural": natural,
        }
        for name, told in (("parity_gap_blind", blind), ("parity_gap_no_proxy", without)):
            if "parity_gap" in told:
                found[name] = told["parity_gap"]
    except (CohortLoomError, ValueError) as error:
        found = {"refused": " ".join(str(error).split())}
    return {**found, "cpu_s": process_time() - began}


def table_lines(name: str, found: dict[str, list[dict[str, Any]]], rows: int | None) -> list[str]:
    """A row a system as Markdown, and under it which real columns were taken and what was refused."""
    lines = [f"\n**{name}** (proxy agrees in {AGREES:.0%}; {rows or 'all'} training rows at most)\n"]
    lines.append("| system | seeds | " + " | ".join(SHOWN.values()) + " |")
    lines.append("| --- | --- |" + " --- |" * len(SHOWN))
    for system, cells in found.items():
        shown = [interval(known) if (known := [c[key] for c in cells if key in c]) else "-" for key in SHOWN]
        lines.append(f"| `{system}` | {len(cells)} | " + " | ".join(shown) + " |")
    taken = sorted({column for cells in found.values() for cell in cells for column in cell.get("natural", [])})
    refused = [(system, c["refused"]) for system, cells in found.items() for c in cells if "refused" in c]
    lines.append(f"\nReal proxies, {NATURAL} a seed: {', '.join(taken) or 'none'}.")
    return [*lines, *(f"\n`{system}` refused: {why}" for system, why in dict.fromkeys(refused))]


if __name__ == "__main__":
    main()
