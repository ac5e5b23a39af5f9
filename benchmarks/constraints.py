"""What constraints cost and what they do, on SUPPORT (70/30 at random, seed 0), a kind of rule at a time.

    python benchmarks/constraints.py [--generator independent ...] [--rules order ...] [--seeds 1] [--json FILE]

SUPPORT has few rules of its own, so most kinds get columns that follow from the real ones (dates, a ratio, a total, a
band, flags); the rules hold in every real row. Each generator is fitted without the rules and with them, and judged on
all columns by boosted trees against the holdout. Printed: rows in a thousand that break a rule without it, and with
it; detection AUC without and with. Needs COHORTLOOM_DATA.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from supporting.rows import Split, split_support

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from pipeline.features.cohort import Cohort
    from pipeline.features.constraint_spec import ConstraintSpec
    from pipeline.features.schema import Column

GENERATORS = ("independent", "gaussian_copula", "cart", "vae")
FIRST_DAY, DAYS = 7_000, 1_500
"""The made-up admissions: days since 1970-01-01, over the years of the study."""
FOLDS = 3


@dataclass(frozen=True)
class Case:
    """A kind of rule: the rules, and the columns that they need beside SUPPORT's own."""

    rules: list[dict[str, Any]]
    columns: Callable[[Cohort, np.random.Generator], list[tuple[Column, NDArray[Any]]]]


def _none(cohort: Cohort, rng: np.random.Generator) -> list[tuple[Column, NDArray[Any]]]:
    return []


def _dates(cohort: Cohort, rng: np.random.Generator) -> list[tuple[Column, NDArray[Any]]]:
    admitted = FIRST_DAY + rng.integers(0, DAYS, cohort.n_rows).astype(float)
    return [
        (_column("admitted", "datetime", "date32[day]", 0), admitted),
        (_column("last_seen", "datetime", "date32[day]", 0), admitted + cohort.values("duration")),
    ]


def _ratio(cohort: Cohort, rng: np.random.Generator) -> list[tuple[Column, NDArray[Any]]]:
    pressure = cohort.values("mean_bp")
    with np.errstate(divide="ignore", invalid="ignore"):
        index = np.where(pressure > 0, np.round(cohort.values("heart_rate") / pressure, 2), np.nan)
    return [(_column("shock_index", "continuous", "float64", 2, nullable=True), index)]


def _total(cohort: Cohort, rng: np.random.Generator) -> list[tuple[Column, NDArray[Any]]]:
    total = np.round(cohort.values("heart_rate") + cohort.values("resp_rate"), 2)
    return [(_column("beats_and_breaths", "continuous", "float64", 2), total)]


def _band(cohort: Cohort, rng: np.random.Generator) -> list[tuple[Column, NDArray[Any]]]:
    from pipeline.features.schema import Column

    band = np.searchsorted([45.0, 65.0, 80.0], cohort.values("age"), side="right")
    levels = ["under 45", "45 to 64", "65 to 79", "80 and over"]
    return [(Column(name="age_band", kind="ordinal", dtype="string", levels=levels), band)]


def _flags(cohort: Cohort, rng: np.random.Generator) -> list[tuple[Column, NDArray[Any]]]:
    cancer = cohort.codes("cancer")
    return [(_flag(f"cancer_{name}"), (cancer == k).astype(int)) for k, name in enumerate(("none", "local", "spread"))]


def _spread(cohort: Cohort, rng: np.random.Generator) -> list[tuple[Column, NDArray[Any]]]:
    return [(_flag("any_cancer"), (cohort.codes("cancer") > 0).astype(int)), _flags(cohort, rng)[2]]


CASES: dict[str, Case] = {
    "order": Case([{"order": "admitted <= last_seen"}], _dates),
    "order and derivation": Case(
        [{"order": "admitted <= last_seen"}, {"derive": "duration = last_seen - admitted"}], _dates
    ),
    "derivation": Case([{"derive": "shock_index = heart_rate / mean_bp"}], _ratio),
    "band": Case(
        [
            {
                "derive": "age_band = CASE WHEN age < 45 THEN 'under 45' WHEN age < 65 THEN '45 to 64' "
                "WHEN age < 80 THEN '65 to 79' ELSE '80 and over' END"
            }
        ],
        _band,
    ),
    "sum": Case([{"sum": "beats_and_breaths = heart_rate + resp_rate"}], _total),
    "combinations": Case([{"combinations": ["diabetes", "dementia", "cancer"]}], _none),
    "one_hot": Case([{"one_hot": ["cancer_none", "cancer_local", "cancer_spread"]}], _flags),
    "codes": Case([{"codes": {"column": "cancer_spread", "level": True, "only": {"any_cancer": True}}}], _spread),
    "where": Case([{"where": "age >= 30 OR NOT dementia"}, {"where": "num_comorbidities >= 1 OR NOT dementia"}], _none),
    "limit": Case([{"left": "age", "op": ">=", "right": 18}], _none),
}


