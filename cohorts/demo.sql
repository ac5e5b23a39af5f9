-- Demo: one row a patient with one visit, as known at the end of the month (the raw tables are cut there).
WITH conditions AS (
    -- ICD-10-CM.
    SELECT
        patient,
        count(*) FILTER (code NOT LIKE 'E11%' AND code NOT LIKE 'E78%' AND code NOT LIKE 'N18%' AND code NOT IN ('I10', 'E66.9'))
            AS others,
        bool_or(code = 'I10') AS hypertension,
        bool_or(code LIKE 'E11%') AS diabetes,
        bool_or(code LIKE 'E78%') AS hyperlipidemia,
        bool_or(code = 'E66.9') AS obesity,
        bool_or(code LIKE 'N18%') AS chronic_kidney_disease
    FROM condition
    GROUP BY patient
),

medications AS (
    -- RxNorm. Blood pressure: ACE inhibitor, ARB, calcium blocker, thiazide, beta blocker. Glucose: all oral ones.
    SELECT
        patient,
        count(*) FILTER (purpose = 'blood pressure') AS blood_pressure,
        count(*) FILTER (purpose = 'glucose') AS glucose,
        count(*) FILTER (purpose = 'statin') AS statin,
        count(*) FILTER (purpose = 'other') AS others
    FROM (
        SELECT
            patient,
            CASE
                WHEN code IN ('314076', '314077', '979492', '197361', '308135', '310798', '200032') THEN 'blood pressure'
                WHEN code IN ('861007', '861004', '1545658', '665033', '310490', '199246') THEN 'glucose'
                WHEN code IN ('617310', '617311', '312961', '859747') THEN 'statin'
                ELSE 'other'
            END AS purpose
        FROM medication_request
    )
    GROUP BY patient
),

allergies AS (
    SELECT patient, count(*) AS number FROM allergy_intolerance GROUP BY patient
),

latest AS (
    -- The newest value of each measurement. LOINC; blood pressure comes as two components of one observation.
    SELECT patient, code, value_number
    FROM observation
    WHERE value_number IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY patient, code ORDER BY effective DESC, key DESC, component DESC) = 1
),

measurements AS (
    SELECT
        patient,
        max(value_number) FILTER (code = '39156-5') AS bmi,
        max(value_number) FILTER (code = '8480-6') AS systolic_bp,
        max(value_number) FILTER (code = '8462-4') AS diastolic_bp,
        max(value_number) FILTER (code = '8867-4') AS heart_rate,
        max(value_number) FILTER (code = '59408-5') AS oxygen_saturation,
        max(value_number) FILTER (code = '4548-4') AS hba1c,
        max(value_number) FILTER (code = '2345-7') AS glucose,
        max(value_number) FILTER (code = '2160-0') AS creatinine,
        max(value_number) FILTER (code = '9318-7') AS albumin_creatinine_ratio,
        max(value_number) FILTER (code = '2823-3') AS potassium,
        max(value_number) FILTER (code = '1742-6') AS alt,
        max(value_number) FILTER (code = '718-7') AS hemoglobin,
        max(value_number) FILTER (code = '2093-3') AS total_cholesterol,
        max(value_number) FILTER (code = '2085-9') AS hdl_cholesterol,
        max(value_number) FILTER (code = '2571-8') AS triglycerides
    FROM latest
    GROUP BY patient
),

people AS (
    SELECT key, gender, date_sub('year', birth_date, (SELECT m."day" FROM month_end AS m)) AS age FROM patient
)

-- The band stands for the age, the counts leave out what has a column of its own, and nothing is a column that is
-- calculated from others (eGFR, LDL, weight): so no drawn row can contradict itself there.
SELECT
    p.key AS subject,
    CASE
        WHEN p.age < 30 THEN 'under 30'
        WHEN p.age < 40 THEN '30-39'
        WHEN p.age < 50 THEN '40-49'
        WHEN p.age < 60 THEN '50-59'
        WHEN p.age < 70 THEN '60-69'
        WHEN p.age < 80 THEN '70-79'
        WHEN p.age >= 80 THEN '80 and over'
    END AS age_band,
    p.gender AS sex,
    o.bmi,
    o.systolic_bp,
    o.diastolic_bp,
    o.heart_rate,
    o.oxygen_saturation,
    o.hba1c,
    o.glucose,
    o.creatinine,
    o.albumin_creatinine_ratio,
    o.potassium,
    o.alt,
    o.hemoglobin,
    o.total_cholesterol,
    o.hdl_cholesterol,
    o.triglycerides,
    coalesce(a.number, 0) AS allergies,
    coalesce(d.blood_pressure, 0) AS blood_pressure_drugs,
    coalesce(d.glucose, 0) AS glucose_drugs,
    coalesce(d.statin, 0) > 0 AS statin,
    coalesce(d.others, 0) AS other_drugs,
    coalesce(c.hypertension, false) AS hypertension,
    coalesce(c.diabetes, false) AS diabetes,
    coalesce(c.hyperlipidemia, false) AS hyperlipidemia,
    coalesce(c.obesity, false) AS obesity,
    coalesce(c.chronic_kidney_disease, false) AS chronic_kidney_disease,
    coalesce(c.others, 0) AS other_conditions
FROM people AS p
LEFT JOIN conditions AS c ON c.patient = p.key
LEFT JOIN medications AS d ON d.patient = p.key
LEFT JOIN allergies AS a ON a.patient = p.key
LEFT JOIN measurements AS o ON o.patient = p.key
