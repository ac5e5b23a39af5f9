"""The commands around a release, as a privacy officer types them: what they print, what they refuse, and how."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest
from release_ward import COHORT, Ward

from assets.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Cli = Callable[..., tuple[int, str, str]]

RELEASE = f"{COHORT}--2026-10--r1"
OFFICER = ("--as", "Ada Moreau", "--role", "privacy_officer")


@pytest.fixture
def cli(ward: Ward, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run a command as the console script does; gives exit status, stdout and stderr."""
    from pipeline.workflow.board import leaderboard_step

    leaderboard_step(ward.lake, ward.cell(), ["independent"])
    monkeypatch.setenv("DAGSTER_HOME", "")  # the command sets its own, which must not outlive the test

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cohortloom", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    return call


def done(outcome: tuple[int, str, str]) -> str:
    """All that a command printed that ended well."""
    status, out, err = outcome
    assert status == 0, err
    return out + err


def error(outcome: tuple[int, str, str]) -> str:
    """The one sentence of a command that failed as it should."""
    status, _, err = outcome
    assert status != 0
    [line] = [line for line in err.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in err
    return line


def test_from_review_to_export_and_back(cli: Cli, ward: Ward, tmp_path: Path) -> None:
    """Each command says what to type next."""
    shown = done(cli("review", COHORT))
    for words in ("awaiting signature", "independent, replicate 0", "epsilon infinite", "jsd_mean", "privacy_officer"):
        assert words in shown
    seal = json.loads(cli("review", COHORT, "--json")[1])["seal"]
    assert f"cohortloom sign {COHORT} --month 2026-10 --as NAME --role privacy_officer --seal {seal[:12]}" in shown
    assert "waits for the signature of privacy_officer" in error(cli("release", COHORT))
    assert "cohortloom release" in done(cli("sign", COHORT, *OFFICER, "--seal", seal[:12], "--comment", "seen"))
    assert f"Published: {RELEASE}" in done(cli("release", COHORT, "--month", "2026-10"))
    assert "published" in done(cli("review", COHORT))
    assert "seen" in done(cli("review", COHORT))
    [row] = json.loads(cli("releases", "--json")[1])
    assert (row["release"], row["state"]) == (RELEASE, "published")
    assert "11 files" in done(cli("export", RELEASE, tmp_path / "out"))
    assert "is not empty" in error(cli("export", RELEASE, tmp_path / "out"))
    assert "Its files are gone" in done(cli("withdraw", RELEASE, "--as", "Bo", "--reason", "wrong units"))
    assert "wrong units" in error(cli("export", RELEASE, tmp_path / "again"))
    assert "withdrawn" in done(cli("releases", COHORT))
    assert "withdrawn" in done(cli("review", COHORT))
    assert "waits for the signature" in error(cli("release", COHORT))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("sign", COHORT, "--as", "Ada", "--role", "privacy_oficer"), "Did you mean 'privacy_officer'?"),
        (("sign", COHORT, *OFFICER, "--seal", "012345"), "what was reviewed is not what stands"),
        (("sign", COHORT, *OFFICER, "--month", "2026-09"), "was not evaluated for that month (there are: 2026-10)"),
        (("review", "Wrd"), "There is no cohort 'Wrd'. Did you mean 'Ward'?"),
        (("reject", COHORT, *OFFICER, "--reason", " "), "A reason is needed"),
        (("waive", COHORT, "jsd_mean", *OFFICER, "--until", "2031-01-01", "--reason", "x"), "nothing to waive"),
        (("waive", COHORT, "jsd_men", *OFFICER, "--until", "2031-01-01", "--reason", "x"), "has no rule 'jsd_men'"),
        (("waive", COHORT, "privacy_budget", *OFFICER, "--until", "2031-01-01", "--reason", "x"), "cannot be waived"),
        (("withdraw", RELEASE, "--as", "Bo", "--reason", "x"), "There is no release"),
        (("withdraw", "r1", "--as", "Bo", "--reason", "x"), "'r1' is no release"),
        (("export", RELEASE, "out"), "There is no release"),
        (("releases", "Wrd"), "There is no cohort 'Wrd'"),
    ],
)
def test_a_mistake_gets_one_sentence_that_says_what_to_do(cli: Cli, arguments: tuple[str, ...], words: str) -> None:
    assert words in error(cli(*arguments))


def test_what_fails_is_waived_or_not_released(cli: Cli, ward: Ward) -> None:
    ward.finds(fid_marg_jsd=0.2)
    ward.judges()
    shown = done(cli("review", COHORT))
    assert "mean divergence of the columns: 0.200, at most 0.050 allowed" in shown
    assert "(RULE: jsd_mean)" in shown
    assert "nothing to sign: mean divergence" in error(cli("sign", COHORT, *OFFICER))
    assert "Not published: mean divergence" in error(cli("release", COHORT))
    said = done(cli("waive", COHORT, "jsd_mean", *OFFICER, "--until", "2031-01-01", "--reason", "small ward"))
    assert "until 2031-01-01" in said
    assert "waived until 2031-01-01 by Ada Moreau" in done(cli("review", COHORT))
    done(cli("reject", COHORT, *OFFICER, "--reason", "odd ages"))
    assert "odd ages" in done(cli("review", COHORT))
    done(cli("sign", COHORT, *OFFICER))
    assert f"Published: {RELEASE}" in done(cli("release", COHORT))


def test_what_was_changed_by_hand_is_said_in_one_sentence(cli: Cli, ward: Ward) -> None:
    path = ward.lake.tables.path(ward.current("evaluation/independent"), "verdict.json")
    path.chmod(0o600)
    path.write_text("{}")
    for command in (("review", COHORT), ("sign", COHORT, *OFFICER), ("release", COHORT)):
        assert "sha256 is" in error(cli(*command))


def test_nothing_was_released_yet(cli: Cli) -> None:
    assert "Nothing was released yet" in done(cli("releases"))
    assert cli("releases", "--json")[1].strip() == "[]"
