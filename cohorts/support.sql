-- SUPPORT: one row a patient; the table has no identifier, so a row is a subject.
-- The names of the delivered columns are kept. What the codes of sex, race and cancer mean was told from the same
-- patients in SUPPORT2; a code that is not listed stays as it is, and the declared levels then refuse it.
SELECT
    age,
    CASE sex WHEN 0 THEN 'male' WHEN 1 THEN 'female' ELSE CAST(sex AS VARCHAR) END AS sex,
    CASE race
        WHEN 0 THEN 'other'
        WHEN 1 THEN 'white'
        WHEN 2 THEN 'black'
        WHEN 3 THEN 'hispanic'
        WHEN 4 THEN 'asian'
        WHEN 5 THEN 'not recorded'
        ELSE CAST(race AS VARCHAR)
    END AS race,
    num_comorbidities,
    diabetes = 1 AS diabetes,
    dementia = 1 AS dementia,
    CASE cancer WHEN 0 THEN 'metastatic' WHEN 1 THEN 'no' WHEN 2 THEN 'yes' ELSE CAST(cancer AS VARCHAR) END AS cancer,
    mean_bp,
    heart_rate,
    resp_rate,
    temperature,
    sodium,
    wbc,
    creatinine,
    duration,
    event = 1 AS event
FROM support
