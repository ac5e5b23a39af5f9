-- One row a claim and diagnosis; the second segment of a claim may repeat codes of the first. Empty places are no codes.
SELECT subject, code
FROM (
    SELECT DISTINCT DESYNPUF_ID AS subject, CLM_ID AS claim, unnest([
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
