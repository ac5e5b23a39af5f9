-- MIMIC-III: one row an ICU stay of a patient of 16 or more, with what was known in its first 24 hours, what was coded
-- at discharge, and how it ended. Dates are shifted, so no month is cut.
WITH stays AS (
    SELECT
        i.icustay_id,
        i.subject_id,
        i.hadm_id,
        i.intime,
        i.outtime,
        i.los,
        i.first_careunit,
        a.admission_type,
        a.insurance,
        a.ethnicity,
        a.deathtime,
        a.hospital_expire_flag,
        p.gender,
        date_sub('year', CAST(p.dob AS DATE), CAST(i.intime AS DATE)) AS years,
        row_number() OVER (PARTITION BY i.subject_id ORDER BY i.intime, i.icustay_id) - 1 AS stays_before
    FROM icustays AS i
    INNER JOIN patients AS p ON p.subject_id = i.subject_id
    INNER JOIN admissions AS a ON a.hadm_id = i.hadm_id
),

vital_items (itemid, vital, low, high) AS (
    -- Items of both charting systems (CareVue below 220000, MetaVision above), and what is plausible in the item's unit.
    VALUES
    (211, 'heart_rate', 10, 300), (220045, 'heart_rate', 10, 300),
    (51, 'systolic_bp', 20, 300), (442, 'systolic_bp', 20, 300), (455, 'systolic_bp', 20, 300),
    (6701, 'systolic_bp', 20, 300), (220050, 'systolic_bp', 20, 300), (220179, 'systolic_bp', 20, 300),
    (8368, 'diastolic_bp', 10, 200), (8440, 'diastolic_bp', 10, 200), (8441, 'diastolic_bp', 10, 200),
    (8555, 'diastolic_bp', 10, 200), (220051, 'diastolic_bp', 10, 200), (220180, 'diastolic_bp', 10, 200),
    (52, 'mean_bp', 10, 250), (443, 'mean_bp', 10, 250), (456, 'mean_bp', 10, 250), (6702, 'mean_bp', 10, 250),
    (220052, 'mean_bp', 10, 250), (220181, 'mean_bp', 10, 250), (225312, 'mean_bp', 10, 250),
    (615, 'respiratory_rate', 1, 70), (618, 'respiratory_rate', 1, 70), (220210, 'respiratory_rate', 1, 70),
    (224690, 'respiratory_rate', 1, 70),
    (676, 'temperature', 25, 45), (223762, 'temperature', 25, 45),
    (678, 'fahrenheit', 77, 113), (223761, 'fahrenheit', 77, 113),
    (646, 'spo2', 20, 100), (220277, 'spo2', 20, 100)
),

charted AS (
    SELECT
        s.icustay_id,
        CASE v.vital WHEN 'fahrenheit' THEN 'temperature' ELSE v.vital END AS vital,
        CASE v.vital WHEN 'fahrenheit' THEN (c.valuenum - 32) / 1.8 ELSE c.valuenum END AS value
    FROM chartevents AS c
    INNER JOIN vital_items AS v ON v.itemid = c.itemid
    INNER JOIN stays AS s ON s.icustay_id = c.icustay_id
    WHERE
        c."error" IS DISTINCT FROM 1
        AND c.charttime >= s.intime AND c.charttime < s.intime + INTERVAL 24 HOUR
        AND c.valuenum BETWEEN v.low AND v.high
),

vitals AS (
    SELECT
        icustay_id,
        round(min(value) FILTER (vital = 'heart_rate'), 1) AS heart_rate_min,
        round(max(value) FILTER (vital = 'heart_rate'), 1) AS heart_rate_max,
        round(min(value) FILTER (vital = 'systolic_bp'), 1) AS systolic_bp_min,
        round(max(value) FILTER (vital = 'systolic_bp'), 1) AS systolic_bp_max,
        round(min(value) FILTER (vital = 'diastolic_bp'), 1) AS diastolic_bp_min,
        round(max(value) FILTER (vital = 'diastolic_bp'), 1) AS diastolic_bp_max,
        round(min(value) FILTER (vital = 'mean_bp'), 1) AS mean_bp_min,
        round(max(value) FILTER (vital = 'mean_bp'), 1) AS mean_bp_max,
        round(min(value) FILTER (vital = 'respiratory_rate'), 1) AS respiratory_rate_min,
        round(max(value) FILTER (vital = 'respiratory_rate'), 1) AS respiratory_rate_max,
        round(min(value) FILTER (vital = 'temperature'), 1) AS temperature_min,
        round(max(value) FILTER (vital = 'temperature'), 1) AS temperature_max,
        round(min(value) FILTER (vital = 'spo2'), 1) AS spo2_min,
        round(max(value) FILTER (vital = 'spo2'), 1) AS spo2_max
    FROM charted
    GROUP BY icustay_id
),

