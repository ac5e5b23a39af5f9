"""CTGAN (Xu et al. 2019, "Modeling tabular data using conditional GAN"): a GAN that is told one level of each row.

The match, critic and drawing are those of `adversarial/`; what makes it CTGAN is that all discrete columns may be told, one a
row, and the modes of numbers. Preset 'paper' is the published model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.generators.adversarial.conditions import ConditionVector
from pipeline.generators.adversarial.private import PrivateAdversarialGenerator
from pipeline.generators.adversarial.private_settings import PrivateGameConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.encoding.encoder import TableEncoder

PAPER: dict[str, Any] = {
    "numbers": "modes",
    "pac": 10,
    "loss": "wasserstein",
    "penalty": 10.0,
    "hidden": (256, 256),
    "critic_hidden": (256, 256),
    "noise": 128,
    "batch_size": 500,
    "learning_rate": 2e-4,
    "critic_rate": 2e-4,
    "betas": (0.5, 0.9),
    "weight_decay": 1e-6,
    "dropout": 0.5,
    "hard": False,
    "frequencies": "log",
    "epochs": 300,
    "fewest_steps": 1,
    "decay": "constant",
    "ema": 0.0,
    "select": "last",
    "margins": False,
}


class CTGANConfig(PrivateGameConfig):
    """Settings of CTGAN; what differs from the paper was chosen on a part of SUPPORT's training rows."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {},
        "paper": PAPER,
        "quick": {
            "steps": 400,
            "hidden": (64, 64),
            "critic_hidden": (64, 64),
            "noise": 32,
            "critic_rate": 2e-3,
            "private_epochs": 5.0,
        },
    }


class CTGAN(PrivateAdversarialGenerator):
    """Conditional GAN; conditions on a discrete column are native, on more and on numbers by rejection."""

    name = "ctgan"
    title = "CTGAN: conditional GAN, told one level of each row"
    Config = CTGANConfig
    config: CTGANConfig

    def _conditions(self, encoder: TableEncoder) -> ConditionVector:
        return ConditionVector.of(encoder)
