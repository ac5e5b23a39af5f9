"""The report: one file, the same bytes, no network, every section, and nothing of a single person in the public one."""

from __future__ import annotations

import base64
import csv
import io
import json
import pkgutil
import re
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from toy_people import TASK, coded, edited, people

from pipeline.evaluation.context import Parts
from pipeline.evaluation.plan import EvaluationPlan
from pipeline.evaluation.privacy.copies import MAYBE_CHANCE
from pipeline.evaluation.protocol import Evaluation, evaluate_references, headline, run_evaluation
from pipeline.evaluation.report import figures, headline_svg, markdown_summary, write_report
from pipeline.evaluation.report.findings import findings
from pipeline.evaluation.report.public import public_details, public_results, rare_of
from pipeline.evaluation.report.sections import SECTIONS
from pipeline.evaluation.report.tables import csv_link, shown
from pipeline.evaluation.results import MetricResult
from pipeline.features.evaluation_spec import GateSpec
from pipeline.release.gate import judge
from pipeline.release.signoff import Waiver

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pipeline.features.cohort import Cohort

    Judged = tuple[Evaluation, dict[str, list[MetricResult]]]

CANARY = 73.1649
SUBJECT = "Canary-Quillfeather-0042"
RARE = "zeppelin"
PLAN = EvaluationPlan((TASK,), ("sex",), profile="quick")


def planted(cohort: Cohort) -> Cohort:
    """One person with an id and values that nobody else has, and five on a ward of their own."""

    def change(name: str, x: pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        if name == "id":
            return pa.array([SUBJECT, *x.to_pylist()[1:]])
        if name == "ward":
            return pa.array([RARE] * 5 + x.to_pylist()[5:], x.type)
        return pa.array([CANARY, *x.to_pylist()[1:]]) if x.type == pa.float64() else x

    return replace(edited(with_ward(cohort), change), subject=np.array([SUBJECT, *cohort.subject[1:]]))


def with_ward(cohort: Cohort) -> Cohort:
    """The same people in a schema that knows the rare ward."""
    columns = [
        c.model_copy(update={"levels": [*(c.levels or []), RARE]}) if c.name == "ward" else c
        for c in cohort.schema.columns
    ]
    return replace(cohort, schema=cohort.schema.model_copy(update={"columns": columns}))


@pytest.fixture(scope="module")
def judged() -> Judged:
    parts = Parts(*(planted(people(n, s)) for n, s in ((500, 1), (400, 2), (250, 3), (250, 4))))
    references = evaluate_references(parts, PLAN)
    made = [planted(people(500, 8)), with_ward(people(500, 9))]
    return run_evaluation(parts, made, PLAN, references=references), references


def written(folder: Path, evaluation: Evaluation, references: dict[str, list[MetricResult]], **more: object) -> str:
    verdict = judge(evaluation.results, GateSpec(), PLAN, references=references)
    given = {
        "title": "toy: <vae> & friends",
        "facts": {"Cohort": "toy"},
        "results": evaluation.results,
        "references": references,
        "verdict": verdict,
        "details": evaluation.details,
        **more,
    }
    return write_report(folder / "report.html", **given).read_text()


def without_plotly(html: str) -> str:
    return re.sub(r"<script>/\*\*.*?</script>", "", html, flags=re.S)


def drawn(page: str) -> dict[str, Any]:
    """The data of the page's figures."""
    return json.loads(re.search(r'id="figure-data">(.*?)</script>', page, re.S).group(1))


def files_in(page: str) -> list[list[list[str]]]:
    """The cells of every CSV in the page."""
    return [
        list(csv.reader(io.StringIO(base64.b64decode(found).decode())))
        for found in re.findall(r"text/csv;charset=utf-8;base64,([^\"]+)", page)
    ]


@pytest.mark.parametrize("profile", ["internal", "public"])
def test_same_inputs_same_bytes(tmp_path: Path, judged: Judged, profile: str) -> None:
    (tmp_path / "other").mkdir()
    stored = replace(judged[0], details=json.loads(json.dumps(judged[0].details)))
    again = written(tmp_path / "other", stored, judged[1], profile=profile)
    assert written(tmp_path, *judged, profile=profile) == again


def test_one_file_without_network(tmp_path: Path, judged: Judged) -> None:
    html = written(tmp_path, *judged)
    assert html.count("plotly.js v") == 1
    page = without_plotly(html)
    assert len(page) < 1_500_000
    assert not re.findall(r"(?:src|href)=\"(?!#|data:)", page)
    assert not re.findall(r"@import|url\(|https?://(?!www\.w3\.org/2000/svg)", page)
    assert "default-src 'none'" in page
    assert str(tmp_path) not in page
    assert "toy: &lt;vae&gt; &amp; friends" in page


def test_every_module_of_figures_is_in_one_section() -> None:
    modules = {m.name for m in pkgutil.iter_modules(figures.__path__)} - {"base"}
    placed = [name for section in SECTIONS for name in section.modules]
    assert len(placed) == len(set(placed))
    assert modules == set(placed)
    for name in modules:
        module = import_module(f"{figures.__name__}.{name}")
        assert module.FIGURES + module.INTERNAL + module.TABLES


@pytest.mark.parametrize("profile", ["internal", "public"])
def test_every_section_stands_in_order_and_leaves_no_hole(tmp_path: Path, judged: Judged, profile: str) -> None:
    page = without_plotly(written(tmp_path, *judged, profile=profile))
    ids = ["verdict", "headlines", "rules", *(s.id for s in SECTIONS), "figures", "methods"]
    places = [page.index(f'<section id="{name}"') for name in ids]
    assert places == sorted(places)
    for section, text in zip(ids, re.findall(r"<section .*?</section>", page, re.S), strict=True):
        assert re.search(r'class="(plot|dots|nothing|findings)|<table', text), section
    for anchor in re.findall(r'href="#([^"]+)"', page):
        assert f'id="{anchor}"' in page
    found = re.findall(r' id="([^"]+)"', page)
    assert len(found) == len(set(found))
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page, re.S) + re.findall(r'class="caption">(.*?)<a', page)
    assert all(len(re.sub(r"<.*?>", "", c).strip()) > 40 for c in captions)


