"""What people decided about a cohort's releases, folded from the entries of its journal stream `release/<cohort>`.

Pure functions: entries in, decisions out. A signature, a rejection or a waiver is given for one seal (the bytes, the
evaluation, the settings and the privacy spend that were looked at) and for nothing else; a withdrawal voids every
signature and waiver of its month that was given before it. Reading the lake and publishing is in
`workflow/releasing.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.features.spec import ReleaseSpec
    from pipeline.release.gate import Rule, Verdict

    Entry = Mapping[str, Any]

NEVER_WAIVED: tuple[str, ...] = ("schema_adherence", "exact_unique_matches", "exact_match_excess")
"""Rules of the gate that nobody can waive; the privacy budget is no rule of the gate and cannot be waived either."""
PRIVACY_BUDGET = "privacy_budget"


@dataclass(frozen=True)
class Decision:
    """Who said something in which role, and when.

    Attributes:
        role: The role it was said in.
        name: Who said it.
        at: When, UTC, ISO 8601, as the journal noted it.
        words: The comment of a signature, the reason of anything else.
        user: The operating system's user who typed it.
    """

    role: str
    name: str
    at: str
    words: str = ""
    user: str = ""


@dataclass(frozen=True)
class Waiver(Decision):
    """One rule that may be missed until a day (that day included, UTC)."""

    rule: str = ""
    until: str = ""

    def holds(self, now: datetime) -> bool:
        """Is it still good at `now`?"""
        end = datetime.combine(date.fromisoformat(self.until), datetime.min.time(), UTC) + timedelta(days=1)
        return now < end


@dataclass(frozen=True)
class Issue:
    """A release as the journal knows it.

    Attributes:
        release_id: `<cohort>--<YYYY-MM>--r<k>`.
        month: First day of its month.
        generator: Whose rows were published.
        seal: What was signed for.
        sha256: Of the published version.
        at: When it was published.
        withdrawn: Who took it back, when and why; None while it stands.
        inputs: Label to sha256 of what it was made from; known also after its files were purged.
    """

    release_id: str
    month: str
    generator: str
    seal: str
    sha256: str
    at: str
    withdrawn: Decision | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Decisions:
    """What holds for one seal at one moment.

    Attributes:
        signatures: One a role that has signed and not taken it back.
        rejections: One a role whose last word was no.
        waivers: Those that hold now.
        lapsed: Those that have run out.
        lacking: Roles that have not signed, in the order of the cohort's file.
        withdrawn: Was a release of this month withdrawn? Then the gate alone publishes nothing more in it.
    """

    signatures: list[Decision] = field(default_factory=list)
    rejections: list[Decision] = field(default_factory=list)
    waivers: list[Waiver] = field(default_factory=list)
    lapsed: list[Waiver] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)
    withdrawn: bool = False

    def unwaived(self, verdict: Verdict) -> list[Rule]:
        """The rules that keep the verdict from passing and are not waived, fails first."""
        waived = {w.rule for w in self.waivers}
        return [r for r in failing(verdict) if r.name not in waived or (r.name in NEVER_WAIVED and r.status == "fail")]

    def allows(self, release: ReleaseSpec) -> bool:
        """May what has passed its gate be published: nobody objects, and everybody has signed who must?"""
        by_the_gate = release.mode == "auto" and not self.withdrawn
        return not self.rejections and (by_the_gate or (bool(release.roles) and not self.lacking))


def failing(verdict: Verdict) -> list[Rule]:
    """The rules that keep a verdict from passing, fails before underpowered ones."""
    return [r for status in ("fail", "underpowered") for r in verdict.rules if r.status == status]


def decisions(entries: Sequence[Entry], month: str, seal: str, release: ReleaseSpec, now: datetime) -> Decisions:
    """What holds for `seal` at `now`.

    The last word of a role counts. A signature counts if the cohort's file names the role and the person, if it came
    after every withdrawal of the month, and if the same person has not signed for another role before.

    Args:
        entries: The cohort's stream, in order.
        month: First day of the month.
        seal: What would be published.
        release: What the cohort's file says of roles and mode.
        now: The present, as the journal knows it.
    """
    last: dict[str, tuple[str, Decision]] = {}
    waivers: dict[str, Waiver] = {}
    withdrawn = False
    for entry in (e for e in entries if e.get("month") == month):
        kind = entry.get("kind")
        if kind == "withdrawn":
            withdrawn = True
            last = {role: said for role, said in last.items() if said[0] == "reject"}
            waivers.clear()
        if entry.get("seal") != seal or not may_speak(release, entry.get("role", ""), entry.get("name", "")):
            continue
        if kind in ("sign", "reject"):
            last.pop(entry["role"], None)  # so that the order is that of the last words
            last[entry["role"]] = (kind, Decision(**_who(entry)))
        elif kind == "waive":
            waivers[entry["rule"]] = Waiver(**_who(entry), rule=entry["rule"], until=entry["until"])
    signatures: list[Decision] = []
    for kind, said in last.values():
        if kind == "sign" and person(said.name) not in {person(s.name) for s in signatures}:
            signatures.append(said)
    signed = {s.role for s in signatures}
    return Decisions(
        signatures=signatures,
        rejections=[said for kind, said in last.values() if kind == "reject"],
        waivers=[w for w in waivers.values() if w.holds(now)],
        lapsed=[w for w in waivers.values() if not w.holds(now)],
        lacking=[role for role in release.roles if role not in signed],
        withdrawn=withdrawn,
    )


def issues(entries: Sequence[Entry], month: str | None = None) -> list[Issue]:
    """The releases of a cohort (of one month, if given) in the order in which they were published."""
    withdrawals = {e["release_id"]: Decision(**_who(e)) for e in entries if e.get("kind") == "withdrawn"}
    return [
        Issue(
            e["release_id"],
            e["month"],
            e["generator"],
            e["seal"],
            e["sha256"],
            e["at"],
            withdrawals.get(e["release_id"]),
            e.get("inputs", {}),
        )
        for e in entries
        if e.get("kind") == "published" and month in (None, e["month"])
    ]


def next_release_id(entries: Sequence[Entry], cohort: str, month: str) -> str:
    """The id that the next release of the month gets."""
    return f"{cohort}--{month[:7]}--r{len(issues(entries, month)) + 1}"


def cohort_of(release_id: str) -> str:
    """The cohort in a release's id.

    Raises:
        ConfigError: the text is no release id.
    """
    cohort, _, rest = release_id.rpartition("--")
    cohort, _, month = cohort.rpartition("--")
    if not cohort or not month or not rest.startswith("r"):
        raise ConfigError(f"'{release_id}' is no release.", todo="Releases are called like demo--2026-10--r1.")
    return cohort


def verdict_known(entries: Sequence[Entry], month: str, evaluation: str) -> bool:
    """Did the pipeline itself enter a verdict for exactly this evaluation (its sha256)?"""
    return any(e.get("kind") == "verdict" and (e["month"], e["evaluation"]) == (month, evaluation) for e in entries)


def person(name: str) -> str:
    """A name as it is compared: case and spaces make no other person."""
    return " ".join(name.split()).casefold()


def may_speak(release: ReleaseSpec, role: str, name: str) -> bool:
    """Does the cohort's file know the role, and the person in it (a role without names is open to anybody)?"""
    names = release.roles.get(role)
    return names is not None and bool(person(name)) and (not names or person(name) in {person(n) for n in names})


