"""The steps of a cohort-month on the lake: what the assets call, and what works without Dagster as well."""
