"""MIMIC-III and MIMIC-IV deliveries: tables, types, keys and links on small ones made here, and the two open demos."""

from __future__ import annotations

from datetime import date, datetime
from typing import TYPE_CHECKING

import pytest

from pipeline.errors import InputError
from pipeline.ingest.mimic.mimic3_tables import MIMIC3
from pipeline.ingest.mimic.mimic4_tables import MIMIC4
from pipeline.ingest.mimic.tables import declare

if TYPE_CHECKING:
    from pathlib import Path

PATIENTS3 = b"""ROW_ID,SUBJECT_ID,GENDER,DOB,DOD,DOD_HOSP,DOD_SSN,EXPIRE_FLAG
1,10,F,2094-03-05 00:00:00,2165-08-12 00:00:00,,2165-08-12 00:00:00,1
2,11,M,1844-07-18 00:00:00,,,,0
"""
ADMISSIONS3 = b"""ROW_ID,SUBJECT_ID,HADM_ID,ADMITTIME,DISCHTIME,DEATHTIME,ADMISSION_TYPE,ADMISSION_LOCATION,\
DISCHARGE_LOCATION,INSURANCE,LANGUAGE,RELIGION,MARITAL_STATUS,ETHNICITY,EDREGTIME,EDOUTTIME,DIAGNOSIS,\
HOSPITAL_EXPIRE_FLAG,HAS_CHARTEVENTS_DATA
1,10,100,2164-10-23 21:09:00,2164-11-01 17:15:00,,EMERGENCY,EMERGENCY ROOM ADMIT,HOME,Medicare,,CATHOLIC,SINGLE,\
WHITE,,,"SEPSIS ""BAD"", SHOCK",0,1
2,11,101,2126-08-14 22:32:00,2126-08-28 18:59:00,2126-08-28 18:59:00,URGENT,CLINIC,DEAD/EXPIRED,Private,ENGL,\
JEWISH,MARRIED,ASIAN,,,,1,1
"""
PATIENTS4 = b"subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod\n10,F,21,2125,2011 - 2013,\n"
ADMISSIONS4 = b"""subject_id,hadm_id,admittime,dischtime,deathtime,admission_type,admit_provider_id,\
admission_location,discharge_location,insurance,language,marital_status,race,edregtime,edouttime,hospital_expire_flag
10,100,2125-02-24 14:38:00,2125-03-04 14:02:00,,URGENT,P1,ER,HOME,Medicaid,ENGLISH,SINGLE,WHITE,,,0
"""
DIAGNOSES4 = b"subject_id,hadm_id,seq_num,icd_code,icd_version\n"
MIMIC3_CORE = {"PATIENTS.csv.gz": PATIENTS3, "ADMISSIONS.csv": ADMISSIONS3}
MIMIC4_CORE = {"hosp/patients.csv.gz": PATIENTS4, "hosp/admissions.csv.gz": ADMISSIONS4}


def at(time: str) -> datetime:
    return datetime.fromisoformat(time)


def test_declared_tables() -> None:
    assert len(MIMIC3.tables) == 26
    assert len(MIMIC4.tables) == 31
    for release in (MIMIC3, MIMIC4):
        for table in release.tables.values():
            for column, link in table.links.items():
                parent, _, key = link.partition(".")
                assert column in table.columns
                assert release.tables[parent].key == (key,), f"{table.name}.{column} points to {link}"
                assert release.tables[parent].columns[key] == table.columns[column]
    with pytest.raises(ValueError, match="no column type"):
        declare("x", "a integer")
    with pytest.raises(ValueError, match="no columns"):
        declare("x", "a int", key="b")


def test_types_case_and_quotes(take) -> None:
    taken = take(MIMIC3_CORE, format="mimic3")
    assert [str(t) for t in taken.table("patients").schema.types] == [
        "int64", "int64", "string", "timestamp[us]", "timestamp[us]", "timestamp[us]", "timestamp[us]", "int64",
    ]  # fmt: skip
    assert taken.rows("patients")[1]["dob"] == at("1844-07-18")
    first, second = taken.rows("admissions")
    assert (first["diagnosis"], first["language"]) == ('SEPSIS "BAD", SHOCK', None)
    assert second["deathtime"] == at("2126-08-28 18:59")
    assert taken.account.taken == {"admissions": 2, "patients": 2}
    assert taken.account.info["version"] == "MIMIC-III 1.4"
    assert "chartevents" in taken.account.info["absent_tables"]
    assert len(taken.account.info["absent_tables"]) == 24
    assert taken.account.info["dangling"] == {}
    assert [(f["file"], f["outcome"]) for f in taken.rows("delivered_files")] == [
        ("ADMISSIONS.csv", "taken"),
        ("PATIENTS.csv.gz", "taken"),
    ]


