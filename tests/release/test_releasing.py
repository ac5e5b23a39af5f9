"""From a verdict to files that leave the house, and every way in which they must not."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from release_ward import COHORT, MONTH, Ward, forge, with_verdict

from pipeline.errors import ConfigError, NotFoundError, StoreError
from pipeline.store.journal import Journal
from pipeline.workflow import candidate, releasing
from pipeline.workflow.deciding import reject, sign, waive
from pipeline.workflow.housekeeping import collect_garbage
from pipeline.workflow.releasing import (
    ReleaseState,
    export,
    published_versions,
    release_state,
    release_step,
    releases,
    withdraw,
)
from pipeline.workflow.training import sample_step

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.release.gate import Verdict
    from pipeline.store.version import Version

OFFICER = {"role": "privacy_officer", "name": "Ada Moreau"}
LATER = date(2030, 1, 1)


def signed(ward: Ward, **more: Any) -> ReleaseState:
    return sign(ward.lake, ward.cell(), **{**OFFICER, **more})


def stepped(ward: Ward, month: str = MONTH) -> ReleaseState:
    return release_step(ward.lake, ward.cell(month), "run").state


def published(ward: Ward) -> ReleaseState:
    signed(ward)
    state = stepped(ward)
    assert state.state == "published"
    return state


def refused(ward: Ward, words: str) -> None:
    """The candidate is refused as changed by hand, also where everybody has signed; nothing is published."""
    for ask in (release_state, release_step):
        with pytest.raises(StoreError, match=words):
            ask(ward.lake, ward.cell())
    assert ward.lake.tables.partitions("release") == []
    assert ward.entries("published") == []


# ---- the way it should go


def test_a_signature_lets_the_candidate_out(ward: Ward) -> None:
    assert stepped(ward).state == "awaiting_signature"
    assert ward.lake.tables.partitions("release") == []
    assert signed(ward, comment="seen").state == "passed"
    state = stepped(ward)
    assert (state.state, state.release_id) == ("published", f"{COHORT}--2026-10--r1")
    [entry] = ward.entries("published")
    assert entry["sha256"] == ward.current("release").sha256
    assert ward.entries("sign")[0]["user"]
    assert stepped(ward).state == "published", "again changes nothing"
    assert len(ward.entries("published")) == 1


def test_the_same_evaluation_is_entered_once(ward: Ward) -> None:
    ward.judges()
    [entry] = ward.entries("verdict")
    assert entry["evaluation"] == ward.current("evaluation/independent").sha256
    assert entry["synthetic"] == ward.current("synthetic/independent").sha256


def test_the_verdict_says_what_it_is_about(ward: Ward) -> None:
    version = ward.current("evaluation/independent")
    tied = json.loads(ward.lake.tables.path(version, "verdict.json").read_text())["bound"]
    synthetic = ward.current("synthetic/independent")
    assert tied["synthetic"] == synthetic.sha256
    assert tied["data"] == synthetic.files["data"].sha256
    assert tied["candidate"] == "independent"
    assert tied["privacy"]["epsilon"] == "inf"


def test_mode_auto_is_released_by_its_gate(ward: Ward) -> None:
    ward.asks(release="{generator: independent, mode: auto}")
    assert stepped(ward).state == "published"
    ward.asks(release="{generator: independent, mode: auto, rows: 10}")
    ward.finds(fid_marg_jsd=0.2)
    ward.judges()
    state = stepped(ward)
    assert (state.state, state.standing) == ("published", "withheld")


def test_nothing_to_release_is_said(ward: Ward) -> None:
    ward.asks(release="{}")
    assert stepped(ward).state == "missing"
    ward.asks(release="{generator: gaussian_copula}")
    state = stepped(ward)
    assert state.state == "missing"
    assert "was not evaluated" in state.reasons[0]
    with pytest.raises(NotFoundError, match="nothing to decide"):
        signed(ward)


# ---- the gate


@pytest.mark.parametrize("changed", [{"fid_marg_jsd": 0.2}, {"priv_mia_max_auc": 0.545}])
def test_what_fails_or_is_underpowered_is_withheld_until_waived(ward: Ward, changed: dict[str, float]) -> None:
    ward.finds(**changed)
    ward.judges()
    state = stepped(ward)
    assert state.state == "withheld"
    with pytest.raises(ConfigError, match="nothing to sign"):
        signed(ward)
    [rule] = [r.name for r in state.verdict.rules if r.status in ("fail", "underpowered")]
    waive(ward.lake, ward.cell(), rule, until=LATER, reason="small ward", **OFFICER)
    published(ward)


def test_copies_of_real_rows_cannot_be_waived(ward: Ward) -> None:
    ward.finds(priv_exact_unique=1.0)
    ward.judges()
    with pytest.raises(ConfigError, match="cannot be waived"):
        waive(ward.lake, ward.cell(), "exact_unique_matches", until=LATER, reason="x", **OFFICER)
    entry = {
        "kind": "waive",
        "month": MONTH,
        "seal": release_state(ward.lake, ward.cell()).seal,
        "user": "",
        "words": "",
    }
    by_hand = {**entry, **OFFICER, "rule": "exact_unique_matches", "until": "2030-01-01"}
    ward.lake.journal.append(f"release/{COHORT}", by_hand)
    assert stepped(ward).state == "withheld"


def test_a_waiver_runs_out_and_no_clock_set_back_revives_it(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    ward.finds(fid_marg_jsd=0.2)
    ward.judges()
    today = datetime.now(UTC).date()
    with pytest.raises(ConfigError, match="is past"):
        waive(ward.lake, ward.cell(), "jsd_mean", until=today - timedelta(days=1), reason="x", **OFFICER)
    waive(ward.lake, ward.cell(), "jsd_mean", until=today, reason="x", **OFFICER)
    assert signed(ward).state == "passed"
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "now", lambda _: tomorrow)
        state = stepped(ward)
        assert (state.state, [w.rule for w in state.lapsed]) == ("withheld", ["jsd_mean"])
    with monkeypatch.context() as patch:  # one entry of the day after, then the clock goes back
        patch.setattr("time.time_ns", lambda: int(tomorrow.timestamp() * 1e9))
        ward.lake.journal.append("operations", {"kind": "gc"})
    assert stepped(ward).state == "withheld"


def test_todays_thresholds_judge_and_void_earlier_signatures(ward: Ward) -> None:
    signed(ward)
    ward.asks(gate="{jsd_mean_max: 0.001}")
    state = stepped(ward)
    assert state.state == "withheld"
    assert "divergence" in state.reasons[0]
    ward.asks(gate="{jsd_mean_max: 0.04}")
    assert stepped(ward).state == "awaiting_signature", "another seal: what was signed had other thresholds"
    ward.asks()
    assert stepped(ward).state == "published"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"extra": "seed: 7\n"}, "seed"),
        ({"extra": "protected: [sex]\n"}, "protected"),
        ({"release": "{generator: independent, rows: 5000}"}, "asks for 5,000 rows"),
    ],
)
def test_what_has_moved_on_is_withheld(ward: Ward, asked: dict[str, str], words: str) -> None:
    ward.asks(**asked)
    state = stepped(ward)
    assert state.state == "withheld"
    assert words in " ".join(state.reasons)


def test_the_candidate_is_named_before_it_is_evaluated(ward: Ward) -> None:
    """Somebody who looks at the leaderboard first and then names the winner has to have it evaluated as such."""
    ward.trains("gaussian_copula")
    ward.asks(release="{generator: gaussian_copula}")
    assert "named independent for release" in stepped(ward).reasons[0]
    ward.judges("gaussian_copula")
    assert stepped(ward).state == "awaiting_signature"


def test_rows_drawn_anew_need_a_new_evaluation(ward: Ward) -> None:
    """A new model by the launchpad: its rows were never judged."""
    from release_ward import COMPUTE

    from pipeline.workflow.training import fit_step, sample_step

    signed(ward)
    lake, cell = ward.lake, ward.cell()
    fit_step(lake, cell, "independent", COMPUTE, overrides={"preset": "paper"})
    sample_step(lake, cell, "independent")
    state = stepped(ward)
    assert state.state == "withheld"
    assert "another version" in state.reasons[0]
    ward.judges()
    state = stepped(ward)
    assert (state.state, state.overrides) == ("awaiting_signature", {"preset": "paper"})


def test_a_generator_that_failed_is_withheld_with_its_reason(ward: Ward) -> None:
    ward.trains("independent", no_such_setting=1)
    state = stepped(ward)
    assert state.state == "withheld"
    assert "no_such_setting" in state.reasons[0]


def test_a_file_that_names_a_generator_it_does_not_enable_is_refused(ward: Ward) -> None:
    ward.asks(release="{generator: vae}")
    with pytest.raises(ConfigError, match="named but not enabled"):
        ward.cell()


def test_the_budget_is_read_from_the_ledger_at_the_time(ward: Ward) -> None:
    signed(ward)
    ward.asks(extra="privacy: {budget: {epsilon: 3, delta: 0.001}}\n")
    state = stepped(ward)
    assert state.state == "withheld"
    assert "more than its budget" in " ".join(state.reasons)
    assert "privacy_budget" not in {r.name for r in state.verdict.rules}


def test_a_training_without_an_entry_in_the_ledger_is_withheld(ward: Ward) -> None:
    signed(ward)
    for entry in (ward.home.journal / "privacy").rglob("*.json"):
        entry.unlink()
    assert "no finished training" in stepped(ward).reasons[0]


# ---- what was changed by hand


def test_a_verdict_edited_by_hand_is_refused(ward: Ward) -> None:
    ward.finds(fid_marg_jsd=0.2)
    ward.judges()
    path = ward.lake.tables.path(ward.current("evaluation/independent"), "verdict.json")
    path.chmod(0o600)
    path.write_bytes(with_verdict(path.read_bytes(), "pass"))
    refused(ward, "sha256 is")


@pytest.mark.parametrize("entered", [False, True])
def test_mending_the_hashes_and_the_journal_does_not_help(ward: Ward, entered: bool) -> None:
    ward.finds(fid_marg_jsd=0.2)
    ward.judges()
    version = ward.current("evaluation/independent")
    content = ward.lake.tables.path(version, "verdict.json").read_bytes()
    forged = forge(ward.lake.tables, version, "verdict.json", with_verdict(content, "pass"))
    if entered:
        entry = {**ward.entries("verdict")[-1], "evaluation": forged.sha256, "status": "pass"}
        ward.lake.journal.append(f"release/{COHORT}", {k: v for k, v in entry.items() if k not in ("id", "at")})
    refused(ward, "does not follow from the stored results" if entered else "knows no verdict")


def test_a_file_swapped_after_its_verdict_is_refused(ward: Ward) -> None:
    signed(ward)
    synthetic = ward.current("synthetic/independent")
    path = ward.lake.tables.path(synthetic, "data")
    path.chmod(0o600)
    path.write_bytes(ward.lake.tables.path(ward.current("features"), "data").read_bytes())
    refused(ward, "sha256 is")


def test_mending_the_swapped_files_hashes_does_not_help(ward: Ward) -> None:
    """The record of the evaluation is mended too: the verdict itself says which bytes it is about."""
    signed(ward)
    real = ward.lake.tables.path(ward.current("features"), "data").read_bytes()
    forged = forge(ward.lake.tables, ward.current("synthetic/independent"), "data", real)
    assert stepped(ward).state == "withheld"
    evaluation = ward.current("evaluation/independent")
    mended = replace(evaluation, inputs={**evaluation.inputs, forged.label: forged.sha256})
    folder = ward.lake.tables.root / evaluation.label
    for record in (folder / evaluation.version / "_version.json", folder / "_current.json"):
        record.chmod(0o600)
        record.write_bytes(mended.to_bytes())
    refused(ward, "about other synthetic and data")


def swapped_model(ward: Ward) -> tuple[Version, str, bytes]:
    """The current model, one of its files and other bytes of the same length for it."""
    model = ward.lake.models.resolve("model/independent", ward.cell().partition)
    file = next(name for name in model.files if name.startswith("replicates/"))
    return model, file, ward.lake.models.path(model, file).read_bytes().replace(b"1", b"2")


def test_a_model_swapped_after_its_training_is_refused(ward: Ward) -> None:
    signed(ward)
    model, file, content = swapped_model(ward)
    path = ward.lake.models.path(model, file)
    path.chmod(0o600)
    path.write_bytes(content)
    with pytest.raises(StoreError, match="sha256 is"):
        sample_step(ward.lake, ward.cell(), "independent")
    refused(ward, "sha256 is")


def test_mending_the_swapped_models_hashes_does_not_help(ward: Ward) -> None:
    """Its rows are drawn and judged again, but the ledger knows no training that gave it."""
    forge(ward.lake.models, *swapped_model(ward))
    sample_step(ward.lake, ward.cell(), "independent")
    ward.judges()
    state = stepped(ward)
    assert state.state == "withheld"
    assert "no finished training of it" in state.reasons[0]


def test_a_verdict_told_in_other_words_is_the_same(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an upgrade; the candidate's words are today's."""
    signed(ward)
    honest = candidate.judge

    def reworded(*arguments: Any, **more: Any) -> Verdict:
        verdict = honest(*arguments, **more)
        return replace(verdict, rules=[replace(rule, words=f"New: {rule.words}") for rule in verdict.rules])

    monkeypatch.setattr(candidate, "judge", reworded)
    state = stepped(ward)
    assert state.state == "published"
    monkeypatch.setattr(candidate, "judge", lambda *a, **k: replace(honest(*a, **k), rules=honest(*a, **k).rules[1:]))
    with pytest.raises(StoreError, match="does not follow"):
        release_state(ward.lake, ward.cell())


