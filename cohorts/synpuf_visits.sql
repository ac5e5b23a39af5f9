-- DE-SynPUF: one row a beneficiary with an inpatient claim. The claims stand beside it as visits (synpuf_visits.events.sql).
WITH summaries AS (
    SELECT 2008 AS summary_year, * FROM beneficiaries_2008
    UNION ALL BY NAME
    SELECT 2009 AS summary_year, * FROM beneficiaries_2009
    UNION ALL BY NAME
    SELECT 2010 AS summary_year, * FROM beneficiaries_2010
),

people AS (
    -- A beneficiary stands in the summary of every year that he or she lives in; who dies is in no later one.
    SELECT
        DESYNPUF_ID,
        arg_min(CAST(BENE_BIRTH_DT AS VARCHAR), summary_year) AS born,
        arg_max(BENE_SEX_IDENT_CD, summary_year) AS sex,
        arg_max(BENE_RACE_CD, summary_year) AS race,
        bool_or(BENE_ESRD_IND = 'Y') AS kidney_failure,
        bool_or(SP_DIABETES = 1) AS diabetes,
        bool_or(SP_CHF = 1) AS heart_failure,
        bool_or(SP_CNCR = 1) AS cancer,
        bool_or(BENE_DEATH_DT IS NOT NULL) AS died
    FROM summaries
    GROUP BY DESYNPUF_ID
)

SELECT
    p.DESYNPUF_ID AS subject,
    date_sub('year', CAST(strptime(p.born, '%Y%m%d') AS DATE), DATE '2008-12-31') AS age,
    -- A code that is not listed stays as it is, and the declared levels then refuse it.
    CASE p.sex WHEN 1 THEN 'male' WHEN 2 THEN 'female' ELSE CAST(p.sex AS VARCHAR) END AS sex,
    CASE p.race
        WHEN 1 THEN 'white'
        WHEN 2 THEN 'black'
        WHEN 3 THEN 'other'
        WHEN 5 THEN 'hispanic'
        ELSE CAST(p.race AS VARCHAR)
    END AS race,
    p.kidney_failure,
    p.diabetes,
    p.heart_failure,
    p.cancer,
    p.died
FROM people AS p
WHERE p.DESYNPUF_ID IN (SELECT DESYNPUF_ID FROM inpatient_claims)
