"""The report and the index as people open them: from a disk, without a network, on a desk, on a phone, on paper."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from selenium.webdriver import ActionChains
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from pipeline.evaluation.files import PlanFile, evaluate_files
from pipeline.evaluation.report.index import IndexRow, index_page
from pipeline.evaluation.report.sections import SECTIONS
from pipeline.features.evaluation_spec import EvaluationSpec, TaskSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from selenium.webdriver import Chrome

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
WIDTHS = (1440, 390, 360)
PAGES = ("report.html", "report_public.html", "index.html")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both reports on two small files, and an index of them."""
    folder = tmp_path_factory.mktemp("pages")
    for name, n, seed in (("train", 500, 1), ("holdout", 900, 2), ("synthetic", 500, 3)):
        rng = np.random.default_rng(seed)
        age, sex = np.clip(rng.normal(60, 12, n), 18, 95).round(1), rng.integers(0, 2, n)
        lab = (0.02 * age + rng.normal(0, 0.5, n)).round(2)
        died = rng.random(n) < 1 / (1 + np.exp(3.5 - 0.04 * age - lab))
        ward = rng.choice(["medical", "surgical", "a ward with a rather long name, east wing"], n, p=[0.5, 0.4, 0.1])
        lines = [
            f'{a},{"female" if s else "male"},{x if k % 9 else ""},"{w}",{"yes" if d else "no"}'
            for k, (a, s, x, w, d) in enumerate(zip(age, sex, lab, ward, died, strict=True))
        ]
        (folder / f"{name}.csv").write_text("\n".join(["age,sex,creatinine,ward,died", *lines]) + "\n")
    done = evaluate_files(
        train=folder / "train.csv",
        holdout=folder / "holdout.csv",
        synthetic=[folder / "synthetic.csv"],
        out=folder,
        asked=PlanFile(
            tasks=[TaskSpec(name="death", label="died")],
            protected=["sex"],
            evaluation=EvaluationSpec(profile="quick"),
        ),
    )
    figures = {r.metric: (r.value, r.ci_lo, r.ci_hi) for r in done.results if r.replicate == -1 and not r.key1}
    index = index_page(
        [
            IndexRow("clinic", "A clinic", f"2026-{m:02d}", g, verdict="pass", figures=figures, report="report.html",
                     candidate=g == "vae", release="clinic--2026-02--r1" if (m, g) == (2, "vae") else "")
            for m in range(1, 8)
            for g in ("vae", "gaussian_copula")
        ]
    )  # fmt: skip
    (folder / "index.html").write_text(index, encoding="utf-8")
    return folder


@pytest.fixture
def offline(browser: Chrome) -> Iterator[Chrome]:
    """The browser without a network; its size and network are given back afterwards."""
    nothing = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    browser.execute_cdp_cmd("Network.enable", {})
    browser.execute_cdp_cmd("Network.emulateNetworkConditions", nothing)
    browser.get_log("browser")
    yield browser
    browser.execute_cdp_cmd("Network.emulateNetworkConditions", {**nothing, "offline": False})
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    browser.execute_cdp_cmd("Network.disable", {})


def opened(browser: Chrome, page: Path, width: int) -> None:
    """Open a page at a width and scroll through it, so that everything is drawn."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())

    def all_drawn(b: Chrome) -> bool:
        todo = "document.querySelector('.plot:not(.js-plotly-plot)')"
        return b.execute_script(f"const p = {todo}; if (p) p.scrollIntoView({{behavior: 'instant'}}); return !p")

    WebDriverWait(browser, 60, poll_frequency=0.1).until(all_drawn, "not every figure was drawn")
    if folder := os.environ.get("COHORTLOOM_SCREENSHOTS"):
        browser.execute_script("window.scrollTo(0, 0)")
        browser.save_screenshot(str(Path(folder) / f"{page.stem}-{width}.png"))


def complaints(browser: Chrome) -> list[str]:
    """What the console holds against the page, and what it loaded from elsewhere."""
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    logged = [e["message"] for e in browser.get_log("browser") if e["level"] in ("SEVERE", "WARNING")]
    return logged + [name for name in loaded if not name.startswith(("data:", "blob:", "file:"))]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_opens_offline_at_every_width(offline: Chrome, pages: Path, name: str) -> None:
    for width in WIDTHS:
        opened(offline, pages / name, width)
        assert complaints(offline) == []
        wide = offline.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
        assert wide <= 0, f"{name} is {wide} px too wide at {width} px"
        out = offline.execute_script(
            "return [...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll') && !e.closest('.sr') && "
            "!e.closest('svg') && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 200))"
        )
        assert out == [], width


@pytest.mark.parametrize("name", PAGES[:2])
def test_every_section_is_there_to_be_read(offline: Chrome, pages: Path, name: str) -> None:
    opened(offline, pages / name, 1440)
    for place in ("verdict", "headlines", "rules", *(s.id for s in SECTIONS), "figures", "methods"):
        text, height = offline.execute_script(
            "const s = document.getElementById(arguments[0]); return [s.innerText, s.getBoundingClientRect().height]",
            place,
        )
        assert len(text) > 60, place
        assert height > 60, place
    assert offline.execute_script("return document.querySelectorAll('.js-plotly-plot .main-svg').length") >= 5
    offline.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    assert complaints(offline) == []


def test_it_is_used_by_keyboard_alone(offline: Chrome, pages: Path) -> None:
    opened(offline, pages / "report.html", 390)
    offline.execute_script("window.scrollTo(0, 0)")
    ActionChains(offline).send_keys(Keys.TAB).perform()
    focused = "return document.activeElement"
    assert offline.execute_script(f"{focused}.getAttribute('href')") == "#verdict"
    assert offline.execute_script(f"{focused}.getBoundingClientRect().left") >= 0, (
        "the skip link shows when it has focus"
    )
    ActionChains(offline).send_keys(Keys.ENTER).perform()
    assert offline.execute_script("return location.hash") == "#verdict"
    unreachable = offline.execute_script(
        "return [...document.querySelectorAll('.scroll')].filter(e => e.tabIndex < 0 || !e.getAttribute('aria-label')).length"
    )
    assert unreachable == 0
    folded = "return document.querySelectorAll('details:not([open])').length"
    before = offline.execute_script(folded)
    assert before > 0
    offline.execute_script("document.querySelector('details:not([open]) summary').focus()")
    ActionChains(offline).send_keys(Keys.ENTER).perform()
    assert offline.execute_script(folded) == before - 1


def test_on_paper_everything_is_open_and_fits(offline: Chrome, pages: Path) -> None:
    opened(offline, pages / "report_public.html", 794)
    offline.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    offline.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert offline.execute_script("return document.querySelectorAll('details:not([open])').length") == 0
    widths = offline.execute_script(
        "return [...document.querySelectorAll('.main-svg')].map(e => e.getBoundingClientRect().right)"
    )
    assert widths
    assert max(widths) <= 794
    assert offline.execute_script("return document.documentElement.scrollWidth") <= 794
    assert offline.execute_script("return getComputedStyle(document.querySelector('nav')).display") == "none"
    offline.execute_script("window.dispatchEvent(new Event('afterprint'))")
    assert complaints(offline) == []
