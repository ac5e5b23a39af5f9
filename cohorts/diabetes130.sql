-- Diabetes 130-US hospitals: one row an encounter, several of one patient; the split is by patient.
-- Left out: encounter_id; weight (97 % missing); examide and citoglipton (never given); acetohexamide, troglitazone,
-- glimepiride-pioglitazone, metformin-rosiglitazone and metformin-pioglitazone (given in fewer than 11 encounters each).
-- Encounters that ended in death or hospice are kept: nobody is readmitted after them, which a model may learn.
WITH codes AS (
    SELECT DISTINCT CAST(unnest([diag_1, diag_2, diag_3]) AS VARCHAR) AS code FROM diabetes130
),
numbered AS (
    SELECT code, TRY_CAST(split_part(code, '.', 1) AS INTEGER) AS number FROM codes WHERE code IS NOT NULL
),
-- The groups of Strack et al. 2014, table 2. "other" is every code that is in none of them, E and V codes included.
chapters AS (
    SELECT
        code,
        CASE
            WHEN number = 250 THEN 'diabetes'
            WHEN number BETWEEN 390 AND 459 OR number = 785 THEN 'circulatory'
            WHEN number BETWEEN 460 AND 519 OR number = 786 THEN 'respiratory'
            WHEN number BETWEEN 520 AND 579 OR number = 787 THEN 'digestive'
            WHEN number BETWEEN 580 AND 629 OR number = 788 THEN 'genitourinary'
            WHEN number BETWEEN 140 AND 239 THEN 'neoplasms'
            WHEN number BETWEEN 710 AND 739 THEN 'musculoskeletal'
            WHEN number BETWEEN 800 AND 999 THEN 'injury'
            ELSE 'other'
        END AS chapter
    FROM numbered
)
SELECT
    patient_nbr,
    race,
    CASE WHEN gender <> 'Unknown/Invalid' THEN gender END AS gender,
    age AS age_band,
    CASE admission_type_id
        WHEN 1 THEN 'emergency'
        WHEN 2 THEN 'urgent'
        WHEN 3 THEN 'elective'
        WHEN 4 THEN 'newborn'
        WHEN 7 THEN 'trauma center'
    END AS admission_type,
    CASE WHEN discharge_disposition_id NOT IN (18, 25, 26) THEN CAST(discharge_disposition_id AS VARCHAR) END
        AS discharge_disposition,
    CASE WHEN admission_source_id NOT IN (9, 15, 17, 20, 21) THEN CAST(admission_source_id AS VARCHAR) END
        AS admission_source,
    time_in_hospital,
    payer_code,
    medical_specialty,
    num_lab_procedures,
    num_procedures,
    num_medications,
    number_outpatient,
    number_emergency,
    number_inpatient,
    one.chapter AS diag_1_chapter,
    two.chapter AS diag_2_chapter,
    three.chapter AS diag_3_chapter,
    number_diagnoses,
    CASE max_glu_serum WHEN 'None' THEN 'not measured' WHEN 'Norm' THEN 'normal' ELSE max_glu_serum END
        AS max_glu_serum,
    CASE "A1Cresult" WHEN 'None' THEN 'not measured' WHEN 'Norm' THEN 'normal' ELSE "A1Cresult" END AS hba1c,
    metformin,
    repaglinide,
    nateglinide,
    chlorpropamide,
    glimepiride,
    glipizide,
    glyburide,
    tolbutamide,
    pioglitazone,
    rosiglitazone,
    acarbose,
    miglitol,
    tolazamide,
    insulin,
    "glyburide-metformin" AS glyburide_metformin,
    "glipizide-metformin" AS glipizide_metformin,
    change = 'Ch' AS medication_changed,
    "diabetesMed" = 'Yes' AS diabetes_medication,
    readmitted = '<30' AS readmitted_30d,
    readmitted <> 'NO' AS readmitted
FROM diabetes130
LEFT JOIN chapters AS one ON one.code = CAST(diag_1 AS VARCHAR)
LEFT JOIN chapters AS two ON two.code = CAST(diag_2 AS VARCHAR)
LEFT JOIN chapters AS three ON three.code = CAST(diag_3 AS VARCHAR)
