-- Adult / Census Income: adult.data and adult.test together (the split is CohortLoom's own); a row is a subject.
-- fnlwgt is left out: it says how many people of the census a row stands for, which is no attribute of the person, and
-- with 28,523 values in 48,842 rows it would tell single rows apart. education_num is the number of `education`.
-- The labels of adult.test end with a dot.
SELECT
    age,
    workclass,
    education,
    marital_status,
    occupation,
    relationship,
    race,
    sex,
    capital_gain,
    capital_loss,
    hours_per_week,
    native_country,
    rtrim(income, '.') = '>50K' AS income_over_50k
FROM adult
