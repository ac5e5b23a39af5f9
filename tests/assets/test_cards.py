"""The cards of generators: made once, valid as long as the source is, and never fatal."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from assets.launchpad import launchpad_config, overrides_of
from pipeline.generators.registry import BUILT_IN, generator_class
from pipeline.workflow import cards as module
from pipeline.workflow.cards import Card, Setting, cards, describe

if TYPE_CHECKING:
    from pathlib import Path


def test_a_card_says_what_the_class_says() -> None:
    for name in BUILT_IN:
        made, card = generator_class(name), describe(name)
        assert (card.title, card.uses_gpu, card.kinds) == (made.title, made.uses_gpu, tuple(made.kinds))
        assert [s.name for s in card.settings] == list(made.Config.model_fields)
        assert set(card.presets) == set(made.Config.presets)
        assert card.code_version.startswith(f"{made.code_version}-")
        assert not card.broken
        assert Card.from_dict(json.loads(json.dumps(card.to_dict()))) == card


def test_made_elsewhere_is_the_same_and_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the module in this process: made in a second one, then read from the cache."""
    calls = []
    elsewhere = module._describe_elsewhere
    monkeypatch.setattr(module, "_describe_elsewhere", lambda names: calls.append(names) or elsewhere(names))
    expected = describe("independent")
    monkeypatch.delitem(sys.modules, "pipeline.generators.independent")
    cache = tmp_path / "cards.json"
    assert cards(["independent"], cache=cache) == {"independent": expected}
    assert cards(["independent"], cache=cache) == {"independent": expected}
    assert [list(paths) for paths in calls] == [["independent"]]


def test_changed_source_makes_the_card_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        module, "_describe_elsewhere", lambda names: {n: Card(n, title=str(next(count))) for n in names}
    )
    count = iter(range(10))
    monkeypatch.delitem(sys.modules, "pipeline.generators.independent", raising=False)
    cache = tmp_path / "cards.json"
    monkeypatch.setattr(module, "_library_hash", lambda: "one")
    assert [cards(["independent"], cache=cache)["independent"].title for _ in range(2)] == ["0", "0"]
    monkeypatch.setattr(module, "_library_hash", lambda: "two")
    assert cards(["independent"], cache=cache)["independent"].title == "1"


@pytest.mark.parametrize("content", ["", "[]", "{broken", '{"independent": {"source": "x"}}'])
def test_a_broken_cache_is_made_again(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_describe_elsewhere", lambda names: {n: Card(n, title="fresh") for n in names})
    monkeypatch.delitem(sys.modules, "pipeline.generators.independent", raising=False)
    (tmp_path / "cards.json").write_text(content)
    assert cards(["independent"], cache=tmp_path / "cards.json")["independent"].title == "fresh"


def test_a_generator_that_cannot_be_imported_has_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another package's broken module must not take the code location down."""
    monkeypatch.setitem(BUILT_IN, "stranger", "no_such_package.anywhere:Stranger")
    card = cards(["stranger"], cache=tmp_path / "cards.json")["stranger"]
    assert card.broken == "ModuleNotFoundError while importing no_such_package.anywhere:Stranger"
    assert "stranger" not in (tmp_path / "cards.json").read_text()


def test_the_form_takes_every_kind_of_setting() -> None:
    card = Card(
        "g",
        settings=(
            Setting("depth", "int", "Layers."),
            Setting("rate", "float"),
            Setting("exact", "bool"),
            Setting("sizes", "list[int]"),
            Setting("likelihood", "choice", choices=("mse", "mixed")),
            Setting("more", "any"),
        ),
        presets=("default", "paper"),
    )
    Form = launchpad_config(card)
    assert overrides_of(Form()) == {}
    filled = Form(depth=3, sizes=[1, 2], likelihood="mixed", preset="paper", exact=False)
    assert overrides_of(filled) == {
        "preset": "paper",
        "depth": 3,
        "exact": False,
        "sizes": [1, 2],
        "likelihood": "mixed",
    }
