"""What a data engineer sees: the graph, a partition made from the launchpad, the report's numbers as metadata."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from e2e_home import cohortloom
from selenium.common.exceptions import (
    ElementClickInterceptedException,
    NoSuchElementException,
    StaleElementReferenceException,
)
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
MONTH = "2026-03-01"
PARTITION = f"demo|{MONTH}"


def text(browser: Chrome) -> str:
    # Between two pages there is no body for a moment.
    return str(browser.execute_script("return document.body ? document.body.innerText : ''"))


def wait_for(browser: Chrome, words: str, seconds: float = 60) -> None:
    WebDriverWait(browser, seconds).until(
        lambda b: words in text(b), f"'{words}' did not appear in:\n{text(browser)[:3000]}"
    )


def press(browser: Chrome, label: str, *, shift: bool = False, ellipsis: bool = True) -> None:
    """Click the first button with the words `label` (or `label…`); the page may draw it anew between finding and clicking.

    Nothing is looked at after the click: what stood in the page before may be gone by then.
    """
    wanted = (label, f"{label}…") if ellipsis else (label,)

    def attempt(b: Chrome) -> bool:
        for found in b.find_elements(By.TAG_NAME, "button"):
            if found.text.strip() in wanted:
                if shift:
                    ActionChains(b).key_down(Keys.SHIFT).click(found).key_up(Keys.SHIFT).perform()
                else:
                    found.click()
                return True
        return False

    redrawn = [StaleElementReferenceException, ElementClickInterceptedException]
    WebDriverWait(browser, 60, ignored_exceptions=redrawn).until(attempt, f"there is no button '{label}'")


def choose_partition(browser: Chrome, key: str) -> None:
    """Type a partition into the launchpad's field and take it."""

    def attempt(b: Chrome) -> bool:
        field = b.find_element(By.CSS_SELECTOR, "input[placeholder='Partition']")
        field.click()
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(key)
        time.sleep(1)  # the list of suggestions is filtered while one types
        field.send_keys(Keys.ENTER)
        return b.find_element(By.CSS_SELECTOR, "input[placeholder='Partition']").get_attribute("value") == key

    redrawn = [StaleElementReferenceException, ElementClickInterceptedException, NoSuchElementException]
    WebDriverWait(browser, 60, ignored_exceptions=redrawn).until(attempt, "the partition could not be chosen")


def screenshot(browser: Chrome, name: str) -> None:
    """Kept where COHORTLOOM_SCREENSHOTS says, for people to look at."""
    if folder := os.environ.get("COHORTLOOM_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        browser.save_screenshot(str(Path(folder) / f"{name}.png"))


def test_the_asset_graph_shows_every_group(browser: Chrome, ui: str) -> None:
    browser.get(f"{ui}/asset-groups")
    for group in ("ingest", "features", "generation", "evaluation", "catalog"):
        wait_for(browser, group)
    screenshot(browser, "graph")


def test_a_partition_is_materialised_from_the_launchpad(browser: Chrome, ui: str) -> None:
    page = f"{ui}/assets/cohort_inputs?view=partitions&partition={quote(PARTITION)}"
    browser.get(page)
    wait_for(browser, "Materialize…")

    press(browser, "Materialize", shift=True)
    # No plain table was ever delivered to this home, so Dagster asks whether one is sure.
    wait_for(browser, "upstream assets listed below have not been materialized")
    press(browser, "Confirm")
    wait_for(browser, "Launchpad (configure assets)")
    wait_for(browser, "No errors")
    choose_partition(browser, PARTITION)
    screenshot(browser, "launchpad")
    # The button of the page behind ends in an ellipsis and stands first, under the dialog.
    press(browser, "Materialize", ellipsis=False)

    def made(b: Chrome) -> bool:
        b.get(page)
        time.sleep(3)
        return "Latest materialization\nNone" not in text(b) and "deliveries" in text(b)

    WebDriverWait(browser, 300, poll_frequency=2).until(made, "the partition was not materialised")
    screenshot(browser, "materialised")
    assert re.search(r"Materialized \([1-9]", text(browser)), "other tests of this home may have made more"


def test_the_numbers_of_the_report_are_metadata(browser: Chrome, demo_home: Path, ui: str) -> None:
    done = cohortloom(demo_home, "run", "demo", "--month", "2026-03", "--generator", "independent", "--json")
    assert done.returncode == 0, done.stderr
    [row] = [r for r in json.loads(done.stdout) if r["key"] == "independent"]
    browser.get(f"{ui}/assets/evaluation/independent?view=partitions&partition={quote(PARTITION)}")
    wait_for(browser, "fid.joint.detect_auc")
    screenshot(browser, "evaluation")
    shown = text(browser)
    assert f"{row['detect_auc']['value']:.6f}"[:-1] in shown
    assert row["verdict"] in shown
    assert "report.html" in shown


def test_the_report_opens_without_network_and_without_errors(browser: Chrome, demo_home: Path, ui: str) -> None:
    [report] = sorted((demo_home / "reports" / "evaluation" / "independent").rglob("report.html"))[-1:]
    browser.get(report.as_uri())
    wait_for(browser, "independent")
    # Figures are drawn when they come into view.
    browser.execute_script("document.querySelector('.plot').scrollIntoView()")
    WebDriverWait(browser, 60).until(lambda b: b.find_elements(By.CSS_SELECTOR, ".js-plotly-plot .main-svg"))
    screenshot(browser, "report")
    severe = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert severe == []
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in loaded if name.startswith("http")] == []