def main() -> None:
    """Run the asked cells and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generator", nargs="+", default=list(GENERATORS))
    parser.add_argument("--rules", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", type=Path, help="append one line a cell here")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    split = split_support()
    print(
        f"{'rules':22} {'generator':16} {'broken/1000':>12} {'kept':>8} {'AUC':>7} {'ruled':>7} {'cost':>7} {'CPU s':>8}"
    )
    for name in asked.rules:
        for generator in asked.generator:
            cells = [cell(split, name, generator, seed) for seed in range(1, asked.seeds + 1)]
            mean = {key: float(np.mean([c[key] for c in cells])) for key in cells[0]}
            print(
                f"{name:22} {generator:16} {mean['broken_without']:12.1f} {mean['broken_with']:8.1f} "
                f"{mean['auc_without']:7.3f} {mean['auc_with']:7.3f} {mean['auc_with'] - mean['auc_without']:+7.3f} "
                f"{mean['cpu_s']:8.1f}",
                flush=True,
            )
            if asked.json is not None:
                with asked.json.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"rules": name, "generator": generator, **mean}) + "\n")


def cell(split: Split, name: str, generator: str, seed: int) -> dict[str, float]:
    """One generator without and with the rules of one case."""
    from pipeline.features.constraint_spec import rules_from
    from pipeline.generators.constraints.redraw import sample_constrained
    from pipeline.generators.constraints.rules import broken_by, resolved
    from pipeline.generators.registry import generator_class
    from pipeline.generators.replicates import under_rules

    case = CASES[name]
    train, holdout = (widened(part, case, k) for k, part in enumerate((split.train, split.holdout)))
    rules: list[ConstraintSpec] = rules_from(case.rules)
    known = resolved(rules, train)
    if broken_by(train, known).any():
        raise SystemExit(f"{name}: real rows break a rule")
    figures: dict[str, float] = {}
    for which, asked in (("without", []), ("with", rules)):
        began = time.process_time()
        model = under_rules(generator_class(generator)(), asked)
        model.fit(train, seed=seed)
        drawn, _ = sample_constrained(model, train.n_rows, seed + 100, asked)
        figures["cpu_s"] = time.process_time() - began
        figures[f"broken_{which}"] = 1000 * float(broken_by(drawn, known).mean())
        figures[f"auc_{which}"] = detection(drawn, holdout)
    return figures


def widened(part: Cohort, case: Case, k: int) -> Cohort:
    """A part of SUPPORT with the further columns of a case."""
    from pipeline.features.cohort import assemble
    from pipeline.features.schema import TableSchema

    more = case.columns(part, np.random.default_rng(k))
    columns = {c.name: part.codes(c.name) if c.discrete else part.values(c.name) for c in part.schema.modelled()}
    schema = TableSchema(columns=[*part.schema.columns, *(column for column, _ in more)], unit=part.schema.unit)
    made = assemble(schema, {**columns, **{column.name: cells for column, cells in more}}, subject=part.subject)
    return replace(made, tune=part.tune)


def detection(drawn: Cohort, real: Cohort) -> float:
    """AUC of boosted trees telling drawn rows from real ones by all columns, three folds; 0.5 is the null."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    n = min(drawn.n_rows, real.n_rows)
    rows, labels = np.vstack([_matrix(drawn)[:n], _matrix(real)[:n]]), np.r_[np.ones(n), np.zeros(n)]
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    model = HistGradientBoostingClassifier(random_state=0)
    return float(cross_val_score(model, rows, labels, cv=folds, scoring="roc_auc").mean())


def _matrix(cohort: Cohort) -> NDArray[np.float64]:
    """(n, features) numbers as they are, levels one-hot."""
    parts = []
    for column in cohort.schema.modelled():
        if column.discrete:
            parts.append((cohort.codes(column.name)[:, None] == np.arange(len(column.levels or []))).astype(float))
        else:
            parts.append(cohort.values(column.name)[:, None])
    return np.hstack(parts)


def _column(name: str, kind: Any, dtype: Any, digits: int, *, nullable: bool = False) -> Column:
    from pipeline.features.schema import Column, Resolution

    grid = Resolution(kind="decimals", digits=digits)
    return Column(name=name, kind=kind, dtype=dtype, resolution=grid, nullable=nullable)


def _flag(name: str) -> Column:
    from pipeline.features.schema import Column

    return Column(name=name, kind="binary", dtype="bool", levels=[False, True])


if __name__ == "__main__":
    main()
