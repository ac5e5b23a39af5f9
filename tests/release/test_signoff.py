"""Decisions folded from journal entries: who may speak, whose word is the last, what it is worth and for how long."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from pipeline.errors import ConfigError
from pipeline.features.spec import ReleaseSpec
from pipeline.release.gate import Rule, Verdict
from pipeline.release.signoff import (
    NEVER_WAIVED,
    Decisions,
    check_speaker,
    check_waivable,
    cohort_of,
    decisions,
    issues,
    next_release_id,
)

MONTH, SEAL = "2026-10-01", "a" * 64
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
OFFICER = ReleaseSpec(roles={"privacy_officer": ["Ada Moreau"]})
TWO = ReleaseSpec(roles={"privacy_officer": [], "data_steward": []})


class Stream:
    """A journal's stream in memory."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []

    def say(self, kind: str, role: str = "privacy_officer", name: str = "Ada Moreau", **more: Any) -> None:
        at = (NOW - timedelta(days=9) + timedelta(minutes=len(self.entries))).isoformat()
        said = {"kind": kind, "month": MONTH, "seal": SEAL, "role": role, "name": name, "words": "w", "user": "u"}
        self.entries.append({**said, "at": at, **more})

    def published(self, number: int, seal: str = SEAL) -> None:
        facts = {"release_id": f"ward--2026-10--r{number}", "generator": "vae", "sha256": str(number)}
        self.say("published", **facts, seal=seal)

    def folded(self, release: ReleaseSpec = OFFICER, *, seal: str = SEAL, now: datetime = NOW) -> Decisions:
        return decisions(self.entries, MONTH, seal, release, now)


@pytest.fixture
def stream() -> Stream:
    return Stream()


def test_a_signature_is_for_one_seal_and_one_month(stream: Stream) -> None:
    stream.say("sign")
    assert stream.folded().allows(OFFICER)
    assert not stream.folded(seal="b" * 64).allows(OFFICER)
    assert decisions(stream.entries, "2026-09-01", SEAL, OFFICER, NOW).lacking == ["privacy_officer"]


@pytest.mark.parametrize(
    ("role", "name"),
    [("privacy_officer", "Eve"), ("data_steward", "Ada Moreau"), ("privacy_officer", " "), ("", "Ada Moreau")],
)
def test_a_signature_of_the_wrong_role_or_person_counts_nothing(stream: Stream, role: str, name: str) -> None:
    """Also one that was written into the journal by hand."""
    stream.say("sign", role, name)
    assert stream.folded().signatures == []
    with pytest.raises(ConfigError):
        check_speaker(OFFICER, role, name)


def test_names_are_compared_without_case_and_spaces(stream: Stream) -> None:
    stream.say("sign", name="ada  MOREAU")
    assert stream.folded().allows(OFFICER)


def test_a_wrong_role_or_name_is_told_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'privacy_officer'"):
        check_speaker(OFFICER, "privacy_oficer", "Ada Moreau")
    with pytest.raises(ConfigError, match="Did you mean 'Ada Moreau'"):
        check_speaker(OFFICER, "privacy_officer", "Ada Morau")


def test_several_roles_are_signed_by_different_people(stream: Stream) -> None:
    stream.say("sign", "data_steward", "Ada")
    stream.say("sign", "privacy_officer", "ada ")
    assert stream.folded(TWO).lacking == ["privacy_officer"]
    stream.say("sign", "privacy_officer", "Bo")
    assert stream.folded(TWO).allows(TWO)


def test_the_last_word_of_a_role_counts(stream: Stream) -> None:
    stream.say("sign")
    stream.say("reject")
    assert not stream.folded().allows(OFFICER)
    assert [r.name for r in stream.folded().rejections] == ["Ada Moreau"]
    stream.say("sign")
    assert stream.folded().allows(OFFICER)


def test_mode_auto_needs_nobody_but_heeds_an_objection(stream: Stream) -> None:
    auto = ReleaseSpec(mode="auto")
    assert stream.folded(auto).allows(auto)
    stream.say("reject", name="anybody")
    assert not stream.folded(auto).allows(auto)


