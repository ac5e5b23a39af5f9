"""The three tables on which every generator is tried (DESIGN section 5), seeded, with the quirks of real tables.

Generators that learn dated visits are tried on the same tables with visits beside them, a row a person (`suited`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix

from pipeline.features.cohort import Cohort, assemble
from pipeline.features.schema import CodeBlock, Column, EventCodes, Resolution, TableSchema
from pipeline.features.visits import Visits

if TYPE_CHECKING:
    from pipeline.generators.base import Generator

RNG_SEED = 20260101
DAY_2020 = 18_262
CODES = 1_000


def mixed_cohort(n: int = 2000, seed: int = RNG_SEED) -> Cohort:
    """Mixed kinds with dependence, spikes, missing cells that say something, a constant and a rare level."""
    rng = np.random.default_rng(seed)
    frailty = rng.standard_normal(n)
    age = np.round(np.clip(62 + 14 * frailty + 6 * rng.standard_normal(n), 18, 99), 1)
    glucose = np.round(np.exp(1.7 + 0.25 * frailty + 0.15 * rng.standard_normal(n)) * 8) / 8
    glucose[rng.random(n) < 0.15 + 0.2 * (frailty > 0)] = np.nan
    cost = np.where(rng.random(n) < 0.35, 0.0, np.round(np.exp(5 + 0.6 * frailty + 0.5 * rng.standard_normal(n)), 2))
    visits = rng.poisson(np.exp(0.5 + 0.5 * frailty))
    grid = np.round(np.arange(33.0, 42.0, 0.1) * 1.8 + 32, 0) / 1.8 - 17.7777
    temperature = grid[np.clip(np.rint(38 + 6 * rng.standard_normal(n) + 4 * frailty), 0, len(grid) - 1).astype(int)]
    died = (frailty + rng.standard_normal(n) > 1.2).astype(int)
    group = np.searchsorted([0.6, 0.85, 0.997], rng.random(n)) % 4
    group = np.where(frailty > 1.0, (group + 1) % 3, group)
    stage = np.clip(np.rint(frailty + 1.5), 0, 3).astype(int)
    stage[rng.random(n) < 0.1] = -1
    admitted = DAY_2020 + rng.integers(0, 700, n)
    schema = TableSchema(
        columns=[
            Column(name="patient", kind="identifier", dtype="string", role="id"),
            Column(
                name="age",
                kind="continuous",
                dtype="float64",
                bounds=(18, 99),
                resolution=Resolution(kind="decimals", digits=1),
            ),
            Column(
                name="glucose",
                kind="continuous",
                dtype="float32",
                nullable=True,
                resolution=Resolution(kind="step", step=0.125),
            ),
            Column(
                name="cost",
                kind="continuous",
                dtype="float64",
                bounds=(0, 1e6),
                resolution=Resolution(kind="decimals", digits=2),
            ),
            Column(name="visits", kind="count", dtype="int64", bounds=(0, 60)),
            Column(name="temperature", kind="continuous", dtype="float64", resolution=Resolution(kind="atoms")),
            Column(name="died", kind="binary", dtype="bool", levels=[False, True], role="label"),
            Column(name="group", kind="categorical", dtype="string", levels=["a", "b", "c", "d"], role="protected"),
            Column(name="stage", kind="ordinal", dtype="int32", levels=[1, 2, 3, 4], nullable=True),
            Column(name="admitted", kind="datetime", dtype="date32[day]"),
            Column(name="site", kind="categorical", dtype="string", levels=["here"]),
        ]
    )
    columns = {
        "age": age,
        "glucose": glucose,
        "cost": cost,
        "visits": visits.astype(float),
        "temperature": temperature,
        "died": died,
        "group": group,
        "stage": stage,
        "admitted": admitted.astype(float),
        "site": np.zeros(n, dtype=int),
    }
    return assemble(schema, columns)


def stay_cohort(n: int = 1500, seed: int = RNG_SEED) -> Cohort:
    """One row a stay: patients have one to six, with a level of their own."""
    rng = np.random.default_rng(seed)
    patient = np.sort(rng.integers(0, n // 3, n))
    level = rng.standard_normal(n // 3)[patient]
    schema = TableSchema(
        columns=[
            Column(name="length", kind="continuous", dtype="float64", resolution=Resolution(kind="decimals", digits=2)),
            Column(name="bilirubin", kind="continuous", dtype="float64", nullable=True),
            Column(name="ward", kind="categorical", dtype="string", levels=["icu", "medical", "surgical"]),
            Column(name="readmitted", kind="binary", dtype="int64", levels=[0, 1]),
        ],
        unit="stay",
    )
    bilirubin = np.exp(level + 0.4 * rng.standard_normal(n))
    bilirubin[rng.random(n) < 0.25] = np.nan
    columns = {
        "length": np.round(np.exp(1 + 0.5 * level + 0.5 * rng.standard_normal(n)), 2),
        "bilirubin": bilirubin,
        "ward": np.searchsorted([-0.5, 0.5], level + 0.5 * rng.standard_normal(n)),
        "readmitted": (level + rng.standard_normal(n) > 0.8).astype(int),
    }
    return assemble(schema, columns, subject=np.array([f"p{p:05d}" for p in patient]))


def code_cohort(n: int = 1500, seed: int = RNG_SEED) -> Cohort:
    """A block of 1,000 codes, most of them rare, that depend on age and sex; and a small block of counts."""
    rng = np.random.default_rng(seed)
    sick = rng.standard_normal(n)
    base = np.log(np.clip(0.35 / np.arange(1, CODES + 1) ** 0.7, 0.0008, 0.35))
    slope = np.where(np.arange(CODES) % 3 == 0, 0.8, 0.0)
    chance = 1 / (1 + np.exp(-(base + slope * sick[:, None])))
    present = csr_matrix((rng.random((n, CODES)) < chance).astype(float))
    counts = csr_matrix(rng.poisson(np.exp(np.linspace(-2, 1, 12) + 0.3 * sick[:, None])).astype(float))
    schema = TableSchema(
        columns=[
            Column(name="age", kind="count", dtype="int64", bounds=(0, 120)),
            Column(name="sex", kind="categorical", dtype="string", levels=["female", "male"]),
        ],
        blocks=[
            CodeBlock(name="diagnoses", kind="binary", vocabulary=[f"D{i:04d}" for i in range(CODES)]),
            CodeBlock(name="drugs", kind="count", vocabulary=[f"R{i:02d}" for i in range(12)]),
        ],
        unit="patient",
    )
    columns = {
        "age": np.clip(np.rint(60 + 15 * sick + 5 * rng.standard_normal(n)), 0, 100),
        "sex": (sick + rng.standard_normal(n) > 0).astype(int),
    }
    return assemble(schema, columns, blocks={"diagnoses": present, "drugs": counts})


def with_visits(cohort: Cohort, codes: int = 25, seed: int = RNG_SEED) -> Cohort:
    """The rows, each a person of its own, with no to eight visits; codes hang on the person and on the visit before."""
    rng = np.random.default_rng(seed)
    n = cohort.n_rows
    counts = np.minimum(rng.poisson(1.4, n), 8)
    row = np.repeat(np.arange(n), counts)
    start = np.r_[0, np.cumsum(counts)].astype(np.int64)
    lean = rng.standard_normal(n)[row][:, None] * np.linspace(-1.5, 1.5, codes)
    has = rng.random((len(row), codes)) < 1 / (1 + np.exp(-(np.linspace(-0.5, -3.5, codes) + lean)))
    has[np.arange(len(row)), rng.integers(0, max(codes // 3, 1), len(row))] = True
    gap = rng.choice([0, 1, 3, 7, 30, 90, 400], len(row), p=[0.05, 0.2, 0.15, 0.15, 0.25, 0.15, 0.05])
    day = np.cumsum(gap)
    day = day - np.repeat(np.r_[day, 0][start[:-1]], counts) + DAY_2020 + np.repeat(rng.integers(0, 900, n), counts)
    vocabulary = [f"V{i:03d}" for i in range(codes)]
    sizes = np.r_[0, np.cumsum(has.sum(axis=1))].astype(np.int64)
    visits = Visits(vocabulary, start, day.astype(np.int64), sizes, np.nonzero(has)[1].astype(np.int32))
    return replace(
        cohort,
        schema=cohort.schema.model_copy(update={"events": EventCodes(vocabulary=vocabulary)}),
        subject=np.array([f"p{i:05d}" for i in range(n)]),
        events=visits.events(),
    )


def suited(kind: type[Generator], cohort: Cohort) -> Cohort:
    """The table as the generator takes it: with visits beside it where it says that it learns sequences alone."""
    answer = kind.supports(cohort.schema)
    return with_visits(cohort) if answer.sequences and not answer.ok else cohort


FIXTURES = {"mixed": mixed_cohort, "stays": stay_cohort, "codes": code_cohort}

QUICK: dict[str, dict[str, object]] = {
    "ads_gan": {"preset": "quick", "steps": 200, "batch_size": 200},
    "argn": {"preset": "quick", "epochs": 10, "patience": 0},
    "arf": {"trees": 20, "rounds": 3},
    "bt_gan": {"preset": "quick", "undeclared": "guess", "steps": 200, "batch_size": 200},
    "bt_gan_minus": {"preset": "quick", "undeclared": "guess", "steps": 200, "batch_size": 200},
    "copula_gan": {"preset": "quick", "steps": 200, "batch_size": 200},
    "ctab_gan": {"preset": "quick", "steps": 200, "batch_size": 200},
    "ctgan": {"preset": "quick", "steps": 200, "batch_size": 200},
    "cvae": {"epochs": 40, "batch_size": 128, "beta": 0.75, "patience": 40},
    "decaf": {"preset": "quick", "undeclared": "guess", "steps": 200, "batch_size": 200},
    "ehrdiff": {"preset": "quick", "steps": 800, "batch_size": 128},
    "scoehr": {"preset": "quick", "batch_size": 128, "steps": 800, "learning_rate": 2e-3, "latent_beta": 0.6},
    "fairgan": {"preset": "quick", "undeclared": "guess", "steps": 200, "batch_size": 200},
    "medbgan": {"preset": "quick", "steps": 100, "batch_size": 128, "autoencoder_steps": 80, "select": "last"},
    "medgan": {"preset": "quick", "steps": 100, "batch_size": 128, "autoencoder_steps": 80, "select": "last"},
    "medwgan": {"preset": "quick", "steps": 100, "batch_size": 128, "autoencoder_steps": 80, "select": "last"},
    "pate_gan": {"preset": "quick", "steps": 150, "batch_size": 200},
    "rlsyn": {
        "preset": "quick",
        "iterations": 30,
        "evaluate_every": 30,
        "batch_size": 128,
        "warm_epochs": 40,
        "critic_warmup": 20,
    },
    "emr_wgan": {"preset": "quick", "steps": 150, "batch_size": 200},
    "halo_small": {"preset": "quick", "columns": "independent", "columns_preset": "default", "epochs": 5},
    "healthgan": {"preset": "quick", "steps": 200, "batch_size": 200},
    "mixed_flow": {"steps": 250, "batch_size": 256, "learning_rate": 3e-3, "sampling_steps": 15},
    "synthvae": {"epochs": 50, "batch_size": 128, "beta": 0.5, "patience": 0, "prior_components": 20},
    "tabddpm": {"preset": "quick", "steps": 100, "batch_size": 128, "repeats": 2},
    "tabdiff_lite": {"preset": "quick", "steps": 100, "batch_size": 128, "sampling_steps": 20},
    "triple_gan": {"preset": "quick", "undeclared": "guess", "steps": 200, "batch_size": 200},
    "tvae": {"epochs": 40, "batch_size": 128, "latent_dim": 16, "hidden": (128, 128), "patience": 0},
    "vae": {"epochs": 40, "batch_size": 128, "learning_rate": 2e-3, "patience": 40},
    "vae_gan": {"preset": "quick", "steps": 300, "batch_size": 128, "learning_rate": 2e-3},
}
"""Settings with which a generator trains fast enough for tests and still has to keep every promise."""
