"""ViewDefinitions of SQL on FHIR v2, compiled to DuckDB SQL over explicit columns."""
