"""What a collection takes in all of a home, what it never takes, and rolling back."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from pipeline.errors import ConfigError, NotFoundError, StoreError
from pipeline.store.disk import hold, release
from pipeline.store.home import Home
from pipeline.store.lake import Lake, Version, VersionStore
from pipeline.workflow.housekeeping import collect_garbage, evidence, would_collect
from pipeline.workflow.rollback import find, roll_back

if TYPE_CHECKING:
    from pathlib import Path

CELL = {"cohort": "tiny", "month": "2026-10-01"}


def commit(store: VersionStore, asset: str, number: int, *inputs: Version) -> Version:
    with store.draft(asset, CELL) as draft:
        draft.add_table("data", pa.table({"n": [number]}))
        return draft.commit(info={"number": number}, inputs={v.label: v.sha256 for v in inputs})


@pytest.fixture
def lake(home: Home) -> Lake:
    return Lake(home)


def chain(lake: Lake, number: int, *, published: bool = False) -> list[Version]:
    """A cell from features to, where it is published, the release; and a report."""
    features = commit(lake.tables, "features", number)
    references = commit(lake.tables, "references", number, features)
    model = commit(lake.models, "model/vae", number, features)
    synthetic = commit(lake.tables, "synthetic/vae", number, model)
    evaluation = commit(lake.tables, "evaluation/vae", number, features, synthetic, references)
    report = commit(lake.reports, "evaluation/vae", number + 100, features, synthetic, references)
    made = [features, references, model, synthetic, evaluation, report]
    if published:
        made.append(commit(lake.tables, "release", number, synthetic, evaluation))
    return made


def there(lake: Lake, version: Version) -> bool:
    stores = (lake.tables, lake.models, lake.reports)
    return any((store.root / version.label / version.version).is_dir() for store in stores)


def test_the_evidence_behind_every_release_stays(lake: Lake) -> None:
    first, *rest = [chain(lake, 1, published=True), chain(lake, 2), chain(lake, 3, published=True), chain(lake, 4)]
    middle, third, last = rest
    assert evidence(lake) == {(v.label, v.version) for v in [*first, *third]}
    planned = would_collect(lake, keep=1, grace_seconds=0)
    assert all(there(lake, v) for v in middle)
    done = collect_garbage(lake, keep=1, grace_seconds=0)
    assert sorted(one.where for one in done.gone) == sorted(one.where for one in planned.gone)
    assert done.counts() == {"old version": len(middle)}
    assert done.bytes == planned.bytes > 0
    assert done.pinned == len(first) + len(third)
    assert all(there(lake, v) for v in [*first, *third, *last])
    assert not any(there(lake, v) for v in middle)
    for version in (*first, *third):
        store = next(
            s for s in (lake.tables, lake.models, lake.reports) if (s.root / version.label / version.version).is_dir()
        )
        store.verify(version)
    entry = lake.journal.entries("operations")[-1]
    assert (entry["operation"], entry["removed"]) == ("gc", {"old version": len(middle)})


def test_a_release_whose_pointer_was_purged_is_still_evidence(lake: Lake) -> None:
    made = chain(lake, 1, published=True)
    again = commit(lake.tables, "release", 2, made[3], made[4])
    chain(lake, 3)
    lake.tables.purge(again)
    collect_garbage(lake, keep=1, grace_seconds=0)
    assert all(there(lake, v) for v in made)


def test_litter_goes_and_what_somebody_holds_stays(lake: Lake) -> None:
    home = lake.home
    chain(lake, 1)
    dead = [
        "landing/clinic/.tmp-dead",
        "spill/spill-dead",
        ".snapshot-dead",
        ".tmp-catalog-dead.duckdb",
        "lake/features/cohort=tiny/month=2026-10-01/.tmp-dead",
        "journal/operations/.tmp-dead",
    ]
    living = ["spill/spill-alive", ".snapshot-alive"]
    for name in [*dead, *living]:
        path = home.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half") if "duckdb" in name or "journal" in name else path.mkdir()
    unfinished = home.landing / "clinic" / "theirs"
    unfinished.mkdir()
    held = [hold(home.root / name) for name in living]
    assert would_collect(lake, keep=1, grace_seconds=3600).gone == []
    for path in [home.root / name for name in [*dead, *living]] + [unfinished]:
        os.utime(path, (time.time() - 7200,) * 2)
    done = collect_garbage(lake, keep=1, grace_seconds=3600)
    assert {one.where for one in done.gone} == set(dead)
    assert not any((home.root / name).exists() for name in dead)
    assert all((home.root / name).exists() for name in living)
    assert unfinished.exists()
    for descriptor in held:
        assert descriptor is not None
        release(descriptor)


def test_a_broken_pointer_is_reported_and_stops_nothing(lake: Lake) -> None:
    for number in (1, 2):
        chain(lake, number)
    broken = lake.tables.root / "features" / "cohort=tiny" / "month=2026-10-01" / "_current.json"
    broken.write_text("broken")
    done = collect_garbage(lake, keep=1, grace_seconds=0)
    assert len(done.broken) == 1
    assert done.counts()["old version"] == 5
    with pytest.raises(ConfigError):
        collect_garbage(lake, keep=-1, grace_seconds=0)


# ---- rolling back


def test_rolling_back_says_what_is_stale(lake: Lake) -> None:
    first, second = chain(lake, 1), chain(lake, 2)
    store, key = find(lake, "features", ["tiny", "2026-10"])
    done = roll_back(lake, store, "features", key, to=None, by="Ada")
    assert (done.version, done.before) == (first[0], second[0])
    assert lake.tables.resolve("features", CELL) == first[0]
    tail = "/cohort=tiny/month=2026-10-01"
    assert done.stale == [f"{asset}{tail}" for asset in ("evaluation/vae", "model/vae", "references", "synthetic/vae")]
    entry = lake.journal.entries("operations")[-1]
    assert (entry["operation"], entry["by"], entry["to"]) == ("rollback", "Ada", first[0].version)
    for asset in ("model/vae", "references", "synthetic/vae", "evaluation/vae"):
        store, key = find(lake, asset, ["tiny|2026-10-01"])
        done = roll_back(lake, store, asset, key, to=None, by="Ada")
    assert done.also == [first[5]], "the report moves with the evaluation"
    assert done.stale == []


def test_rolling_back_by_name_and_to_nothing(lake: Lake) -> None:
    versions = [commit(lake.tables, "features", n) for n in range(3)]
    store, key = find(lake, "features", ["tiny|2026-10"])
    assert roll_back(lake, store, "features", key, to=versions[0].version, by="a").version == versions[0]
    with pytest.raises(NotFoundError, match="no version before"):
        roll_back(lake, store, "features", key, to=None, by="a")
    with pytest.raises(ConfigError, match="3 versions begin"):
        roll_back(lake, store, "features", key, to="v-", by="a")
    with pytest.raises(NotFoundError, match="no version 'v-x'"):
        roll_back(lake, store, "features", key, to="v-x", by="a")


def test_a_damaged_version_is_refused_and_a_broken_pointer_mended(lake: Lake) -> None:
    first, second = (commit(lake.tables, "features", n) for n in range(2))
    store, key = find(lake, "features", ["tiny|2026-10-01"])
    (lake.tables.path(first, "data")).write_text("swapped")
    with pytest.raises(StoreError, match="sha256"):
        roll_back(lake, store, "features", key, to=None, by="a")
    assert lake.tables.resolve("features", CELL) == second
    (lake.tables.root / second.label / "_current.json").write_text("broken")
    assert roll_back(lake, store, "features", key, to=None, by="a").version == second
    assert lake.tables.resolve("features", CELL) == second


@pytest.mark.parametrize(
    ("asset", "words", "error"),
    [
        ("release", "cohortloom withdraw", ConfigError),
        ("privacy_ledger", "journal", ConfigError),
        ("model/vea", "Did you mean 'model/vae'", NotFoundError),
        ("features", "no partition 'tiny|2026-11-01'", NotFoundError),
    ],
)
def test_what_cannot_be_rolled_back(lake: Lake, asset: str, words: str, error: type[Exception]) -> None:
    chain(lake, 1)
    with pytest.raises(error, match=words.replace("|", r"\|")):
        find(lake, asset, ["tiny", "2026-11"])


def test_deliveries_have_one_key(lake: Lake) -> None:
    with lake.tables.draft("raw/table", {"delivery": "clinic--one"}) as draft:
        draft.add_table("visits", pa.table({"n": [1]}))
        draft.commit()
    assert find(lake, "raw/table", ["clinic--one"])[1] == {"delivery": "clinic--one"}


def test_the_home_is_made_for_its_owner(tmp_path: Path) -> None:
    home = Home(tmp_path / "made").ensure()
    assert {path.stat().st_mode & 0o777 for path in (home.root, *home.parts)} == {0o700}
    open_home = tmp_path / "open"
    open_home.mkdir(mode=0o755)
    with pytest.warns(UserWarning, match="cohortloom doctor --fix"):
        Home(open_home).ensure()
