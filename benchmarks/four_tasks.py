"""The four tasks of the Bt-GAN paper: `python benchmarks/four_tasks.py --cells FILE [--data mimic3_icu,support2] [--systems ...]`.

One table for all outcomes of a cohort (`studies/four_tasks.yaml`), split by patient anew for every seed. For every task,
models are trained on the rows of each system, without the other outcomes, and tested on the real people that nobody
learned from; they see the protected column. Systems as in `fairness.py`: `real`, `kamiran_calders`, GENERATOR,
GENERATOR+labels, GENERATOR+decisions; a generator that is told label and protected column is trained anew for each task,
any other once for all. `--models`: lr and rf are the paper's, hgb is boosting. `--rows` caps the training rows and `--steps`
the steps of the generators that have them. Cells that FILE holds are not computed again; what a system refuses is kept in
words.
"""

from __future__ import annotations

import argparse
import sys
from itertools import chain
from pathlib import Path
from time import process_time
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from supporting.btgan_paper import printed
from supporting.cells import keep_cell, kept_cells
from supporting.fair_figures import People, figures, interval, of_rows
from supporting.fair_systems import ON_TOP, WITHOUT_ROWS, Bench, check_systems, drawn, settings_of
from supporting.task_rows import read_studies, read_task_table, task_splits

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from supporting.fair_rows import FairSplit
    from supporting.task_rows import TaskStudy

    from pipeline.generators.base import Generator

DEFAULT = (
    "real", "kamiran_calders", "cart", "cart+labels", "cart+decisions", "bt_gan", "bt_gan_minus", "fairgan",
)  # fmt: skip
SHOWN = {
    "accuracy_half": "accuracy",
    "precision_half": "precision",
    "recall_half": "recall",
    "f1_half": "F1",
    "precision": "precision = recall",
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "auroc_gap": "AUROC gap",
    "parity_gap": "parity gap",
    "parity_gap_half": "parity gap at 1/2",
    "odds_gap": "odds gap",
    "leak_data": "leak, outcome",
    "leak_model": "leak, decisions",
    "ldss": "worst LDS",
}
"""Figure to heading; the first four are taken where a chance of 1/2 is a yes, as the paper does."""
OF_ROWS = ("leak_data", "ldss")
OF_GROUPS = ("auroc_gap", "parity_gap", "parity_gap_half", "odds_gap", "leak_model")
"""Left out where a group has too few people in the test."""
ENOUGH = 50
"""People with and without the outcome that each group needs in the test for its gaps to mean something."""
SMALL = 11
Cell = dict[str, Any]


def cell_of(bench: Bench, system: str, models: Iterable[str]) -> Cell:
    """All figures of one system on one task: of its rows, and of each model trained on them; or what it refuses."""
    from pipeline.errors import CohortLoomError

    began = process_time()
    found: Cell = {"people": counted(bench)}
    try:
        made = drawn(bench, system)
        found["rows"] = {**of_rows(bench.split, made.rows), **made.told}
        for model in models:
            found[model] = figures(bench.people, bench.scores(made.rows, made.often, model))
    except (CohortLoomError, ValueError) as error:
        found["refused"] = " ".join(str(error).split())
    return {**found, "cpu_s": process_time() - began}


def counted(bench: Bench) -> dict[str, Any]:
    """Rows that are learned from, their patients, and rows of the test with and without the outcome, by group."""
    people, train = bench.people, bench.split.train
    return {
        "train": train.n_rows,
        "patients": train.n_subjects,
        "test": [[int(((people.group == g) & (people.truth == y)).sum()) for y in (True, False)] for g in (0, 1)],
        "trained_on": [int((People.of(bench.split, train).group == g).sum()) for g in (0, 1)],
    }


