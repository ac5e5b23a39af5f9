-- UCI Heart Disease, Cleveland: one row a patient; the file has no identifier, so a row is a subject.
-- Every number of the file is written as a decimal; a code that is not listed becomes its own text, which the declared
-- levels then refuse.
SELECT
    age,
    CASE sex WHEN 0 THEN 'female' WHEN 1 THEN 'male' ELSE CAST(sex AS VARCHAR) END AS sex,
    CASE cp
        WHEN 1 THEN 'typical angina'
        WHEN 2 THEN 'atypical angina'
        WHEN 3 THEN 'non-anginal'
        WHEN 4 THEN 'asymptomatic'
        ELSE CAST(cp AS VARCHAR)
    END AS chest_pain,
    trestbps AS resting_bp,
    chol AS cholesterol,
    fbs = 1 AS high_fasting_sugar,
    CASE restecg
        WHEN 0 THEN 'normal'
        WHEN 1 THEN 'ST-T abnormality'
        WHEN 2 THEN 'left ventricular hypertrophy'
        ELSE CAST(restecg AS VARCHAR)
    END AS resting_ecg,
    thalach AS max_heart_rate,
    exang = 1 AS exercise_angina,
    oldpeak AS st_depression,
    CASE slope WHEN 1 THEN 'upsloping' WHEN 2 THEN 'flat' WHEN 3 THEN 'downsloping' ELSE CAST(slope AS VARCHAR) END
        AS st_slope,
    ca AS vessels,
    CASE thal
        WHEN 3 THEN 'normal'
        WHEN 6 THEN 'fixed defect'
        WHEN 7 THEN 'reversible defect'
        ELSE CAST(thal AS VARCHAR)
    END AS thallium,
    num > 0 AS disease
FROM heart
