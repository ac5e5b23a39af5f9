"""Fidelity: do the rows look like real ones? Columns alone, together, jointly, and as a clinician would read them.

`METRICS` names the metrics of this family; their modules are imported only when they are computed.
"""

METRICS: dict[str, str] = {
    "schema.adherence": "pipeline.evaluation.fidelity.marginal:adherence",
    "fid.marg.jsd": "pipeline.evaluation.fidelity.marginal:jsd",
    "fid.marg.jsd_debiased": "pipeline.evaluation.fidelity.marginal:jsd_debiased",
    "fid.marg.ks": "pipeline.evaluation.fidelity.marginal:ks",
    "fid.marg.tvd": "pipeline.evaluation.fidelity.marginal:tvd",
    "fid.marg.moments": "pipeline.evaluation.fidelity.moments:moments",
    "fid.marg.variance_collapse": "pipeline.evaluation.fidelity.moments:variance_collapse",
    "fid.dep.corr_rmse": "pipeline.evaluation.fidelity.dependence:corr_rmse",
    "fid.joint.detect_auc": "pipeline.evaluation.fidelity.detection:detect_auc",
    "fid.joint.detect_copy_alarm": "pipeline.evaluation.fidelity.detection:detect_copy_alarm",
}
