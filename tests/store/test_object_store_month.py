"""A whole cohort-month with its lake on an object store ends with the same bytes as on the disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest

from pipeline.store.address import StoreAddress
from pipeline.store.home import Home
from pipeline.store.lake import Lake

pytestmark = pytest.mark.distributed


@contextmanager
def made_up_cohort(folder: Path) -> Iterator[Callable[[Home], None]]:
    from made_up import MONTH, Book, deliver, visits

    book = Book(folder / "cohorts")
    book.sources({"clinic": "table"})
    book.cohort("tiny", source="clinic", generators={"independent": {}})
    source = visits(folder / "in")
    from assets.run import ingest, run_cohort  # reads the cohorts when it is imported

    def run(home: Home) -> None:
        with dg.instance_for_test() as instance:
            assert ingest(deliver(home, "clinic", source, name="one").key, instance).success
            assert run_cohort("tiny", MONTH, instance=instance).success

    yield run


def digests(lake: Lake) -> dict[str, str]:
    return {
        f"{number}:{version.label}": version.sha256
        for number, store in enumerate((lake.tables, lake.models, lake.reports))
        for asset in store.assets()
        for version in [store.resolve(asset, partition) for partition in store.partitions(asset)]
    }


@pytest.mark.slow
def test_a_cohort_month_on_the_store_has_the_same_bytes(
    bucket: StoreAddress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.evaluation import registry
    from pipeline.features.split import PUBLISHED_KEY

    few = ("schema.adherence", "fid.marg.jsd", "priv.exact_unique")
    monkeypatch.setattr(registry, "BUILT_IN", {name: registry.BUILT_IN[name] for name in few})
    monkeypatch.setattr("pipeline.features.spec.BUILT_IN_COHORTS", tmp_path / "cohorts")
    monkeypatch.setenv("COHORTLOOM_SPLIT_KEY", PUBLISHED_KEY.decode())
    with made_up_cohort(tmp_path) as run:
        found = []
        for name in ("disk", "s3"):
            home = Home(tmp_path / name).ensure()
            monkeypatch.setenv("COHORTLOOM_HOME", str(home.root))
            if name == "s3":
                monkeypatch.setenv("COHORTLOOM_STORE", bucket.url)
                monkeypatch.setenv("COHORTLOOM_S3_ENDPOINT", bucket.endpoint)
            run(home)
            lake = Lake(home)
            found.append((digests(lake), [(s, len(lake.journal.entries(s))) for s in lake.journal.streams()]))
        # The index of the reports is a page of this machine, made anew from the store.
        left = [p for part in (home.lake, home.models, home.reports, home.journal) for p in part.rglob("*")]
        assert [p.name for p in left] == ["index.html"]
    assert len(found[0][0]) == 12  # of the delivery its tables and its report, of the cohort-month the rest
    assert found[0] == found[1]
