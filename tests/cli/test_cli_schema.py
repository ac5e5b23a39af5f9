"""`cohortloom schema`: what it prints and writes, and that the file it writes is one that a delivery is held to."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest
import yaml

from assets.cli import main
from pipeline.features.schema import TableSchema

if TYPE_CHECKING:
    from pathlib import Path

CANARY = "Zebulon"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "My Ward.csv"
    rows = [f"{i},{i / 2},{'?' if i % 9 == 0 else 'xyz'[i % 3]},{CANARY}{i}" for i in range(60)]
    path.write_text("n,half,word,name\n" + "\n".join(rows) + "\n")
    return path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["cohortloom", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


def test_a_table_of_columns_without_a_cell_and_the_codes(monkeypatch, capsys, table, tmp_path):
    out = tmp_path / "s.json"
    assert run(monkeypatch, "schema", str(table), "--out", str(out)) == 0
    shown = capsys.readouterr()
    assert "My Ward.csv: 60 rows" in shown.out
    assert "missing? 'word': '?' in 7 cells" in shown.err
    assert 'missing: ["?"]' in shown.err
    assert "--schema" in shown.err
    assert CANARY not in shown.out + shown.err
    schema = TableSchema.model_validate_json(out.read_text())
    assert [column.kind for column in schema.columns] == ["count", "continuous", "categorical", "identifier"]


def test_yaml_and_json_alone_on_standard_output(monkeypatch, capsys, table):
    assert run(monkeypatch, "schema", str(table), "--yaml", "--missing", "?") == 0
    section = yaml.safe_load(capsys.readouterr().out)["columns"]
    assert section["word"] | {"description": ""} == {
        "kind": "categorical",
        "levels": ["x", "y", "z"],
        "description": "",
        "source": ["my_ward.word"],
    }
    assert run(monkeypatch, "schema", str(table), "--json", "--subject", "n") == 0
    assert [column["name"] for column in json.loads(capsys.readouterr().out)["columns"]] == ["half", "word", "name"]


def test_a_file_that_is_not_there_or_cannot_be_written(monkeypatch, capsys, table, tmp_path):
    assert run(monkeypatch, "schema", str(tmp_path / "no.csv")) == 1
    assert "There is no such file" in capsys.readouterr().err
    assert run(monkeypatch, "schema", str(table), "--out", str(tmp_path / "no" / "s.json")) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_a_file_in_another_encoding_says_which_it_seems_to_be_and_is_read_in_it(monkeypatch, capsys, tmp_path):
    path, out = tmp_path / "Aufnahmen.csv", tmp_path / "s.json"
    rows = [f"{i};{60 + i},5;{['Größe', 'Straße'][i % 2]};{1 + i % 28:02}.03.2026" for i in range(60)]
    path.write_bytes("\n".join(["nr;gewicht;wörter;tag", *rows, ""]).encode("cp1252"))
    assert run(monkeypatch, "schema", str(path)) == 1
    assert "looks like windows-1252. Pass --encoding windows-1252" in capsys.readouterr().err
    assert run(monkeypatch, "fit", str(path), "-g", "independent", "--out", str(tmp_path / "model")) == 1
    assert "--encoding windows-1252" in capsys.readouterr().err
    assert run(monkeypatch, "schema", str(path), "--encoding", "klingon") == 1
    assert "no text encoding 'klingon'" in capsys.readouterr().err
    assert run(monkeypatch, "schema", str(path), "--encoding", "ascii") == 1
    assert "not in the encoding ascii" in capsys.readouterr().err
    assert run(monkeypatch, "schema", str(path), "--encoding", "windows-1252", "--out", str(out)) == 0
    told = capsys.readouterr().err
    assert "'gewicht': every value would be a number with a decimal comma" in told
    assert "'tag': every value would be a date DD.MM.YYYY" in told
    schema = TableSchema.model_validate_json(out.read_text())
    assert schema.names == ["nr", "gewicht", "wörter", "tag"]
    assert schema.column("wörter").levels == ["Größe", "Straße"]
    path.write_bytes(path.read_bytes().decode("cp1252").encode("utf-16"))  # its mark says what it is
    assert run(monkeypatch, "schema", str(path), "--json") == 0
    assert [column["name"] for column in json.loads(capsys.readouterr().out)["columns"]] == schema.names


def test_a_table_of_numbers_alone(monkeypatch, capsys, tmp_path):
    path = tmp_path / "numbers.csv"
    path.write_text("id,a\n1,2\n2,\n3,3\n")
    assert run(monkeypatch, "schema", str(path)) == 0
    assert "numbers.csv: 3 rows" in capsys.readouterr().out
