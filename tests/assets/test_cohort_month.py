"""A cohort's month through the graph: whole, with failures as rows, again, killed, and twice the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from made_up import MONTH, Book, deliver, visits
from odd_generators import CANARY, PATHS

from assets.definitions import build_defs
from assets.instance import close_dead_runs, open_instance
from assets.partitions import cohort_month_key
from assets.run import RunOutcome, _execute, default_month, ingest, run_cohort
from pipeline.errors import ConfigError, NotFoundError
from pipeline.features.spec import load_book
from pipeline.generators.registry import BUILT_IN
from pipeline.store.home import Home
from pipeline.store.lake import Lake
from pipeline.workflow.judging import HOLDOUT_ACCESS
from pipeline.workflow.record import Record
from pipeline.workflow.settings import cells_moved_on

if TYPE_CHECKING:
    from pipeline.store.lake import Version

CELL = {"cohort": "tiny", "month": MONTH}
INPUTS = dg.AssetKey("cohort_inputs")


@pytest.fixture(autouse=True)
def quick(request: pytest.FixtureRequest) -> None:
    """Evaluations compute few metrics, unless a test asks for `all_metrics`."""
    if "all_metrics" not in request.fixturenames:
        request.getfixturevalue("few_metrics")


@pytest.fixture
def all_metrics() -> None:
    """Every registered metric is computed."""


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> None:
    """The misbehaving generators are registered."""
    for name, path in PATHS.items():
        monkeypatch.setitem(BUILT_IN, name, path)
    for name in ("FICKLE_FAILS", "FORGETFUL", "HANGS_AT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def lake(home: Home, book: Book, instance: dg.DagsterInstance, tmp_path: Path) -> Lake:
    """A lake in which the delivery of `tiny` was taken in."""
    assert ingest(deliver(home, "clinic", visits(tmp_path / "in"), name="one").key, instance).success
    return Lake(home)


def run(instance: dg.DagsterInstance, cohort: str = "tiny", **how: Any) -> RunOutcome:
    return run_cohort(cohort, MONTH, instance=instance, **how)


def make(instance: dg.DagsterInstance, cohort: str, *keys: dg.AssetKey) -> RunOutcome:
    """Materialise only these assets."""
    return _execute("cohort_month", cohort_month_key(cohort, MONTH), keys, instance, None)


def leaderboard(lake: Lake) -> dict[str, dict[str, Any]]:
    return {row["key"]: row for row in lake.tables.read(lake.tables.resolve("leaderboard", CELL)).to_pylist()}


def failing_checks(instance: dg.DagsterInstance, outcome: RunOutcome) -> dict[str, str]:
    """Asset and check to severity, of the checks that did not pass in a run."""
    logs = instance.all_logs(outcome.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    found = [entry.dagster_event.asset_check_evaluation_data for entry in logs]
    return {f"{c.asset_key.to_user_string()}:{c.check_name}": c.severity.name for c in found if not c.passed}


def current_versions(lake: Lake) -> list[Version]:
    return [
        store.resolve(asset, partition)
        for store in (lake.tables, lake.models, lake.reports)
        for asset in store.assets()
        for partition in store.partitions(asset)
    ]


def test_the_whole_chain(lake: Lake, instance: dg.DagsterInstance, all_metrics: None) -> None:
    """Every asset is made, shows in Dagster, and says what it holds in metadata."""
    lines: list[str] = []
    outcome = run(instance, on_event=lines.append)
    assert outcome.success, outcome
    made = {"cohort_inputs", "features", "references", "leaderboard", "privacy_ledger", "release"}
    made |= {
        f"{stage}/{g}" for stage in ("model", "synthetic", "evaluation") for g in ("independent", "gaussian_copula")
    }
    assert set(outcome.assets) == made
    assert {line.split(" (")[0] for line in lines if line.endswith(" s)")} == made
    features, synthetic = lake.tables.resolve("features", CELL), lake.tables.resolve("synthetic/independent", CELL)
    assert synthetic.files["data"].rows == features.info["counts"]["subjects/train"]
    assert synthetic.files["data"].schema == features.files["data"].schema
    assert {"_replicate", "_draw"} <= set(synthetic.files["subjects"].schema or {})
    board = leaderboard(lake)
    assert {"independent", "gaussian_copula", "ref_fresh", "ref_train", "ref_marginal", "ref_mode"} <= set(board)
    assert all(row["status"] in ("ok", "reference") for row in board.values())
    record = instance.get_run_by_id(outcome.run_id)
    assert record is not None
    assert (record.job_name, record.status) == ("cohort_month", dg.DagsterRunStatus.SUCCESS)

    def facts(*key: str) -> dict[str, Any]:
        found = instance.fetch_materializations(dg.AssetKey(list(key)), limit=1).records[0]
        return dict(found.asset_materialization.metadata)

    assert facts("features")["dagster/row_count"].value == 240
    schema = facts("features")["dagster/column_schema"].schema
    assert [c.name for c in schema.columns] == ["age", "sex", "lactate", "died"]
    lineage = facts("features")["dagster/column_lineage"].lineage.deps_by_column
    assert [(d.asset_key.to_user_string(), d.column_name) for d in lineage["age"]] == [("raw/table", "visits.age")]
    assert "visits.age" in {c.name for c in facts("raw", "table")["dagster/column_schema"].schema.columns}
    assert facts("raw", "table")["records_in"].value == 240
    evaluation = facts("evaluation", "independent")
    assert "<html" in Path(evaluation["report"].path).read_text(encoding="utf-8")[:2000]
    assert 0 <= evaluation["fid.marg.jsd"].value < 1
    assert "util.tstr_auroc/mortality" in evaluation
    assert "data:image/svg+xml;base64," in evaluation["headlines"].md_str
    assert "independent" in facts("leaderboard")["leaderboard"].md_str
    assert facts("model", "independent")["training_seconds"].value > 0
    assert facts("cohort_inputs")["provisional"].value in (True, False)
    tags = instance.fetch_materializations(dg.AssetKey("features"), limit=1).records[0].asset_materialization.tags
    assert tags["dagster/data_version"] == features.sha256


def test_one_raises_one_refuses_one_fails_its_verdict(
    lake: Lake, book: Book, odd: None, instance: dg.DagsterInstance
) -> None:
    """The run ends well, the leaderboard is complete, every failure is a row with a failing check that blocks nothing."""
    generators = {"independent": {}, "raises": {}, "refuses": {}, "gaussian_copula": {"calibration_step": 1}}
    book.cohort("tiny", source="clinic", generators=generators, extra="gate: {jsd_mean_max: 0}\n")
    book.cohort("other", source="ward", generators={"fickle": {}})
    outcome = run(instance)
    assert outcome.success, outcome
    board = leaderboard(lake)
    assert (board["independent"]["status"], board["independent"]["verdict"]) == ("ok", "fail")
    assert board["refuses"]["status"] == "refused"
    assert "Columns of this kind are not supported." in board["refuses"]["reason"]
    assert board["raises"]["status"] == "failed"
    assert "RuntimeError at " in board["raises"]["reason"]
    assert CANARY not in json.dumps(board)
    assert board["fickle"]["status"] == "not_enabled"
    assert board["gaussian_copula"]["status"] == "failed"
    assert "Did you mean 'calibration_steps'" in board["gaussian_copula"]["reason"]
    checks = failing_checks(instance, outcome)
    statuses = {"raises": "failed", "refuses": "refused", "fickle": "not_enabled"}
    for name, status in statuses.items():
        assert {f"{stage}/{name}:generated" for stage in ("model", "synthetic", "evaluation")} <= set(checks)
        report = lake.reports.resolve(f"evaluation/{name}", CELL)
        assert status.replace("_", " ") in lake.reports.path(report, "report.html").read_text(encoding="utf-8")
        assert Record.of(lake.models.resolve(f"model/{name}", CELL)).status == status
    assert checks["evaluation/independent:verdict"] == "ERROR"
    assert "model/independent:generated" not in checks


def test_a_failed_rerun_leaves_no_earlier_result_current(
    lake: Lake, book: Book, odd: None, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    book.cohort("tiny", source="clinic", generators={"fickle": {}})
    assert run(instance).success
    assert "data" in lake.tables.resolve("synthetic/fickle", CELL).files
    monkeypatch.setenv("FICKLE_FAILS", "1")
    assert run(instance, start_from="model").success
    for stage in ("synthetic", "evaluation"):
        version = lake.tables.resolve(f"{stage}/fickle", CELL)
        assert (version.files, version.info["status"]) == ({}, "failed")
    assert leaderboard(lake)["fickle"]["status"] == "failed"
    monkeypatch.delenv("FICKLE_FAILS")
    assert run(instance, start_from="model").success
    assert leaderboard(lake)["fickle"]["status"] == "ok"


def test_a_generator_that_cannot_draw_is_a_row(
    lake: Lake, book: Book, odd: None, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    book.cohort("tiny", source="clinic", generators={"forgetful": {}})
    assert run(instance).success
    monkeypatch.setenv("FORGETFUL", "1")
    assert run(instance, start_from="synthetic").success
    assert leaderboard(lake)["forgetful"]["status"] == "failed"
    assert Record.of(lake.models.resolve("model/forgetful", CELL)).ok


def test_out_of_memory_fails_the_run_and_the_leaderboard_can_be_made_alone(
    lake: Lake, book: Book, odd: None, instance: dg.DagsterInstance
) -> None:
    book.cohort("tiny", source="clinic", generators={"independent": {}, "greedy": {}})
    outcome = run(instance)
    assert not outcome.success
    assert outcome.failed_steps == ["model/greedy"]
    assert outcome.reason.startswith("Out of memory: MemoryError")
    alone = build_defs().resolve_job_def("leaderboard_alone")
    assert alone.execute_in_process(instance=instance, partition_key=cohort_month_key("tiny", MONTH)).success
    board = leaderboard(lake)
    assert board["independent"]["status"] == "ok"
    assert board["greedy"]["status"] == "not_run"
    assert "was not run" in board["greedy"]["reason"]


def test_rows_of_replaced_features_are_not_judged_as_if_nothing_happened(
    lake: Lake, home: Home, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """Features made again from more data: synthetic rows of the old model may not be judged against them."""
    assert run(instance, generators=["independent"]).success
    more = deliver(home, "clinic", visits(tmp_path / "more", seed=5), as_of="2026-10-20", name="two")
    assert ingest(more.key, instance).success
    assert make(instance, "tiny", INPUTS, dg.AssetKey("features")).success
    assert run(instance, generators=["independent"], start_from="evaluation").success
    row = leaderboard(lake)["independent"]
    assert row["status"] == "failed"
    assert "another version of features" in row["reason"]


def test_a_launchpad_override_is_used_recorded_and_named(lake: Lake, instance: dg.DagsterInstance) -> None:
    model = dg.AssetKey(["model", "gaussian_copula"])
    assert make(instance, "tiny", INPUTS, dg.AssetKey("features"), model).success
    before = lake.models.resolve("model/gaussian_copula", CELL)
    assert before.info["overrides"] == {}
    job = build_defs().resolve_job_def("cohort_month")
    form = {"nominal_order": "frequency", "preset": "paper"}
    result = job.execute_in_process(
        instance=instance,
        partition_key=cohort_month_key("tiny", MONTH),
        asset_selection=[model],
        run_config={"ops": {"model__gaussian_copula": {"config": form}}},
    )
    assert result.success
    after = lake.models.resolve("model/gaussian_copula", CELL)
    assert after.info["overrides"] == form
    assert after.info["settings"] == before.info["settings"]
    assert after.sha256 != before.sha256
    moved = cells_moved_on(lake, load_book().cohort("tiny"))
    assert [(m.asset, m.words) for m in moved] == [
        ("model/gaussian_copula", "Made with launchpad overrides: nominal_order, preset.")
    ]


def test_editing_one_generator_of_one_cohort_moves_exactly_that_cell(
    lake: Lake, book: Book, home: Home, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    assert ingest(deliver(home, "ward", visits(tmp_path / "ward"), name="one").key, instance).success
    assert run(instance).success
    assert run(instance, "other").success
    assert [cells_moved_on(lake, spec) for spec in load_book().cohorts.values()] == [[], []]
    edited = {"independent": {}, "gaussian_copula": {"calibration_steps": 1}}
    book.cohort("tiny", source="clinic", generators=edited)
    specs = load_book().cohorts
    moved = cells_moved_on(lake, specs["tiny"])
    assert [(m.asset, m.month) for m in moved] == [("model/gaussian_copula", MONTH)]
    assert "calibration_steps" in moved[0].words
    assert cells_moved_on(lake, specs["other"]) == []
    assert failing_settings_checks(instance) == {("model/gaussian_copula", "tiny")}


def failing_settings_checks(instance: dg.DagsterInstance) -> set[tuple[str, str]]:
    """Run the `settings_current` checks of all cells alone, as the UI does, and give those that do not pass."""
    defs = build_defs()
    keys = {k for k in defs.resolve_asset_graph().asset_check_keys if k.name == "settings_current"}
    checks = defs.resolve_implicit_global_asset_job_def().get_subset(asset_selection=set(), asset_check_selection=keys)
    failing = set()
    for cohort in ("tiny", "other"):
        tags = {"dagster/partition": str(cohort_month_key(cohort, MONTH))}
        tags |= {"dagster/partition/cohort": cohort, "dagster/partition/month": MONTH}
        result = checks.execute_in_process(instance=instance, tags=tags)
        found = result.get_asset_check_evaluations()
        assert {c.asset_key.to_user_string() for c in found} == {k.asset_key.to_user_string() for k in keys}
        failing |= {(c.asset_key.to_user_string(), cohort) for c in found if not c.passed}
    return failing


def test_a_new_delivery_of_one_source_touches_no_other_cohort(
    lake: Lake, home: Home, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    def inputs(cohort: str) -> str:
        assert make(instance, cohort, INPUTS).success
        return lake.tables.resolve("cohort_inputs", {"cohort": cohort, "month": MONTH}).sha256

    assert ingest(deliver(home, "ward", visits(tmp_path / "ward"), name="one").key, instance).success
    before = {cohort: inputs(cohort) for cohort in ("tiny", "other")}
    new = deliver(home, "ward", visits(tmp_path / "new", seed=9), as_of="2026-10-20", name="two")
    assert ingest(new.key, instance).success
    after = {cohort: inputs(cohort) for cohort in ("tiny", "other")}
    assert after["tiny"] == before["tiny"]
    assert after["other"] != before["other"]


def test_only_source_sql_and_columns_change_the_inputs(lake: Lake, book: Book, instance: dg.DagsterInstance) -> None:
    def inputs() -> str:
        assert make(instance, "tiny", INPUTS).success
        return lake.tables.resolve("cohort_inputs", CELL).sha256

    before = inputs()
    book.cohort(
        "tiny", source="clinic", generators={"independent": {"atom_rows": 7}}, extra="gate: {jsd_mean_max: 0}\n"
    )
    assert inputs() == before
    (book.folder / "tiny.sql").write_text("SELECT age, sex, lactate, died FROM visits WHERE age > 0\n")
    assert inputs() != before


def test_every_look_at_the_holdout_is_journalled_once(lake: Lake, instance: dg.DagsterInstance) -> None:
    assert run(instance, generators=["independent"]).success
    (entry,) = lake.journal.entries(HOLDOUT_ACCESS)
    synthetic = lake.tables.resolve("synthetic/independent", CELL)
    expected = {**CELL, "generator": "independent", "sha256": synthetic.sha256}
    assert {k: entry[k] for k in expected} == expected
    assert run(instance, generators=["independent"], start_from="evaluation").success
    assert len(lake.journal.entries(HOLDOUT_ACCESS)) == 1


def test_a_broken_cohort_file_disables_that_cohort_only(lake: Lake, book: Book, instance: dg.DagsterInstance) -> None:
    (book.folder / "other.yaml").write_text("source: ward\nunit: [patient\n")
    with pytest.warns(UserWarning, match="Disabled: other"):
        defs = build_defs()
    dg.Definitions.validate_loadable(defs)
    result = defs.resolve_job_def("cohort_month").execute_in_process(
        instance=instance,
        partition_key=cohort_month_key("other", MONTH),
        asset_selection=[INPUTS],
        raise_on_error=False,
    )
    assert not result.success
    (check,) = [c for c in result.get_asset_check_evaluations() if c.check_name == "cohort_file"]
    assert not check.passed
    assert "other.yaml" in (check.description or "")
    with pytest.raises(ConfigError, match="other"):
        run(instance, "other")
    with pytest.warns(UserWarning, match="Disabled: other"):
        assert make(instance, "tiny", INPUTS).success


def test_wrong_requests_are_answered_in_words(lake: Lake, instance: dg.DagsterInstance) -> None:
    with pytest.raises(NotFoundError, match="Did you mean 'tiny'"):
        run(instance, "tinny")
    with pytest.raises(ConfigError, match="COHORTLOOM_START_MONTH"):
        run_cohort("tiny", "2019-01-01", instance=instance)
    with pytest.raises(ConfigError, match="not begun"):
        run_cohort("tiny", "2999-01-01", instance=instance)
    with pytest.raises(ConfigError, match="Did you mean 'features'"):
        run(instance, start_from="feature")
    with pytest.raises(ConfigError, match="does not enable 'vae'"):
        run(instance, generators=["vae"])
    with pytest.raises(NotFoundError, match="There is no delivery"):
        ingest("clinic--nothing", instance)
    with pytest.raises(NotFoundError, match="no delivery yet"):
        default_month(load_book().cohort("other"), lake)
    assert default_month(load_book().cohort("tiny"), lake) == MONTH
    outcome = run_cohort("tiny", "2026-09-01", instance=instance)
    assert not outcome.success
    assert "first usable month is 2026-10" in outcome.reason


def test_a_raw_asset_refuses_a_key_of_another_format(lake: Lake, instance: dg.DagsterInstance) -> None:
    job = build_defs().resolve_job_def("ingest_fhir")
    result = job.execute_in_process(instance=instance, partition_key="clinic--one", raise_on_error=False)
    (failure,) = [e for e in result.all_events if e.is_step_failure]
    assert "raw/table" in failure.step_failure_data.user_failure_data.description
    assert lake.tables.current("raw/fhir", {"delivery": "clinic--one"}) is None


def test_the_same_inputs_give_the_same_bytes(book: Book, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two homes, two runs: every version of every asset has the same hash, and none knows where it lies or when."""
    source = visits(tmp_path / "in")
    found = []
    for name in ("a", "b"):
        home = Home(tmp_path / name).ensure()
        monkeypatch.setenv("COHORTLOOM_HOME", str(home.root))
        with dg.instance_for_test() as instance:
            assert ingest(deliver(home, "clinic", source, name="one").key, instance).success
            assert run(instance).success
        versions = current_versions(Lake(home))
        for version in versions:
            assert str(home.root) not in json.dumps(version.info)
            assert "seconds" not in json.dumps(version.info)
        found.append({f"{i}:{v.label}": v.sha256 for i, v in enumerate(versions)})
    assert len(found[0]) > 10
    assert found[0] == found[1]


