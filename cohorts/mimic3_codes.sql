-- MIMIC-III: one row a patient with an admission. The diagnoses stand beside it (mimic3_codes.diagnoses.sql).
WITH latest AS (
    SELECT subject_id, admittime, ethnicity
    FROM admissions
    QUALIFY row_number() OVER (PARTITION BY subject_id ORDER BY admittime DESC, hadm_id DESC) = 1
),

outcome AS (
    SELECT subject_id, bool_or(hospital_expire_flag = 1) AS died_in_hospital FROM admissions GROUP BY subject_id
)

SELECT
    CAST(p.subject_id AS VARCHAR) AS subject,
    -- The birth of people above 89 is moved to 300 years before their first admission.
    least(date_sub('year', p.dob, l.admittime), 90) AS age,
    p.gender,
    CASE
        WHEN l.ethnicity LIKE 'WHITE%' THEN 'white'
        WHEN l.ethnicity LIKE 'BLACK%' THEN 'black'
        WHEN l.ethnicity LIKE 'HISPANIC%' THEN 'hispanic'
        WHEN l.ethnicity LIKE 'ASIAN%' THEN 'asian'
        WHEN coalesce(l.ethnicity, '') IN
            ('', 'UNKNOWN/NOT SPECIFIED', 'UNABLE TO OBTAIN', 'PATIENT DECLINED TO ANSWER') THEN 'unknown'
        ELSE 'other'
    END AS ethnicity,
    o.died_in_hospital
FROM patients AS p
JOIN latest AS l ON l.subject_id = p.subject_id
JOIN outcome AS o ON o.subject_id = p.subject_id
