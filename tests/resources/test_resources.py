"""Resources: configuration in, plain objects of the library out."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from pipeline.errors import ConfigError, StoreError
from pipeline.workflow.compute import Compute, has_gpu
from resources.compute import ComputeResource
from resources.lake import LakeResource
from resources.landing import LandingResource

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.store.home import Home


def test_the_lake_is_where_the_environment_says(home: Home) -> None:
    lake = LakeResource().open()
    assert lake.home.root == home.root
    assert lake.tables.root == home.lake


def test_the_lake_can_be_put_elsewhere(tmp_path: Path, home: Home) -> None:
    assert LakeResource(home=str(tmp_path / "other")).open().home.root == tmp_path / "other"
    assert stat.S_IMODE((tmp_path / "other").stat().st_mode) == 0o700


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="COHORTLOOM_HOME"):
        LakeResource(home=str(tmp_path / "file" / "below")).open()


def test_compute_takes_environment_then_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "7")
    for name in ("COHORTLOOM_DEVICE", "COHORTLOOM_THREADS", "COHORTLOOM_MEMORY"):
        monkeypatch.delenv(name, raising=False)
    assert ComputeResource().bound() == Compute("auto", 1, "2GB")
    assert os.environ["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("COHORTLOOM_THREADS", "3")
    monkeypatch.setenv("COHORTLOOM_MEMORY", "512MB")
    assert ComputeResource(device="cpu").bound() == Compute("cpu", 3, "512MB")
    assert os.environ["OMP_NUM_THREADS"] == "3"
    assert ComputeResource(threads=1).bound().threads == 1
    assert os.environ["OMP_NUM_THREADS"] == "1"


def test_libraries_that_are_loaded_already_are_bound_too(monkeypatch: pytest.MonkeyPatch) -> None:
    import sklearn.ensemble  # noqa: F401
    import torch
    from threadpoolctl import threadpool_info

    for threads in (2, 1):
        ComputeResource(threads=threads).bound()
        assert torch.get_num_threads() == threads
        assert {pool["num_threads"] for pool in threadpool_info()} == {threads}


@pytest.mark.parametrize(
    ("name", "value"), [("COHORTLOOM_THREADS", "many"), ("COHORTLOOM_THREADS", "0"), ("COHORTLOOM_DEVICE", "tpu")]
)
def test_nonsense_in_the_environment_is_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError):
        ComputeResource().bound()


def test_threads_do_not_depend_on_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of floats depend on them, and the same inputs must give the same bytes everywhere."""
    monkeypatch.delenv("COHORTLOOM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert Compute.from_environment().threads == 1
    assert Compute.from_environment().engine_threads == 2


def test_a_gpu_is_seen_without_pytorch() -> None:
    assert has_gpu("cuda:1")
    assert not has_gpu("cpu")


def test_landing_gives_deliveries(home: Home) -> None:
    folder = home.landing / "clinic" / "2026-10-01"
    folder.mkdir(parents=True)
    (folder / "a.csv").write_text("x\n1\n")
    landing = LandingResource()
    assert landing.landed() == []
    assert landing.waiting() == ["clinic--2026-10-01"]
    (folder / "_SUCCESS").touch()
    assert [d.key for d in landing.landed()] == ["clinic--2026-10-01"]
    assert landing.delivery("clinic--2026-10-01").as_of.isoformat() == "2026-10-01"


def test_resources_are_configurable_in_dagster() -> None:
    @dg.asset
    def uses(compute: ComputeResource) -> int:
        return compute.bound().threads

    result = dg.materialize([uses], resources={"compute": ComputeResource(threads=1)})
    assert result.output_for_node("uses") == 1
