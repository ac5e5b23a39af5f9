"""Settings of adversarial generators that can be trained under differential privacy."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field

from pipeline.generators.adversarial.settings import AdversarialConfig
from pipeline.privacy.dpsgd import PrivateSettings

FEW_ROWS = 20_000


class PrivateGameConfig(AdversarialConfig):
    """What differs where the critic learns by noisy steps; all `private_` settings are about such trainings alone."""

    private_hidden: tuple[int, ...] = Field(
        default=(64, 64), min_length=1, description="`hidden` under differential privacy."
    )
    private_critic_hidden: tuple[int, ...] = Field(
        default=(32,),
        min_length=1,
        description="`critic_hidden` under differential privacy: every weight of the critic gets noise.",
    )
    private_pieces: int = Field(
        default=0,
        ge=0,
        le=1000,
        description="`pieces` under differential privacy: each state of a number is a weight more for every unit of the"
        " critic, and noise in it.",
    )
    private_epochs: float = Field(
        default=200.0, gt=0, description="Noisy steps of the critic, as passes over the subjects."
    )
    private_batch_size: int = Field(
        default=0, ge=0, description="Subjects a noisy step on average; 0: 512, or 2,048 from 20,000 subjects on."
    )
    private_learning_rate: float = Field(default=0.02, gt=0, description="Learning rate of the critic's noisy steps.")
    private_momentum: float = Field(
        default=0.0, ge=0, lt=1, description="Decay of the first moment of the critic's Adam."
    )
    private_clip: float = Field(default=0.2, gt=0, description="Largest norm of a subject's gradient.")
    private_draws: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Drawn rows that stand beside each real row in a noisy step; they cost no epsilon.",
    )
    private_critic_steps: int = Field(
        default=5,
        ge=1,
        le=1000,
        description="Noisy steps of the critic before the generator's turn (Bie et al. 2023: more of them help most).",
    )
    private_generator_steps: int = Field(
        default=1, ge=1, le=1000, description="Steps of the generator in its turn; they cost no epsilon."
    )
    private_generator_rate: float = Field(
        default=1e-3, gt=0, description="Learning rate of the generator under differential privacy."
    )
    private_ema: float = Field(
        default=0.98,
        ge=0,
        lt=1,
        description="Decay a turn of the running mean of the generator's weights, which are what is drawn with; 0 takes the"
        " last.",
    )

    def private_training(self, subjects: int) -> PrivateSettings:
        """How the critic is trained on so many subjects."""
        return PrivateSettings(
            epochs=self.private_epochs,
            expected_batch=self.private_batch_size or (512 if subjects < FEW_ROWS else 2_048),
            clip=self.private_clip,
            learning_rate=self.private_learning_rate,
            beta1=self.private_momentum,
            # It is the generator whose weights are averaged.
            ema=0.0,
        )

    def privately(self) -> Self:
        """The settings of the game of a private training: no look at rows but the critic's, and none of rows together."""
        return self.model_copy(update=self._private_rules())

    def _private_rules(self) -> dict[str, Any]:
        """What of the settings is otherwise in a private training."""
        # The modes of a mixture are fitted to rows; ranks are in the encoder, which is paid for.
        ranks = {"modes": "even", "tail_modes": "even", "score_modes": "normal"}
        return {
            "numbers": ranks.get(self.numbers, self.numbers),
            "pieces": self.private_pieces,
            "hidden": self.private_hidden,
            "critic_hidden": self.private_critic_hidden,
            # No penalty: Opacus has no gradient of a row's gradient. Without one a Wasserstein critic has no bound.
            "loss": "boundary" if self.loss == "boundary" else "logistic",
            "penalty": 0.0,
            "pac": 1,
            "dropout": 0.0,
            "ema": self.private_ema,
            "learning_rate": self.private_generator_rate,
            "weight_decay": 0.0,
            "select": "last",
        }
