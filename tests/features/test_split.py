"""The split is frozen: it depends on a subject's id and the key, and on nothing else."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest

from pipeline.errors import ConfigError, StoreError
from pipeline.features.cohort import PARTS
from pipeline.features.source import SourceSpec
from pipeline.features.split import (
    PUBLISHED_KEY,
    assign,
    check_key,
    fingerprint,
    load_key,
    row_subjects,
    split_key,
)
from pipeline.store.home import Home
from pipeline.store.lake import Lake

if TYPE_CHECKING:
    from pathlib import Path

KEY = b"a key for these tests"


def test_proportions_and_independence_of_the_tuning_part() -> None:
    split, tune = assign([f"Patient/{i}" for i in range(40_000)], KEY)
    shares = [float(np.mean(split == part)) for part in PARTS]
    # Five standard deviations of a share of 40,000 are at most 0.0125.
    assert shares == pytest.approx([0.5, 0.25, 0.125, 0.125], abs=0.0125)
    assert not tune[split != "train"].any()
    assert tune[split == "train"].mean() == pytest.approx(0.15, abs=0.013)


def test_a_subject_keeps_its_part_whatever_else_is_there() -> None:
    ids = np.array([f"Patient/{i}" for i in range(500)])
    split, tune = assign(ids, KEY)
    more = np.concatenate([[f"New/{i}" for i in range(300)], ids[::-1], ids[:7]])
    again, tune_again = assign(more, KEY)
    assert (again[300:800] == split[::-1]).all()
    assert (again[800:] == split[:7]).all()
    assert (tune_again[300:800] == tune[::-1]).all()


def test_known_answers_so_that_no_release_reshuffles_patients() -> None:
    split, tune = assign(["Patient/1", "Patient/2", "Patient/3", "Patient/4", "Ä"], PUBLISHED_KEY)
    assert split.tolist() == ["reference1", "train", "train", "holdout", "reference0"]
    assert tune.tolist() == [False, False, True, False, False]


def test_another_key_splits_otherwise() -> None:
    ids = [f"Patient/{i}" for i in range(1000)]
    first, second = assign(ids, KEY)[0], assign(ids, KEY + b"!")[0]
    # Independent splits agree on 0.5^2 + 0.25^2 + 2 * 0.125^2 = 34 % of the subjects.
    assert 0.28 < np.mean(first == second) < 0.41


def test_no_subject_gives_no_row() -> None:
    split, tune = assign(np.array([], dtype=str), KEY)
    assert len(split) == len(tune) == 0


def test_key_file_is_made_once_and_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COHORTLOOM_SPLIT_KEY", raising=False)
    home = Home(tmp_path / "home").ensure()
    key = load_key(home)
    assert len(key) == 64
    assert load_key(home) == key
    assert stat.S_IMODE(home.split_key.stat().st_mode) == 0o600
    other = Home(tmp_path / "other").ensure()
    assert load_key(other) != key


def test_processes_that_start_together_get_one_key(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").ensure()
    code = (
        "import sys; from pathlib import Path; from pipeline.store.home import Home; from pipeline.features.split import"
        " load_key; print(load_key(Home(Path(sys.argv[1]))).decode())"
    )
    environment = {k: v for k, v in os.environ.items() if k != "COHORTLOOM_SPLIT_KEY"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(home.root)], stdout=subprocess.PIPE, text=True, env=environment
        )
        for _ in range(3)
    ]
    keys = {process.communicate()[0].strip() for process in started}
    assert keys == {home.split_key.read_text().strip()}


@pytest.mark.parametrize(("content", "mode", "says"), [("", 0o600, "empty"), ("x" * 64 + "\n", 0o644, "chmod 600")])
def test_a_damaged_or_public_key_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, mode: int, says: str
) -> None:
    monkeypatch.delenv("COHORTLOOM_SPLIT_KEY", raising=False)
    monkeypatch.setattr("pipeline.features.split._WAIT_FOR_KEY_SECONDS", 0.05)
    home = Home(tmp_path / "home").ensure()
    home.split_key.write_text(content)
    home.split_key.chmod(mode)
    with pytest.raises(StoreError, match=says):
        load_key(home)


def test_key_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path / "home").ensure()
    monkeypatch.setenv("COHORTLOOM_SPLIT_KEY", " a long enough key ")
    assert load_key(home) == b"a long enough key"
    assert not home.split_key.exists()
    monkeypatch.setenv("COHORTLOOM_SPLIT_KEY", "tooshort")
    with pytest.raises(ConfigError, match="8 characters") as caught:
        load_key(home)
    assert "tooshort" not in str(caught.value)


def test_published_sources_never_take_the_own_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COHORTLOOM_SPLIT_KEY", "the installation's own key")
    home = Home(tmp_path / "home").ensure()
    assert split_key(SourceSpec(name="demo", format="fhir", split_key="published"), home) == PUBLISHED_KEY
    assert split_key(SourceSpec(name="clinic", format="fhir"), home) == b"the installation's own key"


def test_a_changed_key_is_refused_with_both_fingerprints(lake: Lake) -> None:
    with lake.tables.draft("features", {"cohort": "ward", "month": "2026-09-01"}) as draft:
        draft.add_table("data", pa.table({"a": [1]}))
        draft.commit(info={"split_fingerprint": fingerprint(KEY)})
    check_key(lake.tables, "ward", KEY)
    check_key(lake.tables, "another cohort", b"another key")
    check_key(lake.tables, "ward", b"another key", new_split=True)
    with pytest.raises(ConfigError, match="--new-split") as caught:
        check_key(lake.tables, "ward", b"another key")
    assert fingerprint(KEY) in str(caught.value)
    assert fingerprint(b"another key") in str(caught.value)


def test_row_ids_ignore_order_and_count_duplicates() -> None:
    table = pa.table({"a": [1, 2, 1, 1], "b": ["x", None, "x", "y"]})
    ids = row_subjects(table)
    assert len(set(ids)) == 4
    assert ids[2] == f"{ids[0]}-1"
    shuffled = row_subjects(table.take([3, 2, 1, 0]))
    assert set(shuffled) == set(ids)
    assert shuffled[2] == ids[1]


def test_row_ids_tell_rows_apart_and_see_through_types() -> None:
    def one(**cells: object) -> str:
        return str(row_subjects(pa.table({name: [cell] for name, cell in cells.items()}))[0])

    assert one(a=1) == one(a=1.0)
    assert one(a=0.0) == one(a=-0.0)
    assert one(a=None, b="x") != one(a="x", b=None)
    assert one(a="ab", b="c") != one(a="a", b="bc")
    assert one(a="1") != one(a=1)
    assert one(a=1) != one(b=1)
