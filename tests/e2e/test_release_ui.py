"""What a privacy officer sees: a failed verdict keeps a cohort back, a signature lets it out, the card says how it was made."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from e2e_home import cohortloom
from selenium.common.exceptions import JavascriptException, TimeoutException
from selenium.webdriver.support.ui import WebDriverWait
from test_ui import choose_partition, press, screenshot, text, wait_for

from pipeline.store.home import Home
from pipeline.store.lake import Lake

if TYPE_CHECKING:
    from pathlib import Path

    from selenium.webdriver import Chrome

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
MONTH = "2026-02"
PARTITION = f"demo|{MONTH}-01"
GENERATOR = "gaussian_copula"
OFFICER = ("--as", "Ada Moreau", "--role", "privacy_officer")


def page(ui: str, asset: str) -> str:
    return f"{ui}/assets/{asset}?view=partitions&partition={quote(PARTITION)}"


def materialise(browser: Chrome, ui: str, asset: str, *, config: str = "") -> None:
    """From the launchpad of an asset's page, as test_ui.py does it; `config` replaces what the launchpad shows."""
    browser.get(page(ui, asset))
    wait_for(browser, "Materialize")
    press(browser, "Materialize", shift=True)
    try:  # asked where something upstream was never made in this home
        WebDriverWait(browser, 5).until(lambda b: "upstream assets listed below" in text(b))
        press(browser, "Confirm")
    except TimeoutException:
        pass
    wait_for(browser, "Launchpad (configure assets)")
    wait_for(browser, "No errors")
    choose_partition(browser, PARTITION)
    if config:
        editor = "document.querySelector('.CodeMirror').CodeMirror"

        def typed(b: Chrome) -> bool:
            """Choosing a partition may load the launchpad's own text once more, over what was typed."""
            b.execute_script(f"{editor}.setValue(arguments[0])", config)
            time.sleep(3)  # what was typed is checked while one waits
            return config in b.execute_script(f"return {editor}.getValue()")

        not_drawn_yet = [JavascriptException]
        WebDriverWait(browser, 60, ignored_exceptions=not_drawn_yet).until(typed, "the launchpad's text did not stay")
        wait_for(browser, "No errors")
    screenshot(browser, f"release-launchpad-{asset.replace('/', '-')}")
    press(browser, "Materialize", ellipsis=False)


def until_shown(browser: Chrome, ui: str, asset: str, *words: str) -> str:
    """Wait until the page of the asset's partition shows all the words; gives its text."""

    def shown(b: Chrome) -> bool:
        b.get(page(ui, asset))
        time.sleep(3)
        return all(word in text(b) for word in words)

    WebDriverWait(browser, 240, poll_frequency=1).until(shown, f"{words} did not appear")
    return text(browser)


def done(root: Path, *arguments: str) -> str:
    """Output of a command that must end well."""
    outcome = cohortloom(root, *arguments)
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stdout


def overrides(root: Path) -> dict[str, Any]:
    """What the launchpad changed for the model that is current."""
    month = {"cohort": "demo", "month": f"{MONTH}-01"}
    return Lake(Home(root)).models.resolve(f"model/{GENERATOR}", month).info["overrides"]


def test_a_failed_verdict_keeps_it_back_and_a_signature_lets_it_out(browser: Chrome, demo_home: Path, ui: str) -> None:
    done(demo_home, "run", "demo", "--month", MONTH, "--generator", GENERATOR)
    until_shown(browser, ui, "release", "withheld", "mean divergence of the columns")
    screenshot(browser, "release-withheld")

    materialise(
        browser,
        ui,
        f"model/{GENERATOR}",
        config=f"ops:\n  model__{GENERATOR}:\n    config:\n      calibration_steps: 0\n",
    )
    WebDriverWait(browser, 240, poll_frequency=1).until(lambda _: overrides(demo_home) == {"calibration_steps": 0})
    done(demo_home, "run", "demo", "--month", MONTH, "--generator", GENERATOR, "--from", "synthetic")
    review = json.loads(done(demo_home, "review", "demo", "--month", MONTH, "--json"))
    assert review["overrides"] == {"calibration_steps": 0}
    assert review["state"] == "withheld"

    month = ("--month", MONTH, "--seal", review["seal"][:12])
    for rule in review["verdict"]["rules"]:
        if rule["status"] in ("fail", "underpowered"):
            why = ("--until", "2031-01-01", "--reason", "made-up people")
            done(demo_home, "waive", "demo", rule["name"], *OFFICER, *month, *why)
    refused = cohortloom(demo_home, "release", "demo", "--month", MONTH)
    assert "waits for the signature of privacy_officer" in refused.stderr
    assert refused.returncode != 0
    done(demo_home, "sign", "demo", *OFFICER, *month)

    materialise(browser, ui, "release")
    shown = until_shown(browser, ui, "release", "published", "demo--2026-02--r1")
    screenshot(browser, "release-published")
    assert "Ada Moreau" in shown
    assert "calibration_steps" in shown, "what the launchpad changed is named"
    [card] = sorted((demo_home / "lake" / "release").rglob("card.md"))[-1:]
    assert "| changed in the launchpad | calibration_steps=0 |" in card.read_text(encoding="utf-8")
