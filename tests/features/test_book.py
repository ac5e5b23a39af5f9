"""What is wrong with a file of cohorts or sources is said with the place and the nearest right word."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.features.spec import BUILT_IN_COHORTS, load_book

COHORT = "source: demo\nsubject: row\nunit: row\nsql: a.sql\ngenerators: {independent: {}}\n"


@pytest.mark.parametrize(
    ("sources", "cohort", "words"),
    [
        ("s: {format: table}\ns: {format: fhir}\n", COHORT, "sources.yaml:2: This is not valid YAML (key 's' stands twice)"),
        ("- s\n- t\n", COHORT, "sources.yaml: The file of sources must be a mapping"),
        ("s: {format: table}", "? [a, b]\n: c\n" + COHORT, "a.yaml"),
        ("s: {format: table, tables: {t: {fils: [x]}}}", COHORT, "'tables.t.fils'. Did you mean 'files'?"),
        ("s: {format: fhir, validation: {smaple: 3}}", COHORT, "'validation.smaple'. Did you mean 'sample'?"),
        ("s: {format: mimic3, accumulate: merge}", COHORT, "`accumulate: replace`"),
        ("s: {format: table}", COHORT + "source: demo\n", "a.yaml:6: This is not valid YAML (key 'source' stands twice)"),
        ("s: {format: table}", COHORT + "blocks: {dx: {sql: a.sql, min_subject: 3}}\n", "Did you mean 'min_subjects'?"),
        ("s: {format: table}", COHORT + "tasks: [{name: t, lable: x}]\n", "'tasks.0.lable'. Did you mean 'label'?"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_file_is_told_and_hides_nothing_else(
    tmp_path: Path, sources: str, cohort: str, words: str
) -> None:
    (tmp_path / "sources.yaml").write_text(sources)
    (tmp_path / "a.yaml").write_text(cohort)
    (tmp_path / "a.sql").write_text("SELECT 1 AS x")
    book = load_book([BUILT_IN_COHORTS, tmp_path])
    [reason] = book.broken.values()
    assert words in reason
    assert "support" in book.cohorts


def test_a_delivery_of_mimic_replaces_the_one_before() -> None:
    book = load_book([BUILT_IN_COHORTS])
    assert {book.source(name).accumulate for name in ("mimic3", "mimic4")} == {"replace"}


def test_asking_for_a_broken_source_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    (tmp_path / "sources.yaml").write_text("tt: {format: tabel}\nmimic4: {format: mimic4, acumulate: replace}\n")
    book = load_book([BUILT_IN_COHORTS, tmp_path])
    for name, words in (("tt", "format"), ("mimic4", "'acumulate'. Did you mean 'accumulate'?")):
        with pytest.raises(ConfigError) as raised:
            book.source(name)
        assert words in str(raised.value)
    # The one that is built in under that name is not what was meant, so its cohorts wait for the mended one.
    assert "'acumulate'" in book.broken["mimic4_codes"]
    assert "support" in book.cohorts
    (tmp_path / "sources.yaml").write_text("- s\n")
    with pytest.raises(ConfigError, match="must be a mapping"):
        load_book([BUILT_IN_COHORTS, tmp_path]).source("tt")
