"""The figures that syntheval or SDMetrics share with us, and why the numbers differ where they do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shared:
    """A figure that somebody else computes too.

    Attributes:
        name: As the peers' scripts know it.
        metric: Our id.
        peers: Who has it.
        key1: Which of our rows; "mean of columns" for the mean over numeric columns of rows with `key2`.
        key2: Which of our rows.
        columns: "all", "numbers" or "levels".
        why: Why the numbers differ; "" where they must be the same.
    """

    name: str
    metric: str
    peers: tuple[str, ...]
    key1: str = ""
    key2: str = ""
    columns: str = "all"
    why: str = ""


BOTH, SE, SD = ("syntheval", "sdmetrics"), ("syntheval",), ("sdmetrics",)
SAME = 1e-9
"""Numbers that differ by less are the same."""
SHARED = (
    Shared("ks", "fid.marg.ks", BOTH),
    Shared("tv", "fid.marg.tvd", BOTH),
    Shared("chi-squared", "lit.sdv.cstest", SD),
    Shared("interval overlap", "fid.marg.moments", SE, key1="mean of columns", key2="interval_overlap", why="theirs divides by n - 1"),
    Shared("divergence", "fid.marg.jsd", SE, why="ours is Jensen-Shannon in bins of T, theirs Hellinger in bins of both"),
    Shared("pearson", "fid.dep.corr_rmse", BOTH, columns="numbers"),
    Shared("spearman", "fid.dep.corr_spearman", SD, columns="numbers"),
    Shared("association", "fid.dep.assoc", SE, why="theirs squares ratios and V, but not correlations"),
    Shared("mutual information", "fid.dep.nmi", SE, why="ours: mean absolute difference, numbers in deciles; theirs: RMS"),
    Shared("contingency", "fid.dep.contingency", SD, columns="levels"),
    Shared("contingency of numbers", "fid.dep.contingency", SD, columns="numbers", why="ours: deciles of T; theirs: equal widths"),
    Shared("continuous kl", "lit.sdv.cont_kl", SD),
    Shared("discrete kl", "lit.sdv.disc_kl", SD),
    Shared("quality", "lit.sdv.quality", SD),
    Shared("propensity", "fid.joint.pmse_ratio", SE, why="ours is a ratio to its null, theirs the raw error of held-out folds"),
    Shared("mmd", "fid.joint.mmd2", SE, why="another kernel width; both are noise around 0"),
    Shared("logistic detection", "lit.sdv.logistic_detection", SD, why="random folds"),
    Shared("svc detection", "lit.sdv.svc_detection", SD, why="random folds"),
    Shared("mixture", "lit.sdv.gmll", SD, columns="numbers", why="random starts"),
    Shared("copies", "priv.exact", SD),
    Shared("hitting rate", "lit.syntheval.hitting_rate", SE),
    Shared("nnaa of training", "priv.nnaa_loss", SE, key1="AA training", why="see nnaa; by the same distance the same"),
    Shared("nnaa", "priv.nnaa_loss", SE, why="ours: squared differences, ranges cut at 0.5-99.5 %"),
    Shared("nndr", "priv.nndr", SE, why="ours: ratio of 5th percentiles, T over others; theirs: difference of means"),
    Shared("closest record", "priv.dcr_q05", SE, why="ours: 5 % quantile, T over others; theirs: median over that inside T"),
    Shared("dcr overfitting", "lit.sdv.dcr_overfitting", SD),
    Shared("dcr baseline", "lit.sdv.dcr_baseline", SD, why="the baseline is random rows"),
    Shared("identifiability", "priv.identifiability", SE, why="theirs weights columns by their entropy"),
    Shared("membership", "priv.mia.max_auc", SE, why="theirs is F1 of a forest, ours the AUC of the best attack"),
    Shared("attribute", "priv.aia.excess", SE, why="theirs is the attacker's accuracy, ours what membership adds to it"),
    Shared("cap", "lit.sdv.cap", SD),
    Shared("zero cap", "lit.sdv.zero_cap", SD),
    Shared("generalised cap", "lit.sdv.gcap", SD),
    Shared("disclosure", "lit.sdv.disclosure", SD),
    Shared("utility gap", "util.gap", SE, key1="task", key2="lr", why="another model; theirs is synthetic minus real"),
    Shared("f1", "util.f1", SD, key1="task", key2="tstr/lr", why="another model"),
    Shared("top features", "util.feature_overlap", SE, key1="task", why="other importances; theirs: top half of a forest's"),
)  # fmt: skip