@pytest.mark.distributed
def test_a_run_killed_half_way_is_run_again(lake: Lake, book: Book, odd: None, tmp_path: Path) -> None:
    book.cohort("tiny", source="clinic", generators={"hangs": {}})
    marker = tmp_path / "hanging"
    code = (
        "import warnings; warnings.simplefilter('ignore')\n"
        f"from pathlib import Path; import pipeline.features.spec as spec; spec.BUILT_IN_COHORTS = Path({str(book.folder)!r})\n"
        f"from pipeline.generators.registry import BUILT_IN; BUILT_IN.update({PATHS!r})\n"
        f"from assets.run import run_cohort; run_cohort('tiny', {MONTH!r})"
    )
    here = Path(__file__).parent
    environment = {**os.environ, "HANGS_AT": str(marker), "PYTHONPATH": f"{here}:{here.parents[1]}"}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True)
    while not marker.exists():
        assert process.poll() is None, process.stderr.read()[-2000:] if process.stderr else ""
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    features = lake.tables.resolve("features", CELL)
    assert lake.models.current("model/hangs", CELL) is None
    with open_instance(lake.home) as instance:
        (killed,) = instance.get_runs(filters=dg.RunsFilter(job_name="cohort_month"))
        assert killed.status == dg.DagsterRunStatus.FAILURE
        assert close_dead_runs(instance) == []
        assert run(instance).success
    assert lake.tables.resolve("features", CELL).sha256 == features.sha256
    assert leaderboard(lake)["hangs"]["status"] == "ok"
    lake.models.collect(grace_seconds=0)
    assert list(lake.models.root.rglob(".tmp-*")) == []
