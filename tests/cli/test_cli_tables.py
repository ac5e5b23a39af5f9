"""`cohortloom fit`, `sample` and `evaluate` on plain files: what they write, and how they fail (never with a cell)."""

from __future__ import annotations

import csv
import datetime as dt
import json
import sys
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from assets.cli import main
from assets.cli.tables import parse_conditions, parse_settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GENERATORS = ("independent", "gaussian_copula", "vae")
SECRET = "Zebulon-Quartermain-4711"
ROWS = 120


def made_up(seed: int, *, thal_unknown: bool = True, number_of_rows: int = ROWS) -> list[dict[str, str]]:
    """A small ward as text, with all that goes wrong in CSV: zeros before codes, "?", yes and no, gaps, times."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(number_of_rows):
        ill = rng.random() < 0.4
        when = dt.datetime(2021, 3, 4, 5, 6) + dt.timedelta(minutes=int(rng.integers(10**6)))  # noqa: DTZ001
        rows.append(
            {
                "mrn": f"{seed:03d}{i:05d}",
                "age": str(int(rng.normal(60 + 8 * ill, 9))),
                "ward": str(rng.choice(["007", "012", "300"])),
                "smoker": str(rng.choice(["yes", "no", "on"])),
                "insured": str(rng.choice(["true", "false"])),
                "thal": "?" if thal_unknown and i % 8 == 0 else str(rng.choice(["3.0", "7.0"])),
                "creatinine": "" if rng.random() < 0.2 else f"{rng.gamma(2.0) + ill:.1f}",
                "admitted": f"{when:%Y-%m-%d %H:%M:%S}",
                "constant": "A",
                "died": "1" if ill else "0",
            }
        )
    return rows


def write_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command as the console script does; gives exit status, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cohortloom", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    return call


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.csv, holdout.csv (no "?" in it) and the same as Parquet."""
    folder = tmp_path_factory.mktemp("ward")
    write_csv(folder / "train.csv", made_up(1))
    write_csv(folder / "holdout.csv", made_up(2, thal_unknown=False))
    return folder


@pytest.mark.parametrize("generator", GENERATORS)
def test_fit_and_sample_give_rows_of_the_tables_own_types(
    generator: str, ward: Path, tmp_path: Path, cli: Callable[..., tuple[int, str, str]]
) -> None:
    quick = ["--set", "epochs=2"] if generator == "vae" else []
    rc, _, err = cli("fit", ward / "train.csv", "-g", generator, "--out", tmp_path / "model", "--device", "cpu", *quick)
    assert rc == 0, err
    for name in ("synthetic.parquet", "synthetic.csv"):
        rc, _, err = cli("sample", tmp_path / "model", "-n", 150, "--seed", 3, "--out", tmp_path / name)
        assert rc == 0, err
    drawn = pq.read_table(tmp_path / "synthetic.parquet")
    assert drawn.num_rows == 150
    types = {f.name: f.type for f in drawn.schema}
    assert types["mrn"] == types["ward"] == types["smoker"] == types["thal"] == pa.string()
    assert (types["age"], types["creatinine"], types["insured"]) == (pa.int64(), pa.float64(), pa.bool_())
    columns = drawn.to_pydict()
    assert set(columns["ward"]) == {"007", "012", "300"}
    assert set(columns["thal"]) <= {"?", "3.0", "7.0"}
    assert set(columns["constant"]) == {"A"}
    assert not {r["mrn"] for r in made_up(1)} & set(columns["mrn"])
    assert 0.02 < columns["creatinine"].count(None) / 150 < 0.45
    assert all(t.second == t.microsecond == 0 for t in columns["admitted"])
    assert all(dt.datetime(2021, 3, 4) <= t <= dt.datetime(2023, 2, 1) for t in columns["admitted"])  # noqa: DTZ001
    text = (tmp_path / "synthetic.csv").read_text(encoding="utf-8")
    assert '"007"' in text
    assert ".000000" not in text


def test_conditions_are_text(ward: Path, tmp_path: Path, cli: Callable[..., tuple[int, str, str]]) -> None:
    assert cli("fit", ward / "train.csv", "-g", "gaussian_copula", "--out", tmp_path / "model")[0] == 0
    for given, column, wanted in [
        ("smoker=no", "smoker", "no"),
        ("smoker=on", "smoker", "on"),
        ("insured=true", "insured", True),
        ("ward=007", "ward", "007"),
        ("died=1", "died", 1),
        ("died=1.0", "died", 1),
        ("age=60", "age", 60),
        ("creatinine=", "creatinine", None),
    ]:
        rc, _, err = cli("sample", tmp_path / "model", "-n", 5, "--where", given, "--out", tmp_path / "s.parquet")
        assert rc == 0, err
        assert pq.read_table(tmp_path / "s.parquet").column(column).to_pylist() == [wanted] * 5
    for given in ("smoker=maybe", "nix=1", "age=old", "age=900", "mrn=00100000", "thal=", "smoker"):
        rc, _, err = cli("sample", tmp_path / "model", "-n", 5, "--where", given, "--out", tmp_path / "s.parquet")
        assert rc == 1
        assert err.startswith("error: ")
        assert err.count("\n") == 1


