"""A made-up ward whose evaluations find whatever a test wants them to find, for the tests of releases."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import textwrap
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from good_figures import GOOD

from pipeline.evaluation.protocol import Evaluation
from pipeline.evaluation.registry import find_metric
from pipeline.features.spec import CohortBook, load_book
from pipeline.features.split import PUBLISHED_KEY
from pipeline.ingest.delivery import hand_over
from pipeline.store.hashing import canonical_json
from pipeline.store.home import Home
from pipeline.store.lake import Lake, VersionStore
from pipeline.store.version import StoredFile, Version, content_hash
from pipeline.workflow import judging
from pipeline.workflow.cell import Cell
from pipeline.workflow.compute import Compute
from pipeline.workflow.deliveries import take_in
from pipeline.workflow.features import features_step, gather_step
from pipeline.workflow.training import fit_step, sample_step

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.evaluation.results import MetricResult

MONTH = "2026-10-01"
COHORT = "Ward"
COMPUTE = Compute(device="cpu")


def figure(metric: str, value: float, se: float, replicate: int = -1) -> MetricResult:
    made = find_metric(metric).spec.result(value, se=se, n=2000, null=0.004)
    return replace(made, replicate=replicate)


def figures(**changed: float) -> list[MetricResult]:
    """Figures that pass, but for those that are given (`fid_marg_jsd=0.2`)."""
    rows = []
    for metric, (value, se) in GOOD.items():
        found = changed.get(metric.replace(".", "_"), value)
        rows += [figure(metric, found, se, 0), figure(metric, found, se)]
    return rows


REFERENCES = {
    "ref_fresh": [figure("fid.dep.corr_rmse", 0.042, 0.003), figure("priv.mia.max_auc", 0.505, 0.008)],
    "ref_marginal": [figure("fid.dep.corr_rmse", 0.097, 0.003)],
    "ref_train": [figure("priv.mia.max_auc", 0.99, 0.002)],
    "ref_mode": [figure("fid.dep.corr_rmse", 0.2, 0.003)],
}


def publish_small_reports(
    lake: Lake, cell: Cell, rows: Any, *_: object, inputs: Any, accesses: int, run_id: str
) -> Version:
    """What a release needs of the reports, without drawing any."""
    asset = f"evaluation/{rows.generator}"
    with lake.reports.draft(asset, cell.partition) as draft:
        content = {"title": f"{cell.cohort}: {rows.generator}", "facts": {}, "details": {}, "accesses": accesses}
        draft.file("report.json").write_text(canonical_json(content), encoding="utf-8")
        draft.file("report.html").write_text("<h1>A report</h1>", encoding="utf-8")
        return draft.commit(inputs=inputs, run_id=run_id)


@dataclass
class Ward:
    """A home with a cohort `Ward` on plain tables; every step of it is the pipeline's own, but for the figures."""

    home: Home
    cohorts: Path
    monkeypatch: pytest.MonkeyPatch

    @property
    def lake(self) -> Lake:
        return Lake(self.home)

    @property
    def book(self) -> CohortBook:
        return load_book()

    def cell(self, month: str = MONTH) -> Cell:
        return Cell.of(self.book, COHORT, month)

    def asks(self, *, release: str = "{generator: independent}", gate: str = "{}", extra: str = "") -> None:
        """Write the cohort's file."""
        (self.cohorts / f"{COHORT}.yaml").write_text(
            textwrap.dedent(f"""\
                title: A made-up ward
                source: clinic
                unit: stay
                subject: mrn
                sql: {COHORT}.sql
                columns:
                  age: {{kind: continuous, unit: a, description: Age in years.}}
                  died: {{kind: binary, role: label}}
                generators: {{independent: {{}}, gaussian_copula: {{calibration_steps: 0}}}}
                evaluation: {{profile: quick}}
                release: {release}
                gate: {gate}
                """)
            + extra
        )
        (self.cohorts / f"{COHORT}.sql").write_text("SELECT mrn, age, sex, lactate, ward, died FROM stays\n")

    def finds(self, **changed: float) -> None:
        """From now on evaluations find good figures, but for these."""
        found = figures(**changed)
        self.monkeypatch.setattr(judging, "run_evaluation", lambda *_, **__: Evaluation(found, {}))
        self.monkeypatch.setattr(judging, "evaluate_references", lambda *_, **__: REFERENCES)
        self.monkeypatch.setattr(judging, "publish_reports", publish_small_reports)

    def delivers(self) -> None:
        """Take in 400 made-up stays of 200 people."""
        folder = self.home.root.parent / "in"
        folder.mkdir()
        rng = np.random.default_rng(3)
        lines = ["mrn,age,sex,lactate,ward,died"]
        for i in range(400):
            ward = "Zebulon-Quartermain-Ward" if i % 133 == 0 else str(rng.choice(["north", "south"]))
            lactate = "" if rng.random() < 0.1 else f"{rng.gamma(2.0):.2f}"
            age, sex, died = round(rng.normal(60, 12), 1), rng.choice(["f", "m"]), int(rng.random() < 0.3)
            lines.append(f"MRN-{i // 2:05d},{age},{sex},{lactate},{ward},{died}")
        (folder / "stays.csv").write_text("\n".join(lines) + "\n")
        delivery = hand_over(self.home, "clinic", folder, as_of=dt.date(2026, 10, 15), name="one")
        take_in(self.lake, delivery, self.book.source("clinic"), "table", COMPUTE)

    def makes(self, generator: str = "independent", *, month: str = MONTH, **overrides: Any) -> None:
        """Everything up to the evaluation of one generator."""
        cell, lake = self.cell(month), self.lake
        gather_step(lake, cell)
        features_step(lake, cell, COMPUTE)
        self.trains(generator, month=month, **overrides)

    def trains(self, generator: str = "independent", *, month: str = MONTH, **overrides: Any) -> None:
        """Train, draw and evaluate one generator on the features that are there."""
        cell, lake = self.cell(month), self.lake
        fit_step(lake, cell, generator, COMPUTE, overrides=overrides)
        sample_step(lake, cell, generator)
        judging.references_step(lake, cell)
        self.judges(generator, month=month)

    def judges(self, generator: str = "independent", *, month: str = MONTH) -> Version:
        return judging.evaluate_step(self.lake, self.cell(month), generator).version

    def current(self, asset: str, month: str = MONTH) -> Version:
        return self.lake.tables.resolve(asset, {"cohort": COHORT, "month": month})

    def entries(self, kind: str = "") -> list[dict[str, Any]]:
        found = self.lake.journal.entries(f"release/{COHORT}")
        return [e for e in found if kind in ("", e["kind"])]


