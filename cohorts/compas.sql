-- COMPAS: one row a person, with ProPublica's filter: the charge within 30 days of the screening, a known outcome,
-- no ordinary traffic offence, a score. Names, birth dates and case numbers are not even read (see sources.yaml).
-- age_cat and the score texts are left out: they say the age and the deciles again.
SELECT
    id,
    sex,
    age,
    race,
    juv_fel_count,
    juv_misd_count,
    juv_other_count,
    priors_count,
    CASE c_charge_degree WHEN 'F' THEN 'felony' WHEN 'M' THEN 'misdemeanour' END AS charge_degree,
    days_b_screening_arrest,
    date_diff('day', c_jail_in, c_jail_out) AS days_in_jail,
    decile_score,
    v_decile_score,
    is_recid = 1 AS is_recid,
    is_violent_recid = 1 AS is_violent_recid,
    two_year_recid = 1 AS two_year_recid
FROM compas
WHERE days_b_screening_arrest BETWEEN -30 AND 30
  AND is_recid <> -1
  AND c_charge_degree <> 'O'
  AND score_text <> 'N/A'
