-- MIMIC-IV on FHIR: one row a patient over all that is recorded. Dates are shifted, so no month is cut.
WITH encounters AS (
    SELECT
        patient,
        min("start") AS first_seen,
        count(*) FILTER (class = 'AMB') AS ambulatory,
        count(*) FILTER (class = 'EMER') AS emergency,
        count(*) FILTER (class = 'OBSENC') AS observation,
        count(*) FILTER (class = 'SS') AS same_day_surgery,
        count(*) FILTER (class = 'ACUTE') AS intensive_care
    FROM encounter
    GROUP BY patient
),

visits AS (
    SELECT e.*, date_sub('year', p.birth_date, CAST(e.first_seen AS DATE)) AS years
    FROM encounters AS e
    INNER JOIN patient AS p ON p.key = e.patient
),

conditions AS (
    -- ICD-9 and ICD-10 side by side: a chapter is its range of numbers in the one, its letters in the other.
    SELECT
        patient,
        count(*) AS number,
        bool_or(coalesce(category BETWEEN 1 AND 139 OR letter IN ('A', 'B'), false)) AS infectious,
        bool_or(coalesce(category BETWEEN 140 AND 239 OR letter = 'C' OR (letter = 'D' AND digit < '5'), false)) AS neoplasms,
        bool_or(coalesce(category BETWEEN 240 AND 279 OR letter = 'E', false)) AS endocrine,
        bool_or(coalesce(category BETWEEN 280 AND 289 OR letter = 'D' AND digit >= '5', false)) AS blood,
        bool_or(coalesce(category BETWEEN 290 AND 319 OR letter = 'F', false)) AS mental,
        bool_or(coalesce(category BETWEEN 320 AND 389 OR letter IN ('G', 'H'), false)) AS nervous,
        bool_or(coalesce(category BETWEEN 390 AND 459 OR letter = 'I', false)) AS circulatory,
        bool_or(coalesce(category BETWEEN 460 AND 519 OR letter = 'J', false)) AS respiratory,
        bool_or(coalesce(category BETWEEN 520 AND 579 OR letter = 'K', false)) AS digestive,
        bool_or(coalesce(category BETWEEN 580 AND 629 OR letter = 'N', false)) AS genitourinary,
        bool_or(coalesce(category BETWEEN 680 AND 709 OR letter = 'L', false)) AS skin,
        bool_or(coalesce(category BETWEEN 710 AND 739 OR letter = 'M', false)) AS musculoskeletal,
        bool_or(coalesce(category BETWEEN 780 AND 799 OR letter = 'R', false)) AS symptoms,
        bool_or(coalesce(category BETWEEN 800 AND 999 OR letter IN ('S', 'T'), false)) AS injury
    FROM (
        SELECT
            patient,
            CASE WHEN code_system LIKE '%icd9' THEN TRY_CAST(substr(code, 1, 3) AS INTEGER) END AS category,
            CASE WHEN code_system LIKE '%icd10' THEN substr(code, 1, 1) END AS letter,
            substr(code, 2, 1) AS digit
        FROM condition
    )
    GROUP BY patient
),

procedures AS (
    -- Coded procedures only: what is charted in intensive care and in triage is filed as procedures too.
    SELECT patient, count(*) AS number FROM procedure WHERE code_system LIKE '%procedure-icd%' GROUP BY patient
),

medications AS (
    SELECT patient, count(*) AS number FROM medication_request GROUP BY patient
),

vital_codes (code, vital, low, high) AS (
    -- Vital signs of the emergency department (LOINC), and what is plausible; the temperature is in Fahrenheit.
    VALUES
    ('8867-4', 'heart_rate', 10, 300),
    ('8480-6', 'systolic_bp', 20, 300),
    ('8462-4', 'diastolic_bp', 10, 200),
    ('9279-1', 'respiratory_rate', 1, 70),
    ('8310-5', 'temperature', 77, 113),
    ('2708-6', 'spo2', 20, 100)
),

first_vitals AS (
    SELECT o.patient, v.vital, o.value_number AS value
    FROM observation AS o
    INNER JOIN vital_codes AS v ON v.code = o.code
    WHERE o.code_system = 'http://loinc.org' AND o.value_number BETWEEN v.low AND v.high
    QUALIFY row_number() OVER (PARTITION BY o.patient, v.vital ORDER BY o.effective, o.key, o.component) = 1
),

vitals AS (
    SELECT
        patient,
        max(value) FILTER (vital = 'heart_rate') AS heart_rate,
        max(value) FILTER (vital = 'systolic_bp') AS systolic_bp,
        max(value) FILTER (vital = 'diastolic_bp') AS diastolic_bp,
        max(value) FILTER (vital = 'respiratory_rate') AS respiratory_rate,
        round((max(value) FILTER (vital = 'temperature') - 32) / 1.8, 1) AS temperature,
        max(value) FILTER (vital = 'spo2') AS spo2
    FROM first_vitals
    GROUP BY patient
)

SELECT
    p.key AS subject,
    -- Not `least`, which would make 90 of an unknown age.
    CASE WHEN e.years > 89 THEN 90 ELSE e.years END AS age,
    p.gender,
    p.race,
    p.ethnicity,
    p.marital_status,
    coalesce(e.ambulatory, 0) AS encounters_ambulatory,
    coalesce(e.emergency, 0) AS encounters_emergency,
    coalesce(e.observation, 0) AS encounters_observation,
    coalesce(e.same_day_surgery, 0) AS encounters_same_day_surgery,
    coalesce(e.intensive_care, 0) AS encounters_intensive_care,
    coalesce(c.number, 0) AS conditions,
    coalesce(r.number, 0) AS procedures,
    coalesce(m.number, 0) AS medications,
    v.heart_rate,
    v.systolic_bp,
    v.diastolic_bp,
    v.respiratory_rate,
    v.temperature,
    v.spo2,
    coalesce(c.infectious, false) AS dx_infectious,
    coalesce(c.neoplasms, false) AS dx_neoplasms,
    coalesce(c.endocrine, false) AS dx_endocrine,
    coalesce(c.blood, false) AS dx_blood,
    coalesce(c.mental, false) AS dx_mental,
    coalesce(c.nervous, false) AS dx_nervous,
    coalesce(c.circulatory, false) AS dx_circulatory,
    coalesce(c.respiratory, false) AS dx_respiratory,
    coalesce(c.digestive, false) AS dx_digestive,
    coalesce(c.genitourinary, false) AS dx_genitourinary,
    coalesce(c.skin, false) AS dx_skin,
    coalesce(c.musculoskeletal, false) AS dx_musculoskeletal,
    coalesce(c.symptoms, false) AS dx_symptoms,
    coalesce(c.injury, false) AS dx_injury,
    p.deceased AS died
FROM patient AS p
LEFT JOIN visits AS e ON e.patient = p.key
LEFT JOIN conditions AS c ON c.patient = p.key
LEFT JOIN procedures AS r ON r.patient = p.key
LEFT JOIN medications AS m ON m.patient = p.key
LEFT JOIN vitals AS v ON v.patient = p.key
