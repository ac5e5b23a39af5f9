"""Figures of the Bt-GAN paper (Ramachandranpillai et al. 2024) for its four tasks on MIMIC-III: tables 2, 4 and 5.

For their order, not for their digits. Accuracy of outcomes of 8 to 10 % is near the share of the commoner class; parity gaps
of exactly .000 suggest predictions that hardly vary; spreads over runs are printed that are wider than the figures can be;
leakage is a share of right guesses, of which one of 71 % is had by always naming the white patients, and 50 % by none of
them, unless people were balanced. "LR" is called linear regression there (read: logistic).
"""

from __future__ import annotations

SYSTEMS = ("real", "HealthGAN", "FairGAN", "Bt-GAN")
TABLE_2: dict[str, dict[str, tuple[tuple[float, float], ...]]] = {
    "in-ICU mortality": {
        "lr": ((92.1, 37.6), (91.3, 34.2), (89.5, 32.4), (91.5, 34.7)),
        "rf": ((91.8, 12.1), (91.1, 12.0), (88.3, 11.6), (90.9, 11.7)),
    },
    "in-hospital mortality": {
        "lr": ((90.1, 39.6), (89.1, 37.0), (85.4, 32.8), (89.6, 39.9)),
        "rf": ((89.3, 17.9), (88.3, 15.8), (86.3, 14.3), (90.0, 18.1)),
    },
    "LOS > 3 days": {
        "lr": ((71.2, 59.9), (69.4, 58.3), (67.1, 56.3), (68.1, 57.3)),
        "rf": ((72.6, 59.0), (67.2, 59.1), (66.4, 57.9), (68.9, 57.6)),
    },
    "LOS > 7 days": {
        "lr": ((89.9, 7.0), (87.9, 8.5), (86.1, 4.3), (88.4, 6.8)),
        "rf": ((87.6, 1.4), (88.4, 2.1), (85.9, 0.8), (87.3, 2.4)),
    },
}
"""Task and model to (accuracy, F1) of each system, in per cent."""
TABLE_4: dict[str, tuple[tuple[float, float], ...]] = {
    "in-ICU mortality": ((0.030, -0.031), (0.150, -0.331), (0.023, -0.005), (0.012, 0.000)),
    "in-hospital mortality": ((0.043, -0.046), (0.082, -0.154), (0.021, -0.004), (0.001, 0.000)),
    "LOS > 3 days": ((-0.003, 0.022), (-0.104, 0.224), (-0.003, 0.022), (0.000, 0.000)),
    "LOS > 7 days": ((-0.005, -0.004), (-0.076, -0.004), (-0.061, -0.002), (-0.013, -0.003)),
}
"""Task to (AUROC gap, parity gap) of each system, white minus black, logistic models."""
TABLE_5 = {"HealthGAN": (63.17, 65.42), "FairGAN": (60.81, 62.97), "Bt-GAN-": (50.45, 49.16), "Bt-GAN": (49.90, 48.31)}
"""System to data and model leakage in per cent, in-ICU mortality, logistic models."""


def printed(task: str, model: str) -> dict[str, dict[str, float]]:
    """System to the figures that the paper prints for a task and a model, under the names of `fair_figures.py`."""
    found: dict[str, dict[str, float]] = {}
    for place, system in enumerate(SYSTEMS):
        row: dict[str, float] = {}
        if model in TABLE_2[task]:
            accuracy, f1 = TABLE_2[task][model][place]
            row |= {"accuracy_half": accuracy / 100, "f1_half": f1 / 100}
        if model == "lr":
            row["auroc_gap"], row["parity_gap_half"] = TABLE_4[task][place]
        if row:
            found[system] = row
    if task == "in-ICU mortality" and model == "lr":
        for system, (data, predictions) in TABLE_5.items():
            found.setdefault(system, {}).update(leak_data=data / 100, leak_model=predictions / 100)
    return found
