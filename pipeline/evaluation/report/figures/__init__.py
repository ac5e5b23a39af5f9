"""The plotly figures of the report, as plain dictionaries made of aggregates: one module a section."""
