"""The 26 tables of MIMIC-III 1.4, as its documentation declares them. How they are read: `mimic.py`."""

from __future__ import annotations

from typing import Final

from pipeline.ingest.mimic.tables import MimicRelease, MimicTable, declare

_PERSON: Final = {"subject_id": "patients.subject_id"}
_STAY: Final = {**_PERSON, "hadm_id": "admissions.hadm_id"}
_CHART: Final = {
    **_STAY,
    "icustay_id": "icustays.icustay_id",
    "itemid": "d_items.itemid",
    "cgid": "caregivers.cgid",
}

_TABLES: Final[tuple[MimicTable, ...]] = (
    declare(
        "patients",
        "row_id int, subject_id int!, gender text!, dob time!, dod time, dod_hosp time, dod_ssn time, expire_flag int",
        key="subject_id",
        required=True,
    ),
    declare(
        "admissions",
        "row_id int, subject_id int!, hadm_id int!, admittime time!, dischtime time!, deathtime time,"
        "admission_type text, admission_location text, discharge_location text, insurance text, language text,"
        "religion text, marital_status text, ethnicity text, edregtime time, edouttime time, diagnosis text,"
        "hospital_expire_flag int, has_chartevents_data int",
        key="hadm_id",
        links=_PERSON,
        required=True,
    ),
    declare(
        "icustays",
        "row_id int, subject_id int!, hadm_id int!, icustay_id int!, dbsource text, first_careunit text,"
        "last_careunit text, first_wardid int, last_wardid int, intime time!, outtime time, los float",
        key="icustay_id",
        links=_STAY,
    ),
    declare(
        "callout",
        "row_id int, subject_id int!, hadm_id int!, submit_wardid int, submit_careunit text, curr_wardid int,"
        "curr_careunit text, callout_wardid int, callout_service text, request_tele int, request_resp int,"
        "request_cdiff int, request_mrsa int, request_vre int, callout_status text, callout_outcome text,"
        "discharge_wardid int, acknowledge_status text, createtime time, updatetime time, acknowledgetime time,"
        "outcometime time, firstreservationtime time, currentreservationtime time",
        key="row_id",
        links=_STAY,
    ),
    declare("caregivers", "row_id int, cgid int!, label text, description text", key="cgid"),
    declare(
        "chartevents",
        "row_id int, subject_id int!, hadm_id int, icustay_id int, itemid int!, charttime time, storetime time,"
        "cgid int, value text, valuenum float, valueuom text, warning int, error int, resultstatus text, stopped text",
        key="row_id",
        links=_CHART,
    ),
    declare(
        "cptevents",
        "row_id int, subject_id int!, hadm_id int!, costcenter text, chartdate time, cpt_cd text!, cpt_number int,"
        "cpt_suffix text, ticket_id_seq int, sectionheader text, subsectionheader text, description text",
        key="row_id",
        links=_STAY,
    ),
    declare(
        "datetimeevents",
        "row_id int, subject_id int!, hadm_id int, icustay_id int, itemid int!, charttime time, storetime time,"
        "cgid int, value time, valueuom text, warning int, error int, resultstatus text, stopped text",
        key="row_id",
        links=_CHART,
    ),
    declare(
        "diagnoses_icd",
        "row_id int, subject_id int!, hadm_id int!, seq_num int, icd9_code text",
        key="row_id",
        links={**_STAY, "icd9_code": "d_icd_diagnoses.icd9_code"},
    ),
    declare(
        "drgcodes",
        "row_id int, subject_id int!, hadm_id int!, drg_type text, drg_code text!, description text, drg_severity int,"
        "drg_mortality int",
        key="row_id",
        links=_STAY,
    ),
    declare(
        "d_cpt",
        "row_id int, category int, sectionrange text, sectionheader text, subsectionrange text!, subsectionheader text,"
        "codesuffix text, mincodeinsubsection int, maxcodeinsubsection int",
        key="row_id",
    ),
    declare("d_icd_diagnoses", "row_id int, icd9_code text!, short_title text, long_title text", key="icd9_code"),
    declare("d_icd_procedures", "row_id int, icd9_code text!, short_title text, long_title text", key="icd9_code"),
    declare(
        "d_items",
        "row_id int, itemid int!, label text, abbreviation text, dbsource text, linksto text, category text,"
        "unitname text, param_type text, conceptid int",
        key="itemid",
    ),
    declare(
        "d_labitems", "row_id int, itemid int!, label text, fluid text, category text, loinc_code text", key="itemid"
    ),
    declare(
        "inputevents_cv",
        "row_id int, subject_id int!, hadm_id int, icustay_id int, charttime time, itemid int!, amount float,"
        "amountuom text, rate float, rateuom text, storetime time, cgid int, orderid int, linkorderid int,"
        "stopped text, newbottle int, originalamount float, originalamountuom text, originalroute text,"
        "originalrate float, originalrateuom text, originalsite text",
        key="row_id",
        links=_CHART,
    ),
    declare(
        "inputevents_mv",
        "row_id int, subject_id int!, hadm_id int, icustay_id int, starttime time, endtime time, itemid int!,"
        "amount float, amountuom text, rate float, rateuom text, storetime time, cgid int, orderid int,"
        "linkorderid int, ordercategoryname text, secondaryordercategoryname text,"
        "ordercomponenttypedescription text, ordercategorydescription text, patientweight float, totalamount float,"
        "totalamountuom text, isopenbag int, continueinnextdept int, cancelreason int, statusdescription text,"
        "comments_editedby text, comments_canceledby text, comments_date time, originalamount float,"
        "originalrate float",
        key="row_id",
        links=_CHART,
    ),
    declare(
        "labevents",
        "row_id int, subject_id int!, hadm_id int, itemid int!, charttime time, value text, valuenum float,"
        "valueuom text, flag text",
        key="row_id",
        links={**_STAY, "itemid": "d_labitems.itemid"},
    ),
    declare(
        "microbiologyevents",
        "row_id int, subject_id int!, hadm_id int, chartdate time, charttime time, spec_itemid int,"
        "spec_type_desc text, org_itemid int, org_name text, isolate_num int, ab_itemid int, ab_name text,"
        "dilution_text text, dilution_comparison text, dilution_value float, interpretation text",
        key="row_id",
        links={
            **_STAY,
            "spec_itemid": "d_items.itemid",
            "org_itemid": "d_items.itemid",
            "ab_itemid": "d_items.itemid",
        },
    ),
    declare(
        "noteevents",
        "row_id int, subject_id int!, hadm_id int, chartdate time, charttime time, storetime time, category text,"
        "description text, cgid int, iserror text, text text",
        key="row_id",
        links={**_STAY, "cgid": "caregivers.cgid"},
    ),
    declare(
        "outputevents",
        "row_id int, subject_id int!, hadm_id int, icustay_id int, charttime time, itemid int!, value float,"
        "valueuom text, storetime time, cgid int, stopped text, newbottle text, iserror int",
        key="row_id",
        links=_CHART,
    ),
    declare(
        "prescriptions",
        "row_id int, subject_id int!, hadm_id int!, icustay_id int, startdate time, enddate time, drug_type text,"
        "drug text, drug_name_poe text, drug_name_generic text, formulary_drug_cd text, gsn text, ndc text,"
        "prod_strength text, dose_val_rx text, dose_unit_rx text, form_val_disp text, form_unit_disp text, route text",
        key="row_id",
        links={**_STAY, "icustay_id": "icustays.icustay_id"},
    ),
    declare(
        "procedureevents_mv",
        "row_id int, subject_id int!, hadm_id int, icustay_id int, starttime time, endtime time, itemid int!,"
        "value float, valueuom text, location text, locationcategory text, storetime time, cgid int, orderid int,"
        "linkorderid int, ordercategoryname text, secondaryordercategoryname text, ordercategorydescription text,"
        "isopenbag int, continueinnextdept int, cancelreason int, statusdescription text, comments_editedby text,"
        "comments_canceledby text, comments_date time",
        key="row_id",
        links=_CHART,
    ),
    declare(
        "procedures_icd",
        "row_id int, subject_id int!, hadm_id int!, seq_num int, icd9_code text",
        key="row_id",
        links={**_STAY, "icd9_code": "d_icd_procedures.icd9_code"},
    ),
    declare(
        "services",
        "row_id int, subject_id int!, hadm_id int!, transfertime time, prev_service text, curr_service text",
        key="row_id",
        links=_STAY,
    ),
    declare(
        "transfers",
        "row_id int, subject_id int!, hadm_id int!, icustay_id int, dbsource text, eventtype text, prev_careunit text,"
        "curr_careunit text, prev_wardid int, curr_wardid int, intime time, outtime time, los float",
        key="row_id",
        links={**_STAY, "icustay_id": "icustays.icustay_id"},
    ),
)

MIMIC3: Final = MimicRelease("MIMIC-III", {table.name: table for table in _TABLES}, mark=("patients", "dob"))
"""MIMIC-III 1.4."""
