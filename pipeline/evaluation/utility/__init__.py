"""Utility: does an analysis of the synthetic rows come to what an analysis of real ones comes to?

`METRICS` names the metrics of this family; their modules are imported only when they are computed.
"""

METRICS: dict[str, str] = {
    "util.trtr_auroc": "pipeline.evaluation.utility.prediction:trtr_auroc",
    "util.tstr_auroc": "pipeline.evaluation.utility.prediction:tstr_auroc",
    "util.gap": "pipeline.evaluation.utility.prediction:gap",
    "util.ratio": "pipeline.evaluation.utility.prediction:ratio",
}
