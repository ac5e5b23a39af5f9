"""CopulaGAN: CTGAN on the normal scores of numbers (Patki et al. 2016, "The Synthetic Data Vault", as its library combines them).

A number becomes the normal score of its place in the column's empirical distribution; all else is CTGAN. Since every generator
here goes through ranks, little is left that is its own: how the score is shown to the critic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from pipeline.generators.adversarial.numbers import NumberKind
from pipeline.generators.ctgan import CTGAN, PAPER, CTGANConfig

if TYPE_CHECKING:
    from collections.abc import Mapping


class CopulaGANConfig(CTGANConfig):
    """Settings of CopulaGAN: those of CTGAN."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        **CTGANConfig.presets,
        "paper": {**PAPER, "numbers": "score_modes"},
    }
    numbers: NumberKind = Field(
        default="normal",
        description="How a number is shown: as a normal score with repeated numbers as states of their own, or as a mode"
        " of the normal scores and the place in it, as published; and the ways of CTGAN.",
    )


class CopulaGAN(CTGAN):
    """CTGAN on normal scores; conditions as CTGAN's."""

    name = "copula_gan"
    title = "CopulaGAN: CTGAN on normal scores"
    Config = CopulaGANConfig
    config: CopulaGANConfig