def check_speaker(release: ReleaseSpec, role: str, name: str) -> None:
    """Refuse a role or a person that the cohort's file does not name.

    Raises:
        ConfigError: with the nearest role or name.
    """
    if role not in release.roles:
        raise ConfigError(f"The cohort's file names no role '{role}'.", todo=nearest(role, list(release.roles)))
    if not person(name):
        raise ConfigError("A decision needs the name of who makes it.", todo="Give it with --as.")
    if not may_speak(release, role, name):
        raise ConfigError(f"'{name}' does not hold the role '{role}'.", todo=nearest(name, release.roles[role]))


def check_waivable(verdict: Verdict, rule: str) -> None:
    """Refuse to waive a rule that is unknown, that holds anyway, or that nobody can waive.

    Raises:
        ConfigError: with the nearest rule, or why not.
    """
    known = {r.name: r for r in verdict.rules}
    doubtful = rule in known and known[rule].status == "underpowered"
    if (rule in NEVER_WAIVED and not doubtful) or rule == PRIVACY_BUDGET:
        raise ConfigError(f"'{rule}' cannot be waived.", todo="It protects people; mend the generator or the budget.")
    if rule not in known:
        raise ConfigError(f"The verdict has no rule '{rule}'.", todo=nearest(rule, [r.name for r in failing(verdict)]))
    if known[rule] not in failing(verdict):
        raise ConfigError(f"'{rule}' is kept: there is nothing to waive.")


def _who(entry: Entry) -> dict[str, str]:
    return {
        "role": entry.get("role", ""),
        "name": entry["name"],
        "at": entry["at"],
        "words": entry.get("words", ""),
        "user": entry.get("user", ""),
    }
