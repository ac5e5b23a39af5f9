"""Every generator that trains under differential privacy keeps its budget, its domain and its bytes; the others refuse."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ledger_lab
import numpy as np
import private_lab as lab
import pyarrow as pa
import pytest

from assets.cli import main
from pipeline.errors import ConfigError, UnsupportedError
from pipeline.features.cohort import Cohort
from pipeline.features.infer import conform, infer_schema
from pipeline.features.schema_union import told_anew
from pipeline.features.split import PUBLISHED_KEY
from pipeline.generators.base import load_generator
from pipeline.generators.registry import generator_class, generator_names
from pipeline.privacy.ledger import Ledger
from pipeline.privacy.spec import TrainingPrivacy
from pipeline.workflow.structure import structure_of
from pipeline.workflow.training import fit_step, sample_step

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.store.lake import Lake
    from pipeline.workflow.compute import Compute

PRIVATE = [n for n in generator_names() if generator_class(n).supports(lab.PLAIN).dp]
FEW = {"private_epochs": 1.0, "private_batch_size": 300, "private_hidden": (16,), "private_draws": 2}
"""Settings of those that train by DP-SGD, if they have them: what is learned is not looked at here."""
OWN = {
    "argn": {"private_hidden": 16},
    "ehrdiff": {"sampling_steps": 3, "private_width": 16},
    "fairgan": {"undeclared": "guess"},
}


def clinic(n: int = 1_500) -> Cohort:
    """Several stays of some people, all of its schema inferred."""
    rng = np.random.default_rng(0)
    ill = rng.random(n) < 0.4
    value = np.round(rng.normal(6 + 2 * ill, 1.0), 1)
    value[rng.random(n) < 0.2] = np.nan
    table = pa.table(
        {
            "age": rng.integers(20, 90, n),
            "ward": rng.choice(["a", "b", "c"], n).tolist(),
            "ill": ill,
            "value": value,
        }
    )
    schema = infer_schema(table)
    subject = np.array([f"p{i}" for i in rng.permutation(np.r_[np.arange(n - 200), np.arange(200)])])
    return Cohort(conform(table, schema), schema, subject)


@pytest.mark.parametrize("name", PRIVATE)
def test_a_private_training_keeps_what_it_promises(name: str, tmp_path: Path) -> None:
    cohort, asked = clinic(), TrainingPrivacy(epsilon=4.0, delta=1e-6)
    kind = generator_class(name).Config
    few = {**FEW, **OWN.get(name, {})}
    config = kind.build({"preset": "quick", **{k: v for k, v in few.items() if k in kind.model_fields}})
    model = generator_class(name)(config)
    report = model.fit(cohort, seed=1, privacy=asked, noise_key=lab.KEY)
    said = report.privacy
    assert said is not None
    json.dumps(said, allow_nan=False)
    assert 0 < said["epsilon"] <= 4.0
    assert (said["delta"], said["n"], said["unit"]) == (1e-6, 1_300, "subject")
    assert sum(part["epsilon"] for part in said["parts"].values()) == pytest.approx(said["epsilon"])
    assert said["parts"]["encoding"]["epsilon"] <= 0.4 * (1 + 1e-6)
    assert report.rows == 1_300
    assert any("Outside the privacy guarantee" in w for w in report.warnings)
    drawn = model.sample(300, seed=5)
    assert drawn.table.column_names == cohort.table.column_names
    assert told_anew(drawn.schema, cohort.schema)
    model.save(tmp_path)
    assert load_generator(tmp_path).sample(300, seed=5).table.equals(drawn.table)
    again = generator_class(name)(config)
    again.fit(cohort, seed=1, privacy=asked, noise_key=lab.KEY)
    assert again.sample(300, seed=5).table.equals(drawn.table)
    other = generator_class(name)(config)
    other.fit(cohort, seed=1, privacy=asked, noise_key=b"another key")
    assert not other.sample(300, seed=5).table.equals(drawn.table)


@pytest.mark.parametrize("name", [n for n in generator_names() if n not in PRIVATE])
def test_the_others_refuse_and_say_why(name: str) -> None:
    kind = generator_class(name)
    with pytest.raises(UnsupportedError, match="does not train with differential privacy"):
        kind().fit(clinic(200), seed=0, privacy=TrainingPrivacy(epsilon=1))


def test_what_noise_hides_is_said_and_infinite_numbers_are_refused() -> None:
    cohort = clinic(600)
    model = generator_class("independent")()
    report = model.fit(cohort, seed=0, privacy=TrainingPrivacy(epsilon=0.01), noise_key=lab.KEY)
    said = [w for w in report.warnings if w.startswith("At this epsilon no bounds of 2 columns")]
    assert len(said) == 1
    assert "Declare their bounds" in said[0]
    assert report.privacy is not None
    assert said[0] in report.privacy["notes"]
    assert any("no levels of 1 columns" in w for w in report.warnings)
    lavish = model.fit(cohort, seed=0, privacy=TrainingPrivacy(epsilon=50), noise_key=lab.KEY)
    assert not any(w.startswith("At this epsilon") for w in lavish.warnings)
    values = cohort.values("value")
    values[3] = np.inf
    place = cohort.table.column_names.index("value")
    broken = replace(cohort, table=cohort.table.set_column(place, "value", pa.array(values, from_pandas=True)))
    with pytest.raises(ConfigError, match="1 cells are infinite") as refused:
        model.fit(broken, seed=0, privacy=TrainingPrivacy(epsilon=1))
    assert "'value'" in str(refused.value)


def test_weak_deltas_and_noise_multipliers_are_refused_before_anything_is_learned() -> None:
    model = generator_class("independent")()
    with pytest.raises(ConfigError, match="not below 1 / n"):
        model.fit(clinic(200), seed=0, privacy=TrainingPrivacy(epsilon=1, delta=0.01))
    with pytest.raises(ConfigError, match="depends on the steps"):
        model.fit(clinic(200), seed=0, privacy=TrainingPrivacy(noise_multiplier=1))
    with pytest.raises(UnsupportedError, match="does not declare"):
        model.fit(clinic(200), seed=0, privacy=TrainingPrivacy(epsilon=1, preprocessing="public"))
    assert model.encoder is None


# ---- in a house


def private_cell(**asked: Any) -> Any:
    cell = ledger_lab.cell(asked=None, independent={})
    cell.spec.privacy.trainings["independent"] = TrainingPrivacy.model_validate(asked)
    return cell


def test_a_cell_trains_privately_and_the_ledger_knows_before_and_after(
    lake: Lake, cpu: Compute, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COHORTLOOM_SPLIT_KEY", "the key of a house of its own")
    cell = private_cell(epsilon=2.0)
    cell.spec.replicates = 2
    made = fit_step(lake, cell, "independent", cpu)
    assert made.record.ok, made.record.reason
    entries = lake.journal.entries("privacy/lab")
    assert [e["step"] for e in entries] == ["reserve", "confirm", "complete"]
    assert (entries[0]["epsilon"], entries[0]["delta"]) == (2.0, 1e-5)  # resolved: the smaller of 1e-5 and 1 / (10 n)
    spent = made.reports[0].privacy
    assert spent is not None
    assert entries[2]["epsilon"] == max(r.privacy["epsilon"] for r in made.reports if r.privacy)
    assert Ledger(lake.journal, "lab").total().epsilon == pytest.approx(4.0)
    facts = json.loads(lake.models.path(made.version, "fit.json").read_text())
    assert facts[0]["privacy"]["headline"] == spent["headline"]
    # The same training again, in this house: the same bytes, which cost nothing.
    assert fit_step(lake, cell, "independent", cpu).version.sha256 == made.version.sha256
    assert len(lake.journal.entries("privacy/lab")) == 3
    with monkeypatch.context() as elsewhere:  # under the published key noise is fresh, and costs again
        elsewhere.setenv("COHORTLOOM_SPLIT_KEY", PUBLISHED_KEY.decode())
        assert fit_step(lake, cell, "independent", cpu).version.sha256 != made.version.sha256
    assert Ledger(lake.journal, "lab").total().epsilon == pytest.approx(8.0)
    drawn = sample_step(lake, cell, "independent")
    assert drawn.record.ok, drawn.record.reason
    features = lake.tables.resolve("features", cell.partition)
    from pipeline.workflow.structure import schema_of

    assert structure_of(lake, drawn.version, like=schema_of(lake, features)).schema == ""


def test_asking_otherwise_is_another_training(lake: Lake, cpu: Compute) -> None:
    hashes = {
        fit_step(lake, private_cell(**asked), "independent", cpu).version.sha256
        for asked in ({"epsilon": 2.0}, {"epsilon": 2.0, "preprocessing_share": 0.2}, {"epsilon": 2.0, "delta": 1e-6})
    }
    assert len(hashes) == 3
    assert Ledger(lake.journal, "lab").total().epsilon == pytest.approx(6.0)
    refused = fit_step(lake, private_cell(epsilon=1.0, delta=0.1), "independent", cpu)
    assert refused.record.status != "ok"
    assert "not below 1 / n" in refused.record.reason


# ---- the command


def test_fit_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline.features.tables import write_table

    table, out = tmp_path / "train.csv", tmp_path / "model"
    write_table(clinic(900).table, table)

    def run(*options: str) -> tuple[int, str]:
        given = ["cohortloom", "fit", str(table), "-g", "independent", "--out", str(out), *options]
        monkeypatch.setattr(sys, "argv", given)
        try:
            code = main()
        except SystemExit as end:
            code = int(end.code or 0)
        written = capsys.readouterr()
        return code, " ".join((written.out + written.err).split())

    code, words = run("--epsilon", "3", "--delta", "1e-6")
    assert code == 0, words
    assert "Privacy: (3, 1e-06)-differentially private for each of 900 subjects" in words
    assert json.loads((out / "privacy.json").read_text())["epsilon"] == pytest.approx(3.0)
    assert '"inferred":["' not in (out / "schema.json").read_text().replace(" ", "").replace("\n", "")
    # Another model in the same folder: what stood beside the first one says nothing of it.
    (out / "constraints.json").write_text("{}")
    code, words = run()
    assert code == 0, words
    assert not (out / "privacy.json").exists()
    assert load_generator(out).name == "independent"
    for options, words_wanted in (
        (("--epsilon", "0"), "Epsilon must be a finite number above 0, not 0"),
        (("--epsilon", "1", "--delta", "1"), "Delta must lie between 0 and 1"),
        (("--epsilon", "1", "--noise-multiplier", "1"), "exactly one of them"),
        (("--delta", "1e-6"), "--delta says nothing"),
        (("--epsilon", "1", "--delta", "0.01"), "not below 1 / n"),
        (("--noise-multiplier", "1"), "depends on the steps"),
    ):
        code, words = run(*options)
        assert code != 0
        assert words_wanted in words