def test_pairs() -> None:
    assert parse_conditions(["a=no", "b=1", "c=x=y", "d="]) == {"a": "no", "b": "1", "c": "x=y", "d": None}
    assert parse_settings(["a=no", "b=1", "c=[1, 2]"]) == {"a": False, "b": 1, "c": [1, 2]}


def test_the_schema_that_was_written_can_be_given_back(
    ward: Path, tmp_path: Path, cli: Callable[..., tuple[int, str, str]]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert cli("fit", ward / "train.csv", "-g", "independent", "--drop", "mrn", "--out", first)[0] == 0
    rc, _, err = cli("fit", ward / "train.csv", "-g", "independent", "--schema", first / "schema.json", "--out", second)
    assert rc == 0, err
    assert "mrn" not in (first / "schema.json").read_text()
    for file in ("schema.json", "model.json", "model.safetensors"):
        assert (first / file).read_bytes() == (second / file).read_bytes()


def test_a_table_of_whole_numbers_with_an_identifier_is_warned_about(
    tmp_path: Path, cli: Callable[..., tuple[int, str, str]]
) -> None:
    rows = [{**row, "visit_id": str(20_000_000 + 7 * i)} for i, row in enumerate(made_up(1))]
    table = write_csv(tmp_path / "t.csv", rows)
    rc, _, err = cli("fit", table, "-g", "independent", "--out", tmp_path / "model")
    assert rc == 0
    assert "'visit_id' looks like an identifier" in err
    assert "'age'" not in err.split("Training")[0]


def test_evaluate_reads_all_files_alike(ward: Path, tmp_path: Path, cli: Callable[..., tuple[int, str, str]]) -> None:
    """The holdout has no "?": read by itself its 3.0 would be a number and no level of the training file."""
    rows = made_up(3)
    for row in rows:  # other programs write whole numbers like this
        row["age"] += ".0"
    synthetic = write_csv(tmp_path / "s.csv", rows)
    rc, out, err = cli(
        *("evaluate", "--train", ward / "train.csv", "--holdout", ward / "holdout.csv", "--synthetic", synthetic),
        *("--label", "died", "--protected", "smoker", "--profile", "quick", "--json", "--out", tmp_path / "report"),
    )
    assert rc == 0, err
    found = {r["metric"]: r["value"] for r in json.loads(out)}
    assert found["schema.adherence"] > 0.8  # a few are older or have more creatinine than anybody in training
    assert found["fid.joint.detect_auc"] < 0.85
    assert "<html" in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert pa_csv.read_csv(tmp_path / "report" / "metrics.csv").num_rows > 20


def test_evaluate_says_what_is_wrong(ward: Path, tmp_path: Path, cli: Callable[..., tuple[int, str, str]]) -> None:
    train, holdout = ward / "train.csv", ward / "holdout.csv"
    other = write_csv(tmp_path / "other.csv", [{"age": "1", "ward": "007"}] * 40)
    odd = write_csv(tmp_path / "odd.csv", [{**row, "age": SECRET} for row in made_up(4)])
    for options, wanted in [
        ({"--holdout": other}, "other.csv: The file lacks 8 columns of the training file"),
        ({"--holdout": odd}, "odd.csv: column age: The values do not fit the training file's type int64."),
        ({"--holdout": tmp_path / "nix.csv"}, "There is no such file."),
        ({"--label": "nix"}, "There is no column 'nix'."),
        ({"--label": "age"}, "column age: The label must have two values; it is"),
        ({"--label": "smoker"}, "column smoker: The label must have two values; it is categorical with 3 levels."),
        ({"--profile": "nix"}, "There is no profile 'nix'."),
    ]:
        given = {"--train": train, "--holdout": holdout, "--synthetic": holdout, "--out": tmp_path / "report"}
        rc, _, err = cli("evaluate", *[part for pair in {**given, **options}.items() for part in pair])
        assert rc == 1
        assert wanted in err
        assert SECRET not in err
        assert err.count("\n") == 1


def test_fit_says_what_is_wrong(ward: Path, tmp_path: Path, cli: Callable[..., tuple[int, str, str]]) -> None:
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "header.csv").write_text("a,b\n")
    (tmp_path / "twice.csv").write_text("a,a\n1,2\n")
    (tmp_path / "ragged.csv").write_text(f"a,b\n1,2\n3,4,{SECRET}\n")
    (tmp_path / "no.parquet").write_text(SECRET)
    (tmp_path / "cut.csv.gz").write_bytes(b"\x1f\x8b\x08\x00")
    (tmp_path / "bytes.csv").write_bytes(b"a,b\n1,\xff\xfe\n" * 30)
    write_csv(tmp_path / "gap.csv", [{**row, "gap": ""} for row in made_up(1)])
    write_csv(tmp_path / "few.csv", made_up(1, number_of_rows=3))
    for file, options, wanted in [
        (tmp_path / "nix.csv", [], "There is no such file."),
        (tmp_path, [], "This is a folder."),
        (tmp_path / "empty.csv", [], "not a valid table"),
        (tmp_path / "header.csv", [], "The table has no rows."),
        (tmp_path / "twice.csv", [], "1 of the 2 column names stand there twice."),
        (tmp_path / "ragged.csv", [], "not a valid table"),
        (tmp_path / "no.parquet", [], "not a valid table"),
        (tmp_path / "cut.csv.gz", [], "cannot be read"),
        (tmp_path / "bytes.csv", [], "The file is not UTF-8: it looks like windows-1252. Pass --encoding"),
        (
            tmp_path / "gap.csv",
            [],
            "column gap: None of the 120 training rows holds a value. Leave the column out (--drop)",
        ),
        (tmp_path / "few.csv", [], "too few to learn from"),
        (ward / "train.csv", ["--drop", "nix"], "There is no column 'nix' to leave out."),
        (ward / "train.csv", ["--subject", "nix"], "There is no subject column 'nix'."),
        (ward / "train.csv", ["--set", "nix=1"], "There is no setting 'nix'."),
        (ward / "train.csv", ["--preset", "nix"], "There is no preset 'nix'."),
        (ward / "train.csv", ["--schema", tmp_path / "nix.json"], "There is no such schema file."),
        (ward / "train.csv", ["--schema", tmp_path / "empty.csv"], "This is not a valid schema"),
        (ward / "train.csv", ["--out", tmp_path / "empty.csv"], "The folder cannot be made"),
    ]:
        given = ["fit", file, "-g", "independent", "--out", tmp_path / "model", *options]
        rc, _, err = cli(*given)
        assert rc == 1, given
        assert wanted in err, err
        assert SECRET not in err
        assert err.splitlines()[-1].startswith("error: ")
        assert "Unexpected" not in err
    assert cli("fit", tmp_path / "gap.csv", "-g", "independent", "--drop", "gap", "--out", tmp_path / "model")[0] == 0
    assert cli("sample", tmp_path / "model", "-n", 0, "--out", tmp_path / "s.csv")[0] == 2
    assert "must end in" in cli("sample", tmp_path / "model", "--out", tmp_path / "s.xls")[2]
    assert "holds no model" in cli("sample", tmp_path / "nix", "--out", tmp_path / "s.csv")[2]
    assert "There is no generator 'vea'" in cli("fit", ward / "train.csv", "-g", "vea", "--out", tmp_path / "m")[2]


