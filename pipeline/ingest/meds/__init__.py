"""MEDS datasets in (`reader`) and out (`export`)."""
