-- MIMIC-IV: one row a patient with an admission. The diagnoses stand beside it (mimic4_codes.diagnoses.sql).
WITH latest AS (
    SELECT subject_id, admittime, race
    FROM admissions
    QUALIFY row_number() OVER (PARTITION BY subject_id ORDER BY admittime DESC, hadm_id DESC) = 1
),

discharge AS (
    SELECT subject_id, CAST(max(dischtime) AS DATE) AS last_discharge FROM admissions GROUP BY subject_id
),

known AS (
    -- What was measured by the last discharge. Later readings are those of people who live to be measured: they, and that
    -- there are any, would give the label away.
    SELECT o.*
    FROM omr AS o
    JOIN discharge AS d ON d.subject_id = o.subject_id
    WHERE o.chartdate <= d.last_discharge
),

bmi AS (
    -- Values are text; what is no number or not plausible is no reading.
    SELECT subject_id, TRY_CAST(result_value AS DOUBLE) AS bmi
    FROM known
    WHERE result_name IN ('BMI (kg/m2)', 'BMI') AND TRY_CAST(result_value AS DOUBLE) BETWEEN 10 AND 100
    QUALIFY row_number() OVER (PARTITION BY subject_id ORDER BY chartdate DESC, seq_num DESC, bmi) = 1
),

readings AS (
    -- '120/80'. Readings in a named position (lying, standing) are other measurements.
    SELECT
        subject_id,
        chartdate,
        seq_num,
        TRY_CAST(regexp_extract(result_value, '^\s*(\d+)\s*/\s*(\d+)\s*$', 1) AS INTEGER) AS systolic,
        TRY_CAST(regexp_extract(result_value, '^\s*(\d+)\s*/\s*(\d+)\s*$', 2) AS INTEGER) AS diastolic
    FROM known
    WHERE result_name = 'Blood Pressure'
),

pressure AS (
    SELECT subject_id, systolic, diastolic
    FROM readings
    WHERE systolic BETWEEN 50 AND 300 AND diastolic BETWEEN 20 AND 200 AND diastolic < systolic
    QUALIFY row_number() OVER (
        PARTITION BY subject_id ORDER BY chartdate DESC, seq_num DESC, systolic, diastolic
    ) = 1
)

SELECT
    CAST(p.subject_id AS VARCHAR) AS subject,
    p.anchor_age + year(l.admittime) - p.anchor_year AS age,
    b.bmi,
    r.systolic AS systolic_bp,
    r.diastolic AS diastolic_bp,
    p.gender AS sex,
    CASE
        WHEN l.race LIKE 'WHITE%' THEN 'white'
        WHEN l.race LIKE 'BLACK%' THEN 'black'
        WHEN l.race LIKE 'HISPANIC%' THEN 'hispanic'
        WHEN l.race LIKE 'ASIAN%' THEN 'asian'
        WHEN l.race LIKE 'AMERICAN INDIAN%' THEN 'american_indian'
        WHEN l.race LIKE 'NATIVE HAWAIIAN%' THEN 'pacific'
        WHEN coalesce(l.race, '') IN ('', 'UNKNOWN', 'UNABLE TO OBTAIN', 'PATIENT DECLINED TO ANSWER') THEN 'unknown'
        ELSE 'other'
    END AS race,
    -- Deaths are known for a year after the last discharge; who is not known to have died then lived.
    coalesce(p.dod <= d.last_discharge + 365, false) AS died_within_a_year
FROM patients AS p
JOIN latest AS l ON l.subject_id = p.subject_id
JOIN discharge AS d ON d.subject_id = p.subject_id
LEFT JOIN bmi AS b ON b.subject_id = p.subject_id
LEFT JOIN pressure AS r ON r.subject_id = p.subject_id