def test_mimic4_in_its_folders(take) -> None:
    codes = DIAGNOSES4 + b"10,100,1,I10,10\n10,100,2,4139,9\n99,77,1,4139,9\n"
    files = MIMIC4_CORE | {
        "hosp/diagnoses_icd.csv": codes,
        "demo_subject_id.csv": b"subject_id\n10\n",
        "README.txt": b"x",
    }
    taken = take(files, format="mimic4")
    assert taken.account.info["version"] == "MIMIC-IV 2.2"
    assert taken.account.info["dangling"] == {"diagnoses_icd.hadm_id": 1, "diagnoses_icd.subject_id": 1}
    assert taken.account.not_modelled == {"demo_subject_id": 1}
    assert taken.account.info["other_files"] == {".txt": 1}
    assert taken.rows("patients")[0] | {"dod": None} == {
        "subject_id": 10, "gender": "F", "anchor_age": 21, "anchor_year": 2125, "anchor_year_group": "2011 - 2013", "dod": None,
    }  # fmt: skip
    outcomes = {f["file"]: f["outcome"] for f in taken.rows("delivered_files")}
    assert outcomes["demo_subject_id.csv"] == "not modelled"
    assert outcomes["README.txt"] == "no data"


@pytest.mark.parametrize(
    ("group", "columns", "version"),
    [
        (b"2020 - 2022", b"admit_provider_id", "MIMIC-IV 3.x"),
        (b"2011 - 2013", b"admit_provider_id", "MIMIC-IV 2.2"),
        (b"2011 - 2013", b"somebody", "MIMIC-IV 2.1 or older"),
    ],
)
def test_versions_of_mimic4(take, group: bytes, columns: bytes, version: str) -> None:
    files = {
        "patients.csv": PATIENTS4.replace(b"2011 - 2013", group),
        "admissions.csv": ADMISSIONS4.replace(b"admit_provider_id", columns),
    }
    account = take(files, format="mimic4").account
    assert account.info["version"] == version
    if columns == b"somebody":
        assert account.info["absent_columns"] == {"admissions": ["admit_provider_id"]}
        assert account.info["undeclared_columns"] == {"admissions": ["somebody"]}


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (b"1.5,I10,10", "wrong_type"),
        (b"0x10,I10,10", "wrong_type"),
        (b"1_000,I10,10", "wrong_type"),
        (b"x,I10,10", "wrong_type"),
        (b",I10,10", "missing_value"),
        (b"1,,10", "missing_value"),
        (b"1,I10", "wrong_field_count"),
    ],
)
def test_rows_that_do_not_fit(take, cell: bytes, reason: str) -> None:
    files = MIMIC4_CORE | {
        "diagnoses_icd.csv": DIAGNOSES4 + b"10,100,1.0,I10,10\n10,100," + cell + b"\n10,100,3,R05,10\n"
    }
    taken = take(files, format="mimic4")
    assert taken.rejects() == [("diagnoses_icd.csv", 3, reason)]
    assert [row["seq_num"] for row in taken.rows("diagnoses_icd")] == [1, 3]
    assert taken.account.balanced
    (file,) = [f for f in taken.rows("delivered_files") if f["file"] == "diagnoses_icd.csv"]
    assert (file["outcome"], file["reason"], file["records"]) == ("partly taken", reason, 3)