def main() -> None:
    """Compute what is not kept yet, and print a table for each task and model, Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    studies = read_studies()
    parser.add_argument("--data", default=",".join(studies), help="of " + ", ".join(studies))
    parser.add_argument("--tasks", help="tasks, all by default")
    parser.add_argument("--systems", default=",".join(DEFAULT), help=f"references, GENERATOR or GENERATOR+{{{', '.join(filter(None, ON_TOP))}}}")  # fmt: skip
    parser.add_argument("--models", default="lr,hgb", help="what is trained on the rows: of lr, rf, hgb, mlp")
    parser.add_argument("--seeds", type=int, default=5, help="splits and trainings")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--rows", type=int, help="training rows at most; 70 %% of the patients by default")
    parser.add_argument("--steps", type=int, help="steps of generators that have them; their own by default")
    parser.add_argument("--cells", type=Path, help="file that keeps figures between runs")
    parser.add_argument("--only-table", action="store_true", help="print what is kept and compute nothing")
    parser.add_argument("--print", dest="printed", help="models whose tables are printed, all by default")
    parser.add_argument("--figures", default=",".join(SHOWN), help="figures that are printed, of " + ", ".join(SHOWN))
    given = parser.parse_args()
    systems, models = given.systems.split(","), given.models.split(",")
    if without_rows := [s for s in systems if s in WITHOUT_ROWS]:
        parser.error(f"{without_rows[0]} is no set of rows that several models could be trained on: see fairness.py")
    check_systems(systems)
    known = {name: task_names(name) for name in given.data.split(",")}
    asked = given.tasks.split(",") if given.tasks else list(chain.from_iterable(known.values()))
    if unknown := set(asked) - set(chain.from_iterable(known.values())):
        parser.error(f"no task '{min(unknown)}'; there are {known}")
    shown = {key: SHOWN[key] for key in given.figures.split(",") if key in SHOWN}
    if len(shown) < len(given.figures.split(",")):
        parser.error(f"--figures takes some of {', '.join(SHOWN)}")
    for name, tasks in known.items():
        found: dict[str, dict[str, list[Cell]]] = {}
        for seed in range(given.first, given.first + given.seeds):
            _one_seed(name, seed, found, [t for t in tasks if t in asked], systems, models, given)
        for task, cells in found.items():
            for model in given.printed.split(",") if given.printed else models:
                print("\n".join(table_lines(studies[name], task, model, cells, shown)))


def task_names(name: str) -> list[str]:
    """The tasks of a cohort: those of its own file, then those of the study."""
    from pipeline.features.spec import load_book

    return list(dict.fromkeys([*(t.name for t in load_book().cohort(name).tasks), *read_studies()[name].tasks]))


def _one_seed(
    name: str,
    seed: int,
    found: dict[str, dict[str, list[Cell]]],
    tasks: Sequence[str],
    systems: Sequence[str],
    models: Sequence[str],
    given: argparse.Namespace,
) -> None:
    settings = settings_of(systems, given.steps)
    splits: dict[str, FairSplit] = {}
    fitted: dict[tuple[str, str], Generator] = {}
    for task in tasks:
        bench: Bench | None = None
        for system in systems:
            at = f"@{given.steps}" if system.partition("+")[0] in settings else ""
            key = f"{name}/{given.rows or 'all'}/{'+'.join(models)}/{seed}/{task}/{system}{at}"
            known = kept_cells(given.cells)
            if key not in known:
                if given.only_table:
                    continue
                splits = splits or {s.task.name: s for s in task_splits(read_task_table(name), seed, given.rows)}
                bench = bench or Bench(splits[task], seed, models[0], fitted, settings)
                known[key] = cell_of(bench, system, models)
                keep_cell(given.cells, key, known[key])
                print(f"{key}: {known[key]['cpu_s']:.0f} s", file=sys.stderr, flush=True)
            found.setdefault(task, {}).setdefault(system, []).append(known[key])


def table_lines(
    study: TaskStudy, task: str, model: str, found: dict[str, list[Cell]], columns: Mapping[str, str] = SHOWN
) -> list[str]:
    """One task and model as Markdown: who was trained on and tested, a row a system, the paper's rows, what was refused."""
    words, enough = people_words(study, found)
    lines = [f"\n**{task}, {model}**: {words}\n"]
    lines.append("| system | seeds | " + " | ".join(columns.values()) + " |")
    lines.append("| --- | --- |" + " --- |" * len(columns))
    for system, cells in found.items():
        shown = [_shown(cells, model, key) if enough or key not in OF_GROUPS else "-" for key in columns]
        lines.append(f"| `{system}` | {len(cells)} | " + " | ".join(shown) + " |")
    if task in study.paper:
        for system, figure in printed(study.paper[task], model).items():
            shown = [f"{figure[key]:.3f}" if key in figure else "-" for key in columns]
            lines.append(f"| paper, {system} | - | " + " | ".join(shown) + " |")
    refused = [(system, c["refused"]) for system, cells in found.items() for c in cells if "refused" in c]
    return [*lines, *(f"\n`{system}` refused: {why}" for system, why in dict.fromkeys(refused))]


def _shown(cells: Sequence[Cell], model: str, key: str) -> str:
    """Mean and interval over the seeds in which the figure can be told; how many, where it is not all of them."""
    known = [found[key] for cell in cells if key in (found := cell.get("rows" if key in OF_ROWS else model, {}))]
    if not known:
        return "-"
    return interval(known) + (f" ({len(known)})" if len(known) < len(cells) else "")


def people_words(study: TaskStudy, found: dict[str, list[Cell]]) -> tuple[str, bool]:
    """Who was learned from and tested, on average over seeds, and whether they are enough to tell gaps."""
    counts = [cell["people"] for cell in max(found.values(), key=len)]

    def mean(values: Iterable[float]) -> float:
        each = list(values)
        return sum(each) / len(each)

    groups = []
    fewest = float("inf")
    for g, group in enumerate(study.groups):
        cases, others = (mean(c["test"][g][k] for c in counts) for k in (0, 1))
        fewest = min(fewest, cases, others)
        groups.append(f"{_few(cases + others)} {group} ({_few(cases)} with the outcome)")
    words = f"trained on {mean(c['train'] for c in counts):.0f} rows of {mean(c['patients'] for c in counts):.0f} patients, "
    words += f"tested on {' and '.join(groups)}; gaps are {study.groups[0]} minus {study.groups[1]}."
    if fewest < ENOUGH:
        words += (
            f" **Underpowered**: gaps need {ENOUGH} with and {ENOUGH} without the outcome in each group, and are left out; "
            "this shows that it runs, no more."
        )
    return words, fewest >= ENOUGH


def _few(count: float) -> str:
    return f"{count:.0f}" if count >= SMALL or count == 0 else f"fewer than {SMALL}"


if __name__ == "__main__":
    main()