@pytest.mark.realdata
def test_heart_disease(real_data: Path, tmp_path: Path, cli: Callable[..., tuple[int, str, str]]) -> None:
    """Real rows judged as if synthetic cannot be told from others, though "?" stands in one of the files only."""
    names = [
        "age",
        "sex",
        "cp",
        "trestbps",
        "chol",
        "fbs",
        "restecg",
        "thalach",
        "exang",
        "oldpeak",
        "slope",
        "ca",
        "thal",
        "num",
    ]
    lines = (real_data / "uci-heart" / "processed.cleveland.data").read_text().splitlines()
    rows = [dict(zip(names, line.split(","), strict=True)) for line in lines]
    for row in rows:
        row["disease"] = "no" if row.pop("num") == "0" else "yes"
    clean = [row for row in rows if "?" not in row.values()]
    np.random.default_rng(5).shuffle(clean)  # type: ignore[arg-type]
    train = write_csv(tmp_path / "train.csv", [row for row in rows if "?" in row.values()] + clean[:145])
    holdout = write_csv(tmp_path / "holdout.csv", clean[145:])
    assert cli("fit", train, "-g", "gaussian_copula", "--out", tmp_path / "model")[0] == 0
    drawn = tmp_path / "drawn.csv"
    rc, _, err = cli(
        "sample", tmp_path / "model", "-n", 300, "--where", "disease=no", "--where", "sex=1", "--out", drawn
    )
    assert rc == 0, err
    assert {r["disease"] for r in csv.DictReader(drawn.open())} == {"no"}
    rc, out, err = cli(
        *("evaluate", "--train", train, "--holdout", holdout, "--synthetic", train, "--label", "disease"),
        *("--profile", "quick", "--json", "--out", tmp_path / "report"),
    )
    assert rc == 0, err
    assert 0.3 < {r["metric"]: r["value"] for r in json.loads(out)}["fid.joint.detect_auc"] < 0.7
