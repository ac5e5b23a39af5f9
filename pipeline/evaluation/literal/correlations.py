"""Distances of correlation matrices as published, to the letter.

What a paper leaves open is settled in the docstring of its formula and said in its flaw. Papers that compare with what
they trained on are given T, the others H. All rows are used, since the formulas depend on how many there are. Other
literal forms of dependence are in `dependence.py`, the sound versions in `pipeline.evaluation.fidelity.dependence`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.literal.dependence import literal_spec, printed
from pipeline.evaluation.registry import metric

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from pipeline.evaluation.context import EvaluationContext
    from pipeline.evaluation.encoding import Side
    from pipeline.evaluation.results import MetricResult

    Matrix = NDArray[np.float64]

NOISE = 1e-8
CHUNK = 4_096
TOO_FEW = "fewer than two columns"
SCOEHR = "ScoEHR (Naseer 2023), table 2"
REPRODUCTION = "ScoEHR reproduction (Team 97), section 1.2"
PCD = literal_spec(
    "scoehr.pcd", "Pairwise correlation difference (ScoEHR)",
    "Frobenius norm of the difference of both correlation matrices, holdout against synthetic. Lower is better; the null "
    "is sqrt(d (d - 1) (1/n + 1/m)), not 0.",
    "ScoEHR (Naseer 2023), after Goncalves 2020; undefined correlations, the diagonal included, are 0",
    "It grows with the number of columns and shrinks with the number of rows: two real samples of MIMIC-III lie about 15 "
    "apart, so that 21.8 is near noise. Correlations of constant columns are set to 0, by which an empty cohort can come "
    "close to real rows.",
    needs="H", cost="C",
    published=(
        *printed(SCOEHR, "MIMIC-III", {"medGAN": 120, "medBGAN": 146, "medWGAN": 22.1, "ScoEHR": 21.8}),
        *printed(
            REPRODUCTION, "MIMIC-III",
            {"144 features": 37.25, "best (28.8)": 28.85, "worst that converged": 39.51, "diverged run": 131.44},
        ),
    ),
)  # fmt: skip
CWC = literal_spec(
    "yan.cwc", "Column-wise correlation (Yan)",
    "Frobenius norm of the difference of both correlation matrices, divided by the number of columns squared, times a "
    "million; 'text' is the mean absolute difference. Lower is better.",
    "Yan 2022, column-wise correlation: its code, and beside it what its text defines",
    "Text and code disagree. The code adds noise of 1e-8 so that constant columns have a correlation, which is then a "
    "random one; divided by d² it says nothing across tables.",
    needs="T", cost="C",
    published=printed("RLSyn result files, means over seeds", "MIMIC-IV", {"RLSyn": 8.88, "EHRDiff": 7.86}),
)  # fmt: skip
NHSX_RMSE = literal_spec(
    "nhsx.corr_rmse", "Correlation RMSE (NHSX)",
    "Root mean squared difference over all entries of both correlation matrices, training rows against synthetic. Lower "
    "is better; the null is what two real samples differ by.",
    "NHSX SynthVAE report, figures 3 and 4",
    "The diagonal, always equal, is averaged in: of 15 columns it takes 3 % off, of 3 columns 18 %. No null is printed.",
    needs="T", upper=2.0,
)  # fmt: skip


@metric(PCD, floor="")
def scoehr_pcd(ctx: EvaluationContext) -> list[MetricResult]:
    """Frobenius norm over all columns and codes as numbers, undefined correlations at 0."""
    real, made = plain_correlations(ctx.sides.holdout), plain_correlations(ctx.synthetic)
    d = len(real)
    if d < 2:
        return [PCD.not_applicable(TOO_FEW)]
    n, m = len(ctx.sides.holdout), len(ctx.synthetic)
    value = float(np.linalg.norm(np.nan_to_num(real) - np.nan_to_num(made)))
    null = float(np.sqrt(d * (d - 1) * (1 / n + 1 / m)))
    return [PCD.result(value, n=min(n, m), null=null, note=f"{d:,} columns")]


@metric(CWC, floor="")
def yan_cwc(ctx: EvaluationContext) -> list[MetricResult]:
    """Frobenius norm / d² x 10⁶ with noise, and the mean absolute difference over the pairs."""
    real = ctx.sides.once(
        "lit.yan.cwc", lambda: noisy_correlations(ctx.sides.train, ctx.sides.rng("lit.yan.cwc", "real"))
    )
    made = noisy_correlations(ctx.synthetic, ctx.rng("lit.yan.cwc"))
    d = len(real)
    if d < 2:
        return [CWC.not_applicable(TOO_FEW)]
    difference = real - made
    text = float(np.abs(difference[np.triu_indices(d, k=1)]).mean())
    return [
        CWC.result(float(np.linalg.norm(difference)) / d**2 * 1e6, n=len(ctx.synthetic), note=f"{d:,} columns"),
        CWC.result(text, n=len(ctx.synthetic), key1="text"),
    ]


@metric(NHSX_RMSE, floor="")
def nhsx_corr_rmse(ctx: EvaluationContext) -> list[MetricResult]:
    """Root mean square over all d² entries; undefined correlations left out, as pandas does."""
    real, made = plain_correlations(ctx.sides.train), plain_correlations(ctx.synthetic)
    squared = (real - made) ** 2
    if len(real) < 2 or np.isnan(squared).all():
        return [NHSX_RMSE.not_applicable(TOO_FEW) if len(real) < 2 else NHSX_RMSE.result(None, note="no correlation")]
    undefined = int(np.isnan(squared).sum())
    note = f"{undefined:,} of {squared.size:,} entries are undefined and left out" if undefined else ""
    return [NHSX_RMSE.result(float(np.sqrt(np.nanmean(squared))), n=len(ctx.synthetic), note=note)]


@dataclass(frozen=True)
class _Numbers:
    """All columns and codes of a side as plain numbers.

    Attributes:
        dense: (n, p) columns: levels by their position, missing cells at the column's mean.
        counts: (n, q) codes.
        mean: (p + q,) means.
        spread: (p + q,) standard deviations, 0 for constant ones.
        covariance: (p + q, p + q), from sparse products of the codes.
    """

    dense: Matrix
    counts: csr_matrix
    mean: NDArray[np.float64]
    spread: NDArray[np.float64]
    covariance: Matrix

    @classmethod
    def of(cls, side: Side) -> _Numbers:
        """The numbers of a side."""
        from scipy.sparse import csr_matrix, hstack

        n = max(len(side), 1)
        columns = []
        for column in side.encoder.columns:
            value = side.codes[column.name].astype(np.float64) if column.discrete else side.values[column.name]
            missing = value < 0 if column.discrete else np.isnan(value)
            columns.append(np.where(missing, value[~missing].mean() if not missing.all() else 0.0, value))
        dense = np.stack(columns, axis=1) if columns else np.zeros((len(side), 0))
        blocks = list(side.counts.values()) or [csr_matrix((len(side), 0))]
        counts = csr_matrix(hstack(blocks, format="csr"), dtype=np.float64)
        counts.data = np.nan_to_num(counts.data, posinf=0.0, neginf=0.0)
        middle = dense.mean(axis=0) if len(dense) else np.zeros(dense.shape[1])
        centred = dense - middle
        code_mean = np.asarray(counts.sum(axis=0)).ravel() / n
        within = centred.T @ centred / n
        # Columns are centred, so that the codes' means drop out of the products with them.
        across = np.asarray(counts.T @ centred) / n
        codes = np.asarray((counts.T @ counts).toarray()) / n - np.outer(code_mean, code_mean)
        covariance = np.block([[within, across.T], [across, codes]])
        mean = np.r_[middle, code_mean]
        square = np.r_[(dense**2).sum(axis=0), np.asarray(counts.multiply(counts).sum(axis=0)).ravel()] / n
        variance = np.diag(covariance)
        spread = np.sqrt(np.where(variance > 1e-12 * np.maximum(square, 1e-300), np.maximum(variance, 0.0), 0.0))
        return cls(dense, counts, mean, spread, covariance)


def plain_correlations(side: Side) -> Matrix:
    """(d, d) Pearson correlations of all columns and codes as plain numbers, NaN for constant ones."""
    found = _Numbers.of(side)
    scale = np.where(found.spread > 0, found.spread, np.nan)
    return np.clip(found.covariance / np.outer(scale, scale), -1.0, 1.0)


def noisy_correlations(side: Side, rng: np.random.Generator) -> Matrix:
    """The same with normal noise of 1e-8, which gives constant columns random correlations.

    Only they are given it: in the correlations of others it does not show.
    """
    found = plain_correlations(side)
    numbers = _Numbers.of(side)
    constant = np.flatnonzero(numbers.spread == 0)
    if not len(constant):
        return found
    n = max(len(side), 1)
    together, own = np.zeros((len(constant), len(found))), np.zeros((len(constant), len(constant)))
    sums = np.zeros(len(constant))
    for lo in range(0, len(side), CHUNK):
        part = np.hstack([numbers.dense[lo : lo + CHUNK], numbers.counts[lo : lo + CHUNK].toarray()]) - numbers.mean
        noise = rng.normal(size=(len(part), len(constant))) * NOISE
        together += noise.T @ part
        own += noise.T @ noise
        sums += noise.sum(axis=0)
    own = own / n - np.outer(sums, sums) / n**2
    length = np.sqrt(np.maximum(np.diag(own), 0.0))
    length = np.where(length > 0, length, np.inf)
    found[constant] = together / n / length[:, None] / np.where(numbers.spread > 0, numbers.spread, np.inf)
    found[:, constant] = found[constant].T
    found[np.ix_(constant, constant)] = own / np.outer(length, length)
    np.fill_diagonal(found, 1.0)
    return np.clip(found, -1.0, 1.0)
