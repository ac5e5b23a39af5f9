"""Privacy: what can be learned from the synthetic rows about the people whose rows were trained on?

`METRICS` names the metrics of this family; their modules are imported only when they are computed.
"""

METRICS: dict[str, str] = {
    "priv.exact": "pipeline.evaluation.privacy.copies:exact",
    "priv.exact_p": "pipeline.evaluation.privacy.copies:exact_p",
    "priv.exact_unique": "pipeline.evaluation.privacy.copies:exact_unique",
    "priv.mia.nn_auc": "pipeline.evaluation.privacy.membership:nn_auc",
    "priv.mia.domias_knn_auc": "pipeline.evaluation.privacy.membership:domias_knn_auc",
    "priv.mia.ganleaks_cal_auc": "pipeline.evaluation.privacy.membership:ganleaks_cal_auc",
    "priv.mia.max_auc": "pipeline.evaluation.privacy.membership:max_auc",
    "priv.mia.tpr_at_1pct_fpr": "pipeline.evaluation.privacy.membership:tpr_at_1pct_fpr",
    "priv.mia.tpr_at_01pct_fpr": "pipeline.evaluation.privacy.membership:tpr_at_01pct_fpr",
}
