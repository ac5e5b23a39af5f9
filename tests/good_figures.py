"""Figures that pass every rule of the gate: metric to (value, standard error)."""

from __future__ import annotations

GOOD: dict[str, tuple[float, float]] = {
    "schema.adherence": (1.0, 0.0),
    "fid.marg.jsd": (0.01, 0.001),
    "fid.marg.variance_collapse": (0.0, 0.0),
    "fid.dep.corr_rmse": (0.045, 0.003),
    "fid.joint.detect_auc": (0.7, 0.01),
    "fid.joint.detect_copy_alarm": (0.68, 0.01),
    "priv.exact_unique": (0.0, 0.0),
    "priv.exact_p": (1.0, 0.0),
    "priv.mia.max_auc": (0.51, 0.008),
    "priv.mia.tpr_at_1pct_fpr": (0.013, 0.002),
    "priv.mia.outlier_auc": (0.51, 0.02),
    "priv.aia.excess": (0.0, 0.01),
    "priv.tcap": (0.0, 0.01),
    "priv.identity_disclosure": (0.03, 0.01),
    "priv.nnaa_loss": (0.001, 0.01),
    "priv.dcr_share": (0.5, 0.01),
    "priv.rare_level": (0.0, 0.0),
    "ehr.ckv": (0.0, 0.0005),
    "ehr.code_freq.total_ratio": (1.01, 0.01),
    "ehr.abundance": (0.02, 0.01),
    "util.inference.sign_agreement": (1.0, 0.0),
    "fair.absent": (0.0, 0.0),
    "fair.ldss": (0.0, 0.0),
    "fair.delta_auroc_gap": (0.0, 0.005),
    "fair.worst_group": (0.97, 0.02),
}
OF_TASKS = {"util.ratio": (0.97, 0.02), "util.calibration_slope": (1.0, 0.05)}
