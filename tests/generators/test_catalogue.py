"""What is told of generators before they are chosen: complete, and true where the code can say so itself."""

from __future__ import annotations

import re

import pytest

from pipeline.features.schema import Column, EventCodes, TableSchema
from pipeline.generators.catalogue import ABOUT, OURS, about
from pipeline.generators.independent import Independent
from pipeline.generators.registry import BUILT_IN, generator_class


def test_every_generator_is_told_of_and_no_other() -> None:
    assert set(ABOUT) == set(BUILT_IN)


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_what_is_told_is_what_the_code_does(name: str) -> None:
    told, made = about(name), generator_class(name)
    assert told.licence.startswith(OURS)
    assert told.paper == "baseline" or re.search(r"(19|20)\d\d", told.paper)
    column = Column(name="sex", kind="binary", dtype="string", levels=["f", "m"])
    plain = TableSchema(columns=[column], unit="patient")
    dated = TableSchema(columns=[column], unit="patient", events=EventCodes(vocabulary=["a"]))
    assert made.supports(dated).ok == ("visits" in told.takes)
    assert made.supports(plain).ok != ("visits" in told.takes)


def test_a_generator_of_another_package_speaks_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.generators.catalogue.generator_class", lambda _: Independent)
    assert about("theirs").paper == "not said"
