"""Does reinforcement learning win where rows are few? `python benchmarks/fewshot.py --keep fewshot.jsonl [--seeds 5]`.

RLSyn's claim (Espinosa-Dice et al. 2025) is that a policy rewarded by a discriminator needs fewer rows than GANs and
diffusion models. Here every system learns the same 100 to 1,000 rows of a table, chosen anew by every seed, with a
schema that is told from those rows alone, and draws 2,000; all other rows (at most 4,000) judge them. Mean of the seeds
with a 95 % t interval; "training rows" are the real rows that the others learned from. What the figures are is said at
`Figures`. A system is a generator, or generator:preset; `sdv ctgan` runs in its own environment (COHORTLOOM_SDV_PYTHON,
pins in benchmarks/peers/sdv.txt) and is left out, and said so, where none is named.

    .venv/bin/python benchmarks/fewshot.py --tables heart support diabetes130 --keep fewshot.jsonl
    .venv/bin/python benchmarks/fewshot.py --systems rlsyn rlsyn:margins cart --sizes 100 --seeds 2 --tables heart

Cells are kept as JSON lines in `--keep`, one a line, so that a run that was stopped goes on, and a system that is added
costs only its own cells. A system that fails on a cell is kept as failed, with the error's class.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from time import process_time
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import numpy as np
from supporting.cells import keep_cell, kept_cells
from supporting.systems import SDV
from supporting.tables import FILES, STUDIES, Table, detection, frame_of, membership, read_table

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.features.cohort import Cohort
    from pipeline.features.schema import TableSchema

SIZES = (100, 200, 500, 1000)
TABLES = ("heart", "support", "diabetes130")
SYSTEMS = ("gaussian_copula", "cart", "vae", "mixed_flow", "ehrdiff", "rlsyn", "rlsyn:margins", "sdv ctgan")
CEILING = "training rows"
CTGAN = "sdv ctgan"
DRAWN = 2_000
MOST_HOLDOUT = 4_000
FEWEST_HOLDOUT = 90
"""With fewer rows to judge by, a size is left out."""
PLAN_SEED = 20_260_101


@dataclass(frozen=True)
class Figures:
    """One system on one cell.

    Attributes:
        tstr: AUC on the holdout of boosted trees that learned the table's label from drawn rows.
        detection: AUC of boosted trees telling drawn from holdout rows; 0.5 is the null.
        correlation: RMSE between the correlation matrices of numbers and flags.
        membership: AUC of the distance attack with reference rows; 0.5 is the null.
        cpu: CPU seconds of fit and draw (children's included).
    """

    tstr: float
    detection: float
    correlation: float
    membership: float
    cpu: float

    @classmethod
    def names(cls) -> list[str]:
        """The figures, in order."""
        return [f.name for f in fields(cls)]


def main() -> None:
    """Measure the missing cells and print all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=sorted([*FILES, *STUDIES]), default=list(TABLES))
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], help="system.setting=value; repeat for more")
    parser.add_argument("--epochs", type=int, default=0, help="of SDV's CTGAN; 0 for its default")
    parser.add_argument("--keep", type=Path, help="JSON lines of the cells")
    given = parser.parse_args()
    settings = _settings(given.set)
    systems = [CEILING, *(s for s in given.systems if _there(s))]
    cells = kept_cells(given.keep)
    print(f"| table | rows | system | {' | '.join(Figures.names())} |\n|{' --- |' * (3 + len(Figures.names()))}")
    for name in given.tables:
        table = read_table(name)
        for size in given.sizes:
            if table.cohort.n_subjects - size < FEWEST_HOLDOUT:
                print(f"(`{name}` has too few rows to learn from {size} and be judged by others)", flush=True)
                continue
            for system in systems:
                found = []
                for seed in range(given.seeds):
                    chosen = settings.get(system, {})
                    key = f"{name}/{size}/{system}/{seed}/{given.epochs}/{json.dumps(chosen, sort_keys=True)}"
                    if key not in cells:
                        cells[key] = _cell(table, size, system, seed, chosen, given.epochs)
                        keep_cell(given.keep, key, cells[key])
                    found.append(cells[key])
                print(f"| {name} | {size} | {system} | {' | '.join(_summary(found))} |", flush=True)


def _there(system: str) -> bool:
    """Can the system be run here? Says so if not."""
    from pipeline.generators.registry import generator_names

    if system == CTGAN:
        there, why = SDV in os.environ, f"{SDV} names no environment"
    else:
        there, why = system.partition(":")[0] in generator_names(), "there is no such generator"
    if not there:
        print(f"(`{system}` is left out: {why})", flush=True)
    return there


def few(table: Table, size: int, seed: int) -> tuple[Cohort, Cohort]:
    """`size` rows of different subjects to learn from, and rows of others to be judged by; schema from the first."""
    from pipeline.features.cohort import Cohort
    from pipeline.features.infer import conform, infer_schema

    rng = np.random.default_rng([PLAN_SEED, seed])
    order = rng.permutation(table.cohort.n_rows)
    _, first = np.unique(table.cohort.subject[order], return_index=True)
    # One row a subject: what few rows teach is not to depend on how often somebody came.
    alone = order[np.sort(first)]
    kept = alone[: size + MOST_HOLDOUT]
    rows, subject = table.cohort.table.take(kept), table.cohort.subject[kept]
    learned = np.arange(len(kept)) < size
    schema = infer_schema(rows, learned, table.columns, table.unit)
    known = conform(rows, schema)
    train, holdout = (Cohort(table=known.filter(m), schema=schema, subject=subject[m]) for m in (learned, ~learned))
    return train, holdout