def test_a_withdrawal_voids_what_was_signed_and_waived_before_it(stream: Stream) -> None:
    auto = ReleaseSpec(mode="auto")
    stream.say("waive", rule="jsd_mean", until="2027-01-01")
    stream.say("sign")
    stream.published(1)
    stream.say("withdrawn", release_id="ward--2026-10--r1", role="")
    for release in (OFFICER, auto):
        after = stream.folded(release)
        assert (after.signatures, after.waivers, after.allows(release)) == ([], [], False)
    stream.say("sign")
    assert stream.folded().allows(OFFICER)
    assert stream.folded(auto).allows(auto)


def test_an_objection_outlives_a_withdrawal(stream: Stream) -> None:
    stream.say("reject")
    stream.say("withdrawn", release_id="ward--2026-10--r1", role="")
    assert len(stream.folded().rejections) == 1


def test_nobody_to_sign_means_nobody_signs() -> None:
    """After a withdrawal the gate alone publishes nothing, and a file without roles has nobody else."""
    nobody = ReleaseSpec(mode="auto", roles={})
    assert not Decisions(withdrawn=True).allows(nobody)


def test_a_waiver_holds_through_its_last_day(stream: Stream) -> None:
    stream.say("waive", rule="jsd_mean", until="2026-11-20")
    assert [w.rule for w in stream.folded().waivers] == ["jsd_mean"]
    late = stream.folded(now=datetime(2026, 11, 21, tzinfo=UTC))
    assert (late.waivers, [w.rule for w in late.lapsed]) == ([], ["jsd_mean"])


def rule(name: str, status: Any) -> Rule:
    return Rule(name, "privacy", 0.1, 0.2, None, status, None, f"{name} is {status}")


def test_waivers_lift_their_rule_only_and_never_copies(stream: Stream) -> None:
    names = ["jsd_mean", "mia_max_auc", *NEVER_WAIVED]
    verdict = Verdict("fail", [rule(n, "fail") for n in names] + [rule("ok", "pass"), rule("w", "warn")])
    for name in ("jsd_mean", *NEVER_WAIVED):
        stream.say("waive", rule=name, until="2027-01-01")
    assert [r.name for r in stream.folded().unwaived(verdict)] == ["mia_max_auc", *NEVER_WAIVED]
    check_waivable(verdict, "jsd_mean")
    for name in (*NEVER_WAIVED, "privacy_budget"):
        with pytest.raises(ConfigError, match="cannot be waived"):
            check_waivable(verdict, name)
    with pytest.raises(ConfigError, match="Did you mean 'jsd_mean'"):
        check_waivable(verdict, "jsd_men")
    for name in ("ok", "w"):
        with pytest.raises(ConfigError, match="nothing to waive"):
            check_waivable(verdict, name)


def test_underpowered_is_no_pass(stream: Stream) -> None:
    verdict = Verdict("underpowered", [rule("mia_max_auc", "underpowered")])
    assert stream.folded().unwaived(verdict) == verdict.rules
    stream.say("waive", rule="mia_max_auc", until=str(date(2027, 1, 1)))
    assert stream.folded().unwaived(verdict) == []


def test_releases_are_numbered_within_their_month(stream: Stream) -> None:
    assert next_release_id(stream.entries, "ward", MONTH) == "ward--2026-10--r1"
    stream.published(1)
    stream.published(2, seal="b" * 64)
    stream.say("withdrawn", release_id="ward--2026-10--r2", role="", name="Bo")
    assert next_release_id(stream.entries, "ward", MONTH) == "ward--2026-10--r3"
    assert next_release_id(stream.entries, "ward", "2026-09-01") == "ward--2026-09--r1"
    found = [(i.release_id[-2:], i.withdrawn.name if i.withdrawn else "") for i in issues(stream.entries)]
    assert found == [("r1", ""), ("r2", "Bo")]


def test_a_release_id_names_its_cohort() -> None:
    assert cohort_of("north--ward--2026-10--r12") == "north--ward"
    for text in ("ward", "ward--r1", "", "../x"):
        with pytest.raises(ConfigError, match="is no release"):
            cohort_of(text)
