"""The tables of the modules `hosp` and `icu` of MIMIC-IV 2.2 and 3.1, as its documentation declares them.

Both releases have the same columns; 3.x adds years (`anchor_year_group` 2020 - 2022), by which it is told. What older
releases lack (`provider`, `caregiver` and the columns that point to them came with 2.1 and 2.2) is not needed. How they
are read: `mimic.py`.
"""

from __future__ import annotations

from typing import Final

from pipeline.ingest.mimic.tables import MimicRelease, MimicTable, declare

_PERSON: Final = {"subject_id": "patients.subject_id"}
_STAY: Final = {**_PERSON, "hadm_id": "admissions.hadm_id"}
_CHART: Final = {
    **_STAY,
    "stay_id": "icustays.stay_id",
    "itemid": "d_items.itemid",
    "caregiver_id": "caregiver.caregiver_id",
}
_WHO_WHERE: Final = "subject_id int!, hadm_id int!, stay_id int, caregiver_id int,"

_HOSP: Final[tuple[MimicTable, ...]] = (
    declare(
        "patients",
        "subject_id int!, gender text!, anchor_age int, anchor_year int!, anchor_year_group text, dod date",
        key="subject_id",
        required=True,
    ),
    declare(
        "admissions",
        "subject_id int!, hadm_id int!, admittime time!, dischtime time, deathtime time, admission_type text,"
        "admit_provider_id text, admission_location text, discharge_location text, insurance text, language text,"
        "marital_status text, race text, edregtime time, edouttime time, hospital_expire_flag int",
        key="hadm_id",
        links={**_PERSON, "admit_provider_id": "provider.provider_id"},
        required=True,
    ),
    declare("provider", "provider_id text!", key="provider_id"),
    declare("d_hcpcs", "code text!, category int, long_description text, short_description text", key="code"),
    declare("d_icd_diagnoses", "icd_code text!, icd_version int!, long_title text", key="icd_code icd_version"),
    declare("d_icd_procedures", "icd_code text!, icd_version int!, long_title text", key="icd_code icd_version"),
    declare("d_labitems", "itemid int!, label text, fluid text, category text", key="itemid"),
    declare(
        "diagnoses_icd",
        "subject_id int!, hadm_id int!, seq_num int!, icd_code text!, icd_version int!",
        key="hadm_id seq_num icd_code icd_version",
        links=_STAY,
    ),
    declare(
        "procedures_icd",
        "subject_id int!, hadm_id int!, seq_num int!, chartdate date, icd_code text!, icd_version int!",
        key="hadm_id seq_num icd_code icd_version",
        links=_STAY,
    ),
    declare(
        "drgcodes",
        "subject_id int!, hadm_id int!, drg_type text, drg_code text!, description text, drg_severity int,"
        "drg_mortality int",
        links=_STAY,
    ),
    declare(
        "emar",
        "subject_id int!, hadm_id int, emar_id text!, emar_seq int, poe_id text, pharmacy_id int,"
        "enter_provider_id text, charttime time, medication text, event_txt text, scheduletime time, storetime time",
        key="emar_id",
        links={**_STAY, "poe_id": "poe.poe_id", "enter_provider_id": "provider.provider_id"},
    ),
    declare(
        "emar_detail",
        "subject_id int!, emar_id text!, emar_seq int, parent_field_ordinal text, administration_type text,"
        "pharmacy_id int, barcode_type text, reason_for_no_barcode text, complete_dose_not_given text, dose_due text,"
        "dose_due_unit text, dose_given text, dose_given_unit text, will_remainder_of_dose_be_given text,"
        "product_amount_given text, product_unit text, product_code text, product_description text,"
        "product_description_other text, prior_infusion_rate text, infusion_rate text, infusion_rate_adjustment text,"
        "infusion_rate_adjustment_amount text, infusion_rate_unit text, route text, infusion_complete text,"
        "completion_interval text, new_iv_bag_hung text, continued_infusion_in_other_location text,"
        "restart_interval text, side text, site text, non_formulary_visual_verification text",
        links={**_PERSON, "emar_id": "emar.emar_id"},
    ),
    declare(
        "hcpcsevents",
        "subject_id int!, hadm_id int!, chartdate date, hcpcs_cd text!, seq_num int!, short_description text",
        key="hadm_id hcpcs_cd seq_num",
        links=_STAY,
    ),
    declare(
        "labevents",
        "labevent_id int!, subject_id int!, hadm_id int, specimen_id int, itemid int!, order_provider_id text,"
        "charttime time, storetime time, value text, valuenum float, valueuom text, ref_range_lower float,"
        "ref_range_upper float, flag text, priority text, comments text",
        key="labevent_id",
        links={**_STAY, "itemid": "d_labitems.itemid", "order_provider_id": "provider.provider_id"},
    ),
    declare(
        "microbiologyevents",
        "microevent_id int!, subject_id int!, hadm_id int, micro_specimen_id int, order_provider_id text,"
        "chartdate time, charttime time, spec_itemid int, spec_type_desc text, test_seq int, storedate time,"
        "storetime time, test_itemid int, test_name text, org_itemid int, org_name text, isolate_num int,"
        "quantity text, ab_itemid int, ab_name text, dilution_text text, dilution_comparison text,"
        "dilution_value float, interpretation text, comments text",
        key="microevent_id",
        links={**_STAY, "order_provider_id": "provider.provider_id"},
    ),
    declare(
        "omr",
        "subject_id int!, chartdate date!, seq_num int!, result_name text!, result_value text",
        key="subject_id chartdate seq_num result_name",
        links=_PERSON,
    ),
    declare(
        "pharmacy",
        "subject_id int!, hadm_id int!, pharmacy_id int!, poe_id text, starttime time, stoptime time, medication text,"
        "proc_type text, status text, entertime time, verifiedtime time, route text, frequency text, disp_sched text,"
        "infusion_type text, sliding_scale text, lockout_interval text, basal_rate float, one_hr_max text,"
        "doses_per_24_hrs float, duration float, duration_interval text, expiration_value int, expiration_unit text,"
        "expirationdate time, dispensation text, fill_quantity text",
        key="pharmacy_id",
        links={**_STAY, "poe_id": "poe.poe_id"},
    ),
    declare(
        "poe",
        "poe_id text!, poe_seq int, subject_id int!, hadm_id int, ordertime time, order_type text, order_subtype text,"
        "transaction_type text, discontinue_of_poe_id text, discontinued_by_poe_id text, order_provider_id text,"
        "order_status text",
        key="poe_id",
        links={**_STAY, "order_provider_id": "provider.provider_id"},
    ),
    declare(
        "poe_detail",
        "poe_id text!, poe_seq int, subject_id int!, field_name text!, field_value text",
        key="poe_id field_name",
        links={**_PERSON, "poe_id": "poe.poe_id"},
    ),
    declare(
        "prescriptions",
        "subject_id int!, hadm_id int!, pharmacy_id int!, poe_id text, poe_seq int, order_provider_id text,"
        "starttime time, stoptime time, drug_type text!, drug text!, formulary_drug_cd text, gsn text, ndc text,"
        "prod_strength text, form_rx text, dose_val_rx text, dose_unit_rx text, form_val_disp text,"
        "form_unit_disp text, doses_per_24_hrs float, route text",
        key="pharmacy_id drug_type drug",
        links={**_STAY, "poe_id": "poe.poe_id", "order_provider_id": "provider.provider_id"},
    ),
    declare(
        "services",
        "subject_id int!, hadm_id int!, transfertime time!, prev_service text, curr_service text",
        key="hadm_id transfertime curr_service",
        links=_STAY,
    ),
    declare(
        "transfers",
        "subject_id int!, hadm_id int, transfer_id int!, eventtype text, careunit text, intime time, outtime time",
        key="transfer_id",
        links=_STAY,
    ),
)

