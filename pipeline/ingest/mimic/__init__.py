"""MIMIC-III and MIMIC-IV as CSV to raw tables: declared types, keys and links. The way in is in `reader`."""
