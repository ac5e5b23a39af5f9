"""What privacy costs on SUPPORT: private generators at several epsilons, mean of several seeds.

Run: `.venv/bin/python benchmarks/private_baselines.py [--seeds 5] [--epsilons .5 1 3 10 inf] [--generators mst]`.
Any generator that trains under differential privacy can be named (`--generators vae argn mixed_flow ehrdiff`).
The rows and figures are those of `supporting/` (SUPPORT 70/30, against the held-out part). By default the columns'
ranges, grids and levels are declared, as public knowledge of clinical measurements (`PUBLIC`); `--paid` takes them as
inferred, so that a part of epsilon pays for finding them. `inf` trains without privacy.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from time import process_time
from typing import TYPE_CHECKING

import numpy as np
from supporting.quality import Quality, quality
from supporting.rows import plain, split_support

if TYPE_CHECKING:
    from pipeline.features.cohort import Cohort

PUBLIC: dict[str, tuple[float, float, int]] = {
    "age": (18, 110, 0),
    "num_comorbidities": (0, 10, 0),
    "mean_bp": (0, 250, 0),
    "heart_rate": (0, 300, 0),
    "resp_rate": (0, 120, 0),
    "temperature": (30, 45, 1),
    "sodium": (100, 200, 0),
    "wbc": (0, 200, 1),
    "creatinine": (0, 25, 1),
    "duration": (0, 2100, 0),
}
"""Range and decimal places: what a clinician declares without a look at the table. Duration: the length of the study."""
GENERATORS = ("independent", "gaussian_copula", "mst")
SHOWN = ("detection", "svc", "correlation", "tstr", "membership", "tpr")


def declared(cohort: Cohort) -> Cohort:
    """The cohort under a schema in which nothing was told from its rows, its numbers rounded to the declared grids.

    The file holds half-precision floats (a creatinine of 0.5999756 for 0.6), which no clinician would declare and which
    any classifier tells from 0.6: training rows and holdout are rounded alike.
    """
    import pyarrow as pa

    from pipeline.features.schema import Resolution

    columns, table = [], cohort.table
    for column in cohort.schema.columns:
        change: dict[str, object] = {"inferred": ()}
        if column.name in PUBLIC:
            low, high, digits = PUBLIC[column.name]
            change |= {"bounds": (low, high), "resolution": Resolution(kind="decimals", digits=digits)}
            place, kind = table.schema.get_field_index(column.name), table.schema.field(column.name)
            rounded = np.round(np.asarray(table.column(place), dtype=np.float64), digits)
            table = table.set_column(place, kind, pa.array(rounded).cast(kind.type))
        columns.append(column.model_copy(update=change))
    return replace(cohort, table=table, schema=cohort.schema.model_copy(update={"columns": columns}))


def main() -> None:
    """Train, judge, print a row of the table each."""
    from pipeline.generators.registry import generator_class
    from pipeline.generators.seeds import derive_seed
    from pipeline.privacy.spec import TrainingPrivacy

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epsilons", type=float, nargs="*", default=[0.5, 1.0, 3.0, 10.0, float("inf")])
    parser.add_argument("--generators", nargs="*", default=list(GENERATORS))
    parser.add_argument("--paid", action="store_true", help="ranges, grids and levels are found under privacy")
    given = parser.parse_args()
    split = split_support()
    train, others = (split.train, split.holdout) if given.paid else (declared(split.train), declared(split.holdout))
    real, holdout = plain(train), plain(others)
    print(f"| generator | epsilon | {' | '.join(SHOWN)} | s |\n|{' --- |' * (len(SHOWN) + 3)}")
    for epsilon in given.epsilons:
        for name in given.generators:
            found: list[Quality] = []
            seconds = 0.0
            for k in range(given.seeds):
                seed = derive_seed("private baselines", name, k)
                privacy = None if np.isinf(epsilon) else TrainingPrivacy(epsilon=epsilon)
                # Seeds do not decide noise: a key of its own for each repetition makes the table repeatable.
                key = derive_seed("benchmark key", name, k).to_bytes(8, "big") * 4
                model = generator_class(name)()
                begun = process_time()
                model.fit(train, seed=seed, privacy=privacy, noise_key=key)
                drawn = model.sample(train.n_rows, seed=seed)
                seconds += process_time() - begun
                found.append(quality(real, holdout, plain(drawn)))
            print(f"| {name} | {epsilon:g} | {_means(found)} | {seconds / given.seeds:.1f} |", flush=True)


def _means(found: list[Quality]) -> str:
    """Means with the half-width of a 95 % interval over the seeds."""
    from scipy.stats import t

    cells = []
    for name in SHOWN:
        values = np.array([asdict(one)[name] for one in found])
        spread = (
            t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
        )
        cells.append(f"{values.mean():.3f}" + (f" ±{spread:.3f}" if len(values) > 1 else ""))
    return " | ".join(cells)


if __name__ == "__main__":
    main()
