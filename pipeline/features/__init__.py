"""Raw tables to a cohort: what is asked for, the schema, the split, the build."""
