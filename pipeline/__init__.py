"""What happens to data: ingestion, features, generators, evaluation and release as a plain Python library.

Nothing below this package imports Dagster (a test imports every module with it blocked): the same functions
serve the asset graph, the command line and a notebook.
"""

__version__ = "0.1.0"
