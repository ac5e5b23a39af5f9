"""Differential privacy: what is asked of a training, what it spent, and what a cohort may spend in all."""
