"""Evaluation: every generator, and four reference cohorts, judged by the same metrics.

`protocol.py` runs it, `context.py` is what a metric is handed, `registry.py` lists the metrics, `report/` and
`leaderboard.py` show the results. Verdicts are in `pipeline.release.gate`.
"""
