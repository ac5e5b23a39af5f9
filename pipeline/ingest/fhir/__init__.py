"""FHIR deliveries to raw tables: versions, bundles, deletions, validation, views. The way in is `reader.read_fhir`."""