def test_nothing_new_of_a_retired_cohort_is_published(ward: Ward, tmp_path: Path) -> None:
    signed(ward)
    ward.asks(extra="enabled: false\n")
    state = stepped(ward)
    assert state.state == "withheld"
    assert "is retired" in state.reasons[0]
    ward.asks()
    release_id = stepped(ward).release_id
    ward.asks(extra="enabled: false\n")
    assert stepped(ward).state == "published", "what was published stays"
    assert export(ward.lake, release_id, tmp_path / "out")


def test_a_damaged_release_is_noticed(ward: Ward) -> None:
    state = published(ward)
    path = ward.lake.tables.path(state.version, "data.csv")
    path.chmod(0o600)
    path.write_bytes(b"age\n1\n")
    with pytest.raises(StoreError, match="sha256 is"):
        release_step(ward.lake, ward.cell())
    with pytest.raises(StoreError, match="sha256 is"):
        export(ward.lake, state.release_id, ward.home.root.parent / "out")


# ---- people


def test_signatures_that_mean_nothing_are_refused(ward: Ward) -> None:
    ward.asks(
        release="{generator: independent, roles: {privacy_officer: [Ada Moreau], data_steward: [Ada Moreau, Bo]}}"
    )
    for said, words in (
        ({"role": "privacy_oficer"}, "Did you mean 'privacy_officer'"),
        ({"name": "Eve"}, "does not hold the role"),
        ({"seal": "0123456789ab"}, "what was reviewed is not what stands"),
        ({"seal": release_state(ward.lake, ward.cell()).seal[:3]}, "at least 6"),
    ):
        with pytest.raises(ConfigError, match=words):
            signed(ward, **said)
    assert signed(ward, seal=release_state(ward.lake, ward.cell()).seal[:12]).lacking_roles == ["data_steward"]
    signed(ward)
    assert len(ward.entries("sign")) == 1, "signing again adds nothing"
    with pytest.raises(ConfigError, match="different people"):
        signed(ward, role="data_steward")
    assert stepped(ward).state == "awaiting_signature"
    signed(ward, role="data_steward", name="Bo")
    assert stepped(ward).state == "published"


