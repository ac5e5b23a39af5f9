"""The embedded source: made-up patients in FHIR, delivered like any other."""