coma AS (
    -- CareVue charts the total (198), MetaVision the three parts at one time: eyes, verbal, motor.
    SELECT icustay_id, min(total) AS gcs_min
    FROM (
        SELECT
            s.icustay_id,
            coalesce(
                min(c.valuenum) FILTER (c.itemid = 198),
                max(c.valuenum) FILTER (c.itemid = 220739)
                + max(c.valuenum) FILTER (c.itemid = 223900)
                + max(c.valuenum) FILTER (c.itemid = 223901)
            ) AS total
        FROM chartevents AS c
        INNER JOIN stays AS s ON s.icustay_id = c.icustay_id
        WHERE
            c.itemid IN (198, 220739, 223900, 223901)
            AND c."error" IS DISTINCT FROM 1
            AND c.charttime >= s.intime AND c.charttime < s.intime + INTERVAL 24 HOUR
        GROUP BY s.icustay_id, c.charttime
    )
    WHERE total BETWEEN 3 AND 15
    GROUP BY icustay_id
),

lab_items (itemid, lab, low, high) AS (
    -- What is plausible in MIMIC's unit of the item.
    VALUES
    (50862, 'albumin', 0.5, 10),
    (50868, 'anion_gap', 0, 60),
    (50882, 'bicarbonate', 1, 60),
    (50885, 'bilirubin', 0, 80),
    (51006, 'bun', 1, 300),
    (50893, 'calcium', 2, 20),
    (50902, 'chloride', 50, 175),
    (50912, 'creatinine', 0.1, 30),
    (50931, 'glucose', 10, 2000),
    (51221, 'hematocrit', 5, 75),
    (51222, 'hemoglobin', 1, 25),
    (51237, 'inr', 0.5, 25),
    (50813, 'lactate', 0.1, 40),
    (50960, 'magnesium', 0.3, 12),
    (50820, 'ph', 6.5, 8),
    (50970, 'phosphate', 0.1, 25),
    (51265, 'platelets', 1, 2500),
    (50971, 'potassium', 1, 15),
    (51275, 'ptt', 15, 200),
    (50983, 'sodium', 90, 190),
    (51301, 'wbc', 0.1, 500)
),

first_labs AS (
    -- By patient and time, not by admission: what was drawn on the way into the hospital may lack one.
    SELECT s.icustay_id, b.lab, l.valuenum AS value
    FROM labevents AS l
    INNER JOIN lab_items AS b ON b.itemid = l.itemid
    INNER JOIN stays AS s ON s.subject_id = l.subject_id
    WHERE
        l.charttime >= s.intime AND l.charttime < s.intime + INTERVAL 24 HOUR
        AND l.valuenum BETWEEN b.low AND b.high
    QUALIFY row_number() OVER (PARTITION BY s.icustay_id, b.lab ORDER BY l.charttime, l.row_id, l.valuenum) = 1
),

labs AS (
    SELECT
        icustay_id,
        max(value) FILTER (lab = 'albumin') AS albumin,
        max(value) FILTER (lab = 'anion_gap') AS anion_gap,
        max(value) FILTER (lab = 'bicarbonate') AS bicarbonate,
        max(value) FILTER (lab = 'bilirubin') AS bilirubin,
        max(value) FILTER (lab = 'bun') AS bun,
        max(value) FILTER (lab = 'calcium') AS calcium,
        max(value) FILTER (lab = 'chloride') AS chloride,
        max(value) FILTER (lab = 'creatinine') AS creatinine,
        max(value) FILTER (lab = 'glucose') AS glucose,
        max(value) FILTER (lab = 'hematocrit') AS hematocrit,
        max(value) FILTER (lab = 'hemoglobin') AS hemoglobin,
        max(value) FILTER (lab = 'inr') AS inr,
        max(value) FILTER (lab = 'lactate') AS lactate,
        max(value) FILTER (lab = 'magnesium') AS magnesium,
        max(value) FILTER (lab = 'ph') AS ph,
        max(value) FILTER (lab = 'phosphate') AS phosphate,
        max(value) FILTER (lab = 'platelets') AS platelets,
        max(value) FILTER (lab = 'potassium') AS potassium,
        max(value) FILTER (lab = 'ptt') AS ptt,
        max(value) FILTER (lab = 'sodium') AS sodium,
        max(value) FILTER (lab = 'wbc') AS wbc
    FROM first_labs
    GROUP BY icustay_id
),

chapters AS (
    -- Codes of the whole admission, assigned after it: they say more than was known in the first 24 hours.
    SELECT
        hadm_id,
        bool_or(category BETWEEN 1 AND 139) AS dx_infectious,
        bool_or(category BETWEEN 140 AND 239) AS dx_neoplasms,
        bool_or(category BETWEEN 240 AND 279) AS dx_endocrine,
        bool_or(category BETWEEN 280 AND 289) AS dx_blood,
        bool_or(category BETWEEN 290 AND 319) AS dx_mental,
        bool_or(category BETWEEN 320 AND 389) AS dx_nervous,
        bool_or(category BETWEEN 390 AND 459) AS dx_circulatory,
        bool_or(category BETWEEN 460 AND 519) AS dx_respiratory,
        bool_or(category BETWEEN 520 AND 579) AS dx_digestive,
        bool_or(category BETWEEN 580 AND 629) AS dx_genitourinary,
        bool_or(category BETWEEN 630 AND 679) AS dx_pregnancy,
        bool_or(category BETWEEN 680 AND 709) AS dx_skin,
        bool_or(category BETWEEN 710 AND 739) AS dx_musculoskeletal,
        bool_or(category BETWEEN 740 AND 759) AS dx_congenital,
        bool_or(category BETWEEN 780 AND 799) AS dx_symptoms,
        bool_or(category BETWEEN 800 AND 999) AS dx_injury
    FROM (SELECT hadm_id, TRY_CAST(substr(icd9_code, 1, 3) AS INTEGER) AS category FROM diagnoses_icd)
    GROUP BY hadm_id
)