_ICU: Final[tuple[MimicTable, ...]] = (
    declare(
        "icustays",
        "subject_id int!, hadm_id int!, stay_id int!, first_careunit text, last_careunit text, intime time,"
        "outtime time, los float",
        key="stay_id",
        links=_STAY,
    ),
    declare("caregiver", "caregiver_id int!", key="caregiver_id"),
    declare(
        "d_items",
        "itemid int!, label text, abbreviation text, linksto text, category text, unitname text, param_type text,"
        "lownormalvalue float, highnormalvalue float",
        key="itemid",
    ),
    declare(
        "chartevents",
        f"{_WHO_WHERE} charttime time!, storetime time, itemid int!, value text, valuenum float, valueuom text,"
        "warning int",
        links=_CHART,
    ),
    declare(
        "datetimeevents",
        f"{_WHO_WHERE} charttime time!, storetime time, itemid int!, value time, valueuom text, warning int",
        key="stay_id itemid charttime",
        links=_CHART,
    ),
    declare(
        "ingredientevents",
        f"{_WHO_WHERE} starttime time!, endtime time, storetime time, itemid int!, amount float, amountuom text,"
        "rate float, rateuom text, orderid int!, linkorderid int, statusdescription text, originalamount float,"
        "originalrate float",
        links=_CHART,
    ),
    declare(
        "inputevents",
        f"{_WHO_WHERE} starttime time!, endtime time, storetime time, itemid int!, amount float, amountuom text,"
        "rate float, rateuom text, orderid int!, linkorderid int, ordercategoryname text,"
        "secondaryordercategoryname text, ordercomponenttypedescription text, ordercategorydescription text,"
        "patientweight float, totalamount float, totalamountuom text, isopenbag int, continueinnextdept int,"
        "statusdescription text, originalamount float, originalrate float",
        key="orderid itemid",
        links=_CHART,
    ),
    declare(
        "outputevents",
        f"{_WHO_WHERE} charttime time!, storetime time, itemid int!, value float, valueuom text",
        key="stay_id charttime itemid",
        links=_CHART,
    ),
    declare(
        "procedureevents",
        f"{_WHO_WHERE} starttime time!, endtime time, storetime time, itemid int!, value float, valueuom text,"
        "location text, locationcategory text, orderid int!, linkorderid int, ordercategoryname text,"
        "ordercategorydescription text, patientweight float, isopenbag int, continueinnextdept int,"
        "statusdescription text, originalamount float, originalrate float",
        key="orderid",
        links=_CHART,
    ),
)

MIMIC4: Final = MimicRelease(
    "MIMIC-IV", {table.name: table for table in (*_HOSP, *_ICU)}, mark=("patients", "anchor_age")
)
"""MIMIC-IV 2.2 and 3.1."""
