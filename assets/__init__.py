"""What Dagster and people touch: the asset graph, its checks, partitions, jobs and sensors, and the command line.

Bodies read from the lake, call the library in `pipeline/`, write, and report. What happens to data is not here.
"""
