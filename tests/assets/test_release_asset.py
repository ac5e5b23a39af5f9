"""The asset `release` in Dagster: materialises in every state, says which, and nothing gets past it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from release_ward import COHORT, MONTH, Ward, with_verdict

from assets.definitions import build_defs
from assets.partitions import cohort_month_key
from assets.run import publish, run_cohort
from pipeline.workflow.deciding import reject, sign
from pipeline.workflow.releasing import withdraw

if TYPE_CHECKING:
    from assets.run import RunOutcome

RELEASE = dg.AssetKey("release")
INSIDE = {"generated", "verdict", "gate", "signed"}
OFFICER = {"role": "privacy_officer", "name": "Ada Moreau"}


def metadata(instance: dg.DagsterInstance) -> dict[str, Any]:
    found = instance.fetch_materializations(RELEASE, limit=1).records[0].asset_materialization
    assert found is not None
    return {name: value.value for name, value in found.metadata.items()}


def checks(instance: dg.DagsterInstance, outcome: RunOutcome) -> dict[str, tuple[bool, str]]:
    logs = instance.all_logs(outcome.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    found = [entry.dagster_event.asset_check_evaluation_data for entry in logs]
    return {c.check_name: (c.passed, c.severity.name) for c in found if c.asset_key == RELEASE}


def released(instance: dg.DagsterInstance) -> RunOutcome:
    outcome = publish(COHORT, MONTH, instance)
    assert outcome.success, outcome.reason
    assert outcome.assets == ["release"]
    return outcome


def test_every_state_is_a_materialisation(ward: Ward, instance: dg.DagsterInstance) -> None:
    """Missing, withheld, awaiting a signature, published, withdrawn, rejected: each with its checks."""
    ward.asks(release="{}")
    found = checks(instance, released(instance))
    assert (metadata(instance)["state"], found["gate"]) == ("missing", (False, "WARN"))
    ward.asks(gate="{jsd_mean_max: 0.001}")
    found = checks(instance, released(instance))
    facts = metadata(instance)
    assert (facts["state"], found["gate"]) == ("withheld", (False, "ERROR"))
    assert "divergence" in facts["reasons"]
    assert "| jsd_mean | fail |" in facts["verdict"]
    ward.asks()
    found = checks(instance, released(instance))
    assert found == {"gate": (True, "WARN"), "signed": (False, "WARN")}
    facts = metadata(instance)
    assert (facts["state"], facts["lacking_roles"], len(facts["seal"])) == ("awaiting_signature", "privacy_officer", 12)
    assert "release_id" not in facts
    sign(ward.lake, ward.cell(), seal=facts["seal"], **OFFICER)
    found = checks(instance, released(instance))
    assert {passed for passed, _ in found.values()} == {True}
    facts = metadata(instance)
    assert (facts["state"], facts["release_id"]) == ("published", f"{COHORT}--2026-10--r1")
    assert facts["card"].startswith("# A made-up ward")
    assert "Ada Moreau" in facts["signatures"]
    made = instance.fetch_materializations(RELEASE, limit=1).records[0].asset_materialization
    assert made is not None
    assert made.tags["dagster/data_version"] == ward.current("release").sha256
    withdraw(ward.lake, f"{COHORT}--2026-10--r1", "x", "Bo")
    found = checks(instance, released(instance))
    assert (metadata(instance)["state"], found["gate"]) == ("withdrawn", (False, "ERROR"))
    sign(ward.lake, ward.cell(), **OFFICER)
    reject(ward.lake, ward.cell(), reason="no", **OFFICER)
    assert checks(instance, released(instance))["gate"] == (False, "ERROR")


def test_a_whole_run_ends_with_the_release(ward: Ward, instance: dg.DagsterInstance) -> None:
    """In the same run, from the beginning and from the release alone."""
    ward.asks(release="{generator: independent, mode: auto}")
    outcome = run_cohort(COHORT, MONTH, instance=instance)
    assert outcome.success, outcome.reason
    assert outcome.assets[-1] == "release"
    assert metadata(instance)["state"] == "published"
    alone = run_cohort(COHORT, MONTH, instance=instance, start_from="release")
    assert alone.assets == ["release"]
    assert len(ward.entries("published")) == 1


@pytest.mark.parametrize("selected", ["all", "fewest", "later"])
def test_a_failed_verdict_keeps_it_back_however_checks_were_selected(
    ward: Ward, instance: dg.DagsterInstance, selected: str
) -> None:
    ward.finds(fid_marg_jsd=0.2)
    ward.asks(release="{generator: independent, mode: auto}")
    job = build_defs().resolve_job_def("cohort_month")
    keys = {dg.AssetKey(["evaluation", "independent"]), RELEASE}
    how: dict[str, Any] = {"instance": instance, "partition_key": cohort_month_key(COHORT, MONTH)}
    if selected == "later":
        assert job.execute_in_process(asset_selection=[*keys - {RELEASE}], **how).success
        assert publish(COHORT, MONTH, instance).success
    else:
        # Checks that an asset makes itself cannot be left out; all others are.
        inside = {k for k in job.asset_layer.asset_graph.asset_check_keys if k.name in INSIDE and k.asset_key in keys}
        subset = job.get_subset(asset_selection=keys, asset_check_selection=inside if selected == "fewest" else None)
        result = subset.execute_in_process(tags=_tags(), instance=instance)
        assert result.success
        made = {e.asset_key.to_user_string() for e in result.get_asset_materialization_events()}
        assert made == {"evaluation/independent", "release"}
    assert metadata(instance)["state"] == "withheld"
    assert ward.lake.tables.partitions("release") == []


def _tags() -> dict[str, str]:
    key = str(cohort_month_key(COHORT, MONTH))
    return {"dagster/partition": key, "dagster/partition/cohort": COHORT, "dagster/partition/month": MONTH}


def test_what_was_changed_by_hand_fails_the_step_for_good(ward: Ward, instance: dg.DagsterInstance) -> None:
    sign(ward.lake, ward.cell(), **OFFICER)
    path = ward.lake.tables.path(ward.current("evaluation/independent"), "verdict.json")
    path.chmod(0o600)
    path.write_bytes(with_verdict(path.read_bytes(), "pass") + b" ")
    outcome = publish(COHORT, MONTH, instance)
    assert not outcome.success
    assert "sha256 is" in outcome.reason
    [event] = instance.all_logs(outcome.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    assert event.dagster_event.step_failure_data.user_failure_data.label == "intentional-failure"
    assert not instance.all_logs(outcome.run_id, of_type=dg.DagsterEventType.STEP_UP_FOR_RETRY)
    assert instance.fetch_materializations(RELEASE, limit=1).records == []


def test_a_file_that_names_a_generator_it_does_not_enable_fails_the_step(
    ward: Ward, instance: dg.DagsterInstance
) -> None:
    """Everything else of the location stays; this cohort has no partition that could be run."""
    ward.asks(release="{generator: vae}")
    with pytest.warns(UserWarning, match="'vae' is named but not enabled"):
        outcome = publish(COHORT, MONTH, instance)
    assert not outcome.success
    assert "named but not enabled" in outcome.reason


def test_the_launchpads_changes_are_named(ward: Ward, instance: dg.DagsterInstance) -> None:
    ward.trains("independent", preset="paper")
    sign(ward.lake, ward.cell(), **OFFICER)
    released(instance)
    facts = metadata(instance)
    assert facts["launchpad_overrides"] == "preset"
    assert "preset=paper" in facts["card"]
