-- One row a recorded diagnosis, with the version of ICD that its code belongs to.
SELECT CAST(subject_id AS VARCHAR) AS subject, icd_code AS code, icd_version AS version
FROM diagnoses_icd
