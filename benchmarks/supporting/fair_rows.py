"""Adult, COMPAS and diabetes130 through their cohorts' own SQL, two groups each, split 70/30 at random by person and seed.

The groups are those of the papers: sex, ethnicity (African-American and Caucasian), race (the same two). COMPAS and
diabetes130 leave people of other groups out; on diabetes130 the first stay of each patient is taken (as Strack et al. do), since a patient is a subject.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from supporting.rows import TRAIN_SHARE, data_folder

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from numpy.typing import NDArray

    from pipeline.features.cohort import Cohort
    from pipeline.features.evaluation_spec import TaskSpec
    from pipeline.features.spec import CohortSpec


@dataclass(frozen=True)
class Fair:
    """One data set of the benchmark.

    Attributes:
        name: Cohort.
        protected: Column of the two groups.
        groups: The favoured group, then the other.
        subgroups: Columns whose crossings LDSS is told for.
    """

    name: str
    protected: str
    groups: tuple[str, str]
    subgroups: tuple[str, ...]


DATA = {
    "adult": Fair("adult", "sex", ("Male", "Female"), ("sex", "race")),
    "compas": Fair("compas", "race", ("Caucasian", "African-American"), ("race", "sex")),
    "diabetes130": Fair("diabetes130", "race", ("Caucasian", "AfricanAmerican"), ("race", "gender", "age_band")),
}


@dataclass(frozen=True)
class FairSplit:
    """Real people to learn from and to test on, and what is predicted of them."""

    data: Fair
    train: Cohort
    holdout: Cohort
    task: TaskSpec


def fair_split(name: str, seed: int, most: int | None = None) -> FairSplit:
    """The rows of a data set; `most` training rows at most."""
    from pipeline.features.cohort import Cohort
    from pipeline.features.infer import conform, infer_schema
    from pipeline.features.spec import load_book

    data, spec = DATA[name], load_book().cohort(name)
    rows = _query(spec, data)
    order = np.random.default_rng(seed).permutation(rows.num_rows)
    cut = round(TRAIN_SHARE * rows.num_rows)
    inside: NDArray[np.bool_] = np.zeros(rows.num_rows, dtype=bool)
    inside[order[:cut]] = True
    schema = infer_schema(rows, inside, spec.columns, spec.unit)
    table = conform(rows, schema)
    subject = np.array([str(i) for i in range(rows.num_rows)])
    whole = Cohort(table=table, schema=schema, subject=subject)
    learned = order[:cut] if most is None else order[: min(cut, most)]
    return FairSplit(data, whole.take(np.sort(learned)), whole.take(np.sort(order[cut:])), spec.tasks[0])


def _query(spec: CohortSpec, data: Fair) -> pa.Table:
    import duckdb

    connection = duckdb.connect()
    try:
        connection.register(data.name, {"adult": _adult, "compas": _compas, "diabetes130": _diabetes}[data.name]())
        sql = spec.sql_file.read_text(encoding="utf-8").rstrip().rstrip(";")
        low, high = data.groups
        only = "" if data.name == "adult" else f"WHERE {data.protected} IN ('{low}', '{high}')"
        # In an order that does not depend on the query plan.
        rows = connection.sql(f"SELECT * FROM ({sql}) {only} ORDER BY ALL").to_arrow_table()
    finally:
        connection.close()
    return rows if spec.subject == "row" else rows.drop_columns([spec.subject])


def _adult() -> pd.DataFrame:
    import pandas as pd

    names = [
        "age",
        "workclass",
        "fnlwgt",
        "education",
        "education_num",
        "marital_status",
        "occupation",
        "relationship",
        "race",
        "sex",
        "capital_gain",
        "capital_loss",
        "hours_per_week",
        "native_country",
        "income",
    ]
    parts = [
        pd.read_csv(
            data_folder() / "uci-adult" / file, names=names, skipinitialspace=True, na_values="?", skiprows=skip
        )
        for file, skip in (("adult.data.gz", 0), ("adult.test.gz", 1))
    ]
    return pd.concat(parts).dropna(subset=["income"])


def _compas() -> pd.DataFrame:
    import pandas as pd

    dates = ["c_jail_in", "c_jail_out"]
    return pd.read_csv(data_folder() / "compas" / "compas-scores-two-years.csv.gz", parse_dates=dates)


def _diabetes() -> pd.DataFrame:
    import pandas as pd

    with zipfile.ZipFile(data_folder() / "diabetes-130" / "dataset_diabetes.zip") as archive:
        member = next(n for n in archive.namelist() if n.endswith("diabetic_data.csv"))
        content = io.BytesIO(archive.read(member))
    raw = pd.read_csv(content, na_values=["?"], keep_default_na=False, low_memory=False)
    return raw.sort_values("encounter_id").drop_duplicates("patient_nbr")