@pytest.mark.parametrize(
    "written",
    [
        b"2100-13-01 00:00:00",
        b"2100-01-01 00:00:00+02",
        b"infinity",
        b"2100-1-1 0:00",
        b"12100-01-01 00:00:00",
        b"epoch",
    ],
)
def test_times_that_are_none(take, written: bytes) -> None:
    stays = b"subject_id,hadm_id,stay_id,first_careunit,last_careunit,intime,outtime,los\n"
    rows = b"10,100,1,MICU,MICU,2100-01-01 00:00:00,,1.25\n10,100,2,MICU,MICU," + written + b",,2\n"
    taken = take(MIMIC4_CORE | {"icu/icustays.csv": stays + rows}, format="mimic4")
    assert taken.rejects() == [("icu/icustays.csv", 3, "wrong_type")]
    assert [row["los"] for row in taken.rows("icustays")] == [1.25]


@pytest.mark.parametrize("written", [b"nan", b"inf", b"1e999", b"1,5", b"0x1", b"1_0"])
def test_numbers_that_are_none(take, written: bytes) -> None:
    stays = b"subject_id,hadm_id,stay_id,intime,los\n10,100,1,2100-01-01 00:00:00,1e-3\n"
    row = b'10,100,2,2100-01-01 00:00:00,"' + written + b'"\n'
    taken = take(MIMIC4_CORE | {"icu/icustays.csv": stays + row}, format="mimic4")
    assert taken.rejects() == [("icu/icustays.csv", 3, "wrong_type")]
    assert [row["los"] for row in taken.rows("icustays")] == [0.001]


def test_columns_called_like_our_own(take) -> None:
    header = b'subject_id,hadm_id,transfertime,line,nth,_line,sha256,"a ""b"" c"\n'
    # The second row sends the file through the reader that knows lines.
    rows = b"10,100,2150-01-01,a,b,c,d,e\nx,100,2150-01-01,a,b,c,d,e\n"
    taken = take(MIMIC4_CORE | {"services.csv": header + rows}, format="mimic4")
    assert taken.rejects() == [("services.csv", 3, "wrong_type")]
    (row,) = taken.rows("services")
    assert [row[name] for name in ("line", "nth", "_line", "sha256", 'a "b" c')] == ["a", "b", "c", "d", "e"]
    assert row["transfertime"] == at("2150-01-01")


def test_dates_may_be_midnights(take) -> None:
    rows = b"subject_id,chartdate,seq_num,result_name,result_value\n10,2100-01-02 00:00:00,1,BMI,25\n10,2100-01-03,1,BMI,25\n"
    taken = take(MIMIC4_CORE | {"omr.csv": rows}, format="mimic4")
    assert [row["chartdate"] for row in taken.rows("omr")] == [date(2100, 1, 2), date(2100, 1, 3)]


def test_repeated_keys(take) -> None:
    again = PATIENTS4 + b"10,F,21,2125,2011 - 2013,\n10,M,21,2125,2011 - 2013,\n11,F,30,2150,2011 - 2013,\n"
    taken = take(MIMIC4_CORE | {"hosp/patients.csv.gz": again}, format="mimic4")
    assert taken.account.superseded == {"patients": 1}
    assert taken.rejects() == [("hosp/patients.csv.gz", 4, "repeated_key")]
    assert [(row["subject_id"], row["gender"]) for row in taken.rows("patients")] == [(10, "F"), (11, "F")]
    assert taken.account.balanced


def test_a_file_that_is_no_such_table_is_set_aside(take) -> None:
    files = MIMIC4_CORE | {"labevents.csv": b"a,b\n1,2\n", "emar.csv": b"1,2\n3,4\n", "omr.csv": b""}
    taken = take(files, format="mimic4")
    assert taken.rejects() == [("emar.csv", 0, "no_header"), ("labevents.csv", 0, "other_columns")]
    outcomes = {f["file"]: f["outcome"] for f in taken.rows("delivered_files")}
    assert (outcomes["labevents.csv"], outcomes["emar.csv"], outcomes["omr.csv"]) == (
        "quarantined",
        "quarantined",
        "empty",
    )
    assert {"labevents", "emar", "omr"} <= set(taken.account.info["absent_tables"])
    assert taken.account.taken == {"admissions": 1, "patients": 1}


def test_a_table_without_rows_is_there(take) -> None:
    taken = take(MIMIC4_CORE | {"diagnoses_icd.csv": DIAGNOSES4}, format="mimic4")
    assert taken.table("diagnoses_icd").num_rows == 0
    assert str(taken.table("diagnoses_icd").schema.field("icd_version").type) == "int64"


