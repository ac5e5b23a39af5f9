"""The graph as it stands: loads light, says what it is, infers no mapping, guards every body."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import dagster as dg
import pytest

from assets.definitions import build_defs, generators_in_use
from assets.guard import GUARDED
from pipeline.features.spec import load_book
from pipeline.workflow.cards import cards

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "duckdb", "pandas", "pyarrow", "sklearn", "numpy", "scipy", "plotly", "dagster_pandas")


@pytest.fixture(scope="module")
def defs() -> dg.Definitions:
    return build_defs()


@pytest.fixture(scope="module")
def assets(defs: dg.Definitions) -> list[dg.AssetsDefinition]:
    return [a for a in defs.assets or [] if isinstance(a, dg.AssetsDefinition)]


def test_everything_loads(defs: dg.Definitions) -> None:
    dg.Definitions.validate_loadable(defs)


def test_loading_imports_nothing_heavier_than_dagster() -> None:
    # Once to make the cards of generators, so that the second process is what every later one is.
    code = (
        "import warnings; warnings.simplefilter('ignore'); import sys, assets.definitions;"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
        assert done.stdout.strip() == "[]"


def test_an_unset_dagster_home_is_warned_about() -> None:
    code = (
        "import os, warnings\nos.environ.pop('DAGSTER_HOME', None)\n"
        "with warnings.catch_warnings(record=True) as seen:\n    warnings.simplefilter('always')\n    import assets.definitions\n"
        "print([str(w.message) for w in seen if 'DAGSTER_HOME' in str(w.message)])\n"
        "print([str(w.message) for w in seen if issubclass(w.category, __import__('dagster').PreviewWarning)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    said, preview = done.stdout.strip().splitlines()
    assert "cohortloom ui" in said
    assert preview == "[]"


def test_the_library_imports_without_dagster() -> None:
    """Every module of pipeline/, with dagster, assets and resources blocked."""
    code = """
import importlib, pkgutil, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('dagster', 'dagster_pandas', 'dagster_shared', 'assets', 'resources'):
            raise ImportError('blocked: ' + name)
sys.meta_path.insert(0, Blocker())
import pipeline
names = [m.name for m in pkgutil.walk_packages(pipeline.__path__, 'pipeline.')]
for name in names:
    importlib.import_module(name)
print(len(names))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 30


@pytest.mark.parametrize(
    "module", ["pipeline.features.spec", "pipeline.generators.registry", "pipeline.workflow.cards"]
)
def test_light_modules_stay_light(module: str) -> None:
    code = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_no_future_annotations_where_dagster_reads_them() -> None:
    files = [*(ROOT / "assets").rglob("*.py"), *(ROOT / "resources").rglob("*.py")]
    assert [f.name for f in files if "from __future__ import annotations" in f.read_text()] == []


def test_no_edge_relies_on_an_inferred_partition_mapping(assets: list[dg.AssetsDefinition]) -> None:
    edges = [(spec.key, dep) for asset in assets for spec in asset.specs for dep in spec.deps]
    assert edges
    inferred = [
        (key.to_user_string(), dep.asset_key.to_user_string()) for key, dep in edges if dep.partition_mapping is None
    ]
    assert inferred == []


def test_deliveries_reach_cohorts_through_all_partitions_only(assets: list[dg.AssetsDefinition]) -> None:
    partitions = {spec.key: spec.partitions_def for asset in assets for spec in asset.specs}
    crossing = [
        (spec.key.to_user_string(), dep.asset_key.to_user_string(), dep.partition_mapping)
        for asset in assets
        for spec in asset.specs
        for dep in spec.deps
        if partitions[spec.key] != partitions[dep.asset_key]
    ]
    assert {key for key, _, _ in crossing} == {"cohort_inputs", "catalog"}
    assert all(isinstance(mapping, dg.AllPartitionMapping) for _, _, mapping in crossing)


def test_every_asset_says_what_it_is(assets: list[dg.AssetsDefinition]) -> None:
    for spec in (s for asset in assets for s in asset.specs):
        name = spec.key.to_user_string()
        assert spec.description, name
        assert spec.description.startswith("One "), f"{name}: the first sentence states the grain"
        assert spec.group_name in {
            "ingest",
            "features",
            "generation",
            "evaluation",
            "release",
            "catalog",
            "operations",
        }, name
        assert spec.owners, name
        assert all(owner.startswith("team:") for owner in spec.owners), name
        assert spec.kinds, name
        assert "phi" in spec.tags, name
        assert spec.code_version, name


def test_the_graph_is_the_house(assets: list[dg.AssetsDefinition]) -> None:
    """Keys and what they stand on; a refactoring that moves a wall shows here."""
    found = {
        spec.key.to_user_string(): sorted(dep.asset_key.to_user_string() for dep in spec.deps)
        for asset in assets
        for spec in asset.specs
    }
    names = generators_in_use(load_book())
    with_events = ["raw/fhir", "raw/meds", "raw/mimic3", "raw/mimic4"]
    raw = [*with_events, "raw/table"]
    expected: dict[str, list[str]] = {
        **{key: [] for key in raw},
        "events": with_events,
        "cohort_inputs": ["events", *raw],
        "features": ["cohort_inputs"],
        "references": ["features"],
        "leaderboard": sorted(["references", *(f"evaluation/{g}" for g in names)]),
        "privacy_ledger": [f"model/{g}" for g in names],
        "release": sorted(["leaderboard", "privacy_ledger", *(f"evaluation/{g}" for g in names)]),
        "catalog": sorted(
            ["events", "features", "leaderboard", *raw, "references", "release"]
            + [f"{stage}/{g}" for stage in ("evaluation", "synthetic") for g in names]
        ),
        "inventory": [],
        **{f"tuning/{g}": ["features"] for g, card in cards(names).items() if card.tunes},
        **{f"sweep/{g}": ["features", "references"] for g, card in cards(names).items() if card.private},
    }
    assert {"tuning/gaussian_copula", "tuning/vae", "sweep/independent", "sweep/vae"} <= set(expected)
    for g in names:
        expected |= {
            f"model/{g}": ["features"],
            f"synthetic/{g}": [f"model/{g}"],
            f"evaluation/{g}": sorted(["features", f"synthetic/{g}", "references"]),
        }
    assert found == expected


