"""What leaves the house: the rows, what they themselves show, a card, checksums. Nothing of the real rows beside them."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from release_ward import COHORT, Ward
from scipy.sparse import csr_matrix

from pipeline.features.cohort import Cohort
from pipeline.features.schema import CodeBlock, Column, Resolution, TableSchema
from pipeline.features.stored import FolderTarget, read_features
from pipeline.release.payload import released_rows, write_checksums, write_rows
from pipeline.workflow.deciding import sign, waive
from pipeline.workflow.releasing import export, release_step
from pipeline.workflow.training import CANDIDATE

if TYPE_CHECKING:
    from pathlib import Path

RARE = "Zebulon-Quartermain-Ward"
FILES = [
    "SHA256SUMS", "card.json", "card.md", "croissant.json", "data.csv", "data.parquet", "evaluation.html", "gate.json",
    "model_card.json", "model_card.md", "schema.json",
]  # fmt: skip
OFFICER = {"role": "privacy_officer", "name": "Ada Moreau"}


def released(ward: Ward, folder: Path) -> Path:
    """Sign, publish, export; gives the folder."""
    sign(ward.lake, ward.cell(), **OFFICER)
    state = release_step(ward.lake, ward.cell()).state
    assert state.state == "published", state.reasons
    export(ward.lake, state.release_id, folder)
    return folder


def card(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "card.json").read_text(encoding="utf-8"))


def odd_rows() -> Cohort:
    """Every kind of column; the schema knows extremes, levels and codes that no row has."""
    schema = TableSchema(
        columns=[
            Column(name="id", kind="identifier", dtype="string", role="id"),
            Column(name="lactate", kind="continuous", dtype="float64", nullable=True, bounds=(0.0, 999.25)),
            Column(name="stays", kind="count", dtype="int64", bounds=(0, 77), nullable=True),
            Column(
                name="ward, or not",
                kind="categorical",
                dtype="string",
                levels=["north", RARE, "", 's,ü"d'],
                nullable=True,
            ),
            Column(name="sex", kind="binary", dtype="bool", levels=[False, True]),
            Column(
                name="seen",
                kind="datetime",
                dtype="timestamp[us]",
                bounds=(0, 99999),
                resolution=Resolution(kind="step", step=1 / 24, offset=0.5),
                nullable=True,
            ),
            Column(name="born", kind="datetime", dtype="date32[day]", bounds=(-31234, 31234)),
            Column(name="empty", kind="continuous", dtype="float32", bounds=(3, 4), nullable=True),
        ],
        blocks=[CodeBlock(name="dx", kind="count", vocabulary=["A00", "RARE-Q99", "Z99"])],
    )
    table = pa.table(
        {
            "id": ["synthetic-1", "synthetic-2", "synthetic-3"],
            "lactate": [0.1 + 0.2, None, 1e-7],
            "stays": [3, None, 0],
            "ward, or not": ['s,ü"d', "", None],
            "sex": [True, True, True],
            "seen": pa.array([43_200_000_000, None, 3_600_000_000], pa.timestamp("us")),
            "born": pa.array([-1, 0, 1], pa.date32()),
            "empty": pa.array([None, None, None], pa.float32()),
        },
        schema=schema.arrow(),
    )
    blocks = {"dx": csr_matrix(np.array([[2, 0, 0], [0, 0, 0], [0, 0, 5]]))}
    return Cohort(table=table, schema=schema, subject=np.array(["MRN-1", "MRN-2", "MRN-3"]), blocks=blocks)


def test_the_schema_says_what_the_rows_show() -> None:
    rows = released_rows(odd_rows(), 2)
    assert rows.n_rows == 2
    assert rows.schema.column("lactate").bounds == (0.1 + 0.2, 0.1 + 0.2)
    assert rows.schema.column("ward, or not").levels == ["", 's,ü"d']
    assert rows.schema.column("sex").levels == [True]
    assert not rows.schema.column("ward, or not").nullable
    assert rows.schema.column("empty").bounds is None
    assert rows.schema.column("seen").resolution.offset == 0.5
    assert rows.schema.blocks[0].vocabulary == ["A00"]
    assert not any("MRN" in subject for subject in rows.subject)
    text = rows.schema.model_dump_json()
    for secret in ("999.25", "77", RARE, "99999", "RARE-Q99", "Z99", "31234"):
        assert secret not in text


def test_csv_comes_back_bit_by_bit(tmp_path: Path) -> None:
    """Also what lies between an empty text and no text, and numbers that have no short form."""
    rows = released_rows(odd_rows(), None)
    names = write_rows(rows, ["parquet", "csv"], FolderTarget(tmp_path))
    assert names == ["data.csv", "data.parquet", "block_dx.csv", "block_dx.parquet", "schema.json"]
    how = pa_csv.ConvertOptions(
        column_types=rows.table.schema, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False
    )
    back = pa_csv.read_csv(tmp_path / "data.csv", convert_options=how)
    assert back.cast(rows.table.schema).equals(rows.table)
    assert pq.ParquetFile(tmp_path / "data.parquet").read().equals(rows.table)
    codes = pa_csv.read_csv(tmp_path / "block_dx.csv").to_pylist()
    assert codes == [{"row": 0, "code": "A00", "value": 2}, {"row": 2, "code": "Z99", "value": 5}]
    assert "Z99" in (tmp_path / "schema.json").read_text()
    write_checksums(names, FolderTarget(tmp_path))
    done = subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0


def test_nothing_but_the_rows_leaves(ward: Ward, tmp_path: Path) -> None:
    """No checkpoint, index, subject or split; no extreme and no rare level that the released rows do not show."""
    folder = released(ward, tmp_path / "out")
    assert sorted(file.name for file in folder.iterdir()) == FILES
    real = read_features(ward.lake.tables, ward.current("features"))
    rows = pq.ParquetFile(folder / "data.parquet").read()
    assert rows.column_names == ["age", "sex", "lactate", "ward", "died"]
    texts = {name: (folder / name).read_text(encoding="utf-8") for name in FILES if not name.endswith("parquet")}
    for words in ("MRN", RARE, "_replicate", "safetensors", str(ward.home.root)):
        assert words not in "".join(texts.values()), words
    for words in ("holdout", "subjects", "split"):
        assert words not in texts["schema.json"] + texts["data.csv"] + texts["croissant.json"], words
    known = {
        column.name: column for column in TableSchema.model_validate_json((folder / "schema.json").read_text()).columns
    }
    for name in ("age", "lactate"):
        values = [v for v in rows.column(name).to_pylist() if v is not None]
        assert known[name].bounds == (min(values), max(values))
        extremes = {real.schema.column(name).bounds[0], real.schema.column(name).bounds[1]} - set(values)
        assert not extremes & set(known[name].bounds)
    assert set(known["ward"].levels) == set(rows.column("ward").to_pylist())


def test_the_judged_rows_of_the_first_replicate_leave_in_their_order(ward: Ward, tmp_path: Path) -> None:
    ward.asks(release="{generator: independent, rows: 50, formats: [csv]}", extra="replicates: 2\n")
    ward.trains()
    folder = released(ward, tmp_path / "out")
    assert sorted(file.name for file in folder.iterdir()) == [n for n in FILES if n != "data.parquet"]
    synthetic = ward.current("synthetic/independent")
    beside = ward.lake.tables.read(synthetic, "subjects").column("_replicate").to_numpy()
    judged = read_features(ward.lake.tables, synthetic).take(beside == CANDIDATE)
    ages = pa_csv.read_csv(folder / "data.csv").column("age").to_pylist()
    assert ages == judged.table.column("age").to_pylist()[:50]
    assert card(folder)["provenance"]["replicates"] == 2


def test_the_card_names_settings_overrides_waivers_and_who_signed(ward: Ward, tmp_path: Path) -> None:
    from datetime import date

    ward.finds(fid_marg_jsd=0.2)
    ward.trains("independent", preset="paper")
    waive(ward.lake, ward.cell(), "jsd_mean", until=date(2031, 5, 6), reason="a | small ward", **OFFICER)
    folder = released(ward, tmp_path / "out")
    content = card(folder)
    assert content["provenance"]["overrides"] == {"preset": "paper"}
    assert content["signatures"][0]["name"] == "Ada Moreau"
    assert "user" not in content["signatures"][0], "who typed it stays in the house"
    assert [r["name"] for r in content["verdict"]["rules"] if r["waived"]] == ["jsd_mean"]
    assert content["provenance"]["privacy"]["epsilon"] == "inf"
    assert content["rows"] == pq.ParquetFile(folder / "data.parquet").metadata.num_rows
    text = (folder / "card.md").read_text(encoding="utf-8")
    for words in (
        f"{COHORT}--2026-10--r1",
        "changed in the launchpad | preset=paper",
        "| jsd_mean | waived |",
        "a \\| small ward",
        "2031-05-06",
        "not differentially private",
        "Age in years.",
        "drawn under | no notion of fairness",
    ):
        assert words in text, words


def test_the_card_tells_the_notion_of_fairness_that_rows_were_drawn_under(ward: Ward, tmp_path: Path) -> None:
    ward.asks(extra="fairness: {notion: parity, label: died, protected: [sex]}\n")
    ward.makes()
    folder = released(ward, tmp_path / "out")
    told = card(folder)["provenance"]["drawn_under"]
    assert told.startswith("parity of 'died' over 'sex', aim labels")
    assert f"drawn under | {told}" in (folder / "card.md").read_text(encoding="utf-8")


def test_an_export_is_whole_or_not_at_all(ward: Ward, tmp_path: Path) -> None:
    from pipeline.errors import ConfigError, NotFoundError

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "out").mkdir()
    folder = released(ward, tmp_path / "out")
    done = subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=folder, capture_output=True, check=False)
    assert done.returncode == 0
    with pytest.raises(ConfigError, match="not empty"):
        export(ward.lake, f"{COHORT}--2026-10--r1", tmp_path / "full")
    with pytest.raises(NotFoundError):
        export(ward.lake, f"{COHORT}--2026-11--r1", tmp_path / "new")
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_what_people_say_is_on_the_card_or_said_to_be_lacking(ward: Ward, tmp_path: Path) -> None:
    said = 'card: {terms: "Ethics board 12/34.", licence: CC-BY-4.0, intended_uses: [teaching], review_months: 6}\n'
    ward.asks(extra=said)
    ward.trains()
    folder = released(ward, tmp_path / "out")
    text = (folder / "card.md").read_text(encoding="utf-8")
    for words in (
        "Ethics board 12/34.",
        "CC-BY-4.0",
        "- teaching",
        "| contact | **nobody has said so yet** |",
        "2027-04",
    ):
        assert words in text, words
    assert card(folder)["statement"]["lacking"] == ["contact", "citation", "population", "forbidden_uses"]


def test_the_cards_tell_what_was_measured_and_what_was_not(ward: Ward, tmp_path: Path) -> None:
    folder = released(ward, tmp_path / "out")
    measured = card(folder)["evidence"]
    assert "membership: shadow models (LiRA)" in measured["not_tried"]
    assert "inference of attributes from known ones, excess over people outside training" in measured["tried"]
    assert {f["metric"] for f in measured["figures"]} >= {"priv.mia.max_auc", "fid.marg.jsd"}
    assert next(f for f in measured["figures"] if f["metric"] == "priv.mia.max_auc")["passed"] is True
    model = json.loads((folder / "model_card.json").read_text(encoding="utf-8"))
    assert model["generator"] == "independent"
    assert model["parameters"] > 0
    assert model["training"]["rows"] > 100
    assert model["trained"]["training_rows"] == ward.current("features").sha256
    text = (folder / "model_card.md").read_text(encoding="utf-8")
    for words in ("# Model card: independent", "The model does not leave the house", "shadow models", "Ada Moreau"):
        assert words in text, words


def test_machines_can_read_the_release(ward: Ward, tmp_path: Path) -> None:
    """The Croissant document is valid by MLCommons' own reader, and its record set gives the released rows."""
    import mlcroissant

    folder = released(ward, tmp_path / "out")
    data = mlcroissant.Dataset(jsonld=folder / "croissant.json")
    assert not data.metadata.issues.errors, data.metadata.issues.report()
    rows = pq.ParquetFile(folder / "data.parquet").read()
    assert [f.name for f in data.metadata.record_sets[0].fields] == rows.column_names
    first = next(iter(data.records("rows")))
    assert first["rows/age"] == pytest.approx(rows.column("age")[0].as_py())
    said = {o.name: o.sha256 for o in data.metadata.distribution}
    sums = dict(reversed(line.split("  ")) for line in (folder / "SHA256SUMS").read_text().splitlines())
    assert said == {name: sums[name] for name in ("data.csv", "data.parquet")}


def test_the_report_that_leaves_names_its_waivers(ward: Ward, tmp_path: Path) -> None:
    from datetime import date

    ward.finds(fid_marg_jsd=0.2)
    ward.trains()
    waive(ward.lake, ward.cell(), "jsd_mean", until=date(2031, 5, 6), reason="a small ward", **OFFICER)
    page = (released(ward, tmp_path / "out") / "evaluation.html").read_text(encoding="utf-8")
    for words in ("2031-05-06", "a small ward", "Ada Moreau", f"{COHORT}--2026-10--r1"):
        assert words in page, words
