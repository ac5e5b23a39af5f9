"""Plain tables to raw tables: CSV and Parquet in any packing and encoding. The way in is `reader.read_tables`."""
