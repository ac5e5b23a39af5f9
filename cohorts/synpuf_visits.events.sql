-- One row a claim and diagnosis. Both segments of a claim are one visit; a claim without a first day has no date.
SELECT subject, visit, CAST(try_strptime(first_day, '%Y%m%d') AS DATE) AS time, code
FROM (
    SELECT
        DESYNPUF_ID AS subject,
        CLM_ID AS visit,
        CAST(CLM_FROM_DT AS VARCHAR) AS first_day,
        unnest([
            CAST(ICD9_DGNS_CD_1 AS VARCHAR),
            CAST(ICD9_DGNS_CD_2 AS VARCHAR),
            CAST(ICD9_DGNS_CD_3 AS VARCHAR),
            CAST(ICD9_DGNS_CD_4 AS VARCHAR),
            CAST(ICD9_DGNS_CD_5 AS VARCHAR),
            CAST(ICD9_DGNS_CD_6 AS VARCHAR),
            CAST(ICD9_DGNS_CD_7 AS VARCHAR),
            CAST(ICD9_DGNS_CD_8 AS VARCHAR),
            CAST(ICD9_DGNS_CD_9 AS VARCHAR),
            CAST(ICD9_DGNS_CD_10 AS VARCHAR)
        ]) AS code
    FROM inpatient_claims
)
WHERE code IS NOT NULL