def _cell(
    table: Table, size: int, system: str, seed: int, settings: dict[str, Any], epochs: int
) -> dict[str, float | str]:
    """One training on one choice of rows; the class of the error if it failed."""
    train, holdout = few(table, size, seed)
    began = process_time() + _children()
    try:
        synthetic = _synthetic(train, system, seed, settings, epochs)
    except (Exception, subprocess.CalledProcessError) as error:
        print(f"({system} failed on {size} rows, seed {seed}: {type(error).__name__}: {error})", file=sys.stderr)
        return {"failed": type(error).__name__}
    took = process_time() + _children() - began
    return asdict(
        Figures(
            tstr=_tstr(table.label, synthetic, holdout),
            detection=detection(holdout, synthetic),
            correlation=_correlation(synthetic, holdout),
            membership=membership(train, holdout, synthetic),
            cpu=took,
        )
    )


def _children() -> float:
    times = os.times()
    return times.children_user + times.children_system


def _synthetic(train: Cohort, system: str, seed: int, settings: dict[str, Any], epochs: int) -> Cohort:
    from pipeline.generators.registry import generator_class

    if system == CEILING:
        return train
    if system == CTGAN:
        return _by_ctgan(train, seed, epochs)
    name, _, preset = system.partition(":")
    model = generator_class(name)({**({"preset": preset} if preset else {}), **settings})
    model.fit(train, seed=seed, device="cpu")
    return model.sample(DRAWN, seed=seed)


def _by_ctgan(train: Cohort, seed: int, epochs: int) -> Cohort:
    """SDV's CTGAN in its own environment, on plain frames: levels as text, numbers as numbers."""
    import pandas as pd

    with tempfile.TemporaryDirectory() as folder:
        rows, out = Path(folder) / "train.parquet", Path(folder) / "drawn.parquet"
        _plain(train).to_parquet(rows)
        script = Path(__file__).resolve().parent / "supporting" / "by_sdv.py"
        command = [os.environ[SDV], str(script), "ctgan", str(seed), str(rows), str(out), str(epochs), str(DRAWN)]
        subprocess.run(command, stdout=subprocess.PIPE, check=True)
        return _cohort(pd.read_parquet(out), train.schema)


def _plain(cohort: Cohort) -> pd.DataFrame:
    import pandas as pd

    columns: dict[str, Any] = {}
    for column in cohort.schema.modelled():
        if column.discrete:
            words = np.array([*map(str, column.levels or []), None], dtype=object)
            columns[column.name] = words[cohort.codes(column.name)]
        else:
            columns[column.name] = cohort.values(column.name)
    return pd.DataFrame(columns)


def _cohort(frame: pd.DataFrame, schema: TableSchema) -> Cohort:
    from pipeline.features.cohort import assemble

    columns: dict[str, Any] = {}
    for column in schema.modelled():
        drawn = frame[column.name]
        if column.discrete:
            place = {str(level): i for i, level in enumerate(column.levels or [])}
            columns[column.name] = np.array([place.get(str(v), -1) for v in drawn], dtype=np.int64)
        else:
            columns[column.name] = drawn.to_numpy(dtype=np.float64)
    return assemble(schema, columns)


def _tstr(label: str | None, synthetic: Cohort, holdout: Cohort) -> float:
    """AUC for the label, one level against the others; missing labels are left out."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score

    if label is None:
        return float("nan")
    known = [x.take(np.flatnonzero(x.codes(label) >= 0)) for x in (synthetic, holdout)]
    # The last level of a flag is "yes"; of more than two, the commonest is the one asked for.
    commonest = int(np.bincount(known[1].codes(label)).argmax())
    wanted = commonest if len(holdout.schema.column(label).levels or []) > 2 else 1
    targets = [x.codes(label) == wanted for x in known]
    if any(t.all() or not t.any() for t in targets):
        return 0.5
    learned, asked = (frame_of(x).drop(columns=label).to_numpy(dtype=float) for x in known)
    # Few rows as they are in "training rows" need small leaves; the same for all.
    model = HistGradientBoostingClassifier(min_samples_leaf=10, random_state=0).fit(learned, targets[0])
    return float(roc_auc_score(targets[1], model.predict_proba(asked)[:, 1]))


def _correlation(synthetic: Cohort, holdout: Cohort) -> float:
    """RMSE over pairs of numbers, flags and ordered levels; a column without variance correlates with none."""
    names = [
        c.name for c in holdout.schema.modelled() if not c.discrete or c.kind == "ordinal" or len(c.levels or []) == 2
    ]
    if len(names) < 2:
        return float("nan")
    a, b = (
        frame_of(x)[names].replace(-1, np.nan).astype(float).corr().fillna(0).to_numpy() for x in (synthetic, holdout)
    )
    pairs = np.triu_indices(len(names), 1)
    return float(np.sqrt(np.mean((a - b)[pairs] ** 2)))


def _summary(found: list[dict[str, Any]]) -> list[str]:
    """Mean and half-width of the 95 % t interval of each figure."""
    from scipy.stats import t

    good = [cell for cell in found if "failed" not in cell]
    out = []
    for name in Figures.names():
        values = np.array([cell[name] for cell in good], dtype=float)
        if not len(values):
            out.append("failed")
            continue
        digits = 1 if name == "cpu" else 3
        text = f"{values.mean():.{digits}f}"
        if len(values) > 1 and name != "cpu":
            half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
            text += f" ±{half:.3f}".replace("±0.", "±.")
        if len(good) < len(found):
            text += f" ({len(good)} of {len(found)})"
        out.append(text)
    return out


def _settings(given: list[str]) -> dict[str, dict[str, Any]]:
    from assets.cli.tables import parse_settings

    out: dict[str, dict[str, Any]] = {}
    for name, value in parse_settings(given).items():
        system, _, setting = name.partition(".")
        out.setdefault(system, {})[setting] = value
    return out


if __name__ == "__main__":
    main()