def test_ordinals_with_a_point_are_no_numbers(take) -> None:
    details = b"subject_id,emar_id,emar_seq,parent_field_ordinal\n10,10-1,1,1.1\n10,10-1,1,1.10\n"
    taken = take(MIMIC4_CORE | {"hosp/emar_detail.csv": details}, format="mimic4")
    assert [row["parent_field_ordinal"] for row in taken.rows("emar_detail")] == ["1.1", "1.10"]


def test_a_cut_gzip(take) -> None:
    import gzip

    whole = gzip.compress(DIAGNOSES4 + b"".join(b"10,100,%d,I10,10\n" % n for n in range(5000)))
    taken = take(MIMIC4_CORE | {"diagnoses_icd.csv.gz": whole[: len(whole) // 2]}, format="mimic4")
    assert [reason for _, _, reason in taken.rejects()] == ["gzip_truncated"]
    assert 0 < taken.account.taken["diagnoses_icd"] < 5000
    assert taken.account.balanced


def test_other_generation_is_refused(take) -> None:
    with pytest.raises(InputError, match=r"These are tables of MIMIC-IV, but the source takes MIMIC-III") as error:
        take(MIMIC4_CORE, format="mimic3")
    assert "format mimic4" in error.value.todo
    with pytest.raises(InputError, match=r"These are tables of MIMIC-III, but the source takes MIMIC-IV"):
        take(MIMIC3_CORE, format="mimic4")


def test_what_cannot_be_done_without(take) -> None:
    with pytest.raises(InputError, match="no admissions,"):
        take({"patients.csv": PATIENTS4}, format="mimic4")
    with pytest.raises(InputError, match="no patients and no admissions,"):
        take({"omr.csv": b"subject_id,chartdate,seq_num,result_name,result_value\n"}, format="mimic4")
    with pytest.raises(InputError, match="is an archive"):
        take({"mimic-iv-demo.zip": b"PK", "README.md": b"see the archive"}, format="mimic4")
    with pytest.raises(InputError, match=r"no admissions \(other_columns\),"):
        take({"patients.csv": PATIENTS4, "admissions.csv": b"a,b\n1,2\n"}, format="mimic4")
    with pytest.raises(InputError, match="Two files of the delivery are the table 'patients'"):
        take(MIMIC4_CORE | {"patients.csv": PATIENTS4}, format="mimic4")
    with pytest.raises(InputError, match="cannot be used"):
        take(MIMIC4_CORE | {"diagnoses_icd.csv": DIAGNOSES4 + b"x,1,1,I10,10\n"}, format="mimic4", limit=0.05)


@pytest.mark.realdata
def test_mimic3_demo(take, real_data: Path) -> None:
    taken = take(real_data / "mimic-iii-demo-1.4", format="mimic3", limit=0.0)
    account = taken.account
    assert account.in_ == 967139
    assert account.quarantined == account.superseded == account.not_modelled == {}
    assert (account.taken["chartevents"], account.taken["labevents"]) == (758355, 76074)
    assert (account.taken["patients"], account.taken["admissions"], account.taken["icustays"]) == (100, 129, 136)
    assert account.taken["noteevents"] == 0
    assert account.info["absent_tables"] == []
    assert account.info["version"] == "MIMIC-III 1.4"
    # Codes of the demo that its own dictionaries do not have.
    assert account.info["dangling"] == {"diagnoses_icd.icd9_code": 45, "procedures_icd.icd9_code": 3}
    assert "tolerant_files" not in account.info


@pytest.mark.realdata
def test_mimic4_demo(take, real_data: Path) -> None:
    taken = take(real_data / "mimic-iv-demo-2.2", format="mimic4", limit=0.0)
    account = taken.account
    assert account.in_ == 729738
    assert account.not_modelled == {"demo_subject_id": 100}
    assert account.quarantined == account.superseded == {}
    assert (account.taken["diagnoses_icd"], account.taken["procedures_icd"]) == (4506, 722)
    assert account.info["absent_tables"] == ["chartevents"]
    assert account.info["version"] == "MIMIC-IV 2.2"
    assert account.info["dangling"] == {"emar.poe_id": 1063, "pharmacy.poe_id": 19, "prescriptions.poe_id": 19}
    assert "tolerant_files" not in account.info