SELECT
    CAST(s.subject_id AS VARCHAR) AS subject,
    -- Those over 89 are 300 years old in the source: they are one group.
    CASE WHEN s.years > 89 THEN 90 ELSE s.years END AS age,
    s.gender,
    CASE
        WHEN s.ethnicity LIKE 'WHITE%' THEN 'white'
        WHEN s.ethnicity LIKE 'BLACK%' THEN 'black'
        WHEN s.ethnicity LIKE 'HISPANIC%' THEN 'hispanic'
        WHEN s.ethnicity LIKE 'ASIAN%' THEN 'asian'
        WHEN s.ethnicity IN ('UNKNOWN/NOT SPECIFIED', 'UNABLE TO OBTAIN', 'PATIENT DECLINED TO ANSWER') THEN 'unknown'
        ELSE 'other'
    END AS ethnicity,
    CASE
        WHEN s.insurance IN ('Government', 'Medicaid', 'Medicare', 'Private', 'Self Pay') THEN s.insurance ELSE 'other'
    END AS insurance,
    CASE
        WHEN s.admission_type IN ('ELECTIVE', 'EMERGENCY', 'URGENT') THEN lower(s.admission_type) ELSE 'other'
    END AS admission_type,
    CASE
        WHEN s.first_careunit IN ('CCU', 'CSRU', 'MICU', 'SICU', 'TSICU') THEN s.first_careunit ELSE 'other'
    END AS care_unit,
    s.stays_before AS icu_stays_before,
    v.heart_rate_min,
    v.heart_rate_max,
    v.systolic_bp_min,
    v.systolic_bp_max,
    v.diastolic_bp_min,
    v.diastolic_bp_max,
    v.mean_bp_min,
    v.mean_bp_max,
    v.respiratory_rate_min,
    v.respiratory_rate_max,
    v.temperature_min,
    v.temperature_max,
    v.spo2_min,
    v.spo2_max,
    c.gcs_min,
    l.albumin,
    l.anion_gap,
    l.bicarbonate,
    l.bilirubin,
    l.bun,
    l.calcium,
    l.chloride,
    l.creatinine,
    l.glucose,
    l.hematocrit,
    l.hemoglobin,
    l.inr,
    l.lactate,
    l.magnesium,
    l.ph,
    l.phosphate,
    l.platelets,
    l.potassium,
    l.ptt,
    l.sodium,
    l.wbc,
    coalesce(d.dx_infectious, false) AS dx_infectious,
    coalesce(d.dx_neoplasms, false) AS dx_neoplasms,
    coalesce(d.dx_endocrine, false) AS dx_endocrine,
    coalesce(d.dx_blood, false) AS dx_blood,
    coalesce(d.dx_mental, false) AS dx_mental,
    coalesce(d.dx_nervous, false) AS dx_nervous,
    coalesce(d.dx_circulatory, false) AS dx_circulatory,
    coalesce(d.dx_respiratory, false) AS dx_respiratory,
    coalesce(d.dx_digestive, false) AS dx_digestive,
    coalesce(d.dx_genitourinary, false) AS dx_genitourinary,
    coalesce(d.dx_pregnancy, false) AS dx_pregnancy,
    coalesce(d.dx_skin, false) AS dx_skin,
    coalesce(d.dx_musculoskeletal, false) AS dx_musculoskeletal,
    coalesce(d.dx_congenital, false) AS dx_congenital,
    coalesce(d.dx_symptoms, false) AS dx_symptoms,
    coalesce(d.dx_injury, false) AS dx_injury,
    coalesce(s.deathtime BETWEEN s.intime AND s.outtime, false) AS died_in_icu,
    coalesce(s.hospital_expire_flag = 1, false) AS died_in_hospital,
    coalesce(s.los > 3, false) AS los_over_3_days,
    coalesce(s.los > 7, false) AS los_over_7_days
FROM stays AS s
LEFT JOIN vitals AS v ON v.icustay_id = s.icustay_id
LEFT JOIN coma AS c ON c.icustay_id = s.icustay_id
LEFT JOIN labs AS l ON l.icustay_id = s.icustay_id
LEFT JOIN chapters AS d ON d.hadm_id = s.hadm_id
WHERE s.years >= 16
