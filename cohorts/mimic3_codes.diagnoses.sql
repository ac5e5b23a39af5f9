-- One row a recorded diagnosis: a code that was given at two admissions counts twice.
SELECT CAST(subject_id AS VARCHAR) AS subject, icd9_code AS code
FROM diagnoses_icd