def test_every_check_has_partitions_and_only_structure_blocks(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    specs = [graph.get(key).specs if False else graph.get_check_spec(key) for key in graph.asset_check_keys]
    assert specs
    unpartitioned = {s.key.to_user_string() for s in specs if s.partitions_def is None}
    assert unpartitioned == {"inventory:no_failed_partitions", "inventory:nothing_stale"}  # of an unpartitioned asset
    blocking = {s.name for s in specs if s.blocking}
    assert blocking == {
        "balanced",
        "validation",
        "cohort_file",
        "schema",
        "row_count",
        "intact",
        "frame",
        "constraints_hold",
    }
    assert {"verdict", "generated", "settings_current", "complete", "quarantine_rate", "gate", "signed"} <= {
        s.name for s in specs
    }


def test_every_body_is_guarded(defs: dg.Definitions, assets: list[dg.AssetsDefinition]) -> None:
    bodies = {a.op.name: a.op.compute_fn.decorated_fn for a in [*assets, *(defs.asset_checks or [])]}
    assert [name for name, body in bodies.items() if not hasattr(body, GUARDED)] == []
    for sensor in defs.sensors or []:
        assert hasattr(getattr(sensor, "_run_status_sensor_fn", sensor._raw_fn), GUARDED), sensor.name
    for schedule in defs.schedules or []:
        body = getattr(schedule._execution_fn, "decorated_fn", None)
        assert hasattr(body, GUARDED) or schedule.name == "inventory_daily", schedule.name  # which has no body


def test_jobs_hold_what_they_promise(defs: dg.Definitions) -> None:
    jobs = {
        name: defs.resolve_job_def(name)
        for name in (
            "ingest_fhir",
            "ingest_table",
            "cohort_month",
            "publish_release",
            "publish_catalog",
            "take_inventory",
        )
    }
    keys = {name: {k.to_user_string() for k in job.asset_layer.executable_asset_keys} for name, job in jobs.items()}
    assert keys["ingest_fhir"] == {"raw/fhir", "events"}
    assert keys["ingest_table"] == {"raw/table"}
    assert keys["publish_catalog"] == {"catalog"}
    assert keys["publish_release"] == {"release"}
    assert keys["take_inventory"] == {"inventory"}
    assert {"cohort_inputs", "features", "references", "leaderboard", "privacy_ledger", "release"} <= keys[
        "cohort_month"
    ]
    assert not keys["cohort_month"] & {"raw/fhir", "raw/table", "events", "catalog"}
    assert all(job.executor_def.name == "in_process" for job in jobs.values())


def test_the_launchpad_form_is_typed(defs: dg.Definitions) -> None:
    vae = next(
        a for a in defs.assets or [] if isinstance(a, dg.AssetsDefinition) and a.key == dg.AssetKey(["model", "vae"])
    )
    fields = vae.op.config_schema.config_type.fields
    assert {"preset", "latent_dim", "epochs"} <= set(fields)
    assert not any(field.is_required for field in fields.values())
    assert all(field.description for field in fields.values())
    job = defs.resolve_job_def("cohort_month")
    good = {"ops": {"model__vae": {"config": {"latent_dim": 3, "preset": "paper"}}}}
    assert dg.validate_run_config(job, good)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for bad in ({"latent_dim": "three"}, {"latent_dims": 3}, {"preset": "papr"}):
            with pytest.raises(dg.DagsterInvalidConfigError):
                dg.validate_run_config(job, {"ops": {"model__vae": {"config": bad}}})


def test_the_calendar_ends_with_the_running_month(monkeypatch: pytest.MonkeyPatch) -> None:
    from datetime import UTC, datetime

    from assets.partitions import months
    from pipeline.errors import ConfigError

    with dg.partition_loading_context(effective_dt=datetime(2026, 11, 22, tzinfo=UTC)):
        keys = months().get_partition_keys()
    assert (keys[0], keys[-1]) == ("2024-01-01", "2026-11-01")
    monkeypatch.setenv("COHORTLOOM_START_MONTH", "2010-05")
    assert months().get_partition_keys()[0] == "2010-05-01"
    monkeypatch.setenv("COHORTLOOM_START_MONTH", "May")
    with pytest.raises(ConfigError, match="no month"):
        months()


def test_dagster_yaml_is_the_one_of_the_spec() -> None:
    import yaml

    content = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    assert content["telemetry"] == {"enabled": False}
    assert content["nux"] == {"enabled": False}
    assert content["run_monitoring"]["free_slots_after_run_end_seconds"] == 60
    assert content["run_retries"]["retry_on_asset_or_op_failure"] is False
    assert content["concurrency"]["runs"]["tag_concurrency_limits"] == [
        {"key": "dagster/backfill", "limit": 3},
        {"key": "dagster/partition", "value": {"applyLimitPerUniqueValue": True}, "limit": 1},
    ]
    assert json.dumps(content).count("postgres") == 0
