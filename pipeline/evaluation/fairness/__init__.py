"""Fairness: are groups of people represented, predicted and protected alike?

`METRICS` names the metrics of this family; their modules are imported only when they are computed.
"""

METRICS: dict[str, str] = {
    "fair.ldss": "pipeline.evaluation.fairness.representation:ldss",
    "fair.absent": "pipeline.evaluation.fairness.representation:absent",
    "fair.gap.auroc": "pipeline.evaluation.fairness.gaps:gap_auroc",
    "fair.gap.parity": "pipeline.evaluation.fairness.gaps:gap_parity",
    "fair.gap.parity_max": "pipeline.evaluation.fairness.gaps:gap_parity_max",
    "fair.gap.equal_opportunity": "pipeline.evaluation.fairness.gaps:gap_equal_opportunity",
    "fair.gap.equalised_odds": "pipeline.evaluation.fairness.gaps:gap_equalised_odds",
    "fair.gap.calibration": "pipeline.evaluation.fairness.gaps:gap_calibration",
    "fair.delta_auroc_gap": "pipeline.evaluation.fairness.gaps:delta_auroc",
    "fair.delta_parity_gap": "pipeline.evaluation.fairness.gaps:delta_parity",
    "fair.delta_equal_opportunity_gap": "pipeline.evaluation.fairness.gaps:delta_equal_opportunity",
    "fair.delta_equalised_odds_gap": "pipeline.evaluation.fairness.gaps:delta_equalised_odds",
    "fair.delta_calibration_gap": "pipeline.evaluation.fairness.gaps:delta_calibration",
    "fair.price.auroc": "pipeline.evaluation.fairness.price:auroc",
    "fair.price.parity": "pipeline.evaluation.fairness.price:parity",
    "fair.worst_group": "pipeline.evaluation.fairness.gaps:worst_group",
    "fair.leak.data": "pipeline.evaluation.fairness.leakage:data",
    "fair.leak.model": "pipeline.evaluation.fairness.leakage:model",
    "fair.leak.delta": "pipeline.evaluation.fairness.leakage:delta",
    "fair.leak.adjusted": "pipeline.evaluation.fairness.leakage:adjusted",
    "fair.group.jsd": "pipeline.evaluation.fairness.subgroups:jsd",
    "fair.group.coverage": "pipeline.evaluation.fairness.subgroups:coverage",
    "fair.group.tstr": "pipeline.evaluation.fairness.subgroups:tstr",
    "fair.group.mia": "pipeline.evaluation.fairness.subgroups:mia",
    "xai.shap_subgroup": "pipeline.evaluation.fairness.what_matters:shap_subgroup",
    "xai.shap_rank": "pipeline.evaluation.fairness.what_matters:shap_rank",
    "xai.shap_top": "pipeline.evaluation.fairness.what_matters:shap_top",
    "xai.shap_rank_trees": "pipeline.evaluation.fairness.what_matters:shap_rank_trees",
}
