-- Synthea: one row a patient, as known at the end of the month (the raw tables are cut there).
WITH encounters AS (
    -- Check-ups stand apart from visits with a reason; every class but emergency and inpatient counts as ambulatory.
    -- A death certificate (308646001) is filed as an encounter and would give the death away: it is no visit.
    SELECT
        patient,
        count(*) FILTER (class = 'EMER') AS emergency,
        count(*) FILTER (class = 'IMP') AS inpatient,
        count(*) FILTER (class NOT IN ('EMER', 'IMP') AND check_up) AS wellness,
        count(*) FILTER (class NOT IN ('EMER', 'IMP') AND NOT check_up) AS ambulatory
    FROM (
        SELECT
            patient,
            coalesce(class, '') AS class,
            coalesce(type_code, '') IN ('185349003', '162673000', '410620009') AS check_up
        FROM encounter
        WHERE coalesce(type_code, '') <> '308646001'
    )
    GROUP BY patient
),

conditions AS (
    -- Ever diagnosed, also if it has resolved since. SNOMED CT.
    SELECT
        patient,
        count(*) AS number,
        bool_or(code = '162864005') AS obesity,
        bool_or(code = '15777000') AS prediabetes,
        bool_or(code = '44054006') AS diabetes,
        bool_or(code = '271737000') AS anemia,
        bool_or(code IN ('38341003', '59621000')) AS hypertension,
        bool_or(code = '55822004') AS hyperlipidemia,
        bool_or(code = '40055000') AS chronic_sinusitis,
        bool_or(code = '53741008') AS coronary_heart_disease,
        bool_or(code = '88805009') AS heart_failure,
        bool_or(code = '49436004') AS atrial_fibrillation,
        bool_or(code = '230690007') AS stroke
    FROM condition
    GROUP BY patient
),

medications AS (
    SELECT patient, count(*) AS number FROM medication_request GROUP BY patient
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
        max(value_number) FILTER (code = '4548-4') AS hba1c,
        max(value_number) FILTER (code = '2093-3') AS total_cholesterol,
        max(value_number) FILTER (code = '2085-9') AS hdl_cholesterol,
        max(value_number) FILTER (code = '2571-8') AS triglycerides,
        max(value_number) FILTER (code IN ('38483-4', '2160-0')) AS creatinine
    FROM latest
    GROUP BY patient
)

SELECT
    p.key AS subject,
    -- Whole years at the end of the month, or at death.
    date_sub('year', p.birth_date, least((SELECT m."day" FROM month_end AS m), CAST(p.deceased_at AS DATE))) AS age,
    p.gender,
    p.race,
    p.ethnicity,
    p.marital_status,
    coalesce(e.wellness, 0) AS encounters_wellness,
    coalesce(e.ambulatory, 0) AS encounters_ambulatory,
    coalesce(e.emergency, 0) AS encounters_emergency,
    coalesce(e.inpatient, 0) AS encounters_inpatient,
    coalesce(c.number, 0) AS conditions,
    coalesce(d.number, 0) AS medications,
    o.bmi,
    o.systolic_bp,
    o.diastolic_bp,
    o.hba1c,
    o.total_cholesterol,
    o.hdl_cholesterol,
    o.triglycerides,
    o.creatinine,
    coalesce(c.obesity, false) AS obesity,
    coalesce(c.prediabetes, false) AS prediabetes,
    coalesce(c.diabetes, false) AS diabetes,
    coalesce(c.anemia, false) AS anemia,
    coalesce(c.hypertension, false) AS hypertension,
    coalesce(c.hyperlipidemia, false) AS hyperlipidemia,
    coalesce(c.chronic_sinusitis, false) AS chronic_sinusitis,
    coalesce(c.coronary_heart_disease, false) AS coronary_heart_disease,
    coalesce(c.heart_failure, false) AS heart_failure,
    coalesce(c.atrial_fibrillation, false) AS atrial_fibrillation,
    coalesce(c.stroke, false) AS stroke,
    p.deceased AS died
FROM patient AS p
LEFT JOIN encounters AS e ON e.patient = p.key
LEFT JOIN conditions AS c ON c.patient = p.key
LEFT JOIN medications AS d ON d.patient = p.key
LEFT JOIN measurements AS o ON o.patient = p.key
