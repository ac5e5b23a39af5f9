"""A lake with features for one cell, and the generator that spends."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import ledger_lab as lab
import pytest

from pipeline.generators.registry import BUILT_IN
from pipeline.store.lake import Lake
from pipeline.workflow.compute import Compute

if TYPE_CHECKING:
    from pipeline.store.home import Home


@pytest.fixture
def lake(home: Home, monkeypatch: pytest.MonkeyPatch) -> Lake:
    monkeypatch.setitem(BUILT_IN, "spends", "ledger_lab:Spends")
    for name in [n for n in os.environ if n.startswith("SPENDS_")]:
        monkeypatch.delenv(name)
    made = Lake(home)
    lab.features(made)
    return made


@pytest.fixture
def cpu() -> Compute:
    return Compute(device="cpu")
