"""Codes: written and grouped in SQL exactly as a slow reference does it one by one, and mapping files as they come."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.features.block_spec import BlockSpec, MappingSpec
from pipeline.features.codes import group_codes
from pipeline.features.mapping import read_mapping

if TYPE_CHECKING:
    from pathlib import Path

Row = tuple[str | None, str | None]
Found = dict[Row, tuple[str | None, frozenset[str]]]

DIGITS, LETTERS = "0123456789", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def in_sql(block: BlockSpec, rows: list[Row], mapping: pa.Table | None = None) -> Found:
    """Reason and groups of each code, as the statement finds them."""
    with duckdb.connect(":memory:", config={"threads": 1}) as connection:
        table = pa.table({"raw": pa.array([r for r, _ in rows], pa.string()), "version": pa.array([v for _, v in rows], pa.string())})  # fmt: skip
        connection.register("codes", table)
        group_codes(connection, block, mapping, given="codes", into="grouped")
        found: dict[Row, tuple[str | None, set[str]]] = {}
        for raw, version, reason, grouped in connection.execute(
            "SELECT raw, version, reason, grouped FROM grouped"
        ).fetchall():
            found.setdefault((raw, version), (reason, set()))[1].update([] if grouped is None else [grouped])
    return {row: (reason, frozenset(groups)) for row, (reason, groups) in found.items()}


def written(raw: str, system: str) -> tuple[str, bool]:
    """A code in its normal form and whether it is one of its system, letter by letter."""
    bare = "".join(c for c in raw.upper() if not c.isspace())
    head, dot, tail = bare.partition(".")
    if "." in tail:
        return bare, False
    if system == "ICD10PCS":
        return bare, len(bare) == 7 and all(c in DIGITS + LETTERS and c not in "IO" for c in bare)
    if system == "ICD10CM":
        fine = len(head) >= 3 and head[0] in LETTERS and head[1] in DIGITS and head[2] in DIGITS + LETTERS
        rest = head[3:] + tail
        fine = fine and all(c in DIGITS + LETTERS for c in rest) and len(rest) <= 4 and not (dot and len(head) > 3)
        return (head + tail, True) if fine else (bare, False)
    places = {"ICD9PROC": 2, "ICD9CM": 3}[system]
    if system == "ICD9CM" and head[:1] in ("V", "E"):
        digits, width, after = head[1:], (2 if head[0] == "V" else 3), (2 if head[0] == "V" else 1)
        lost = False
    else:
        digits, width, after, lost = head, places, 2, bool(dot)
    rest = (digits[width:] if not dot else "") + tail
    number = digits if dot else digits[:width]
    fine = all(c in DIGITS for c in digits + tail) and len(rest) <= after
    fine = fine and (1 <= len(number) <= width if lost else len(number) == width)
    if not fine:
        return bare, False
    return ("0" * (width - len(number)) if lost else "") + bare.replace(".", ""), True


def slowly(block: BlockSpec, raw: str | None, version: str | None) -> tuple[str | None, frozenset[str]]:
    """What the rules in docs/codes.md say of one code."""
    if raw is None or not "".join(raw.split()):
        return "no code", frozenset()
    if block.normalise == "none":
        code = raw.strip(" ")
        return None, frozenset([code[:3] if block.roll_up == "3_characters" else code])
    one = {"icd9": "ICD9CM", "icd9_procedures": "ICD9PROC", "icd10": "ICD10CM", "icd10_procedures": "ICD10PCS"}
    system = one.get(block.normalise)
    prefix = ""
    if system is None:
        numbers = re.findall(r"\d+", version or "")
        icd = 9 if "9" in numbers or "09" in numbers else 10 if "10" in numbers else None
        if icd is None:
            return "no version", frozenset([raw.strip(" ")] if block.malformed == "keep" else [])
        procedure = block.normalise == "icd_procedures" or "proc" in (version or "").lower()
        system = {(9, False): "ICD9CM", (9, True): "ICD9PROC", (10, False): "ICD10CM", (10, True): "ICD10PCS"}[icd, procedure]  # fmt: skip
        prefix = f"{system}//"
    code, fine = written(raw, system)
    if not fine:
        return "malformed", frozenset([prefix + code] if block.malformed == "keep" else [])
    if block.roll_up == "3_characters":
        code = code[:4] if system == "ICD9CM" and code[0] == "E" else code[:3]
    return None, frozenset([prefix + code])


likely = st.one_of(
    st.from_regex(r"[0-9]{1,5}", fullmatch=True),
    st.from_regex(r" ?[0-9]{0,4}\.[0-9]{0,3}", fullmatch=True),
    st.from_regex(r"[VEve][0-9]{1,5}", fullmatch=True),
    st.from_regex(r"[VEe][0-9]{1,3}\.[0-9]{0,2}", fullmatch=True),
    st.from_regex(r"[A-Za-z][0-9][0-9A-Za-z]\.?[0-9A-Za-z]{0,5} ?", fullmatch=True),
    st.from_regex(r"[0-9A-Z]{6,8}", fullmatch=True),
    st.text(alphabet="0123456789AEVOI. -/'\"%*Z", max_size=8),
    st.none(),
)
versions = st.sampled_from(["9", "10", "09", "9.0", "ICD9CM", "ICD-10-CM", "icd-9-proc", "urn/icd-10-cm", "SNOMED", "1", "", None])  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(likely, versions), min_size=1, max_size=40, unique=True),
    rule=st.sampled_from(["icd9", "icd9_procedures", "icd10", "icd10_procedures", "icd", "icd_procedures", "none"]),
    roll_up=st.sampled_from(["none", "3_characters"]),
    malformed=st.sampled_from(["keep", "leave_out"]),
)
def test_every_code_is_what_the_slow_reference_says(rows, rule, roll_up, malformed) -> None:
    block = BlockSpec(sql="x.sql", normalise=rule, roll_up=roll_up, malformed=malformed)
    assert in_sql(block, rows) == {row: slowly(block, *row) for row in rows}


@pytest.mark.parametrize(
    ("rule", "raw", "version", "whole", "short"),
    [
        ("icd9", "250.00", None, "25000", "250"),
        ("icd9", "0389", None, "0389", "038"),
        ("icd9", "38.9", None, "0389", "038"),
        ("icd9", " v10.1", None, "V101", "V10"),
        ("icd9", "E870.0", None, "E8700", "E870"),
        ("icd9_procedures", "8.45", None, "0845", "084"),
        ("icd10", "e11.9", None, "E119", "E11"),
        ("icd10", "C7A.01", None, "C7A01", "C7A"),
        ("icd10_procedures", "0dtj4zz", None, "0DTJ4ZZ", "0DT"),
        ("icd", "E860", "9", "ICD9CM//E860", "ICD9CM//E860"),
        ("icd", "E860", "10", "ICD10CM//E860", "ICD10CM//E86"),
        ("icd_procedures", "3893", "9", "ICD9PROC//3893", "ICD9PROC//389"),
        ("icd", "0DTJ4ZZ", "http://www.cms.gov/Medicare/Coding/ICD10", "ICD10PCS//0DTJ4ZZ", "ICD10PCS//0DT"),
    ],
)
def test_codes_are_written_and_cut(rule: str, raw: str, version: str | None, whole: str, short: str) -> None:
    for roll_up, expected in (("none", whole), ("3_characters", short)):
        block = BlockSpec(sql="x.sql", normalise=rule, roll_up=roll_up)
        assert in_sql(block, [(raw, version)]) == {(raw, version): (None, frozenset([expected]))}


def test_a_lost_zero_is_only_put_back_where_the_dot_shows_it() -> None:
    block = BlockSpec(sql="x.sql", normalise="icd9")
    assert in_sql(block, [("42", None)])["42", None] == ("malformed", frozenset(["42"]))
    assert in_sql(block, [("42.", None)])["42.", None] == (None, frozenset(["042"]))
    assert in_sql(block, [("1234.5", None)])["1234.5", None] == ("malformed", frozenset(["1234.5"]))


# ---- mapping files as they are downloaded

PHECODE_12 = '"ICD9","ICD9 String","PheCode","Phenotype"\n"250.00","Diabetes","250.2","Type 2 diabetes"\n"8.45","C. difficile","008.5","x"\n'
PHECODE_BOTH = "ICD,Flag,ICDString,Phecode,PhecodeString,PhecodeCategory\n250.00,9,a,250.2,b,c\nE11.9,10,a,250.2,b,c\n"
PHECODE_X = "ICD,vocabulary_id,ICD_string,phecode,phecode_string,category_num,category\nE11.9,ICD10CM,x,EM_202.2,T2D,3,Endo\n250.00,ICD9CM,x,EM_202.2,T2D,3,Endo\nE86.0,ICD9CM,x,WRONG,w,1,w\n"
CCSR = "'ICD-10-CM CODE','ICD-10-CM CODE DESCRIPTION','Default CCSR CATEGORY IP','CCSR CATEGORY 1','CCSR CATEGORY 2'\n'E119',\"Type 2, without complications\",'END002','END002','END005'\n'E860',Dehydration,'END011','END011',' '\n"
CCS = "Single-level CCS, a note first\n'ICD-9-CM CODE','CCS CATEGORY','CCS CATEGORY DESCRIPTION'\n'     ','0    ','No DX'\n'25000','49   ','DiabMel no c'\n"
OWN = "group;code\nsugar;E11.9\nsugar;250.00\nwater;E86.0\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (PHECODE_12, {("25000", "9"): {"250.2"}, ("008.45", "9"): {"008.5"}, ("E119", "10"): set()}),
        (PHECODE_BOTH, {("25000", "9"): {"250.2"}, ("E11.9", "10"): {"250.2"}, ("E119", "9"): set()}),
        (PHECODE_X, {("E119", "10"): {"EM_202.2"}, ("25000", "9"): {"EM_202.2"}, ("E860", "10"): set()}),
        (CCSR, {("E119", "10"): {"END002", "END005"}, ("E86.0", "10"): {"END011"}, ("25000", "9"): set()}),
        (CCS, {("250.00", "9"): {"49"}, ("E119", "10"): set()}),
        (OWN, {("E119", "10"): {"sugar"}, ("250.00", "9"): {"sugar"}, ("E860", "9"): {"water"}}),
    ],
)
def test_mappings_are_read_as_they_are_downloaded(tmp_path: Path, text: str, expected: dict) -> None:
    (tmp_path / "map.csv").write_text(text)
    cut = BlockSpec(sql="x.sql", normalise="icd", roll_up="3_characters")
    for ungrouped in ("leave_out", "3_characters"):
        spec = MappingSpec(files=["map.csv"], ungrouped=ungrouped)
        block = BlockSpec(sql="x.sql", normalise="icd", roll_up=spec)
        found = in_sql(block, list(expected), read_mapping(spec, tmp_path))
        for row, groups in expected.items():
            left = slowly(cut, *row)[1] if ungrouped == "3_characters" else frozenset()
            assert found[row] == ((None, groups) if groups else ("no group", left))


def test_several_files_declared_columns_and_a_code_of_a_block_without_rule(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\ufeffatc;level\nA10BA02;A10\n C07AB02 ;C07\n")
    (tmp_path / "b.csv").write_text("atc\tlevel\nA10BA02\tglucose\n")
    spec = MappingSpec(files=["a.csv", "b.csv"], code="atc", groups=["level"])
    block = BlockSpec(sql="x.sql", roll_up=spec)
    found = in_sql(block, [("A10BA02", None), (" C07AB02", None), ("a10ba02", None)], read_mapping(spec, tmp_path))
    assert found["A10BA02", None] == (None, frozenset(["A10", "glucose"]))
    assert found[" C07AB02", None] == (None, frozenset(["C07"]))
    assert found["a10ba02", None] == ("no group", frozenset())


@pytest.mark.parametrize(
    ("text", "settings_", "words"),
    [
        ("one,two\n1,2\n", {}, r"names no column of codes .* Call them `code` and `group`"),
        ("code,group\n1,2,3\n", {}, r"map.csv:2: The line has 3 cells, the header 2"),
        ("code,group\n ,\n", {}, "no code with a group"),
        ("code,group\n1,2\n", {"groups": ["goup"]}, r"no column 'goup'.*Did you mean 'group'"),
    ],
)
def test_a_mapping_that_cannot_be_told_is_refused(tmp_path: Path, text: str, settings_: dict, words: str) -> None:
    (tmp_path / "map.csv").write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_mapping(MappingSpec(files=["map.csv"], **settings_), tmp_path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_mapping(MappingSpec(files=["none.csv"]), tmp_path)
