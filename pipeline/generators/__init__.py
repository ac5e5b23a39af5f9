"""Models of a cohort's rows behind one contract; one file a generator, named by its standard name."""
