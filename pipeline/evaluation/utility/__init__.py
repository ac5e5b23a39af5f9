"""Utility: does an analysis of the synthetic rows come to what an analysis of real ones comes to?

`METRICS` names the metrics of this family; their modules are imported only when they are computed.
"""

_PREDICTION = "pipeline.evaluation.utility.prediction"
_CLASSIFICATION = "pipeline.evaluation.utility.classification"
_INFERENCE = "pipeline.evaluation.utility.inference"

METRICS: dict[str, str] = {
    "util.trtr_auroc": f"{_PREDICTION}:trtr_auroc",
    "util.tstr_auroc": f"{_PREDICTION}:tstr_auroc",
    "util.gap": f"{_PREDICTION}:gap",
    "util.ratio": f"{_PREDICTION}:ratio",
    "util.tstr_plus_auroc": f"{_PREDICTION}:tstr_plus_auroc",
    "util.augmentation": f"{_PREDICTION}:augmentation",
    "util.trts_auroc": f"{_PREDICTION}:trts_auroc",
    "util.tsts_auroc": f"{_PREDICTION}:tsts_auroc",
    "util.auprc": f"{_CLASSIFICATION}:auprc",
    "util.accuracy": f"{_CLASSIFICATION}:accuracy",
    "util.precision": f"{_CLASSIFICATION}:precision",
    "util.recall": f"{_CLASSIFICATION}:recall",
    "util.f1": f"{_CLASSIFICATION}:f1",
    "util.macro_f1": f"{_CLASSIFICATION}:macro_f1",
    "util.balanced_accuracy": f"{_CLASSIFICATION}:balanced_accuracy",
    "util.brier": f"{_CLASSIFICATION}:brier",
    "util.calibration_slope": f"{_CLASSIFICATION}:calibration_slope",
    "util.calibration_intercept": f"{_CLASSIFICATION}:calibration_intercept",
    "util.ece": f"{_CLASSIFICATION}:ece",
    "util.inference.sign_agreement": f"{_INFERENCE}:sign_agreement",
    "util.inference.ci_overlap": f"{_INFERENCE}:ci_overlap",
    "util.inference.std_difference": f"{_INFERENCE}:std_difference",
    "util.inference.contrast": f"{_INFERENCE}:contrast",
    "util.inference.false_positive_rate": f"{_INFERENCE}:false_positive_rate",
    "util.inference.variance_ratio": f"{_INFERENCE}:variance_ratio",
    "util.km": "pipeline.evaluation.utility.survival:km",
    "util.sra": "pipeline.evaluation.utility.agreement:sra",
    "util.kendall": "pipeline.evaluation.utility.agreement:kendall",
    "util.feature_overlap": "pipeline.evaluation.utility.features:feature_overlap",
    "util.feature_spearman": "pipeline.evaluation.utility.features:feature_spearman",
    "util.rbo": "pipeline.evaluation.utility.features:rbo",
    "util.dwpred": "pipeline.evaluation.utility.dimension_wise:dwpred",
    "util.next_visit": "pipeline.evaluation.visits.prediction:next_visit",
}
