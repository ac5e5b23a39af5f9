-- AI-READI: one row a participant of participants.tsv, in the column layout of the project's published mock dataset.
-- The data themselves need a licence agreement and are brought by you; other releases name some columns differently.
SELECT
    participant_id,
    "group" AS study_group,
    clinical_data,
    ekg,
    eye_fundus_photography,
    oct,
    octa,
    flio,
    continuous_glucose_monitoring,
    activity_monitoring,
    environmental_sensor_measurements,
    "group" <> 'no_diabetes' AS diabetes
FROM aireadi
