"""The mutation fuzzer of the ingestion: seed deliveries, damage done to them, and what has to hold all the same.

`benchmarks/fuzz.py` runs it at length, `tests/ingest/test_fuzz.py` a fixed part of it. Everything is drawn from the
format and the number of a run, so that a run can be repeated by its number.
"""