def test_a_signature_for_other_bytes_counts_nothing(ward: Ward) -> None:
    signed(ward)
    ward.trains("independent", preset="paper")
    assert stepped(ward).state == "awaiting_signature"
    ward.trains("independent")
    assert stepped(ward).state == "published", "the bytes that were signed are back"


def test_an_objection_holds_until_the_same_role_signs(ward: Ward) -> None:
    for mode in ("manual", "auto"):
        ward.asks(release=f"{{generator: independent, mode: {mode}}}")
        reject(ward.lake, ward.cell(), reason="odd ages", **OFFICER)
        state = stepped(ward)
        assert state.state == "rejected"
        assert "odd ages" in state.reasons[0]
    assert signed(ward).state == "passed"
    assert stepped(ward).state == "published"
    with pytest.raises(ConfigError, match="published already"):
        reject(ward.lake, ward.cell(), reason="too late", **OFFICER)


def test_the_gate_alone_needs_no_signature(ward: Ward) -> None:
    ward.asks(release="{generator: independent, mode: auto}")
    with pytest.raises(ConfigError, match="gate alone"):
        signed(ward)


def test_somebody_objects_in_the_very_moment(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between reading the state and entering the release: the entry is not made, the files do not stay."""
    signed(ward)
    honest = releasing._announce

    def announce(*arguments: Any) -> None:
        reject(ward.lake, ward.cell(), reason="wait", **OFFICER)
        honest(*arguments)

    monkeypatch.setattr(releasing, "_announce", announce)
    assert stepped(ward).state == "rejected"
    assert ward.lake.tables.history("release", ward.cell().partition) == []


# ---- taking back, and again


def test_a_withdrawn_release_cannot_be_read_any_more(ward: Ward, tmp_path: Path) -> None:
    state = published(ward)
    folder = ward.lake.tables.path(state.version, "data.csv").parent
    export(ward.lake, state.release_id, tmp_path / "out")
    row = withdraw(ward.lake, state.release_id, "a patient objected", "Bo")
    assert (row.state, "a patient objected" in row.why) == ("withdrawn", True)
    assert not folder.exists()
    assert published_versions(ward.lake) == []
    with pytest.raises(ConfigError, match="withdrawn on"):
        export(ward.lake, state.release_id, tmp_path / "again")
    after = stepped(ward)
    assert (after.state, after.lacking_roles) == ("withdrawn", ["privacy_officer"])
    withdraw(ward.lake, state.release_id, "twice", "Bo")
    assert len(ward.entries("withdrawn")) == 1
    signed(ward)
    assert stepped(ward).release_id == f"{COHORT}--2026-10--r2"


def test_what_is_behind_a_withdrawn_release_is_not_collected(ward: Ward) -> None:
    state = published(ward)
    withdraw(ward.lake, state.release_id, "a patient objected", "Bo")
    tables, models, cell = ward.lake.tables, ward.lake.models, ward.cell().partition
    behind = [(tables, "evaluation/independent"), (tables, "synthetic/independent"), (models, "model/independent")]
    kept = [(store, store.resolve(asset, cell)) for store, asset in behind]
    ward.trains("independent", preset="paper")
    ward.trains("independent", no_such_setting=1)
    assert collect_garbage(ward.lake, keep=1, grace_seconds=0).gone
    for store, version in kept:
        assert store.resolve(version.asset, cell) != version
        store.verify(version)
    assert len(tables.history("synthetic/independent", cell)) == 2, "the one between is gone"


def test_after_a_withdrawal_the_gate_alone_publishes_nothing(ward: Ward) -> None:
    ward.asks(release="{generator: independent, mode: auto}")
    withdraw(ward.lake, stepped(ward).release_id, "wrong units", "Bo")
    assert stepped(ward).state == "withdrawn"
    assert len(ward.entries("published")) == 1
    signed(ward)
    assert stepped(ward).state == "published"


def test_a_newer_candidate_leaves_what_is_published_alone(ward: Ward) -> None:
    first = published(ward)
    ward.trains("independent", preset="paper")
    state = stepped(ward)
    assert (state.state, state.version, state.release_id) == ("published", first.version, first.release_id)
    assert state.waiting == "A newer candidate is waiting for signatures."
    second = published(ward)
    assert second.release_id == f"{COHORT}--2026-10--r2"
    assert [(r.release_id[-2:], r.state) for r in releases(ward.lake)] == [("r1", "superseded"), ("r2", "published")]
    assert {v.sha256 for v in published_versions(ward.lake)} == {first.version.sha256, second.version.sha256}
    withdraw(ward.lake, second.release_id, "x", "Bo")
    assert stepped(ward).state == "withdrawn"
    assert [v.sha256 for v in published_versions(ward.lake)] == [first.version.sha256]


def test_months_do_not_know_each_other(ward: Ward) -> None:
    published(ward)
    ward.makes(month="2026-11-01")
    assert stepped(ward, "2026-11-01").state == "awaiting_signature"
    assert stepped(ward).state == "published"


def test_no_such_release(ward: Ward) -> None:
    published(ward)
    with pytest.raises(NotFoundError, match=f"Did you mean '{COHORT}--2026-10--r1'"):
        withdraw(ward.lake, f"{COHORT}--2026-10--r7", "x", "Bo")
    with pytest.raises(ConfigError, match="needs a reason"):
        withdraw(ward.lake, f"{COHORT}--2026-10--r1", " ", "Bo")


# ---- killed


def test_killed_before_its_entry_the_next_run_adds_just_that(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    signed(ward)
    with monkeypatch.context() as patch:
        patch.setattr(releasing, "_announce", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            stepped(ward)
    left = ward.current("release")
    assert releases(ward.lake) == []
    assert release_state(ward.lake, ward.cell()).state == "passed", "files alone are no release"
    state = stepped(ward)
    assert (state.release_id, state.version) == (f"{COHORT}--2026-10--r1", left)


def test_files_left_behind_go_when_they_may_no_longer_leave(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    signed(ward)
    with monkeypatch.context() as patch:
        patch.setattr(releasing, "_announce", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            stepped(ward)
    reject(ward.lake, ward.cell(), reason="no", **OFFICER)
    assert stepped(ward).state == "rejected"
    assert ward.lake.tables.history("release", ward.cell().partition) == []


def test_the_same_journal_and_inputs_give_the_same_bytes(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    signed(ward)
    made = []
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(releasing, "_announce", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                stepped(ward)
        version = ward.current("release")
        made.append({name: stored.sha256 for name, stored in version.files.items()})
        ward.lake.tables.purge(version)
    assert made[0] == made[1]
