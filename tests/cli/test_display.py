"""Tables for people show every cell as it is."""

from __future__ import annotations

import pytest

from assets.cli.display import show


def test_brackets_in_a_cell_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    show([{"rule": "utility_ratio[death]", "n": 3, "words": "[bold]no[/bold]"}], title="Rules", as_json=False, empty="")
    shown = capsys.readouterr().out
    assert "utility_ratio[death]" in shown
    assert "[bold]no[/bold]" in shown