def test_the_public_report_tells_nothing_of_a_single_person(tmp_path: Path, judged: Judged) -> None:
    evaluation, references = judged
    page = without_plotly(written(tmp_path, evaluation, references, profile="public"))
    page += markdown_summary(evaluation.results, references, None)
    texts = [page, *(str(cells) for cells in files_in(page))]
    assert len(texts) > 3
    for text in texts:
        for secret in ("73.1649", "73.165", SUBJECT, "Quillfeather", "person-1-", "person-2-", RARE):
            assert secret not in text, secret
    for text in (str(evaluation.details), without_plotly(written(tmp_path, evaluation, references))):
        for secret in (SUBJECT, "person-1-", "person-2-"):
            assert secret not in text


def test_what_only_the_internal_report_may_draw_is_marked_and_left_out(
    tmp_path: Path, judged: Judged, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.evaluation.report.figures import base, cohort

    def inside(results: object, details: Any) -> list[base.Figure]:
        assert details["internal"]["dots"] == [1.25]
        caption = "Closer is worse; the null is the distance of two real people, in standard deviations."
        return [base.figure("dots", "Nearest pairs", caption, [{"x": details["internal"]["dots"], "y": [1]}], {})]

    monkeypatch.setattr(cohort, "INTERNAL", (inside,))
    evaluation = replace(judged[0], details={**judged[0].details, "internal": {"dots": [1.25]}})
    page = written(tmp_path, evaluation, judged[1])
    assert "internal only" in page
    assert drawn(page)["figure-dots"]["data"][0]["x"] == [1.25]
    page = written(tmp_path, evaluation, judged[1], profile="public")
    assert "internal only" not in page
    assert "figure-dots" not in page
    assert "internal" not in public_details(evaluation.details)


def test_real_counts_are_none_or_eleven_and_more(tmp_path: Path, judged: Judged) -> None:
    details = judged[0].details
    for column in details["columns"]:
        for share in column["real"]:
            assert share is None or share == 0 or share * 400 > 10.5
    hidden = [s for c in details["columns"] for s in c["real"] if s is None]
    assert hidden
    for place in details["missing"]:
        assert place["real"] is None or place["real"] == 0 or place["real"] * 400 > 10.5
    for key, count in walked(public_details(details)):
        if re.search(r"(^|_)(count|rows|people|members|others|patients|train|holdout)$", key) and isinstance(
            count, int
        ):
            assert count == 0 or count >= 11, (key, count)
    for path, plot in drawn(written(tmp_path, *judged, profile="public")).items():
        for trace in plot["data"]:
            if trace.get("name") == "holdout" and trace.get("type") == "bar":
                assert all(y in (None, 0) or y * 400 > 10.4 for y in trace["y"]), path


def walked(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf with the nearest key above it."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from walked(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from walked(inner, key)
    else:
        yield key, value


def test_axes_end_at_the_percentiles_of_training(judged: Judged) -> None:
    train = np.asarray(people(500, 1).table.column("age"))[1:]
    (age,) = (c for c in judged[0].details["columns"] if c["name"] == "age")
    low, high = np.quantile(train, [0.01, 0.99])
    assert low - 1 < age["edges"][0] < age["edges"][-1] < high + 1
    assert rare_of(judged[0].details)["ward"] == [RARE]
    (ward,) = (c for c in judged[0].details["columns"] if c["name"] == "ward")
    assert ward["levels"] == ["a", "b", "c", "d", "rare levels", "missing"]


def test_figures_on_few_people_and_rare_levels_are_not_published() -> None:
    details = {"sizes": {"holdout": 400}, "internal": {"rare": {"ward": [RARE]}}}
    rows = [
        MetricResult("fair.absent", 0.5, n=7, scope="subgroup", key1="sex=female"),
        MetricResult("fair.absent", 0.5, n=70, scope="subgroup", key1="sex=male"),
        MetricResult("fair.absent", 0.5, n=70, scope="subgroup", key1=f"sex=male, ward={RARE}"),
        MetricResult("fid.marg.tvd", 0.5, scope="column", key1="ward", key2=RARE),
        MetricResult("fid.marg.moments", 0.005, scope="column", key1="lab", key2="missing_real"),
        MetricResult("fid.marg.moments", 0.005, scope="column", key1="lab", key2="mean_real"),
        MetricResult("util.sra", 0.9, n=3),
    ]
    public = public_results(rows, details)
    assert [r.value for r in public] == [None, 0.5, None, 0.005, 0.9]
    assert "fewer than 11" in public[0].note


def test_the_verdict_comes_first_in_plain_words(tmp_path: Path, judged: Judged) -> None:
    waiver = Waiver(
        "privacy_officer", "A. Example", "2026-10-02T08:00:00", "reviewed", rule="jsd_mean", until="2026-12-31"
    )
    page = without_plotly(written(tmp_path, *judged, waivers=[waiver], accesses=3))
    first = page[page.index('<section id="verdict"') : page.index('<section id="headlines"')]
    assert "Does not pass" in first or "Cannot be judged" in first
    for words in (
        "Privacy",
        "rules hold",
        "jsd_mean",
        "2026-12-31",
        "A. Example (privacy officer)",
        "1,000 are needed",
    ):
        assert words in first, words
    assert "<dt>looks of this generator at the holdout</dt><dd>3</dd>" in page
    rules = page[page.index('<section id="rules"') : page.index('<section id="cohort"')]
    assert "What could not be judged" in rules
    assert "1,000" in rules
    assert "No rule was waived" in without_plotly(written(tmp_path, *judged))


def test_an_attackers_success_is_told_in_people(sides: object, variant: object) -> None:
    copied = ["priv.mia.tpr_at_1pct_fpr"]
    results = run_evaluation(sides.parts, [variant("copy_10pct")], EvaluationPlan(profile="quick"), metrics=copied)
    row = headline(results.results, "priv.mia.tpr_at_1pct_fpr")
    text = findings(results.results, {})[0][1]
    assert f"Of 1,000 people in training, an attacker would correctly flag {round(1000 * row.value)}" in text
    assert "wrongly flagging 10 of 1,000" in text


def test_what_each_privacy_figure_means_is_said() -> None:
    def row(metric: str, value: float, lo: float, hi: float, note: str = "") -> MetricResult:
        return MetricResult(metric, value, ci_lo=lo, ci_hi=hi, note=note)

    rows = [
        row("priv.mia.outlier_auc", 0.62, 0.58, 0.66),
        row("priv.exact_unique", 3.0, 3.0, 3.0),
        row("priv.aia.excess", 0.08, 0.03, 0.13),
        row("priv.identity_disclosure", 0.07, 0.05, 0.10),
        row("fair.absent", 2.0, 2.0, 2.0, "sex=female, ward=b"),
        row("util.inference.sign_agreement", 0.9, 0.8, 1.0),
    ]
    said = dict(findings(rows, {}))
    assert "62\N{NO-BREAK SPACE}% of the time" in said["Are unusual people safe?"]
    assert said["Are real people's records repeated?"].startswith("Yes. The synthetic rows repeat 3 ")
    secret = said["Could someone who knows a person learn a secret of theirs?"]
    assert secret.startswith("More than about people who were not in it")
    assert "0.080 better" in secret
    assert (
        "not surely below the 9\N{NO-BREAK SPACE}%" in said["Could a row be traced to a person and tell something new?"]
    )
    assert said["Is anybody left out?"].startswith("2 groups that each make up at least 1 %")
    assert "90\N{NO-BREAK SPACE}%" in said["Do effect estimates survive?"]
    fine = dict(findings([row("priv.aia.excess", 0.01, -0.02, 0.04), row("fair.absent", 0.0, 0.0, 0.0)], {}))
    assert fine["Could someone who knows a person learn a secret of theirs?"].startswith("No more than about anybody")
    assert fine["Is anybody left out?"].startswith("No.")


def test_chance_is_told_by_fresh_rows_and_coincidence_is_no_copy() -> None:
    """Against an innocent: an attack that scores 63 % on fresh rows too, and two equal rows that chance explains."""

    def row(metric: str, value: float | None, note: str = "", n: int | None = None) -> MetricResult:
        return MetricResult(metric, value, note=note, n=n)

    rows = [
        row("priv.mia.tpr_at_1pct_fpr", None, "underpowered: 834 people", 834),
        replace(row("priv.mia.max_auc", 0.55), replicate=0),
        replace(row("priv.mia.max_auc", 0.61), replicate=1),
        row("priv.mia.max_auc", 0.58),
        row("priv.mia.outlier_auc", 0.64),
        row("priv.exact_unique", 2.0, f"2 met, 0.0 expected by chance, {MAYBE_CHANCE}"),
    ]
    fresh = {"ref_fresh": [row("priv.mia.max_auc", 0.52), row("priv.mia.outlier_auc", 0.63)]}
    said, alone = dict(findings(rows, fresh)), dict(findings(rows, {}))
    members, unusual = (
        "Could someone find out who was in the training data?",
        "Are unusual people safe?",
    )
    assert "1,000 are needed, there are 834" in said[members]
    assert "61\N{NO-BREAK SPACE}% of the time" in said[members]
    assert "comes to 52\N{NO-BREAK SPACE}%" in said[members]
    assert "comes to 63\N{NO-BREAK SPACE}%" in said[unusual]
    assert "a coin does so 50 %" not in said[unusual]
    assert "a coin does so 50 %" in alone[unusual]
    assert said["Are real people's records repeated?"].startswith("This cannot be said. The synthetic rows repeat 2 ")


def test_report_without_gate_references_or_tasks(tmp_path: Path) -> None:
    parts = Parts.of_two(people(60, 1), people(50, 2))
    evaluation = run_evaluation(parts, [people(30, 3)], EvaluationPlan(profile="quick"))
    for profile in ("internal", "public"):
        page = without_plotly(written(tmp_path, evaluation, {}, verdict=None, profile=profile))
        assert "Not judged" in page
        assert "declares no task" in page
        assert "One seed was trained" in page
        assert not re.search(r"\bnan\b", re.sub(r"base64,[^\"]+", "", page).lower())
    assert headline_svg(evaluation.results, {}).startswith("data:image/svg+xml;base64,")


def test_report_of_code_blocks_and_of_one_row(tmp_path: Path) -> None:
    parts = Parts(coded(200, 1, 30), coded(150, 2, 30), coded(80, 3, 30), coded(80, 4, 30))
    for n in (150, 1):
        evaluation = run_evaluation(parts, [coded(n, 9, 30)], EvaluationPlan(profile="quick"))
        page = written(tmp_path, evaluation, {}, verdict=None, profile="public")
        assert "Codes of &#39;diagnoses&#39;" in page


def test_long_names_leave_room_for_what_is_drawn() -> None:
    """Forty columns called like sentences: short beside the picture, in full for hovering and in the CSV."""
    from pipeline.evaluation.report.figures.dependence import heatmaps

    names = [f"charge = driving while the licence is suspended, {i:02d}" for i in range(40)]
    matrix = np.eye(40).tolist()
    details = {"correlation": {"names": names, "real": matrix, "synthetic": matrix, "left_out": 0}}
    for drawn in heatmaps([], details):
        axes = drawn["layout"]["xaxis"], drawn["layout"]["yaxis"]
        assert drawn["data"][0]["x"] == drawn["data"][0]["y"] == axes[1]["tickvals"] == names
        assert max(map(len, axes[1]["ticktext"])) <= 24
        assert len(set(axes[1]["ticktext"])) == 40
        assert not axes[0]["showticklabels"]
        assert "same order" in drawn["caption"]


def test_tables_are_files_that_no_spreadsheet_runs() -> None:
    from pipeline.evaluation.report.figures.base import table

    rows = [["=cmd()", 1234567, 0.000123456, None], ["plain, text", 2, 1.0, "x"]]
    made = shown(table("t", "T", "Lower is better.", ["name", "rows", "share", "note"], rows))
    assert [text for text, _ in made["rows"][0]] == ["=cmd()", "1,234,567", "0.0001235", "—"]
    assert [right for _, right in made["columns"]] == [False, True, True, False]
    (cells,) = files_in(f'"{csv_link(["name", "rows", "share", "note"], rows)}"')
    assert cells[1:] == [["'=cmd()", "1234567", "0.000123456", ""], ["plain, text", "2", "1.0", "x"]]


def test_short_forms(judged: Judged) -> None:
    evaluation, references = judged
    verdict = judge(evaluation.results, GateSpec(), PLAN, references=references)
    text = markdown_summary(evaluation.results, references, verdict)
    assert re.match(r"\*\*(Cannot be judged|Does not pass)\.\*\*", text)
    assert "| Detection |" in text
    assert "fresh real rows" in text
    uri = headline_svg(evaluation.results, references)
    assert len(uri) < 50_000
    svg = base64.b64decode(uri.split(",")[1]).decode()
    assert svg.count("<svg") == svg.count("</svg>") == 1
    import xml.etree.ElementTree as ElementTree

    assert ElementTree.fromstring(svg).tag.endswith("svg")


def test_the_first_sentence_names_the_broken_rules() -> None:
    from pipeline.evaluation.report.verdict import gate_groups, verdict_words
    from pipeline.release.gate import Verdict
    from pipeline.release.rules.held import Rule

    def rule(i: int, status: Any) -> Rule:
        return Rule(f"r{i}", "privacy", 0.1, 0.2, None, status, None, f"rule {i} in words")

    rules = [rule(0, "warn"), *(rule(i, "fail") for i in range(1, 6)), rule(6, "underpowered"), rule(7, "pass")]
    state, name, sentence = verdict_words(Verdict("fail", rules))
    assert (state, name) == ("fail", "Does not pass")
    assert sentence.endswith("Broken: rule 1 in words; rule 2 in words; rule 3 in words; and 2 more.")
    count = gate_groups(Verdict("fail", rules), [])[0]["count"]
    assert count == "2 of 8 rules hold, 5 broken, 1 left open"
    assert "more" not in verdict_words(Verdict("underpowered", rules[-2:]))[2]
    assert verdict_words(None)[0] == ""


def test_what_was_released_in_spite_of_the_gate_is_headed_so() -> None:
    from pipeline.evaluation.report.verdict import gate_groups, verdict_words, waiver_rows
    from pipeline.release.gate import Verdict
    from pipeline.release.rules.held import Rule

    rules = [
        Rule(name, group, 0.1, 0.2, None, status, None, f"{name} in words.")
        for name, group, status in (
            ("auc", "privacy", "underpowered"), ("jsd", "fidelity", "fail"), ("gap", "fairness", "pass"),
        )
    ]  # fmt: skip
    waivers = [
        Waiver("privacy_officer", "Ada", "2026-11-01T00:00:00Z", "a small ward", rule=name, until="2031-05-06")
        for name in ("auc", "jsd")
    ]
    verdict = Verdict("fail", rules)
    state, name, sentence = verdict_words(verdict, waivers)
    assert (state, name) == ("waived", "Released with 2 rules waived")
    assert "Ada waived that" in sentence
    assert sentence.endswith("Waived: auc in words; jsd in words.")
    assert [g["state"] for g in gate_groups(verdict, waivers)] == ["waived", "waived", "pass"]
    assert waiver_rows(waivers, verdict)[0]["found"] == "auc in words."
    # One that is not waived decides as ever.
    assert verdict_words(verdict, waivers[:1])[0] == "fail"
    assert [g["state"] for g in gate_groups(verdict, waivers[:1])] == ["waived", "fail", "pass"]


def test_no_count_of_few_real_people_leaves_the_house() -> None:
    from pipeline.evaluation.report.figures.cohort import split
    from pipeline.evaluation.report.public import few_masked, public_facts

    sizes = {"train": 151, "holdout": 39, "reference0": 31, "reference1": 6, "synthetic": 151}
    (drawn_split,) = split([], {"sizes": sizes})
    assert [bar["x"][0] for bar in drawn_split["data"]] == [151, 39, 31, 151]
    assert "attacker's reference" in drawn_split["caption"].split("Not drawn")[1]
    assert few_masked("6 rows a side, at least 40 needed") == "fewer than 11 rows a side, at least 40 needed"
    assert few_masked("1,006 people, 11 rows") == "1,006 people, 11 rows"
    assert public_facts({"fresh real rows": "6"}, {}) == {"fresh real rows": "fewer than 11"}
    facts = {"fresh real rows": "37", "to bear in mind": "39 rows judged, 37 served as fresh real reference."}
    told = public_facts(facts, {"sizes": {**sizes, "reference": 37}})
    assert told["fresh real rows"] == "about 40"
    assert "37" not in told["to bear in mind"], "37 less the 31 that are drawn would be the 6"
    (row,) = public_results([MetricResult("priv.mia.max_auc", 0.6, n=6, note="6 people outside", family="privacy")], {})
    assert row.n is None
    assert row.note.startswith("fewer than 11 people")


def test_moments_of_a_rare_yes_do_not_give_its_count_away() -> None:
    """A mean of 0.005 among 800 rows is four people, and so are the standardised difference and the ratio beside it."""
    details = {
        "columns": [{"name": "died", "kind": "binary"}, {"name": "age", "kind": "continuous"}],
        "sizes": {"holdout": 800},
    }
    rows = [
        MetricResult("fid.marg.moments", value, key1=name, key2=statistic, scope="column", n=800)
        for name, statistic, value in (
            ("died", "mean_real", 0.005), ("died", "smd", 0.1), ("died", "std_ratio", 1.2), ("age", "mean_real", 0.005),
        )
    ]  # fmt: skip
    shown = {(r.key1, r.key2): r.value for r in public_results(rows, details)}
    assert [shown["died", k] for k in ("mean_real", "smd", "std_ratio")] == [None, None, None]
    assert shown["age", "mean_real"] == 0.005