def forge(store: VersionStore, version: Version, file: str, content: bytes) -> Version:
    """Change a file of a version by hand, and mend every hash of its record and its pointer."""
    import hashlib

    path = store.path(version, file)
    path.chmod(0o600)
    path.write_bytes(content)
    stored = version.files[file]
    files = dict(version.files)
    files[file] = StoredFile(
        **{**vars(stored), "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)},
    )
    forged = replace(version, files=files, sha256=content_hash(files, version.info))
    folder = store.root / version.label
    for record in (folder / version.version / "_version.json", folder / "_current.json"):
        record.chmod(0o600)
        record.write_bytes(forged.to_bytes())
    return forged


def with_verdict(content: bytes, status: str) -> bytes:
    """A verdict as somebody would edit it."""
    verdict = json.loads(content)
    verdict["status"] = status
    for rule in verdict["rules"]:
        rule["status"] = status
    return (canonical_json(verdict) + "\n").encode()


def _ward(root: Path, cohorts: Path, monkeypatch: pytest.MonkeyPatch) -> Ward:
    monkeypatch.setenv("COHORTLOOM_HOME", str(root))
    monkeypatch.setenv("COHORTLOOM_SPLIT_KEY", PUBLISHED_KEY.decode())
    monkeypatch.delenv("COHORTLOOM_COHORTS", raising=False)
    monkeypatch.setattr("pipeline.features.spec.BUILT_IN_COHORTS", cohorts)
    made = Ward(Home(root).ensure(), cohorts, monkeypatch)
    made.finds()
    return made


@pytest.fixture(scope="session")
def made_ward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `home` and `cohorts`: `independent` was trained, drawn and found good."""
    folder = tmp_path_factory.mktemp("ward")
    (folder / "cohorts").mkdir()
    (folder / "cohorts" / "sources.yaml").write_text("clinic: {format: table, dates: none, split_key: published}\n")
    with pytest.MonkeyPatch.context() as patch:
        ward = _ward(folder / "home", folder / "cohorts", patch)
        ward.asks()
        ward.delivers()
        ward.makes()
    return folder


@pytest.fixture
def ward(made_ward: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ward:
    for name in ("home", "cohorts"):
        shutil.copytree(made_ward / name, tmp_path / name)
    return _ward(tmp_path / "home", tmp_path / "cohorts", monkeypatch)
