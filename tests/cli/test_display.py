"""What the command line prints cannot give the terminal orders."""

from __future__ import annotations

import pytest

from assets.cli.display import cell, next_steps, say, show, tell


def test_control_characters_of_names_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a\x1b]0;title\x07\x9bb\r"
    assert cell(name) == "a\ufffd]0;title\ufffd\ufffdb\ufffd"
    say(name)
    tell(name)
    next_steps([name])
    show([{"column": name}], title="columns", as_json=False, empty="")
    told = capsys.readouterr()
    assert not {"\x07", "\x9b"} & set(told.out + told.err)
    assert "]0;title" in told.out
    assert "]0;title" in told.err


def test_lines_and_tabs_stay() -> None:
    assert cell("a\tb\nc") == "a\tb\nc"
