"""What may leave the house: the verdict against a cohort's thresholds."""
