"""A table that keeps a rule of every kind, with missing cells on either side, and the rules themselves."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from pipeline.features.cohort import Cohort, assemble
from pipeline.features.constraint_spec import ConstraintSpec, rules_from
from pipeline.features.schema import CodeBlock, Column, Resolution, TableSchema

DAY_2020 = 18_262
CODES = ["O10", "O80", "Z34", "I10", "E11", "N40"]
RULES: list[ConstraintSpec] = rules_from(
    [
        {"order": "admitted <= operated <= discharged"},
        {"left": "diastolic", "op": "<", "right": "systolic", "by": "difference"},
        {"where": "age >= 18 OR pregnant = false"},
        {"left": "age", "op": "<=", "right": 95},
        {"combinations": ["hospital", "region"]},
        {"derive": "bmi = weight / (height * height)"},
        {"derive": "age_band = CASE WHEN age < 18 THEN 'child' WHEN age < 65 THEN 'adult' ELSE 'old' END"},
        {"sum": "total = drugs + tests + scans"},
        {"codes": {"column": "pregnant", "level": True, "only": {"sex": "female"}}},
        {"codes": {"block": "diagnoses", "prefix": ["O", "Z34"], "only": {"sex": "female"}}},
        {"one_hot": ["on_icu", "on_surgical", "on_medical"]},
        {"exclusive": ["stroke", "bleed"]},
    ]
)


def ward_cohort(n: int = 1200, seed: int = 7) -> Cohort:
    """Rows that keep all of `RULES`; every order has rows in which either side, both and none is missing."""
    rng = np.random.default_rng(seed)
    sick = rng.standard_normal(n)
    age = np.clip(np.rint(50 + 20 * rng.standard_normal(n)), 1, 95)
    sex = (rng.random(n) < 0.5).astype(int)
    pregnant = ((sex == 0) & (age >= 18) & (age < 45) & (rng.random(n) < 0.9)).astype(int)
    admitted = DAY_2020 + rng.integers(0, 900, n).astype(float)
    operated = admitted + rng.integers(0, 4, n)
    discharged = operated + np.rint(np.exp(1 + 0.5 * sick + 0.4 * rng.standard_normal(n)))
    systolic = np.clip(np.rint(130 + 12 * sick + 12 * rng.standard_normal(n)), 70, 240)
    diastolic = np.clip(np.rint(0.55 * systolic + 8 * rng.standard_normal(n)), 30, systolic - 1)
    height = np.round(np.clip(1.7 + 0.1 * rng.standard_normal(n), 1.3, 2.1), 2)
    weight = np.round(np.clip(height**2 * (25 + 4 * rng.standard_normal(n)), 35, 180), 1)
    drugs, tests, scans = (rng.poisson(rate, n).astype(float) for rate in (3, 6, 1))
    hospital = rng.integers(0, 6, n)
    ward = np.searchsorted([0.2, 0.5], rng.random(n))
    event = np.searchsorted([0.3, 0.6], rng.random(n))
    for values, share in ((operated, 0.4), (discharged, 0.1), (systolic, 0.2), (diastolic, 0.25)):
        values[rng.random(n) < share] = np.nan
    admitted[rng.random(n) < 0.05] = np.nan
    weight[rng.random(n) < 0.2] = np.nan
    with np.errstate(invalid="ignore"):
        bmi = np.round(weight / (height * height), 1)
    bmi[rng.random(n) < 0.1] = np.nan
    own = np.isnan(weight) & (rng.random(n) < 0.3)
    bmi[own] = np.round(25 + 4 * rng.standard_normal(int(own.sum())), 1)
    chance = np.array([0.05, 0.1, 0.15, 0.3, 0.2, 0.1])
    block = rng.random((n, len(CODES))) < chance
    block[np.ix_(sex == 1, [0, 1, 2])] = False
    columns = {
        "age": age,
        "sex": np.where(rng.random(n) < 0.15, -1, sex),
        "pregnant": pregnant,
        "admitted": admitted,
        "operated": operated,
        "discharged": discharged,
        "systolic": systolic,
        "diastolic": diastolic,
        "height": height,
        "weight": weight,
        "bmi": bmi,
        "drugs": drugs,
        "tests": tests,
        "scans": scans,
        "total": drugs + tests + scans,
        "hospital": hospital,
        "region": hospital // 2,
        "age_band": np.searchsorted([18, 65], age, side="right"),
        "on_icu": (ward == 0).astype(int),
        "on_surgical": (ward == 1).astype(int),
        "on_medical": (ward == 2).astype(int),
        "stroke": (event == 0).astype(int),
        "bleed": (event == 1).astype(int),
    }
    return assemble(_schema(), columns, blocks={"diagnoses": csr_matrix(block.astype(float))})


def _schema() -> TableSchema:
    whole, tenth, hundredth = (Resolution(kind="decimals", digits=d) for d in (0, 1, 2))

    def number(name: str, grid: Resolution, bounds: tuple[float, float], *, nullable: bool = True) -> Column:
        return Column(name=name, kind="continuous", dtype="float64", resolution=grid, bounds=bounds, nullable=nullable)

    def date(name: str) -> Column:
        return Column(
            name=name,
            kind="datetime",
            dtype="date32[day]",
            resolution=whole,
            bounds=(DAY_2020, DAY_2020 + 2000),
            nullable=True,
        )

    def count(name: str) -> Column:
        return Column(name=name, kind="count", dtype="int64", resolution=whole, bounds=(0, 120))

    def levels(name: str, *known: str, nullable: bool = False) -> Column:
        return Column(name=name, kind="categorical", dtype="string", levels=list(known), nullable=nullable)

    def flag(name: str) -> Column:
        return Column(name=name, kind="binary", dtype="bool", levels=[False, True])

    return TableSchema(
        columns=[
            Column(name="patient", kind="identifier", dtype="string", role="id"),
            count("age"),
            levels("sex", "female", "male", nullable=True),
            flag("pregnant"),
            date("admitted"),
            date("operated"),
            date("discharged"),
            number("systolic", whole, (60, 250)),
            number("diastolic", whole, (20, 160)),
            number("height", hundredth, (1.2, 2.2), nullable=False),
            number("weight", tenth, (30, 200)),
            number("bmi", tenth, (8, 60)),
            count("drugs"),
            count("tests"),
            count("scans"),
            count("total"),
            levels("hospital", *[f"h{i}" for i in range(6)]),
            levels("region", "north", "middle", "south"),
            levels("age_band", "child", "adult", "old"),
            *(flag(name) for name in ("on_icu", "on_surgical", "on_medical", "stroke", "bleed")),
        ],
        blocks=[CodeBlock(name="diagnoses", kind="binary", vocabulary=CODES)],
        unit="patient",
    )
